"""Small runs, a peer's predictions for one, and the command that compares them."""

import json
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from benchmark_files import make_mig_record, write_json, write_pictures
from rows import Line, make_row
from typer.testing import CliRunner, Result

from migrl.benchmarks import BENCHMARKS
from migrl.cli import app
from migrl.errors import UserError
from migrl.files import write_jsonl

HIT, MISS = "(100,200),(300,400)", "(100,200),(300,260)"


def make_line(uid: str, number: int, **changes: Any) -> Line:
    """A row whose true box is the upper left quarter of image 2; four samples share their images."""
    told = {"task": f"task {number % 2}", "cluster": f"set {number // 4}", "completion": ""}
    return make_row(uid, **(told | changes)).to_json()


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def show(*arguments: Any) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def count(*arguments: Any) -> Any:
    return json.loads(show(*arguments, "--json"))


def refuse(*arguments: Any) -> str:
    """The one error of a call that must end in one."""
    result = call(*arguments)
    assert isinstance(result.exception, UserError), (result.stdout, result.exception)
    assert result.stdout == ""
    return str(result.exception)


def write_run(folder: Path, hits: str, arm: str = "rl", edit: Callable[[Line], Any] = lambda row: None) -> Path:
    """A run of one benchmark: task 0 has the even samples, task 1 the odd ones; four samples share their images."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, mark in enumerate(hits):
        text = f'<answer>{{"image": 2, "bbox_2d": [0, 0, {28 if mark == "1" else 12}, 28]}}</answer>'
        rows.append(make_line(f"mini:{number}", number, arm=arm, completion=text))
    for row in rows:
        edit(row)
    text = "".join(json.dumps(row) + "\n" for row in rows)  # pure ASCII, so that a lone surrogate can be in it
    (folder / "samples.jsonl").write_text(text)
    return folder


def write_raw(file: Path, rows: Iterable[Line]) -> Path:
    """The answers of a run as a peer's raw completions."""
    write_jsonl(file, [{"uid": row["uid"], "completion": row["completion"]} for row in rows])
    return file


class Peer:
    """A run on a MIG-Bench file of ours whose every answer is a hit on image 2, and a peer's predictions for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = [make_mig_record(task) for task in ("refer_grounding", "diff") for _ in range(3)]
        for number, record in enumerate(self.records):
            record["images"] = [f"{number}/{name}" for name in record["images"]]  # an image set of its own
            write_pictures(folder, record["images"])
        self.annotations = write_json(folder / "a.json", self.records)
        items = BENCHMARKS["mig_bench"].load(self.annotations, folder, "mig_bench").items
        rows = []
        for item in items:
            asked = item.sample.to_json()
            uid, count = asked.pop("uid"), len(asked["images"])
            del asked["facts"]
            size = {"sizes": [[100, 80]] * count, "resized_sizes": [[112, 84]] * count}
            text = f'<answer>{{"image": {asked["target"]["image"]}, "bbox_2d": [100, 200, 300, 400]}}</answer>'
            rows.append(make_line(uid, 0, **asked, **size, frame="permille", completion=text))
        extra = make_line("mini_mig:1", 1)
        write_jsonl(folder / "samples.jsonl", [*rows, extra])
        self.run = folder / "samples.jsonl"
        self.uids = [row["uid"] for row in rows]
        self.targets = [row["target"]["image"] for row in rows]

    def predict(self, boxes: list[str], wrong_images: int = 0) -> Path:
        """Raw completions with an image each, the first of them another than the target's."""
        lines = []
        for number, (uid, image, box) in enumerate(zip(self.uids, self.targets, boxes, strict=True)):
            named = 1 if number < wrong_images else image
            text = f'<answer>{{"image": {named}, "bbox_2d": [{box.replace("(", "").replace(")", "")}]}}</answer>'
            lines.append({"uid": uid, "completion": f"{box} {text}"})
        write_jsonl(self.folder / "peer.jsonl", lines)
        return self.folder / "peer.jsonl"

    def score(self, predictions: Path, *options: str) -> Path:
        return write_details("mig_bench", self.annotations, predictions, *options)


class Letters:
    """A run on a BLINK answers file whose every answer is right, and a peer's predictions for it."""

    def __init__(self, folder: Path) -> None:
        self.annotations = write_json(folder / "val.json", {f"val_Counting_{number}": "(B)" for number in range(1, 5)})
        rows = []
        for item in BENCHMARKS["blink"].load(self.annotations, folder, "blink").items:
            asked = item.sample.to_json() | {"question": "?", **_IMAGES}
            del asked["facts"]
            rows.append(make_line(asked.pop("uid"), 0, **asked, completion="<answer>(B)</answer>"))
        write_jsonl(folder / "samples.jsonl", rows)
        self.run = folder / "samples.jsonl"
        self.raw = folder / "raw.jsonl"
        write_jsonl(self.raw, [{"uid": row["uid"], "completion": "So (B) <answer>(B)</answer>"} for row in rows])

    def score(self, *options: str) -> Path:
        return write_details("blink", self.annotations, self.raw, *options)


_IMAGES = {"images": ["a.png"], "sizes": [[56, 56]], "resized_sizes": [[56, 56]]}


def write_details(benchmark: str, annotations: Path, predictions: Path, *options: str) -> Path:
    """What `migrl score --details` writes."""
    details = predictions.with_name("details.jsonl")
    command = ["score", benchmark, "--annotations", annotations, "--predictions", predictions, "--details", details]
    done = CliRunner().invoke(app, [*map(str, command), *options])
    assert done.exit_code == 0, done.exception
    return details


class Reader(HTMLParser):
    """The elements and attributes of a page, and its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def find(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        found = [attrs for name, attrs in self.tags if name == tag]
        return [attrs for attrs in found if all(attrs.get(key) == value for key, value in attributes.items())]
