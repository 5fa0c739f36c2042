"""Opening pictures: a missing or corrupt one always stops the run. PIL does not turn pictures by their EXIF tag."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from migrl.boxes import Size
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
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: corrupt image ({error}); delete it and run `migrl fetch --force`") from error


def read_image(path: Path) -> Image.Image:
    """A picture in RGB."""
    with open_image(path) as image:
        return image.convert("RGB")


def read_image_size(path: Path) -> Size:
    """(width, height) of a picture, from its header."""
    with open_image(path) as image:
        return image.size
