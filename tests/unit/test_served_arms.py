"""Arms that someone serves: what the server is asked, what evidence says of it, and what no claim is judged over."""

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from claim_rows import make_claim
from claim_rows import make_rows as make_claim_rows
from compare_runs import refuse, write_run
from PIL import Image
from rows import make_row
from run_files import DECODING, read_recipe
from teacher_calls import make_item
from teacher_server import TeacherServer, serve

from migrl.claims.verdicts import judge_claims
from migrl.engines.engine import Task
from migrl.engines.server.engine import ServerEngine
from migrl.errors import UserError
from migrl.evidence.evaluations import check_evaluations, describe_evaluation, describe_served, read_evaluations
from migrl.evidence.recompute import compare_coverage, compare_weights
from migrl.evidence.rows_fit import check_rows_fit
from migrl.files import write_json
from migrl.grounding.boxes import Frame
from migrl.models.decoding import Decoding
from migrl.models.loading import load_processor
from migrl.plan.build import build_plan
from migrl.plan.machine import GpuOptions
from migrl.recipe import Recipe, ServedArm
from migrl.report.outcomes import pick_compared
from migrl.running.preflight import check_first
from migrl.running.stage import StageContext
from migrl.scoring.comparable import index_rows
from migrl.scoring.official import read_officially
from migrl.scoring.rows import EvaluationRow, parse_row, rescore_row
from migrl.scoring.scores import compute_scores

ROOT = Path(__file__).resolve().parents[2]
GPT = "{engine: server, model: m, base_url: 'http://h/v1', key_file: my/key, concurrency: 3"
SERVER = {"model": "m", "models": ["m-1"], "fingerprints": [], "pictures": "resized", "untold": ["end_tokens"]}


def load_served(more: str = "", *overrides: str) -> Recipe:
    """The tiny recipe with the arm `gpt`, which is evaluated."""
    return read_recipe("tiny", f"arms={{gpt: {GPT}{more}}}}}", "evaluate.arms=[base, sft, rl, gpt]", *overrides)


def describe(arm: str, **changes: Any) -> dict[str, Any]:
    known = {"weights": "a" * 64, "version": "5.17.0", "device": "cpu"}
    return describe_evaluation(read_recipe("tiny"), arm, None, **known, decoding=DECODING) | changes


def describe_gpt(**changes: Any) -> dict[str, Any]:
    decoding = {**DECODING, "end_tokens": None, "suppressed_tokens": None}
    recipe = read_recipe("tiny")
    return describe_served(recipe, "gpt", device="http://h/v1", decoding=decoding, server=SERVER) | changes


def ask(folder: Path, url: str, frame: Frame = "resized_px", items: int = 3, **more: Any) -> tuple[ServerEngine, Any]:
    """An engine that has answered some questions greedily, and its completions."""
    asked = [make_item(number, folder, question=f"Where, {number}?") for number in range(items)]
    processor = load_processor(ROOT / "reproduce/tiny_base", min_pixels=3136, max_pixels=20_000)
    task = Task([replace(item, frame=frame) for item in asked], Decoding(96), processor)
    settings = ServedArm(engine="server", model="m", base_url=url, backoff_seconds=0.01, unanswered=0.5, **more)
    engine = ServerEngine(settings, "arms.gpt", task, folder / "replies.jsonl", folder)
    return engine, engine.answer(task.items, task.decoding)


def test_a_served_arm_has_no_stages_and_is_asked_once_whatever_the_seeds() -> None:
    recipe = load_served("", "seeds=[7]")
    arm = recipe.find_arm("gpt")
    assert (arm.stages, arm.weights) == ((), ()) and not recipe.is_trained("gpt")
    assert recipe.local_arms == ("base", "sft", "rl") and recipe.served == ("gpt",)
    assert recipe.with_training_seed(7).evaluate.arms == ("sft", "rl")


def test_evidence_holds_where_a_served_arm_is_and_not_how_it_is_reached() -> None:
    recipe = load_served()
    assert recipe.model_dump(mode="json")["arms"]["gpt"] == {
        "engine": "server",
        "model": "m",
        "base_url": "http://h/v1",
        "extensions": ["top_k", "repetition_penalty"],
        "omits": [],
    }
    assert Recipe.model_validate(recipe.model_dump(mode="json")).served == ("gpt",)


