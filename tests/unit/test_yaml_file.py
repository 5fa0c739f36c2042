"""YAML from anywhere: one sentence with file and key, and never a long wait."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from migrl.errors import UserError
from migrl.recipe import Recipe, load_recipe
from migrl.yaml_file import MAX_BYTES, MAX_CHARS, parse_yaml, read_yaml

RECIPES = Path(__file__).parents[2] / "reproduce" / "recipes"
TEST = (RECIPES / "test.yaml").read_text(encoding="utf-8")


def chain_aliases(first: str, link: str, count: int) -> str:
    return f"a0: &a0 {first}\n" + "".join(
        f"a{n}: &a{n} {link.replace('PREVIOUS', f'*a{n - 1}')}\n" for n in range(1, count)
    )


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-32"])
def test_a_recipe_in_another_encoding_is_named_with_a_remedy(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(f"# Größe\n{TEST}".encode(encoding))
    with pytest.raises(UserError, match=f"^{path}: not (UTF-8 text .*; save it as UTF-8|YAML .*)$"):
        load_recipe(path)


def test_a_byte_order_mark_of_utf8_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(TEST.encode("utf-8-sig"))
    assert load_recipe(path) == load_recipe(RECIPES / "test.yaml")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2020-99-99", "is no timestamp"),
        ("!!int four", "is no int"),
        ("!!bool x", "is no bool"),
        ("!!timestamp x", "is no timestamp"),
        ("0x_", "is no int"),
        ("9" * 5000, "a number of 5000 characters"),
        ("1" + ":1" * 10_000, "a number of 20001 characters"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('"a\\0b"', "a null"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("[" * 20_000, "nested too deep"),
        ("{a: " * 100 + "1" + "}" * 100, "nested too deep"),
        ("{[a, b]: 1}", "a list or a mapping is no key"),
        ("{{a: b}: 1}", "a list or a mapping is no key"),
        ("&x [*x]", "nested too deep"),
    ],
)
def test_an_odd_value_is_named_with_its_line_or_key(value: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{TEST}resamples: {value}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{path}: .*line {TEST.count(chr(10)) + 1}.*{reason}") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=rf"^override 'grpo.max_steps=.*{reason}"):
        load_recipe(RECIPES / "test.yaml", [f"grpo.max_steps={value}"])


@pytest.mark.parametrize(
    "bomb",
    [
        chain_aliases("[x, x, x, x, x, x, x, x]", f"[{', '.join(['PREVIOUS'] * 8)}]", 12),
        chain_aliases("{x: 1}", f"{{<<: [{', '.join(['PREVIOUS'] * 8)}], y: 1}}", 12),
        f"a0: &a0 {'x' * 20_000}\na1: [{', '.join(['*a0'] * 3000)}]\n",
    ],
)
def test_an_alias_counts_as_often_as_it_stands_there(bomb: str) -> None:
    with pytest.raises(yaml.YAMLError, match="line .*: key 'a.*: its aliases stand for too much"):
        parse_yaml(bomb)


def test_a_chain_of_aliases_is_as_deep_as_it_is_long() -> None:
    with pytest.raises(yaml.YAMLError, match="nested too deep"):
        parse_yaml(chain_aliases("[x]", "[PREVIOUS]", 1500))


def test_an_alias_and_a_merge_of_a_person_are_read() -> None:
    text = "limits: &limits {files: 3}\na: *limits\nb: {<<: *limits, bytes: 4}\n"
    assert parse_yaml(text) == {"limits": {"files": 3}, "a": {"files": 3}, "b": {"files": 3, "bytes": 4}}


def test_every_file_of_the_project_is_far_from_the_limits() -> None:
    files = [*RECIPES.parent.rglob("*.yaml")]
    assert len(files) > 5
    assert all(3 * path.stat().st_size < 2 * MAX_BYTES < MAX_CHARS and read_yaml(path) for path in files)


def test_a_file_beyond_the_limit_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEST + "".join(f"k{n:05}: 1\n" for n in range(20_000)), encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{path}: .*more than {MAX_BYTES} bytes"):
        load_recipe(path)


def test_of_many_unknown_keys_some_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEST + "".join(f"k{n:04}: 1\n" for n in range(3000)), encoding="utf-8")
    with pytest.raises(UserError, match=r"key 'k0000' is unknown; did you mean .*; 2990 more like these$"):
        load_recipe(path)
    with pytest.raises(UserError, match=r"key 'grpo.xx.* characters left out .* is unknown; leave it out$"):
        load_recipe(RECIPES / "test.yaml", [f"grpo.{'x' * 100_000}=1"])


def test_every_count_of_a_recipe_has_an_upper_bound() -> None:
    def find_unbounded(part: Any, place: str) -> list[str]:
        if isinstance(part, list):
            return [found for item in part for found in find_unbounded(item, place)]
        if not isinstance(part, dict):
            return []
        open_end = part.get("type") == "integer" and not {"maximum", "exclusiveMaximum"} & part.keys()
        inner = [found for key, item in part.items() for found in find_unbounded(item, f"{place}.{key}")]
        return [place, *inner] if open_end else inner

    assert find_unbounded(Recipe.model_json_schema(), "recipe") == []
