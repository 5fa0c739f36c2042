"""The sizes that boxes are mapped with are those that the real processor makes, for any picture and any limit."""

from functools import cache
from pathlib import Path

import pytest
from architectures import ARCHITECTURES, write_processor
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import ProcessorMixin

from migrl.grounding.images import fit_size
from migrl.models.family import find_processor_family
from migrl.models.loading import compute_resized_size, load_processor
from migrl.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "reproduce" / "recipes").glob("*.yaml"))
SIDES = st.integers(1, 4000)
THIN = st.tuples(st.integers(1, 13), st.integers(1, 2600))  # below half a cell, where rules differ


def list_limits() -> list[tuple[int, int]]:
    """Every (min, max) area at which a recipe's stages read pictures, and one with a high minimum."""
    limits = {(200_704, 1_003_520)}
    for path in RECIPES:
        recipe = load_recipe(path)
        limits |= {(recipe.model.min_pixels, stage.max_pixels) for stage in (recipe.sft, recipe.grpo, recipe.evaluate)}
    return sorted(limits)


LIMITS = list_limits()
FAMILIES = [architecture.model_type for architecture in ARCHITECTURES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processor of each family, in a folder of its name."""
    found = tmp_path_factory.mktemp("processors")
    for architecture in ARCHITECTURES:
        write_processor(found / architecture.model_type, architecture)
    return found


@cache
def get_processor(folder: Path, limits: tuple[int, int]) -> ProcessorMixin:
    return load_processor(folder, min_pixels=limits[0], max_pixels=limits[1])


def is_readable(size: tuple[int, int]) -> bool:
    return max(size) <= 200 * min(size)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(
        (THIN | THIN.map(lambda size: size[::-1]) | st.tuples(st.integers(1, 700), st.integers(1, 700))).filter(
            is_readable
        ),
        min_size=1,
        max_size=3,
    ),
    limits=st.sampled_from(LIMITS),
)
@example(sizes=[(1, 1), (1, 200), (200, 1), (2, 3), (13, 14)], limits=LIMITS[0])
@example(sizes=[(1000, 10), (10, 1000), (13, 2600), (14, 2800)], limits=LIMITS[-1])
def test_the_processors_grid_is_the_size_that_boxes_are_mapped_with(
    family: str, folder: Path, sizes: list[tuple[int, int]], limits: tuple[int, int]
) -> None:
    processor = get_processor(folder / family, limits)
    images = processor.image_processor(images=[Image.new("RGB", size) for size in sizes], return_tensors="pt")
    patch = processor.image_processor.patch_size
    for size, (_, rows, columns) in zip(sizes, images["image_grid_thw"].tolist(), strict=True):
        assert compute_resized_size(processor, size) == (columns * patch, rows * patch)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=500)
@given(size=st.tuples(SIDES, SIDES).filter(is_readable), limits=st.sampled_from(LIMITS))
def test_every_size_has_as_many_patches_as_the_processor_counts(
    family: str, folder: Path, size: tuple[int, int], limits: tuple[int, int]
) -> None:
    processor = get_processor(folder / family, limits)
    factor = find_processor_family(processor).pixel_factor
    width, height = fit_size(size, min_pixels=limits[0], max_pixels=limits[1], factor=factor)
    images = processor.image_processor
    assert width * height // images.patch_size**2 == images.get_number_of_image_patches(size[1], size[0])
    assert width % factor == height % factor == 0 < width * height


@pytest.mark.parametrize("size", [(2001, 10), (10, 2001), (1000, 4)])
def test_a_strip_longer_than_200_to_1_is_refused_with_its_size(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} px.*leave out"):
        fit_size(size, min_pixels=3136, max_pixels=16_000)
