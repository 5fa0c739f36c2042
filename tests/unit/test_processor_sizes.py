"""The sizes that boxes are mapped with are those that the real processor makes, for any picture and any limit."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from migrl.boxes import smart_resize
from migrl.models import compute_resized_size, load_processor

BASE = Path(__file__).resolve().parents[2] / "reproduce" / "tiny_base"


@settings(max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(28, 700), st.integers(28, 700)), min_size=1, max_size=3),
    limits=st.sampled_from([(3136, 9600), (3136, 401_408), (3136, 640_000), (200_704, 1_003_520)]),
)
def test_the_processors_grid_is_what_smart_resize_says(sizes: list[tuple[int, int]], limits: tuple[int, int]) -> None:
    min_pixels, max_pixels = limits
    processor = load_processor(BASE, min_pixels=min_pixels, max_pixels=max_pixels)
    images = processor.image_processor(images=[Image.new("RGB", size) for size in sizes], return_tensors="pt")
    patch, merge = processor.image_processor.patch_size, processor.image_processor.merge_size
    for (width, height), (_, rows, columns) in zip(sizes, images["image_grid_thw"].tolist(), strict=True):
        resized = smart_resize(height, width, factor=patch * merge, min_pixels=min_pixels, max_pixels=max_pixels)
        assert (rows * patch, columns * patch) == resized
        assert compute_resized_size(processor, (width, height)) == resized[::-1]
