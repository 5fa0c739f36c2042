"""Pictures inside a page: read, encoded anew, and embedded once however many samples show them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

from migrl.errors import UserError
from migrl.grounding.images import read_image

LOSSLESS_SIDE_PX = 256  # smaller pictures stay exact and are shown with hard pixels
SHOWN_SIDE_PX = 384  # larger ones are scaled down to this
JPEG_QUALITY = 70


@dataclass(frozen=True)
class Picture:
    """One image file, embedded once and used by reference. Sizes in original px."""

    key: str
    width: int
    height: int
    data_uri: str
    pixelated: bool


def embed_picture(images_root: Path, path: str, size: Sequence[int], key: str) -> Picture:
    """Read an image and encode it anew, which drops metadata and anything that is not the picture.

    Args:
        path: relative to `images_root`.
        size: (width, height) of the stored image in px, as the sample's row says; boxes lie in it.
        key: the element id that the page refers to it by.

    Raises:
        UserError: the image is missing, unreadable, of another size, or outside `images_root`.
    """
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise UserError(f"{path}: the image leaves the folder {images_root}; correct the sample's path")
    file = images_root / path
    if not file.is_file():
        raise UserError(f"{file}: no such image, but a sample shows it; run the stage that made the images again")
    lossless = max(size) <= LOSSLESS_SIDE_PX
    data = BytesIO()
    image = read_image(file, (size[0], size[1]))
    image.thumbnail((SHOWN_SIDE_PX, SHOWN_SIDE_PX))
    image.save(data, format="PNG" if lossless else "JPEG", optimize=True, quality=JPEG_QUALITY)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    kind = "png" if lossless else "jpeg"
    return Picture(key, int(size[0]), int(size[1]), f"data:image/{kind};base64,{encoded}", lossless)
