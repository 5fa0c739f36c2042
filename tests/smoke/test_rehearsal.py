"""The rehearsal, shrunken for a CPU: the same recipe file and the same code, a small model and small pictures."""

import json
from pathlib import Path

import pytest
from smoke_run import ROOT, call_migrl
from transformers import AutoTokenizer

from migrl.evidence.measurements import MEASURED, add_part, read_cards
from migrl.grounding.samples import read_samples
from migrl.report.gpu_parts import Conditions, Figure, Part

RUN = ("fetch", "synthesize", "sft", "merge", "select", "grpo", "evaluate", "pass_rates", "report")
QUESTION, THOUGHT, COMPLETION = 24, 32, 6
IMAGE_TOKENS = 6  # 84 x 56 px
CARD = "NVIDIA H100 80GB HBM3"
PART = Part(
    conditions=Conditions(
        dtype="bfloat16", attention="sdpa", shapes="a.json", settings={}, driver="580.1", versions={"torch": "2.11.0"}
    ),
    revision=None,
    dirty=None,
    complete=True,
    figures={"step": Figure(what="made up", seconds=(1.0, 2.0), flops=1e12)},
)


def write_shapes(path: Path) -> Path:
    """The 7B architecture's config with two narrow layers a tower."""
    shapes = json.loads((ROOT / "reproduce/shapes/qwen2_5_vl_7b.json").read_text())
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "vocab_size": 640, "bos_token_id": None, "eos_token_id": None}
    shapes["text_config"] |= small
    shapes["text_config"]["rope_parameters"]["mrope_section"] = [2, 3, 3]
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
    shapes["vision_config"] |= {**tower, "fullatt_block_indexes": [1]}
    path.write_text(json.dumps(shapes))
    return path


def shrink(folder: Path) -> list[str]:
    """The recipe's keys that make it small."""
    source = {"shapes": write_shapes(folder / "shapes.json"), "images": [2, 3], "sizes": [[84, 56], [56, 84]]}
    source |= {"question_tokens": QUESTION, "thought_tokens": THOUGHT, "pictures": 4}
    source |= {"cot_samples": 8, "rl_samples": 4, "eval_samples": 4}
    lora = {"rank": 4, "alpha": 8}
    changes = {
        "model": {"dtype": "float32", "attention": "sdpa", "threads": 1},
        "source": source,
        "sft": {"batch": 2, "per_device_train_batch_size": 1, "lora": lora, "max_pixels": 9600},
        "select": {"rollouts": 2, "batch": 2},
        "pass_rates": {"samples": 4},
        "grpo": {
            "max_steps": 3,
            "num_generations": 2,
            "per_device_train_batch_size": 2,
            "lora": lora,
            "max_pixels": 9600,
        },
        "evaluate": {"batch": 2, "max_pixels": 9600, "max_new_tokens": COMPLETION},
    }
    changes["grpo"]["max_new_tokens"] = COMPLETION
    return [
        f"{part}.{key}={json.dumps(value, default=str)}"
        for part, keys in changes.items()
        for key, value in keys.items()
    ]