def test_a_key_that_cannot_be_read_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = load_served()
    context = StageContext("fetch", recipe, {}, tmp_path)
    with pytest.raises(UserError, match="my/key: no key can be read .*; correct arms.gpt.key_file"):
        check_first("fetch", recipe, lambda context: {}, alone=False)(context)
    check_first("fetch", recipe, lambda context: {}, alone=True)(context)


@pytest.mark.parametrize(
    ("frame", "sizes"), [("resized_px", [(56, 84), (112, 112)]), ("original_px", [(56, 84), (50, 50)])]
)
def test_a_picture_is_sent_at_the_size_in_which_boxes_are_read(frame: Frame, sizes: Any, tmp_path: Path) -> None:
    with serve(TeacherServer()) as server:
        engine, _ = ask(tmp_path, server.url, frame, items=1)
    parts = server.bodies[0]["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    seen = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls]
    assert seen == sizes and parts[-1]["text"].startswith("\nWhere, 0?")
    assert engine.describe()["pictures"] == ("original" if frame == "original_px" else "resized")


def test_a_server_is_told_the_decoding_it_knows_and_evidence_says_what_it_was_not_told(tmp_path: Path) -> None:
    with serve(TeacherServer()) as server:
        engine, completions = ask(tmp_path, server.url, token_limit_name="max_completion_tokens")
        (tmp_path / "plain").mkdir()
        plain, _ = ask(tmp_path / "plain", server.url, extensions=(), omits=("temperature", "seed"))
    told = [{key: value for key, value in body.items() if key != "messages"} for body in server.bodies]
    whole = {"model": "m", "temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    assert {key: value for key, value in told[0].items() if key != "seed"} == {**whole, "max_completion_tokens": 96}
    assert told[-1] == {"model": "m", "top_p": 1.0, "max_tokens": 96}
    assert engine.describe_decoding() == Decoding(96).describe([], []) | dict.fromkeys(engine.untold)
    assert engine.untold == ["end_tokens", "suppressed_tokens"]
    assert plain.describe_decoding()["do_sample"] is None and plain.untold[0] == "temperature"
    assert engine.describe()["models"] == ["tiny-2026"] and engine.describe()["fingerprints"] == ["fp_1"]
    assert [some[0].text.startswith("<think>") and some[0].tokens == 9 for some in completions] == [True] * 3


def test_a_question_left_unanswered_is_counted_as_a_miss_and_asked_no_more(tmp_path: Path) -> None:
    with serve(TeacherServer(always="400", always_for="Where, 1?")) as server:
        _, completions = ask(tmp_path, server.url)
        engine, again = ask(tmp_path, server.url)
        assert len(server.bodies) == 3
    assert again == completions and [some[0].unanswered for some in again] == [False, True, False]
    assert engine.add_up()["unanswered"] == 1 and engine.device == server.url


def test_a_server_that_is_away_or_refuses_the_key_is_named_with_its_key_in_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no server answers: .*correct arms.gpt.base_url"):
        ask(tmp_path, "http://localhost:1/v1", items=1)
    with serve(TeacherServer(refuse=401)) as server, pytest.raises(UserError, match="status 401.*arms.gpt.key_file"):
        ask(tmp_path, server.url)
    with serve(TeacherServer(refuse=400)) as server, pytest.raises(UserError, match="arms.gpt.unanswered=0.5 allows"):
        ask(tmp_path, server.url)


def make_unanswered(**changes: Any) -> EvaluationRow:
    row = make_row("mini_mig:0", "gpt", completion="", tokens=0)
    return rescore_row(replace(row, unanswered=True, **changes))


def test_an_unanswered_row_is_a_miss_by_every_rule_and_stands_in_the_ledger() -> None:
    row = make_unanswered()
    assert parse_row(row.to_json(), "row") == row and (row.score.status, row.score.hit) == ("unanswered", False)
    for read in (read_officially(row), rescore_row(row, tagged=False)):
        assert (read.score.status, read.score.readable, read.score.iou) == ("unanswered", False, 0.0)
    ledger = compute_scores(index_rows([row]))["gpt"]["mini_mig"]["ledger"]
    assert (ledger["unanswered"], ledger["none"]) == (1, 0)
    with pytest.raises(UserError, match="key 'unanswered': there is a completion"):
        parse_row(row.to_json() | {"completion": "(A)"}, "row")


def test_a_served_arm_has_to_be_asked_as_the_others_are_and_may_answer_otherwise(tmp_path: Path) -> None:
    for entries in ([describe("base"), describe_gpt(), describe("rl")], [describe_gpt(), describe("base")]):
        check_evaluations(entries)
        write_json(tmp_path / "evaluations.json", entries)
        assert read_evaluations(tmp_path / "evaluations.json") == entries
    with pytest.raises(UserError, match="key 'max_pixels' is 9600 for arm 'base' and 784 for arm 'gpt'"):
        check_evaluations([describe_gpt(max_pixels=784), describe("base")])
    with pytest.raises(UserError, match="key 'engine' is 'transformers' for arm 'base' and 'vllm' for arm 'rl'"):
        check_evaluations([describe_gpt(), describe("base"), describe("rl", engine="vllm")])
    write_json(tmp_path / "evaluations.json", [describe("base"), describe_gpt(engine="transformers")])
    with pytest.raises(UserError, match="entry 2: .*a served arm has a server and no weights"):
        read_evaluations(tmp_path / "evaluations.json")


def test_rows_of_a_server_are_checked_but_for_the_tokens_that_it_counts() -> None:
    long = make_row("mini_mig:0", "gpt", tokens=5000, prompt_hash="f" * 16)
    check_rows_fit([describe_gpt(prompts="0" * 16)], [long])
    with pytest.raises(UserError, match="only a server leaves anything so, and the engine is 'transformers'"):
        check_rows_fit([describe("gpt")], [make_unanswered()])


def test_no_claim_is_judged_over_a_served_arm_whose_scores_stand_beside_the_others() -> None:
    hits = {"one/a": [True, False, True]}
    rows = [*make_claim_rows("rl", hits), *make_claim_rows("gpt", hits), *make_claim_rows("sft", hits)]
    claims = [make_claim(subtrahend="gpt"), make_claim(id="d", minuend="gpt"), make_claim(id="e")]
    entries = judge_claims(claims, index_rows(rows, {"gpt"}))
    assert [entry["verdict"] == "not run" for entry in entries] == [True, True, False]
    assert entries[0]["delta"] is None and "arm gpt is answered by a server" in entries[0]["reason"]
    assert compute_scores(index_rows(rows, {"gpt"})).keys() == {"gpt", "rl", "sft"}
    assert pick_compared(["base"]) == ("base", "base")


def test_verification_asks_no_weights_of_a_served_arm_and_no_training_seed() -> None:
    recipe = load_served("", "seeds=[7]")
    assert list(compare_weights([describe_gpt()], {"stages": {}}, recipe)) == []
    assert "engine: transformers stored" in next(compare_weights([describe("gpt")], {"stages": {}}, recipe))
    stages = {"evaluate": {"facts": {"samples": 1}}}
    faults = list(compare_coverage([make_unanswered()], {"stages": stages}, recipe))
    assert not any("gpt" in fault for fault in faults) and any("arm 'rl', seed 7" in fault for fault in faults)


def test_a_plan_counts_the_arms_whose_weights_run_here_and_names_the_others(tmp_path: Path) -> None:
    recipes = (load_served(), read_recipe("tiny"))
    mixed, local = (build_plan(recipe, tmp_path, tmp_path, GpuOptions(gpus=0)) for recipe in recipes)
    words = [next(stage.words for stage in made.stages if stage.name == "evaluate") for made in (mixed, local)]
    assert words[0] == words[1] and "x 3 completions" in words[0]
    assert any(note.startswith("gpt: a server's time and money; `migrl evaluate --dry-run`") for note in mixed.notes)


def test_a_comparison_with_a_served_arm_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / arm, "1010", arm) for arm in ("rl", "gpt")]
    for run, entry in zip(runs, (describe("rl"), describe_gpt()), strict=True):
        write_json(run / "evaluations.json", [entry])
    reason = refuse(*runs, "--arm", "rl", "--arm-b", "gpt")
    assert "engine ('transformers' in A, 'server' in B)" in reason and "server (None in A, {'model': 'm'" in reason
    assert "--allow engine" in reason
