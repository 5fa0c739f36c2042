"""`migrl ask`: one question to an arm of a run, or to any model; the box is drawn into the picture that it names."""

from pathlib import Path

import pytest
from PIL import Image, ImageChops
from smoke_run import ROOT, FinishedRun, call_migrl

from migrl.files import read_jsonl
from migrl.grounding.samples import read_samples

BASE = ROOT / "reproduce/tiny_base"
PICTURE = ROOT / "results/tiny/figures/world.png"


def test_an_arm_answers_as_in_the_evaluation_and_only_the_box_is_drawn(finished: FinishedRun, tmp_path: Path) -> None:
    data, out = finished.stage("fetch") / "data", tmp_path / "answer.png"
    samples = {sample.uid: sample for sample in read_samples(data / "mini_mig.jsonl")}
    rows = read_jsonl(finished.stage("evaluate") / "samples.jsonl")
    row = next(row for row in rows if row["arm"] == "rl" and row["uid"] in samples and row["status"] == "ok")
    sample = samples[row["uid"]]
    pictures = [data / name for name in sample.images]
    asked = call_migrl("ask", "--recipe", "test", "--runs", finished.runs, "--out", out, *pictures, sample.question)
    assert asked.returncode == 0, asked.stderr
    text, said = asked.stdout.rstrip().rsplit("\n", 1)
    assert text == row["completion"].strip()
    chosen = int(said.split()[1].rstrip(","))
    assert said.startswith(f"image {chosen}, {pictures[chosen - 1]}: [") and said.endswith(f"drawn in {out}")
    before, after = (Image.open(path).convert("RGB") for path in (pictures[chosen - 1], out))
    changed = ImageChops.difference(before, after).getbbox()
    numbers = [int(word) for word in said.split("[")[1].split("]")[0].split(", ")]
    assert before.size == after.size and changed is not None
    assert changed == pytest.approx((*numbers[:2], numbers[2] + 1, numbers[3] + 1), abs=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--arm", "rlx", PICTURE, "Where?"), "has the arms base, sft, sft_direct, rl"),
        (("a.png",), "one picture at least, then the question"),
        (("--runs", "nowhere", PICTURE, "Where?"), "run `migrl fetch --recipe tiny`"),
        (("--model", BASE, "nowhere.png", "Where?"), "nowhere.png: no such picture"),
        (("--model", BASE, "--out", "a.png", "a.png", "Where?"), "--out a.png: is one of the pictures"),
        (("--recipe", "paper", "a.png", "Where?"), "no GPU here"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(arguments: tuple[str | Path, ...], said: str) -> None:
    result = call_migrl("ask", *arguments)
    assert result.returncode == 1 and said in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
