"""One question put to a model by a person: the reply, its box, and a picture with the box drawn in."""

from dataclasses import dataclass
from pathlib import Path

from PIL import ImageDraw

from migrl.engines.transformers_engine import TransformersEngine
from migrl.errors import UserError
from migrl.grounding.answers import Answer, parse_box_answer
from migrl.grounding.boxes import Box, convert_box, frame_size
from migrl.grounding.images import read_image
from migrl.grounding.samples import BoxTarget, Sample
from migrl.models.decoding import Completion, Decoding
from migrl.models.inputs import prepare_input
from migrl.models.loading import Weights, load_processor
from migrl.recipe import Recipe

COLOUR = "#e4003a"


@dataclass(frozen=True)
class Reply:
    """What a model said: the raw completion, what was read in it, and the box in px of the picture it names."""

    completion: Completion
    answer: Answer
    picture: Path | None = None
    box_px: Box | None = None


def ask_model(recipe: Recipe, weights: Weights, pictures: list[Path], question: str) -> Reply:
    """Ask for a box as the evaluation does: same prompt, frame, pixel limits, greedy decoding and strict reading.

    Raises:
        UserError: a picture or weights that cannot be read.
    """
    settings = recipe.evaluate
    limits = {"min_pixels": recipe.model.min_pixels, "max_pixels": settings.max_pixels}
    processor = load_processor(weights.model, **limits)
    names = tuple(str(path.absolute()) for path in pictures)
    anywhere = BoxTarget(1, (0.0, 0.0, 1.0, 1.0))  # the truth is unknown; this says that a box is asked for
    sample = Sample("question", "ask", "ask", names, question, anywhere, "ask")
    item = prepare_input(sample, Path("/"), processor, frame=recipe.model.frame, style=settings.style)
    engine = TransformersEngine(weights, recipe.model, processor, local_rank=0)
    decoding = Decoding(settings.max_new_tokens, repetition_penalty=settings.repetition_penalty)
    ((completion,),) = engine.answer([item], decoding)
    sizes = [
        {"original_size": size, "resized_size": resized}
        for size, resized in zip(item.sizes, item.resized_sizes, strict=True)
    ]
    frames = [frame_size(item.frame, **some) for some in sizes]
    answer = parse_box_answer(completion.text, frame_limits=frames, truncated=completion.truncated)
    if answer.box is None or answer.image is None or not answer.readable:
        return Reply(completion, answer)
    index = answer.image - 1
    box_px = convert_box(answer.box, item.frame, "original_px", **sizes[index])
    return Reply(completion, answer, pictures[index], box_px)


def draw_answer(reply: Reply, path: Path) -> None:
    """Write the chosen picture with the box into `path`.

    Raises:
        UserError: a kind of picture that PIL cannot write, or a place that cannot be written.
    """
    assert reply.picture is not None and reply.box_px is not None
    image = read_image(reply.picture)
    width = max(1, round(min(image.size) / 100))
    ImageDraw.Draw(image).rectangle(reply.box_px, outline=COLOUR, width=width)
    try:
        image.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--out {path}: cannot be written ({error}); name a file such as answer.png") from error
