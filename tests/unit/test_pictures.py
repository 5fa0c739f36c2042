"""One loader: pixels as stored, transparency on white, every depth in 8 bits, and files that are refused by name."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from migrl.errors import UserError
from migrl.grounding.images import decode_image, read_image, read_image_size

RED = (255, 0, 0)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_read_as_stored_by_us_and_by_who_is_handed_it(tmp_path, kind, orientation):
    path = tmp_path / f"photo.{kind}"
    picture = Image.new("RGB", (400, 200))
    picture.paste(RED, (0, 0, 200, 100))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(path, exif=exif)
    read, stated = decode_image(path)
    assert (read.size, read_image_size(path), stated) == ((400, 200), (400, 200), orientation)
    for image in (read, ImageOps.exif_transpose(read)):  # transformers and vLLM turn what they are handed
        corners = [image.getpixel(point) for point in ((20, 20), (380, 20), (20, 180), (380, 180))]
        assert [red > 200 for red, _, _ in corners] == [True, False, False, False]


def make_drawing(mode: str) -> Image.Image:
    """A black drawing on a ground that is black and transparent."""
    alpha = Image.new("L", (20, 20))
    alpha.paste(255, (5, 5, 8, 8))
    drawing = Image.new("RGBA", (20, 20))
    drawing.putalpha(alpha)
    return drawing.convert(mode)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "grey.png", "palette.png", "palette.gif", "bytes.png"])
def test_transparency_is_white(tmp_path, name):
    kind, path = name.split(".")[0], tmp_path / name
    if kind in ("palette", "bytes"):
        drawing = Image.new("P", (20, 20))
        drawing.putpalette(bytes(6))
        drawing.paste(1, (5, 5, 8, 8))
        drawing.save(path, transparency=0 if kind == "palette" else b"\0\xff")
    else:
        make_drawing("LA" if kind == "grey" else "RGBA").save(path, lossless=True)
    assert sorted(read_image(path).getcolors()) == [(9, (0, 0, 0)), (391, (255, 255, 255))]


def test_half_transparent_is_half_way_to_white_and_one_colour_may_be_named_transparent(tmp_path):
    Image.new("RGBA", (1, 1), (*RED, 128)).save(tmp_path / "half.png")
    assert read_image(tmp_path / "half.png").getpixel((0, 0)) == (255, 127, 127)
    for mode, colour in (("L", 7), ("RGB", (7, 8, 9)), ("I;16", 1799)):
        picture = Image.new(mode, (2, 1))
        picture.putpixel((1, 0), colour)
        picture.save(tmp_path / f"{mode}.png", transparency=colour)
        read = read_image(tmp_path / f"{mode}.png")
        assert [read.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)], mode


RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
DEEP = {
    "16 bits.png": RAMP,
    "16 bits.tif": RAMP,
    "16 bits, big-endian.tif": RAMP.astype(">u2"),
    "32 bits.tif": RAMP.astype(np.int32),
    "signed.tif": (RAMP.astype(np.int32) - 32768) * 1000,
    "floats to 1.tif": (RAMP / 65535).astype(np.float32),
    "floats to 255.tif": (RAMP / 257).astype(np.float32),
    "floats of 16 bits.tif": RAMP.astype(np.float32),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_grey_keeps_its_range_in_8_bits(tmp_path, name):
    Image.fromarray(DEEP[name]).save(tmp_path / name)
    read = np.asarray(read_image(tmp_path / name)).astype(int)
    assert (read[..., 0] == read[..., 2]).all()
    assert np.abs(read[..., 0] - RAMP / 257).max() <= 1
    assert len(np.unique(read)) == 256


def test_whole_numbers_and_floats_up_to_255_stay_as_they_are_and_what_is_no_number_is_refused(tmp_path):
    for kind in (np.int32, np.float32):
        Image.fromarray(np.arange(200, dtype=kind).reshape(10, 20)).save(tmp_path / "a.tif")
        assert np.asarray(read_image(tmp_path / "a.tif"))[..., 0].ravel().tolist() == list(range(200))
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: corrupt image .*no finite numbers"):
        read_image(tmp_path / "a.tif")


def test_other_colour_models_and_animations_are_read_as_they_look(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert read_image(tmp_path / "print.jpg").getpixel((4, 4)) == RED
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, "blue")]
    for kind in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], lossless=True)
        assert read_image(tmp_path / f"a.{kind}").getpixel((4, 4)) == RED


def cut(path: Path) -> None:
    Image.effect_noise((64, 64), 80).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut JPEG": ("a.jpg", cut, r"corrupt image \(image file is truncated.*fetch --force"),
    "cut PNG": ("a.png", cut, r"corrupt image .*fetch --force"),
    "web page": ("a.jpg", lambda path: path.write_text("<html>"), "corrupt image"),
    "empty": ("a.png", lambda path: path.write_bytes(b""), "corrupt image"),
    "missing": ("a.png", lambda path: None, "missing image; run `migrl fetch` again"),
    "folder": ("a.png", Path.mkdir, "cannot be opened"),
    "400 megapixels": (
        "a.png",
        Image.new("1", (20_000, 20_000)).save,
        "larger than the limit of 180 megapixels; scale",
    ),
    "200 megapixels": (
        "a.png",
        Image.new("1", (20_000, 10_000)).save,
        "larger than the limit of 180 megapixels; scale",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_told_in_one_line_with_its_name(tmp_path, case):
    name, make, words = BROKEN[case]
    make(tmp_path / name)
    with pytest.raises(UserError, match=words) as told:
        read_image(tmp_path / name)
    assert str(told.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(told.value)


def test_a_picture_that_changed_since_fetch_is_named_with_both_sizes(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", (30, 20)).size == (30, 20)
    with pytest.raises(UserError, match=r"a\.png: the image is 30x20 px and was 20x30 px at fetch"):
        read_image(tmp_path / "a.png", (20, 30))


def test_a_picture_of_121_megapixels_is_read_without_a_warning(tmp_path):
    Image.new("1", (11_000, 11_000)).save(tmp_path / "large.png")
    code = "import pathlib, sys; from migrl.grounding.images import read_image; read_image(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout == told.stderr == ""
