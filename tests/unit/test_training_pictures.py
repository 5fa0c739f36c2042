"""What trl's trainers see is what boxes are mapped with: real trainers of both stages on the tiny base model."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from migrl.errors import UserError
from migrl.grounding.images import read_image
from migrl.grounding.samples import BoxTarget, Sample
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import load_model, load_processor
from migrl.models.size_gates import check_sizes
from migrl.recipe import Recipe, load_recipe
from migrl.stages import grpo, sft
from migrl.training.trainer import build_dataset

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "reproduce" / "tiny_base"
SIZES = {"turned.jpg": (112, 56), "grey.png": (60, 90), "thin.png": (300, 4), "clear.png": (70, 70)}
COMPLETION = '<think>Image 1.</think><answer>{"image": 1, "bbox_2d": [0, 0, 28, 28]}</answer>'


@pytest.fixture
def processor():
    return load_processor(BASE, min_pixels=3136, max_pixels=9600)


@pytest.fixture
def items(tmp_path, processor) -> list[ModelInput]:
    """Four questions: over a photo with an orientation, 16-bit grey, a picture of 4 px, and a transparent one."""
    exif = Image.Exif()
    exif[274] = 6
    photo = Image.new("RGB", SIZES["turned.jpg"])
    photo.paste("red", (0, 0, 56, 28))
    photo.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.full((90, 60), 40_000, np.uint16)).save(tmp_path / "grey.png")
    Image.new("RGB", SIZES["thin.png"]).save(tmp_path / "thin.png")
    Image.new("RGBA", SIZES["clear.png"]).save(tmp_path / "clear.png")
    target = BoxTarget(1, (0.0, 0.0, 0.5, 0.5))
    samples = [
        Sample(f"rl:{n}", "rl", "t", tuple(names), "Find it.", target, "c", sizes=tuple(SIZES[name] for name in names))
        for n, names in enumerate((["turned.jpg", "grey.png"], ["thin.png"], ["clear.png", "turned.jpg"], ["grey.png"]))
    ]
    return [prepare_input(sample, tmp_path, processor, frame="resized_px", style="think") for sample in samples]


def load(*overrides: str) -> Recipe:
    return load_recipe(ROOT / "reproduce" / "recipes" / "test.yaml", list(overrides))


def make_sft(items, processor, folder):
    recipe = load(
        "sft.parallel=none",
        "sft.batch=2",
        "sft.per_device_train_batch_size=2",
        "sft.num_train_epochs=1",
        "launch.processes=1",
    )
    config = sft.make_config(recipe, folder, len(items))
    model = load_model(BASE, recipe.model)
    return sft.build_trainer(recipe, config, model, processor, items, [COMPLETION] * len(items), [])


def make_grpo(items, processor, folder):
    overrides = [
        "grpo.parallel=none",
        "grpo.num_generations=2",
        "grpo.prompts_per_step=2",
        "grpo.per_device_train_batch_size=2",
    ]
    recipe = load(*overrides, "grpo.max_steps=2", "grpo.max_new_tokens=8", "launch.processes=1")
    config = grpo.make_config(recipe, folder, grpo.suppress_vision(processor))
    return grpo.build_trainer(recipe, config, load_model(BASE, recipe.model), processor, items, [])


MAKERS = {"sft": make_sft, "grpo": make_grpo}


def test_rows_hold_the_pictures_that_every_other_stage_reads(items):
    rows = build_dataset(items)
    for item, row in zip(items, rows, strict=True):
        assert [image.tobytes() for image in row["images"]] == [image.tobytes() for image in item.load_images()]
        assert [image.size for image in row["images"]] == list(item.sizes)
    corners = [rows[0]["images"][0].getpixel(point)[0] > 200 for point in ((9, 9), (100, 9), (9, 50))]
    assert corners == [True, False, False]
    assert rows[1]["uid"] == "rl:1" and rows[2:4]["images"][0][0].getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("stage", MAKERS)
def test_a_stage_trains_on_them_and_stops_at_a_picture_that_changed(stage, items, processor, tmp_path):
    check_sizes(items, processor)
    trainer = MAKERS[stage](items, processor, tmp_path / "out")
    trainer.train()
    assert trainer.state.global_step == 2
    Image.new("RGB", (20, 20)).save(items[0].paths[0])
    with pytest.raises(UserError, match=r"sample 'rl:[02]': .*turned\.jpg: the image is 20x20 px and was 112x56 px"):
        MAKERS[stage](items, processor, tmp_path / "out").train()


@pytest.mark.parametrize("stage", MAKERS)
def test_a_trainer_that_resizes_otherwise_is_stopped_at_its_first_batch(stage, items, processor, tmp_path):
    trainer = MAKERS[stage](items, processor, tmp_path / "out")
    real = processor.image_processor.resize

    def resize(images, *given, **named):
        return real(images.transpose(-1, -2), *given, **named)

    processor.image_processor.resize = resize
    with pytest.raises(
        UserError, match=r"sample 'rl:\d', image \d of \d+x\d+ px: the processor resizes it to \d+x\d+ px"
    ):
        trainer.train()


def test_boxes_mapped_with_another_size_are_refused_before_a_model_is_there(items, processor):
    wrong = replace(items[1], resized_sizes=((308, 28),))
    with pytest.raises(UserError, match=rf"sample 'rl:1', {re.escape(str(items[1].paths[0]))}: the processor resizes"):
        check_sizes([items[0], wrong], processor)


def test_the_picture_that_a_trainer_is_handed_says_nothing_of_turning(items):
    assert not read_image(items[0].paths[0]).getexif()
