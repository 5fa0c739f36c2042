"""Evidence: what was stored is what the raw completions give, and any change is noticed."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrl.claims import judge_claims, load_claims, select_claims
from migrl.errors import UserError
from migrl.scores import Row, compute_scores, rescore_row
from migrl.verify import make_file_hashes, verify_results

BENCHMARKS = ("mini_mig", "mini_reason", "mini_frames", "mini_blink", "mini_mmiu")
SKILLS = {"base": 2, "sft": 3, "rl": 5}
FILES = ("samples.jsonl.gz", "scores.json", "claims.json", "report.html", "figures/deltas.svg")


def make_row(arm: str, benchmark: str, number: int) -> Row:
    hit = (number * 3) % 7 < SKILLS[arm]
    corner = 28 if hit else 14
    return rescore_row(
        {
            "uid": f"{benchmark}:{number}",
            "arm": arm,
            "benchmark": benchmark,
            "task": f"task {number % 2}",
            "cluster": f"set {number // 4}",
            "images": ["a.png", "b.png"],
            "sizes": [[56, 56], [60, 60]],
            "resized_sizes": [[56, 56], [56, 56]],
            "question": "Where?",
            "prompt_hash": "0123",
            "frame": "resized_px",
            "target": {"image": 2, "box_unit": [0.0, 0.0, 0.5, 0.5]},
            "completion": f'<answer>{{"image": 2, "bbox_2d": [0, 0, {corner}, 28]}}</answer>' if hit else "?",
            "tokens": 9,
            "truncated": False,
        }
    )


def write_samples(folder: Path, rows: list[Row]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "samples.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def read_samples(folder: Path) -> list[Row]:
    return [json.loads(line) for line in gzip.decompress((folder / "samples.jsonl.gz").read_bytes()).splitlines()]


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")


def write_manifest(folder: Path) -> None:
    write_json(folder / "manifest.json", {"recipe": "tiny", "files": make_file_hashes(folder)})


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "tiny"
    (folder / "figures").mkdir(parents=True)
    rows = [make_row(arm, benchmark, n) for arm in SKILLS for benchmark in BENCHMARKS for n in range(16)]
    write_samples(folder, rows)
    write_json(folder / "scores.json", compute_scores(rows))
    write_json(folder / "claims.json", judge_claims(select_claims(load_claims(), "tiny"), rows))
    (folder / "report.html").write_text("<html></html>")
    (folder / "figures" / "deltas.svg").write_text("<svg/>")
    write_manifest(folder)
    return folder


@pytest.fixture
def results(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "tiny"))


def test_untouched_evidence_has_no_differences(results: Path) -> None:
    assert verify_results(results) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_every_flipped_byte_is_noticed(results: Path, name: str, place: float, flip: int) -> None:
    path = results / name
    original = path.read_bytes()
    changed = bytearray(original)
    changed[int(place * len(changed))] ^= flip
    path.write_bytes(changed)
    try:
        assert verify_results(results)
    except UserError as error:
        assert name in str(error) or "arm" in str(error)
    finally:
        path.write_bytes(original)


def flip_hit(folder: Path) -> None:
    rows = read_samples(folder)
    rows[0]["hit"] = not rows[0]["hit"]
    write_samples(folder, rows)


def swap_completion(folder: Path) -> None:
    rows = read_samples(folder)
    rows[0] = rescore_row(rows[0] | {"completion": "nothing"})
    write_samples(folder, rows)


def drop_sample_from_all_arms(folder: Path) -> None:
    write_samples(folder, [row for row in read_samples(folder) if row["uid"] != "mini_mig:0"])


def raise_macro(folder: Path) -> None:
    scores = json.loads((folder / "scores.json").read_text())
    scores["rl"]["mini_mig"]["macro"] += 0.0001
    write_json(folder / "scores.json", scores)


def brighten_verdict(folder: Path) -> None:
    claims = json.loads((folder / "claims.json").read_text())
    claims[0]["verdict"] = "reproduced by far"
    write_json(folder / "claims.json", claims)


def drop_claim(folder: Path) -> None:
    write_json(folder / "claims.json", json.loads((folder / "claims.json").read_text())[1:])


@pytest.mark.parametrize(
    ("forge", "where"),
    [
        (flip_hit, "samples.jsonl.gz, base mini_mig:0: hit"),
        (swap_completion, "scores.json.base.mini_mig"),
        (drop_sample_from_all_arms, "scores.json.rl.mini_mig.n: 16 stored, 15 recomputed"),
        (raise_macro, "scores.json.rl.mini_mig.macro"),
        (brighten_verdict, "claims.json[0].verdict"),
        (drop_claim, "claims.json: 4 entries stored, 5 recomputed"),
    ],
)
def test_a_forgery_with_a_matching_manifest_is_noticed(
    results: Path, forge: Callable[[Path], None], where: str
) -> None:
    forge(results)
    write_manifest(results)
    assert any(difference.startswith(where) for difference in verify_results(results))


def test_missing_extra_and_changed_files_are_named(results: Path) -> None:
    (results / "report.html").unlink()
    (results / "figures" / "deltas.svg").write_text("<svg></svg>")
    (results / "notes.txt").write_text("extra")
    assert [difference.split(",")[0] for difference in verify_results(results)] == [
        "figures/deltas.svg: changed",
        "notes.txt: extra",
        "report.html: missing",
    ]


@pytest.mark.parametrize("name", ["manifest.json", "samples.jsonl.gz", "scores.json", "claims.json"])
def test_missing_and_torn_evidence_is_an_error_that_names_the_file(results: Path, name: str) -> None:
    data = (results / name).read_bytes()
    (results / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=rf"{name}.*torn"):
        verify_results(results)
    (results / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: no such file"):
        verify_results(results)


def test_a_row_put_to_one_arm_with_another_prompt_is_refused(results: Path) -> None:
    rows = read_samples(results)
    rows[0]["prompt_hash"] = "ffff"
    write_samples(results, rows)
    with pytest.raises(UserError, match="prompt_hash"):
        verify_results(results)
