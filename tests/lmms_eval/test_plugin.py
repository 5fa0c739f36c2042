"""The written tasks in the released lmms-eval: its own evaluator, a scripted model, numbers computed by hand.

lmms-eval is not in the project's lock; `nox -s lmms_eval` runs these tests where it is.
"""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from migrl.errors import UserError
from migrl.files import write_jsonl
from migrl.lmms_tasks import GroundingTask, write_tasks


def find_lmms_eval() -> bool:
    """Whether the released package is there; this folder, of the same name, is not it."""
    try:
        return bool(version("lmms-eval"))
    except PackageNotFoundError:
        return False


needs_lmms_eval = pytest.mark.skipif(not find_lmms_eval(), reason="lmms-eval is not installed; run nox -s lmms_eval")
pytestmark = pytest.mark.filterwarnings("default")  # warnings of lmms-eval and its dependencies are not ours

SIZES = {"wide.png": (400, 200), "tall.png": (100, 300), "square.png": (200, 200)}


def make_sample(uid: str, benchmark: str, task: str, images: list[str], target: dict[str, Any], question: str) -> Any:
    return {
        "uid": uid,
        "benchmark": benchmark,
        "task": task,
        "images": images,
        "question": question,
        "target": target,
        "cluster": images[0],
    }


QUOTED = "<|box_start|>(250,500),(500,1000)<|box_end|>"
MIG = [
    make_sample("d1", "mig_bench", "difference", ["wide.png", "tall.png"], {"image": 2, "box_unit": [0, 0, 0.5, 0.5]},
                "What changed?"),
    make_sample("d2", "mig_bench", "difference", ["tall.png", "wide.png"], {"image": 2, "box_unit": [0, 0, 1, 0.5]},
                "What changed?"),
    make_sample("d3", "mig_bench", "difference", ["square.png", "wide.png"], {"image": 1, "box_unit": [0, 0, 1, 1]},
                "What changed?"),
    make_sample("t1", "mig_bench", "tracking", ["wide.png", "square.png"], {"image": 2, "box_unit": [0, 0, 1, 1]},
                f"Where is {QUOTED} now?"),
]  # fmt: skip
VOS = [
    make_sample("v1", "reasonvos", "video", ["wide.png"], {"image": 1, "box_unit": [0, 0, 0.5, 1]}, "Who runs?"),
    make_sample("v2", "reasonvos", "video", ["tall.png", "square.png"],
                {"image": 2, "box_unit": [0, 0, 0.5, 1], "image_trusted": False}, "Who jumps?"),
]  # fmt: skip
CHOICE = [make_sample("b1", "blink", "jigsaw", ["wide.png"], {"letter": "A", "options": 2}, "(A) or (B)?")]

