"""What an OpenAI-compatible server is sent: one request a candidate, with the pictures in it."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from torchvision.io import encode_jpeg

from migrl.grounding.boxes import Size
from migrl.grounding.images import read_image
from migrl.models.inputs import ModelInput
from migrl.recipe import ServerTeacher
from migrl.synthesis.teachers.ledger import name_request
from migrl.synthesis.teachers.retries import Request
from migrl.synthesis.teachers.teacher import resize_picture

JPEG_QUALITY = 95


def build_requests(teacher: ServerTeacher, item: ModelInput, numbers: list[int], seed: int) -> list[Request]:
    """The requests for some candidates of one sample; its pictures are encoded once."""
    pictures = [encode_picture(path, size) for path, size in zip(item.paths, item.resized_sizes, strict=True)]
    names = [name_request(item, k) for k in numbers]
    return [Request(name, build_body(teacher, item, pictures, derive_seed(seed, name))) for name in names]


def build_body(teacher: ServerTeacher, item: ModelInput, pictures: list[str], seed: int) -> dict[str, Any]:
    """The body of one request, for a prompt that is one message; its `pictures` are data URLs."""
    left = iter(pictures)
    (message,) = item.messages
    parts = [
        {"type": "image_url", "image_url": {"url": next(left)}} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return {
        "model": teacher.model,
        "temperature": teacher.temperature,
        "top_p": teacher.top_p,
        **{name: getattr(teacher, name) for name in teacher.extensions},
        teacher.token_limit_name: teacher.max_new_tokens,
        "seed": seed,
        "messages": [{**message, "content": parts}],
    }


def encode_picture(path: Path, size: Size) -> str:
    """A picture at `size` (width, height) as a data URL: the teacher sees what the model will see.

    The size is the one after the model's own resizing under the recipe's pixel limit; boxes in `resized_px` are boxes
    of this very picture. JPEG, nearly lossless: PNG takes four times the bytes and twenty times the time. torchvision
    writes the bytes that Pillow does, and unlike it without holding Python's lock, which the thread that sends needs.
    """
    jpeg = encode_jpeg(resize_picture(read_image(path), size), quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.numpy()).decode()


def derive_seed(seed: int, name: str) -> int:
    """A request's own seed, from the stage's seed and the request's name; fits 31 bits, as some servers want."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4]) >> 1
