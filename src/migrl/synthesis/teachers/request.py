"""What an OpenAI-compatible server is sent: one request a candidate, with the pictures in it."""

import base64
import hashlib
import json
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


def build_body(teacher: ServerTeacher, item: ModelInput, pictures: list[bytes], seed: int) -> bytes:
    """The JSON of one request, for a prompt that is one message.

    `pictures` are parts of the message as JSON (`encode_picture`); they are joined as they are, for they are the bulk
    of it and the same for every candidate.
    """
    left = iter(pictures)
    (message,) = item.messages
    parts = [next(left) if part["type"] == "image" else json.dumps(part).encode() for part in message["content"]]
    settings: dict[str, Any] = {
        "model": teacher.model,
        "temperature": teacher.temperature,
        "top_p": teacher.top_p,
        **{name: getattr(teacher, name) for name in teacher.extensions},
        teacher.token_limit_name: teacher.max_new_tokens,
        "seed": seed,
    }
    head = json.dumps(settings).removesuffix("}") + f', "messages": [{{"role": "{message["role"]}", "content": ['
    return head.encode() + b", ".join(parts) + b"]}]}"


def encode_picture(path: Path, size: Size) -> bytes:
    """A picture at `size` (width, height) as a part of a message, in JSON: the teacher sees what the model will see.

    The size is the one after the model's own resizing under the recipe's pixel limit; boxes in `resized_px` are boxes
    of this very picture. JPEG, nearly lossless: PNG takes four times the bytes and twenty times the time. torchvision
    writes the bytes that Pillow does, and unlike it without holding Python's lock, which the thread that sends needs.
    """
    jpeg = encode_jpeg(resize_picture(read_image(path), size), quality=JPEG_QUALITY)
    url = b"data:image/jpeg;base64," + base64.b64encode(jpeg.numpy())
    return b'{"type": "image_url", "image_url": {"url": "' + url + b'"}}'


def derive_seed(seed: int, name: str) -> int:
    """A request's own seed, from the stage's seed and the request's name; fits 31 bits, as some servers want."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4]) >> 1
