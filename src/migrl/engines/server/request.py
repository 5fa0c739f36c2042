"""What an OpenAI-compatible server is sent: one request a completion, with the pictures in it.

Pictures are sent at the size at which a box's numbers are read: in `original_px` as they are stored, else at the size
after the base model's own resizing under the recipe's pixel limit, so that boxes in `resized_px` are boxes of this very
picture. What the server's model does to a picture after that, it has to undo itself.
"""

import base64
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.io import encode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from migrl.engines.server.ledger import name_request
from migrl.engines.server.retries import Request
from migrl.grounding.boxes import Size
from migrl.grounding.images import read_image
from migrl.models.decoding import Decoding
from migrl.models.inputs import ModelInput
from migrl.recipe import ServerSettings

JPEG_QUALITY = 95


def build_requests(settings: ServerSettings, decoding: Decoding, item: ModelInput, numbers: list[int]) -> list[Request]:
    """The requests for some completions of one sample; its pictures are encoded once."""
    sizes = item.sizes if item.frame == "original_px" else item.resized_sizes
    pictures = [encode_picture(path, size) for path, size in zip(item.paths, sizes, strict=True)]
    names = [name_request(item, k) for k in numbers]
    seeds = [derive_seed(decoding.seed, name) for name in names]
    bodies = [build_body(settings, decoding, item, pictures, seed) for seed in seeds]
    return [Request(name, body) for name, body in zip(names, bodies, strict=True)]


def build_body(
    settings: ServerSettings, decoding: Decoding, item: ModelInput, pictures: list[bytes], seed: int
) -> bytes:
    """The JSON of one request, for a prompt that is one message.

    `pictures` are parts of the message as JSON (`encode_picture`); they are joined as they are, for they are the bulk
    of it and the same for every completion.
    """
    left = iter(pictures)
    (message,) = item.messages
    parts = [next(left) if part["type"] == "image" else json.dumps(part).encode() for part in message["content"]]
    told: dict[str, Any] = {**asdict(decoding), "seed": seed}
    values = {
        "model": settings.model,
        settings.token_limit_name: decoding.max_new_tokens,
        **{name: told[name] for name in settings.sent},
    }
    head = json.dumps(values).removesuffix("}") + f', "messages": [{{"role": "{message["role"]}", "content": ['
    return head.encode() + b", ".join(parts) + b"]}]}"


def encode_picture(path: Path, size: Size) -> bytes:
    """A picture at `size` (width, height) as a part of a message, in JSON.

    JPEG, nearly lossless: PNG takes four times the bytes and twenty times the time. torchvision writes the bytes that
    Pillow does, and unlike it without holding Python's lock, which the thread that sends needs.
    """
    jpeg = encode_jpeg(resize_picture(read_image(path), size), quality=JPEG_QUALITY)
    url = b"data:image/jpeg;base64," + base64.b64encode(jpeg.numpy())
    return b'{"type": "image_url", "image_url": {"url": "' + url + b'"}}'


def resize_picture(image: Image.Image, size: Size) -> torch.Tensor:
    """A picture at `size` (width, height), resized as Qwen's image processor does it, to the very pixel.

    Returns:
        uint8, (3, height, width).
    """
    pixels: torch.Tensor = functional.pil_to_tensor(image)
    if image.size == size:
        return pixels
    height_width, bicubic = [size[1], size[0]], InterpolationMode.BICUBIC
    pixels = functional.resize(pixels, height_width, interpolation=bicubic, antialias=True)
    return pixels


def derive_seed(seed: int, name: str) -> int:
    """A request's own seed, from the stage's seed and the request's name; fits 31 bits, as some servers want."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4]) >> 1
