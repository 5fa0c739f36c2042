"""Small files in the exact formats of the published benchmarks, with pictures of our own."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

QUOTED = "<|box_start|>(100,200),(300,400)<|box_end|>"


FOLDERS = {"diff": "static_diff", "common_object": "common"}  # where they differ from the task's name


def make_mig_record(task: str, **changes: Any) -> dict[str, Any]:
    """A record of the revised file; the wording is ours, the words that loaders look for are the file's."""
    folder = f"MIG-Bench/images/{FOLDERS.get(task, task)}"
    counts = {"common_object": 4, "object_tracking": 6, "multi_view": 3, "region": 3, "group_grounding": 4}
    questions = {
        "diff": "Say where the pictures differ, in the 2th image. ",
        "common_object": "One thing is in all of them. Locate it in the 3th image. ",
        "object_tracking": f"Frames. The object of the first one({QUOTED}): locate it in the 5th image. ",
        "multi_view": f"Views. The object of the first one({QUOTED}): locate it in the 2th image. ",
        "region": "A picture and parts of it. Locate the 2th part in the picture. ",
        "group_grounding": "Find <|object_ref_start|>a red van<|object_ref_end|>.",
    }
    record = {
        "task": task,
        "images": [f"{folder}/{number}.png" for number in range(counts.get(task, 2))],
        "question": questions.get(task, "Locate it in the second image. "),
        "answer": [100, 200, 300, 400],
        "additional_info": f"It is in the third image. {QUOTED}. " if task == "group_grounding" else "",
        "need_format": task not in ("object_tracking", "group_grounding"),
    }
    return {**record, **changes}


def make_original(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The same record as in the original file: decimals, and paths that open with `./`."""
    images = [f"./{name}" for name in record["images"]]
    return {**record, "images": images, "answer": [v / 1000 for v in record["answer"]], **changes}


def make_blink_row(idx: str = "val_Jigsaw_1", **changes: Any) -> dict[str, Any]:
    picture = {"bytes": make_png((8, 8)), "path": "a.png"}
    row = {
        "idx": idx,
        "question": "Which one fits?",
        "sub_task": "_".join(idx.split("_")[1:-1]),
        "image_1": picture,
        "image_2": picture,
        "image_3": None,
        "image_4": None,
        "choices": ["the second image", "the third image"],
        "answer": "(B)",
        "prompt": "Which one fits?\n(A) the second image\n(B) the third image\n",
        "explanation": "",
    }
    return {**row, **changes}


def make_mmiu_row(**changes: Any) -> dict[str, Any]:
    row = {
        "task": "temporal_ordering",
        "visual_input_component": "natural image",
        "source": "ours",
        "options": "A: first\nB: second\nC: third",
        "question": "Which comes last?",
        "context": "Choose.\nA: first\nB: second\nC: third",
        "input_image_path": ["./Low-level-semantic/t/0.png", "./Low-level-semantic/t/1.png"],
        "output": "C",
    }
    return {**row, **changes}


def make_muirbench_row(idx: str = "7", **changes: Any) -> dict[str, Any]:
    picture = {"bytes": make_png((8, 8)), "path": None}
    row = {
        "idx": idx,
        "task": "Counting",
        "image_relation": "Other",
        "image_type": "Photography",
        "question": "How many cats are in <image> and <image>?",
        "options": ["one", "two", "None of the choices provided"],
        "answer": "B",
        "image_list": [picture, picture],
        "counterpart_idx": "8",
    }
    return {**row, **changes}


def make_grounding_record(name: str, **changes: Any) -> dict[str, Any]:
    records: dict[str, dict[str, Any]] = {
        "lisa": {"image_path": "lisa/a.png", "instruction": "what keeps one dry", "boxes": [[10, 20, 50, 40]]},
        "llmseg": {"image_path": "a.png", "question": "what keeps one dry", "bbox": [[10, 20], [50, 40]]},
        "revos": {
            "video_id": "clip",
            "frames": [0, 1, 2],
            "question": "what moves",
            "bbox_list": [[1, 2, 3, 4], [1, 2, 3, 4], [10, 20, 50, 40]],
        },
        "reasonvos": {
            "image_list": ["clip/0.png", "clip/1.png", "clip/2.png"],
            "question": "what moves",
            "bbox_list": ["[1, 2, 3, 4]", "[1, 2, 3, 4]", "[10, 20, 50, 40]"],
        },
    }
    return {**records[name.split("_")[0]], **changes}


def make_png(size: tuple[int, int]) -> bytes:
    from io import BytesIO

    stream = BytesIO()
    Image.new("RGB", size, "teal").save(stream, "PNG")
    return stream.getvalue()


def write_pictures(folder: Path, names: list[str], size: tuple[int, int] = (100, 80)) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_png(size))


def write_json(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TYPES = {**{f"image_{n}": _PICTURE for n in range(1, 5)}, "image_list": pa.list_(_PICTURE)}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A parquet file with picture columns as the Hub has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        key: pa.array([row[key] for row in rows], _TYPES.get(key))
        for key in dict.fromkeys(k for row in rows for k in row)
    }
    pq.write_table(pa.table(columns), path)
    return path
