"""peers.yaml: every record fits its model and benchmark, and a level agrees by the size of the set and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from benchmark_files import make_mig_record, write_json
from typer.testing import CliRunner

from migrl.benchmarks import BENCHMARKS
from migrl.cli import app
from migrl.errors import UserError
from migrl.files import ROOT
from migrl.grounding.prompts import build_own_messages
from migrl.peers import PEERS_FILE, Judged, Peer, judge, leave_out, load_peers, read_stored
from migrl.peers.page import describe, render_page
from migrl.peers.run import bring_weights_once, build_recipe, group_peers
from migrl.scoring.rescore import Prediction

PEERS = load_peers()
ONE = PEERS[0]
FITS = "family: Qwen2-VL, frame: permille"
LEVEL = ', level: {stated: 30.20, source: "UniVG-R1 (arXiv 2505.14231), main table"}'
HIT, MISS = "It is (100,200),(300,400)", "(500,500),(600,600)"


def change(path: Path, before: str, after: str) -> Path:
    text = PEERS_FILE.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    return path


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("family: Qwen2-VL,", "family: Qwen2VL,", r"family 'Qwen2VL' is unknown; did you mean 'Qwen2-VL'\?"),
        ("frame: permille", "frame: permil", r"'permil' does not fit Qwen2-VL, .*; did you mean 'permille'\?"),
        (FITS, "family: Qwen2-VL, frame: resized_px", r"'resized_px' does not fit .*did you mean 'permille'\?"),
        (LEVEL, "", r"qwen2_vl_7b/mig_bench: no published level, .* percentage from 0 to 100"),
        ("stated: 30.20", "stated: 130.20", r"peers.0.level.stated.*less than or equal to 100"),
        ("rule: univg_script", "rule: univg", r"rule 'univg' is unknown; did you mean 'univg_script'\?"),
        ("prompt: box,", "prompt: bx,", r"prompt 'bx' is unknown; did you mean 'box'\?"),
        ("benchmark: mig_bench,", "benchmark: mig,", r"benchmark 'mig' is unknown; did you mean 'm"),
        ("checkpoint: migician,", "checkpoint: qwen2_vl_7b,", "qwen2_vl_7b/mig_bench comes twice"),
    ],
)  # fmt: skip
def test_a_record_that_fits_nothing_is_one_error_with_the_nearest_legal_value(
    before: str, after: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load_peers(change(tmp_path / "peers.yaml", before, after))


def test_every_record_makes_a_recipe_that_evaluates_and_trains_nothing() -> None:
    groups = group_peers(PEERS)
    recipes = [build_recipe(group, group[0].path, []) for group in groups]
    assert len({recipe.name for recipe in recipes}) == len(groups) < len(PEERS)
    for recipe in recipes:
        assert (recipe.trains, recipe.evaluate.arms, recipe.claims) == (False, ("base",), "none")
    checkpoints = {peer.checkpoint for peer in PEERS}
    assert {(p.checkpoint, p.benchmark) for p in PEERS} >= {(name, "mig_bench") for name in checkpoints}
    assert {peer.benchmark for peer in PEERS} == set(BENCHMARKS) - {"muirbench", "mc_bench", "ref_l4"}


def test_what_nobody_states_is_null_in_the_file_and_unknown_where_shown() -> None:
    file = yaml.safe_load(PEERS_FILE.read_text())
    records = {f"{r['checkpoint']}/{r['benchmark']}": r for r in file["peers"]}
    for peer in PEERS:
        protocol = file["protocols"][records[peer.name]["protocol"]]
        null = {key for key, value in protocol.items() if value is None}
        null |= {"revision"} if file["checkpoints"][peer.checkpoint]["revision"] is None else set()
        assert set(peer.unknown) == null
        shown = describe(leave_out(peer, "no GPU here"))
        assert all(shown["authors"][key] is None and shown["taken"][key] is not None for key in null - {"revision"})
        line = render_page([leave_out(peer, "no GPU here")]).splitlines()[-1]
        assert line.count("unknown") == len(null)


def test_a_record_binds_where_all_of_its_authors_way_is_known_and_its_level_is_in_no_doubt() -> None:
    binding = {peer.name for peer in PEERS if peer.is_binding}
    on_mig = {f"{name}/mig_bench" for name in ("qwen2_vl_7b", "migician", "univg_r1")}
    on_mig |= {f"{name}/mig_bench_original" for name in ("qwen2_vl_7b", "migician")}
    sets = ("lisa_val", "lisa_test", "llmseg", "revos", "reasonvos")
    assert binding == on_mig | {f"univg_r1/{name}" for name in sets}


def test_a_form_asks_with_all_pictures_first_and_the_instruction_alone() -> None:
    form = next(p.asked.form for p in PEERS if p.name == "univg_r1/lisa_val")
    assert form is not None and form.lead
    [message] = build_own_messages(f"{form.lead}the thing to sit on", 2, form.text, form.lead)
    assert [part["type"] for part in message["content"]] == ["image", "image", "text"]
    text = message["content"][2]["text"]
    assert text.startswith(
        "Output the bounding box in the image corresponding to the instruction: the thing to sit on."
    )


def judge_share(peer: Peer, hits: int, n: int, folder: Path) -> Judged:
    records = [make_mig_record("diff", images=[f"{i}_{j}.png" for j in range(2)]) for i in range(n)]
    items = BENCHMARKS["mig_bench"].load(write_json(folder / "revised.json", records), folder, "mig_bench").items
    answers = {item.sample.uid: Prediction(HIT if i < hits else MISS) for i, item in enumerate(items)}
    return judge(peer, items, answers, folder, "made up")


@pytest.mark.parametrize(
    ("hits", "n", "stated", "verdict"),
    [
        *[(30, 100, 38.0, "agrees"), (30, 100, 41.0, "differs"), (300, 1000, 34.0, "differs")],
        *[(0, 20, 5.0, "agrees"), (0, 20, 20.0, "differs"), (20, 20, 99.0, "agrees")],  # nothing to resample: Wilson
    ],
)  # fmt: skip
def test_a_level_agrees_if_it_lies_in_the_interval_that_the_size_of_the_set_gives(
    hits: int, n: int, stated: float, verdict: str, tmp_path: Path
) -> None:
    found = judge_share(replace(ONE, stated=stated), hits, n, tmp_path)
    assert (found.verdict, found.measured, found.n) == (verdict, 100 * hits / n, n)
    assert found.ledger["ok"] == n and found.tasks == {"diff": found.measured}


def test_before_a_run_the_tolerance_is_that_of_binomial_samples_of_the_set_s_size() -> None:
    found = leave_out(next(p for p in PEERS if p.name == "univg_r1/lisa_test"), "no GPU here")
    assert found.tolerance == pytest.approx(1.96 * 100 * (0.5969 * 0.4031 / 779) ** 0.5, abs=0.001)
    assert found.verdict == "not run" and found.measured is None


def test_a_checkpoint_is_downloaded_once_for_all_that_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def bring(path: str, *, revision: str, local_dir: Path, allow_patterns: list[str], tqdm_class: type) -> None:
        calls.append((path, revision))
        shutil.copytree(ROOT / "reproduce" / "tiny_base", local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", bring)
    first, again = (bring_weights_once(ONE, "a" * 40, tmp_path) for _ in range(2))
    assert first == again and calls == [("Qwen/Qwen2-VL-7B-Instruct", "a" * 40)]
    assert build_recipe([ONE], first, []).model.path == str(first) and (first / "config.json").is_file()


def test_stored_outputs_are_judged_by_the_command_and_a_level_that_differs_ends_in_an_error(tmp_path: Path) -> None:
    records = [make_mig_record("diff", images=[f"{i}_{j}.png" for j in range(2)]) for i in range(60)]
    annotations = write_json(tmp_path / "revised.json", records)
    predictions = tmp_path / "mine.jsonl"
    lines = [json.dumps({"uid": f"mig_bench:{i}", "completion": HIT if i % 3 == 0 else MISS}) for i in range(60)]
    predictions.write_text("\n".join(lines))
    assert read_stored(ONE, annotations, predictions, tmp_path).verdict == "agrees"
    call = ["peers", "--predictions", str(predictions), "--annotations", str(annotations), "--only"]
    agreed = CliRunner().invoke(app, [*call, "qwen2_vl_7b/mig_bench"])
    assert agreed.exit_code == 0 and "33.33" in agreed.output and "stated 30.20: agrees" in agreed.output
    other = CliRunner().invoke(app, [*call, "univg_r1/mig_bench"])
    assert other.exit_code == 1 and "univg_r1/mig_bench: not the published level" in str(other.exception)
    unknown = CliRunner().invoke(app, [*call, "univgr1/mig_bench"])
    assert "did you mean 'univg_r1/mig_bench'?" in str(unknown.exception)