# The answers, by uid, in permille.
ANSWERS = {
    "d1": '<think>It moved.</think>\n\n<answer>{"image": 2, "bbox_2d": [0, 0, 500, 500]}</answer>',  # IoU 1
    "d2": '<answer>{"image": 2, "bbox_2d": [0, 0, 400, 500]}</answer>',  # IoU 0.4: no hit, but above 0.3
    "d3": '<answer>{"image": 2, "bbox_2d": [0, 0, 1000, 1000]}</answer>',  # the box is right, the image is not
    "t1": '<answer>{"image": 2, "bbox_2d": [0, 0, 1000, 600]}</answer>',  # IoU 0.6: a hit, but below 0.7
    "v1": "It is the man on the left.",  # unreadable
    "v2": '<answer>{"image": 1, "bbox_2d": [0, 0, 500, 1000]}</answer>',  # right box; its image is not trusted
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as `migrl fetch` leaves it: lines of samples, pictures beside them."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, size in SIZES.items():
        Image.new("RGB", size, "gray").save(folder / name)
    for name, rows in {"mig_bench": MIG, "reasonvos": VOS, "blink": CHOICE, "rl": MIG}.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def build_model(asked: dict[str, list[dict[str, Any]]]) -> Any:
    """A chat model of lmms-eval that answers from `ANSWERS` and keeps the messages it was asked with."""
    from lmms_eval.api.model import lmms

    class Scripted(lmms):  # type: ignore[misc]
        is_simple = False

        def generate_until(self, requests: list[Any]) -> list[str]:
            answers = []
            for request in requests:
                _, doc_to_messages, settings, doc_id, task, split = request.args
                assert settings["until"] == [] and settings["max_new_tokens"] == 1024
                doc = self.task_dict[task][split][doc_id]
                asked[doc["uid"]] = doc_to_messages(doc)
                answers.append(ANSWERS[doc["uid"]])
            return answers

        def loglikelihood(self, requests: list[Any]) -> list[Any]:
            raise NotImplementedError

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError

    return Scripted()


def evaluate(out: Path, tasks: list[str], asked: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Results of lmms-eval's own evaluator, by task and metric."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(out), include_defaults=False)
    found = simple_evaluate(model=build_model(asked), tasks=tasks, task_manager=manager, bootstrap_iters=0)["results"]
    return {
        task: {name.removesuffix(",none"): value for name, value in found[task].items() if "stderr" not in name}
        for task in found
    }


@pytest.fixture
def results(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    write_tasks(GroundingTask(data, "permille", "think"), tmp_path / "tasks")
    return evaluate(tmp_path / "tasks", ["migrl_grounding"], {})


@needs_lmms_eval
def test_the_metrics_are_those_computed_by_hand(results: dict[str, dict[str, Any]]) -> None:
    # difference: IoU 1, 0.4 and, on the wrong image, 0; tracking: IoU 0.6 alone.
    expected = {
        "macro": (100 / 3 + 100) / 2,
        "micro": 50.0,
        "acc_30": (200 / 3 + 100) / 2,
        "acc_70": (100 / 3 + 0) / 2,
        "mean_iou": (140 / 3 + 60) / 2,
        "image_accuracy": 75.0,
        "parse_rate": 100.0,
        "task_difference": 100 / 3,
        "task_tracking": 100.0,
    }
    found = results["migrl_mig_bench"]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@needs_lmms_eval
def test_an_image_that_is_not_trusted_counts_for_the_box_but_not_for_the_image(
    results: dict[str, dict[str, Any]],
) -> None:
    expected = {"macro": 50.0, "micro": 50.0, "mean_iou": 50.0, "image_accuracy": 0.0, "parse_rate": 50.0}
    found = results["migrl_reasonvos"]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@needs_lmms_eval
def test_every_row_of_the_result_is_a_number(results: dict[str, dict[str, Any]]) -> None:
    for found in results.values():
        numbers = {name: value for name, value in found.items() if name not in ("alias", "samples")}
        assert all(isinstance(value, float) for value in numbers.values()), numbers


@needs_lmms_eval
def test_the_model_reads_the_prompt_of_migrl_with_each_picture_in_its_place(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "tasks"
    write_tasks(GroundingTask(data, "resized_px", "think", min_pixels=784, max_pixels=20000), out)
    asked: dict[str, list[dict[str, Any]]] = {}
    evaluate(out, ["migrl_mig_bench"], asked)
    [message] = asked["t1"]
    parts = [part.get("text") or part["url"].size for part in message["content"]]
    # The 400 x 200 px picture is seen at 196 x 84: of it, the quoted box is a quarter to half, and half to all.
    assert parts[:4] == ["Image 1:", (400, 200), "Image 2:", (200, 200)]
    assert parts[4].startswith("\nWhere is [49, 42, 98, 84] now?\nThink inside <think></think>")


@needs_lmms_eval
def test_the_command_line_finds_the_tasks(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    write_tasks(GroundingTask(data, "unit", "think"), tmp_path / "tasks")
    flags = ["--include_path", "tasks", "--tasks", "migrl_grounding", "--model", "dummy", "--output_path", "results"]
    run = subprocess.run([sys.executable, "-m", "lmms_eval", *flags], cwd=tmp_path, capture_output=True, text=True)
    written = list((tmp_path / "results").rglob("*results.json"))
    assert len(written) == 1, run.stdout + run.stderr  # lmms-eval ends with 0 after an error, too
    found = json.loads(written[0].read_text())["results"]
    assert {task: found[task]["parse_rate,none"] for task in found} == {"migrl_mig_bench": 0, "migrl_reasonvos": 0}


def test_every_benchmark_that_asks_for_boxes_is_written_and_training_data_is_not(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tasks"
    assert write_tasks(GroundingTask(data, "unit", "think"), out) == ["migrl_mig_bench", "migrl_reasonvos"]
    assert {path.name for path in out.iterdir()} == {"utils.py", "migrl_mig_bench.yaml", "migrl_reasonvos.yaml"}


def test_writing_again_leaves_no_task_of_before_and_touches_no_other_file(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tasks"
    write_tasks(GroundingTask(data, "unit", "think"), out)
    (out / "migrl_mine.yaml").write_text("task: mine\n")
    (data / "mig_bench.jsonl").unlink()
    write_tasks(GroundingTask(data, "unit", "think"), out)
    assert {path.name for path in out.iterdir()} == {"utils.py", "migrl_mine.yaml", "migrl_reasonvos.yaml"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"frame": "resized_px"}, "give min_pixels and max_pixels"),
        ({"frame": "unit", "min_pixels": 784}, "one is missing"),
        ({"frame": "unit", "min_pixels": 784, "max_pixels": 28}, "need 0 < min_pixels <= max_pixels"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        GroundingTask(Path("data"), style="think", **settings)


def test_a_folder_without_a_grounding_benchmark_is_refused(data: Path, tmp_path: Path) -> None:
    for name in ("mig_bench", "reasonvos"):
        (data / f"{name}.jsonl").unlink()
    for folder, reason in ((data, "no grounding benchmark"), (data / "nowhere", "no such folder")):
        with pytest.raises(UserError, match=reason):
            write_tasks(GroundingTask(folder, "unit", "think"), tmp_path / "tasks")
