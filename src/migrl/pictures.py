"""Opening pictures: a missing or corrupt one always stops the run. PIL does not turn pictures by their EXIF tag."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from migrl.boxes import QWEN_FACTOR, Size, smart_resize
from migrl.errors import UserError


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


def read_sizes(path: Path, limits: Sequence[tuple[int, int]]) -> tuple[Size, Size]:
    """(width, height) of a picture as stored, and as Qwen2.5-VL sees it after resizing to each (min, max) area in turn.

    Raises:
        UserError: a missing or corrupt picture, or a strip that is too long.
    """
    width, height = original = read_image_size(path)
    try:
        for low, high in limits:
            height, width = smart_resize(height, width, factor=QWEN_FACTOR, min_pixels=low, max_pixels=high)
    except ValueError as error:
        remedy = "no Qwen2.5-VL reads it; use another frame, or leave out the samples that show it"
        raise UserError(f"{path}: {error}; {remedy}") from error
    return original, (width, height)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """A picture, opened.

    Raises:
        UserError: the file is missing or no picture; nothing ever goes on without it.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing image; run `migrl fetch` again") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: corrupt image ({error}); delete it and run `migrl fetch --force`") from error


def read_image(path: Path) -> Image.Image:
    """A picture in RGB."""
    with open_image(path) as image:
        return image.convert("RGB")


def read_image_size(path: Path) -> Size:
    """(width, height) of a picture, from its header."""
    with open_image(path) as image:
        return image.size