def rehearse(folder: Path) -> str:
    result = call_migrl(
        "reproduce",
        "--recipe",
        "rehearsal",
        "--runs",
        folder / "runs",
        "--results",
        folder / "results",
        *shrink(folder),
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rehearsal beside what `make gpu` has measured before."""
    place = tmp_path_factory.mktemp("rehearsal")
    add_part(place / "results/rehearsal", CARD, 80.0, "sft", PART)
    rehearse(place)
    return place


def test_what_was_measured_part_by_part_stays_and_is_sealed_with_the_rest(folder: Path) -> None:
    assert read_cards(folder / "results/rehearsal")[CARD].parts == {"sft": PART}
    report = (folder / "results/rehearsal/report.md").read_text()
    assert f"**{CARD}**, 80 GB" in report and "| sft: step | made up |" in report
    assert call_migrl("verify", folder / "results").returncode == 0


def test_every_stage_is_measured_and_what_only_a_gpu_can_tell_is_null(folder: Path) -> None:
    found = json.loads((folder / "results/rehearsal/measurements.json").read_text())
    assert (found["device"], found["not_run"]) == ("cpu", True)
    assert found["stages"].keys() == MEASURED.keys()
    for name, stage in found["stages"].items():
        assert stage["seconds_per_step"] > 0 and stage["processes"] == 1, name
        assert stage["mfu"] is None and stage["peak_memory_gb"] is None, name
        assert (stage["tokens_per_second"] or 0) > 0 or name in ("fetch", "synthesize", "merge")
    stages = found["stages"]
    assert {name: stages[name]["steps"] for name in ("sft", "select", "grpo", "evaluate", "pass_rates")} == {
        "sft": 2,  # of four, the first two to warm up
        "select": 1,
        "grpo": 1,
        "evaluate": 3,
        "pass_rates": 1,
    }
    report = (folder / "results/rehearsal/report.md").read_text()
    assert "no figure here speaks for one" in report and report.count("not run") == 11


def test_sequences_have_the_lengths_that_the_recipe_asks_for(folder: Path) -> None:
    data = folder / "runs/rehearsal/fetch/data"
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "reproduce/tiny_base")
    for split in ("cot", "rl", "rehearsal"):
        for number, sample in enumerate(read_samples(data / f"{split}.jsonl")):
            assert len(sample.images) == (2, 3)[number % 2]
            assert len(tokenizer(sample.question).input_ids) == QUESTION
            assert len(tokenizer(sample.facts).input_ids) == THOUGHT
    stages = json.loads((folder / "results/rehearsal/measurements.json").read_text())["stages"]
    rollouts = {stages[name]["longest_sequence"] for name in ("select", "grpo", "evaluate", "pass_rates")}
    longest = max(rollouts)
    assert rollouts == {longest, longest - 1}  # GRPO packs completions, whose last token predicts nothing
    # What is left are the chat template, the numbers of the images and the form of the answer.
    assert 30 < longest - 3 * IMAGE_TOKENS - QUESTION - COMPLETION < 80
    assert stages["sft"]["longest_sequence"] > longest - COMPLETION + THOUGHT
    rows = [json.loads(line) for line in (folder / "runs/rehearsal/evaluate/samples.jsonl").read_text().splitlines()]
    assert all(row["tokens"] == COMPLETION for row in rows if row["truncated"])
    assert sum(row["truncated"] for row in rows) >= len(rows) - 1


def test_the_plan_reads_what_the_rehearsal_wrote(folder: Path) -> None:
    places = ("--runs", folder / "runs", "--results", folder / "results")
    result = call_migrl("plan", "--recipe", "rehearsal", "--gpus", "0", "--json", *places, *shrink(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    stages = {stage["name"]: stage for stage in json.loads(result.stdout)["stages"]}
    manifest = json.loads((folder / "results/rehearsal/manifest.json").read_text())
    for name, stage in manifest["stages"].items():
        assert stages[name]["done"] and stages[name]["duration"]["low"] == stage["seconds"], name
    # What a processor took is used for no GPU, and the plan says so.
    other = json.loads(call_migrl("plan", "--gpus", "8", "--gpu", "H100", "--json", *places).stdout)
    assert "measured on cpu, not on H100 SXM, so not used" in other["notes"][0]


def test_a_second_rehearsal_skips_everything(folder: Path) -> None:
    assert rehearse(folder).count("skipped") == len(RUN)


@pytest.mark.parametrize(("recipe", "stage"), [("rehearsal", "fetch"), ("paper", "fetch")])
def test_a_machine_without_a_gpu_is_refused_before_anything_is_downloaded_or_drawn(
    recipe: str, stage: str, tmp_path: Path
) -> None:
    result = call_migrl("reproduce", "--recipe", recipe, "--runs", tmp_path / "runs")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert f"recipe '{recipe}', stage {stage}: no GPU here" in last, result.stderr
    assert ("`migrl fetch` alone works" in last) == (recipe == "paper")
    assert not list((tmp_path / "runs").rglob("*.jsonl"))
