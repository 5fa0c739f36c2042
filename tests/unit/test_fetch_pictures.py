"""fetch looks at every picture once and whole: sizes stand with the samples, and what cannot be used is named."""

import json
from pathlib import Path

import pytest
from PIL import Image

from migrl.data.layout import CONTROL_TOKENS
from migrl.data.training_pool import link_training
from migrl.errors import UserError
from migrl.files import write_jsonl
from migrl.grounding.images import decode_image
from migrl.grounding.samples import BoxTarget, Sample, read_samples
from migrl.models.inputs import prepare_input
from migrl.models.loading import load_processor
from migrl.recipe import load_recipe
from migrl.running.stage import StageContext
from migrl.stages import fetch

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"flat.png": (80, 60), "photo.jpg": (90, 70), "later.tif": (50, 40)}


def write_folder(folder: Path, **changes: object) -> Path:
    """A prepared folder of one evaluation and two training samples; `changes` are of the second one."""
    (folder / "p").mkdir(parents=True)
    for name, size in SIZES.items():
        exif = Image.Exif()
        if name != "flat.png":
            exif[274] = 6
        Image.effect_noise(size, 80).save(folder / "p" / name, exif=exif)
    images = tuple(f"p/{name}" for name in SIZES)
    for split in ("bench", "cot", "rl"):
        sample = Sample(f"{split}:0", split, "t", images, "Find it.", BoxTarget(2, (0.1, 0.2, 0.3, 0.4)), "c")
        write_jsonl(folder / f"{split}.jsonl", [sample.to_json() | (changes if split == "cot" else {})])
    return folder


def run_fetch(folder: Path, out: Path) -> dict[str, object]:
    source = json.dumps({"kind": "folder", "path": str(folder)})
    recipe = load_recipe(ROOT / "reproduce" / "recipes" / "test.yaml", [f"source={source}"])
    out.mkdir()
    return fetch.run(StageContext("fetch", recipe, {}, out))


def test_sizes_as_stored_stand_with_every_sample_and_turned_pictures_are_counted_and_told(tmp_path, capsys):
    facts = run_fetch(write_folder(tmp_path / "in"), tmp_path / "out")
    assert facts["checked"] == {"bench": 1, "cot": 1, "rl": 1}
    assert facts["decoded"] == {"pictures": 3, "with_orientation": 2}
    told = capsys.readouterr().err
    assert "2 of 3 pictures carry an EXIF orientation, such as p/later.tif; pixels and boxes are used as stored" in told
    processor = load_processor(ROOT / "reproduce" / "tiny_base", min_pixels=3136, max_pixels=9600)
    for split in ("bench", "cot", "rl"):
        before, after = (read_samples(tmp_path / place / f"{split}.jsonl") for place in ("in", "out/data"))
        assert after[0].sizes == tuple(SIZES.values()) and before[0].sizes == ()
        assert before[0].to_json() | {"sizes": after[0].to_json()["sizes"]} == after[0].to_json()
        items = [
            prepare_input(sample, tmp_path / "in", processor, frame="resized_px", style="think")
            for sample in (before[0], after[0])
        ]
        first, second = ((item.sizes, item.resized_sizes, item.messages) for item in items)
        assert first == second


@pytest.mark.parametrize(("stated", "fails"), [([[80, 60], [90, 70], [50, 40]], False), ([[80, 60]] * 3, True)])
def test_sizes_that_a_folder_brings_along_have_to_be_true(tmp_path, stated, fails):
    folder = write_folder(tmp_path / "in", sizes=stated)
    if not fails:
        run_fetch(folder, tmp_path / "out")
        return
    with pytest.raises(UserError, match=r"cot\.jsonl, record 1: key 'sizes': says .*, the pictures are"):
        run_fetch(folder, tmp_path / "out")


def test_a_picture_cut_behind_its_header_and_a_strip_stop_fetch_with_record_and_file(tmp_path):
    folder = write_folder(tmp_path / "in")
    data = (folder / "p" / "photo.jpg").read_bytes()
    (folder / "p" / "photo.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        UserError, match=r"bench\.jsonl, record 1: sample 'bench:0': .*p/photo\.jpg: corrupt image.*truncated"
    ):
        run_fetch(folder, tmp_path / "cut")
    Image.new("RGB", (1000, 4)).save(folder / "p" / "photo.jpg")
    with pytest.raises(
        UserError, match=r"record 1: .*photo\.jpg: an image of 1000x4 px is longer than 200:1.*leave out"
    ):
        run_fetch(folder, tmp_path / "strip")
    processor = load_processor(ROOT / "reproduce" / "tiny_base", min_pixels=3136, max_pixels=9600)
    (sample,) = read_samples(folder / "rl.jsonl")
    with pytest.raises(UserError, match=r"photo\.jpg: sample 'rl:0': an image of 1000x4 px is longer than 200:1"):
        prepare_input(sample, folder, processor, frame="resized_px", style="think")


@pytest.mark.parametrize("token", CONTROL_TOKENS)
@pytest.mark.parametrize("key", ["question", "facts"])
def test_a_token_of_the_chat_template_in_a_prepared_text_is_refused_with_record_and_key(tmp_path, token, key):
    folder = write_folder(tmp_path / "in", **{key: f"Find {token} it."})
    (tmp_path / "out").mkdir()
    for read in (lambda: link_training(folder, tmp_path / "out", ()), lambda: run_fetch(folder, tmp_path / "fetched")):
        with pytest.raises(UserError, match=rf"cot\.jsonl, record 1: key '{key}': holds ") as told:
            read()
        assert token in str(told.value)


def test_a_picture_is_decoded_once_however_many_splits_show_it(tmp_path, monkeypatch):
    decoded = []

    def decode_and_note(path):
        decoded.append(path.name)
        return decode_image(path)

    monkeypatch.setattr("migrl.data.picture_check.decode_image", decode_and_note)
    run_fetch(write_folder(tmp_path / "in"), tmp_path / "out")
    assert sorted(decoded) == sorted(SIZES)
