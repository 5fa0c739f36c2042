"""Evidence: what was stored is what the raw completions give, and any change is noticed and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rows import Line, change_row, pack_lines, read_lines
from run_files import change_manifest, make_results, read_recipe
from typer.testing import CliRunner

from migrl.cli import app
from migrl.errors import UserError
from migrl.evidence.measurements import render_measurements
from migrl.evidence.seal import list_files, write_tree
from migrl.evidence.verify import verify, verify_results
from migrl.files import format_json, write_json
from migrl.scoring.rows import parse_row

REFERENCES = Path("reference_runs") / "tiny"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("place"))


@pytest.fixture
def results(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "results"))


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def reseal(results: Path) -> None:
    """What a forger with this code would do."""
    change_manifest(results / "tiny")
    write_tree(results)


def call(path: Path) -> Result:
    return CliRunner().invoke(app, ["verify", str(path)])


def test_the_command_says_what_it_checked_and_the_root(results: Path) -> None:
    done = call(results)
    assert done.exit_code == 0, done.exception
    files = len(list_files(results))
    assert done.output.splitlines() == [
        f"{results}: {files} files by their hashes",
        f"{results}/tiny: 48 completions scored again, 5 claims and 0 levels judged again, "
        "3 evaluations compared, report.md written again; other files by hash alone",
        f"{results}/paper: not run; {len(read(results / 'paper/claims.json'))} claims say so, "
        "and there is no number to check; README.md written again",
        f"{results}/reference_runs/tiny/seed_8: no completions kept, 2 deltas follow from the scores",
        f"{results}/reference_runs/tiny/seed_9: no completions kept, 2 deltas follow from the scores",
        f"no difference; root {read(results / 'tree.json')['root']}",
    ]


def test_one_folder_verifies_by_itself(results: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(results / "tiny", tmp_path / "alone"))
    for folder in (results / "tiny", alone):
        done = call(folder)
        assert done.exit_code == 0, done.exception
        assert done.output.endswith(f"no difference; root {read(alone / 'manifest.json')['root']}\n")
    assert verify_results(results / "paper") == []


def test_a_changed_bit_in_any_file_is_named_by_the_command(results: Path) -> None:
    # All at once, for each run of the command takes a second; one by one they are flipped in test_seal.py.
    names = [name for name in list_files(results) if name not in ("tree.json", "tiny/manifest.json")]
    for name in names:
        content = bytearray((results / name).read_bytes())
        content[len(content) // 2] ^= 1
        (results / name).write_bytes(content)
    refused = call(results)
    assert refused.exit_code == 1 and isinstance(refused.exception, UserError)
    for name in names:
        assert f"different: {name}: changed, its sha256 is not that of tree.json" in refused.output, name
    for name in ("tree.json", "tiny/manifest.json"):
        path = results / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n", 1))
    output = call(results).output
    assert "different: tree.json: changed, these are not the bytes that were written" in output
    assert "different: tiny/manifest.json: changed" in output


def change_rows(change: Callable[[list[Line]], list[Line] | None]) -> Callable[[Path], None]:
    def forge(tiny: Path) -> None:
        rows = read_lines(tiny / "samples.jsonl.gz")
        pack_lines(change(rows) or rows, tiny / "samples.jsonl.gz")

    return forge


def change_json(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def forge(tiny: Path) -> None:
        data = read(tiny / name)
        write_json(tiny / name, change(data) or data)

    return forge


FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a miss becomes a hit": (
        change_rows(lambda rows: rows[0].update(hit=not rows[0]["hit"])),
        "samples.jsonl.gz, arm 'base', sample 'mini_mig:0': hit: false stored, true recomputed",
    ),
    "another completion": (
        change_rows(lambda rows: [change_row(parse_row(rows[0], ""), completion="nothing").to_json(), *rows[1:]]),
        "scores.json.base.mini_mig",
    ),
    "a sample less for all arms": (
        change_rows(lambda rows: [row for row in rows if row["uid"] != "mini_mig:0"]),
        "samples.jsonl.gz, arm 'rl': 15 rows, stage evaluate of the manifest answered 16 samples",
    ),
    "an arm less": (
        change_rows(lambda rows: [row for row in rows if row["arm"] != "base"]),
        "samples.jsonl.gz, arm 'base': 0 rows, stage evaluate of the manifest answered 16 samples",
    ),
    "an arm that the recipe has not": (
        change_rows(lambda rows: rows + [row | {"arm": "rl_better"} for row in rows if row["arm"] == "rl"]),
        "samples.jsonl.gz, arm 'rl_better': the manifest's settings (evaluate.arms, seeds) have no such arm",
    ),
    "another seed than the recipe's": (
        change_rows(lambda rows: [row | {"seed": 7} if row["arm"] != "base" else row for row in rows]),
        "samples.jsonl.gz, arm 'rl', seed 7: the manifest's settings (evaluate.arms, seeds) have no such arm",
    ),
    "a friendlier page": (
        lambda tiny: replace_text(tiny / "report.md", "| 16 |", "| 1600 |"),
        "report.md: is not what the samples and the manifest give",
    ),
    "no page": (lambda tiny: (tiny / "report.md").unlink(), "report.md: missing"),
    "a better average": (
        change_json("scores.json", lambda scores: scores["rl"]["mini_mig"].update(macro=99.0)),
        "scores.json.rl.mini_mig.macro: 99.0 stored",
    ),
    "a brighter verdict": (
        change_json("claims.json", lambda claims: claims[0].update(verdict="reproduced by far")),
        'claims.json[0].verdict: "reproduced by far" stored',
    ),
    "more pairs": (
        change_json("claims.json", lambda claims: claims[2]["readings"][0].update(n=7)),
        "claims.json[2].readings[0].n: 7 stored",
    ),
    "a claim less": (
        change_json("claims.json", lambda claims: claims[1:]),
        "claims.json: 4 entries stored, 5 recomputed",
    ),
    "an invented level": (
        change_json("levels.json", lambda levels: [{"id": "seen somewhere"}]),
        "levels.json: 1 entries stored, 0 recomputed",
    ),
    "friendlier references": (
        change_json("references.json", lambda data: data["deltas"].update(mig_bench=[1.0, 2.0])),
        "references.json.deltas.mig_bench[0]: 1.0 stored",
    ),
    "weights of another run": (
        change_json("evaluations.json", lambda entries: entries[2].update(weights="f" * 64)),
        f"evaluations.json, arm 'rl': weights: {'f' * 64} stored, stage grpo of the manifest made ",
    ),
    "settings that the rows do not show": (
        change_json("evaluations.json", lambda entries: [entry | {"max_new_tokens": 8} for entry in entries]),
        "arm 'base', sample 'mini_mig:0': key 'tokens' is 9, but max_new_tokens 8, by evaluations.json",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_with_matching_seals_is_noticed(results: Path, name: str) -> None:
    forge, said = FORGERIES[name]
    forge(results / "tiny")
    reseal(results)
    differences = verify_results(results / "tiny")
    assert any(difference.startswith(said) for difference in differences), differences


REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a missing sample": (
        change_rows(lambda rows: [row for row in rows if (row["arm"], row["uid"]) != ("rl", "mini_mig:3")]),
        "arm 'rl': 1 samples that other arms answered are missing, such as 'mini_mig:3'",
    ),
    "a double uid": (
        change_rows(lambda rows: [*rows, rows[5]]),
        "arm 'base', sample 'mini_mig:5': comes twice",
    ),
    "another prompt": (
        change_rows(lambda rows: rows[0].update(prompt_hash="f" * 16)),
        "key 'prompt_hash' is 'ffffffffffffffff', but ",
    ),
    "another size": (
        change_rows(lambda rows: rows[0].update(resized_sizes=[[84, 84], [56, 56]])),
        "key 'resized_sizes' has [84, 84] for an image of [56, 56], but 3136 to 9600 pixels give [56, 56]",
    ),
    "another pixel limit": (
        change_json("evaluations.json", lambda entries: entries[2].update(max_pixels=401408)),
        "key 'max_pixels' is 9600 for arm 'base' and 401408 for arm 'rl'",
    ),
    "another engine and attention": (
        change_json("evaluations.json", lambda entries: entries[0].update(engine="vllm", attention="eager")),
        "key 'attention' is 'eager' for arm 'base' and 'sdpa' for arm 'sft'; key 'engine' is 'vllm' for arm 'base' and",
    ),
    "other prompts": (
        change_json("evaluations.json", lambda entries: entries[1].update(prompts="0" * 16)),
        "key 'prompts' is ",
    ),
    "an empty list of evaluations": (
        change_json("evaluations.json", lambda entries: entries.clear()),
        "evaluations.json: names no arm, so nobody knows how any was evaluated",
    ),
    "no evaluations": (
        lambda tiny: (tiny / "evaluations.json").unlink(),
        "evaluations.json: no such file, so nobody knows whether all arms were evaluated alike",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_unequal_runs_are_refused_with_the_difference_and_the_remedy(results: Path, name: str) -> None:
    forge, said = REFUSALS[name]
    forge(results / "tiny")
    reseal(results)
    refused = call(results / "tiny")
    assert refused.exit_code == 1 and isinstance(refused.exception, UserError)
    (line,) = (line for line in refused.output.splitlines() if said in line)
    assert line.startswith("different: ") and ("again" in line or "evaluation" in line or "remove" in line)


def test_a_forged_reference_run_is_noticed(results: Path) -> None:
    path = results / REFERENCES / "seed_9" / "claims.json"
    claims = read(path)
    claims[0]["delta"] += 1
    write_json(path, claims)
    write_tree(results)
    differences = verify(results).differences
    assert any(d.startswith("reference_runs/tiny/seed_9: claims.json[0].delta: ") for d in differences)
    assert any(d.startswith("tiny: references.json.deltas.") for d in differences)


def test_every_unreadable_file_is_one_difference_and_the_rest_is_still_checked(results: Path) -> None:
    for name in ("samples.jsonl.gz", "scores.json"):
        path = results / "tiny" / name
        path.write_bytes(path.read_bytes()[:99])
    (results / "paper" / "claims.json").write_text("[]\n")
    said = "\n".join(verify(results).differences)
    assert "tiny/samples.jsonl.gz: changed" in said and "tiny/scores.json: changed" in said
    assert "samples.jsonl.gz: torn or not what its name says" in said
    assert "paper: claims.json: holds no claim of claims.yaml" in said


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 1}', '{"files": {}}'])
def test_a_manifest_that_is_none_is_named_and_no_traceback(results: Path, content: str) -> None:
    (results / "tiny" / "manifest.json").write_text(content)
    assert any("manifest.json" in difference for difference in verify_results(results / "tiny"))


def test_a_folder_without_evidence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        verify(tmp_path / "nowhere")
    (tmp_path / "report.md").write_text("not run")
    with pytest.raises(UserError, match=r"holds neither tree\.json nor manifest\.json nor claims"):
        verify(tmp_path)


def test_measured_costs_verify_without_claims(tmp_path: Path) -> None:
    folder = tmp_path / "rehearsal"
    folder.mkdir()
    cell = dict.fromkeys(("tokens_per_second", "mfu", "peak_memory_gb", "sequences_per_step", "longest_sequence"))
    stage = {**cell, "step": "stage", "steps": 1, "processes": 1, "seconds_per_step": 2.0}
    names = ("fetch", "synthesize", "sft", "merge", "select", "grpo", "evaluate")
    data = {"device": "cpu", "not_run": True, "git_revision": "a" * 40, "dirty": False, "definitions": {}}
    write_json(folder / "measurements.json", {**data, "stages": dict.fromkeys(names, stage)})
    (folder / "report.md").write_text(render_measurements(read(folder / "measurements.json")))
    (folder / "manifest.json").write_text("{}")
    change_manifest(folder, settings=read_recipe("rehearsal").model_dump(mode="json"))
    assert verify_results(folder) == []
    (folder / "report.md").write_text("as fast as you like\n")
    change_manifest(folder)
    assert verify_results(folder) == ["report.md: is not what measurements.json gives"]
    for name in ("claims.json", "scores.json", "samples.jsonl.gz"):
        (folder / name).write_text("[]\n")
    change_manifest(folder)
    exempt = [difference for difference in verify_results(folder) if "settings.claims is 'none'" in difference]
    assert [sentence.partition(":")[0] for sentence in exempt] == ["claims.json", "scores.json", "samples.jsonl.gz"]


def test_what_is_written_is_what_a_seal_expects(tmp_path: Path) -> None:
    data = {"text": "é\u2028\t", "numbers": [1, 1.0, 1e-9], "none": None}
    write_json(tmp_path / "a.json", data)
    assert (tmp_path / "a.json").read_text() == format_json(json.loads(format_json(data)))
