"""The one loader of pictures. A picture is the same for every stage, or the run stops and names it.

pixels        as stored: an EXIF orientation turns nothing, here or in libraries that are handed the picture
transparency  laid on white, as Qwen's own loader does
deep grey     of 16 or 32 bits or floats, scaled to 8 bits (`_scale_grey`)
animation     its first frame
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from migrl.errors import UserError
from migrl.grounding.boxes import PIXEL_FACTOR, Size

MAX_IMAGE_PIXELS = 180_000_000  # 540 MB in RGB; about the size at which PIL itself refuses

# PIL only warns of pictures up to twice its limit. Its settings are the process's own, so they are made once.
Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

_Turn = Image.Transpose
_TURNED_BACK = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_90,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_270,
}
"""What undoes each orientation: PIL turns no picture by it but TIFF."""


class MissingPictures(UserError):
    """Pictures that annotations name and that are not there; `names` holds all of them."""

    def __init__(self, owner: str, names: Sequence[str]) -> None:
        shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
        super().__init__(
            f"{owner}: {len(names)} missing image{'s' * (len(names) > 1)} ({shown}); `migrl fetch --check` lists all, "
            "`migrl fetch --force` brings them"
        )
        self.names = tuple(names)


def find_missing(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the named pictures that are not below `folder`, each once, in their order."""
    return [name for name in dict.fromkeys(names) if not (folder / name).is_file()]


def read_image(path: Path, size: Size | None = None) -> Image.Image:
    """A picture in RGB, without metadata that could turn it later.

    Args:
        size: (width, height) in px that it must have, as fetch stored it.

    Raises:
        UserError: the file is missing, cannot be read whole, is too large, or is not of this size.
    """
    image, _ = decode_image(path)
    if size is not None and image.size != size:
        found, stored = ("x".join(map(str, pair)) for pair in (image.size, size))
        raise UserError(f"{path}: the image is {found} px and was {stored} px at fetch; run `migrl fetch --force`")
    return image


def decode_image(path: Path) -> tuple[Image.Image, int]:
    """A picture as `read_image` gives it, and the orientation that its file states (1: as stored).

    Raises:
        UserError: as `read_image`.
    """
    with _open_image(path) as image:
        orientation = _read_orientation(image)  # PIL drops a TIFF's when it loads and turns it
        image.load()
        rgb = _convert(image)
        if image.format == "TIFF" and orientation in _TURNED_BACK:
            rgb = rgb.transpose(_TURNED_BACK[orientation])
    rgb.info.clear()  # transformers turns a picture by the tag in it
    return rgb, orientation


def read_image_size(path: Path) -> Size:
    """(width, height) in px of a picture as stored, from its header: for files that did not come through fetch.

    Raises:
        UserError: as `read_image`, as far as the header tells.
    """
    with _open_image(path) as image:
        width, height = image.size
        return (height, width) if image.format == "TIFF" and _read_orientation(image) >= 5 else (width, height)


def find_sizes(folder: Path, names: Sequence[str], stored: tuple[Size, ...]) -> tuple[Size, ...]:
    """(width, height) of each named picture: as fetch stored them, or from the headers of what did not come through it.

    Raises:
        UserError: a missing picture, whether its size is stored or not.
    """
    if not stored:
        return tuple(read_image_size(folder / name) for name in names)
    if missing := find_missing(folder, names):
        raise _name_missing(folder / missing[0])
    return stored


def fit_size(size: Size, *, min_pixels: int, max_pixels: int, factor: int = PIXEL_FACTOR) -> Size:
    """(width, height) at which a model sees a picture of `size`: what Qwen's installed image processor computes.

    Raises:
        ValueError: a strip that the processor refuses.
    """
    # Imported here: it loads torch, for seconds that only who asks for a size should wait.
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    try:
        height, width = smart_resize(size[1], size[0], factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    except ValueError as error:
        raise ValueError(
            f"an image of {size[0]}x{size[1]} px is longer than 200:1, which the model's processor refuses; leave out "
            "the samples that show it"
        ) from error
    return width, height


def read_sizes(path: Path, limits: Sequence[tuple[int, int]], factor: int = PIXEL_FACTOR) -> tuple[Size, Size]:
    """(width, height) of a picture as stored, and as a model sees it after resizing to each (min, max) area in turn.

    Raises:
        UserError: a missing or corrupt picture, or a strip that is too long.
    """
    original = read_image_size(path)
    return original, fit_sizes(path, original, limits, factor)


def fit_sizes(path: Path, size: Size, limits: Sequence[tuple[int, int]], factor: int = PIXEL_FACTOR) -> Size:
    """`size` after resizing to each (min, max) area in turn.

    Raises:
        UserError: a strip that is too long, named by `path`.
    """
    try:
        for low, high in limits:
            size = fit_size(size, min_pixels=low, max_pixels=high, factor=factor)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return size


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    """A picture, opened; what goes wrong with it until it is closed is told in one sentence that names the file."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise _name_missing(path) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); make it a readable file") from error
    with file:
        try:
            with Image.open(file) as image:
                yield image
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise UserError(
                f"{path}: the image is larger than the limit of {MAX_IMAGE_PIXELS // 10**6} megapixels; scale it down, "
                "or leave out the samples that show it"
            ) from error
        except MemoryError as error:
            raise UserError(f"{path}: too little memory for this image; scale it down or free some") from error
        except Exception as error:  # PIL's decoders raise whatever a broken file makes them stumble over
            remedy = "delete it and run `migrl fetch --force`, or put a sound one in its place"
            raise UserError(f"{path}: corrupt image ({_shorten(error)}); {remedy}") from error


def _name_missing(path: Path) -> UserError:
    return UserError(f"{path}: missing image; run `migrl fetch` again")


def _shorten(error: Exception) -> str:
    """What PIL says, in one line; where it knows no such kind, it says only which file object that was."""
    return "no known kind of image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())


def _read_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened picture: 1 to 8, and 1 where there is none or no readable one."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # metadata that cannot be read says nothing about the pixels
        return 1
    return value if value in _TURNED_BACK else 1


def _convert(image: Image.Image) -> Image.Image:
    """A loaded picture in RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale_grey(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:  # of 16 bits a channel, of which PIL keeps the upper 8
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _scale_grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits in 8.

    Formats of 16 bits, or a TIFF's 12, lose their low bits. Where the format does not state a range, the values tell
    it: floats of 0 to 1 and numbers of 0 to 255 or 0 to 65535 are taken for parts of that range, any others are
    stretched from the lowest to the highest.

    Raises:
        ValueError: a value that is not a finite number.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("some of its values are no finite numbers")
    if image.mode.startswith("I;16"):
        grey = values >> (_count_bits(image) - 8)
    elif low >= 0 and high <= 65535:
        top = 1 if image.mode == "F" and high <= 1 else 255 if high <= 255 else 65535
        grey = values >> 8 if image.mode == "I" and top == 65535 else np.rint(values * (255 / top))
    else:
        grey = np.rint((values.astype(np.float64) - low) * (255 / max(high - low, 1e-300)))
    pixels: NDArray[np.uint8] = grey.astype(np.uint8)
    if "transparency" in image.info:
        pixels = np.where(values == image.info["transparency"], np.uint8(255), pixels)
    return Image.fromarray(pixels)


def _count_bits(image: Image.Image) -> int:
    """Bits of a value in a 16-bit mode: PIL puts 12-bit TIFFs into it unscaled."""
    return int(image.tag_v2[BITSPERSAMPLE][0]) if isinstance(image, TiffImageFile) else 16
