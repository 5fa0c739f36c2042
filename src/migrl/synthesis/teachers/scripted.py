"""The scripted teacher as a teacher: reasons from what the tiny world, or the data, says about a sample."""

from random import Random

from migrl.engines.server.reply import Reply
from migrl.models.inputs import ModelInput
from migrl.recipe import ScriptedTeacher
from migrl.world.teacher import write_candidate


def write_replies(teacher: ScriptedTeacher, item: ModelInput, *, candidates: int, seed: int) -> list[Reply]:
    """`candidates` replies for one sample, deterministic in its uid."""
    rng = Random(f"{seed}/{item.sample.uid}")
    image = item.box_target.image
    written = [
        write_candidate(
            rng,
            teacher,
            facts=item.sample.facts,
            image=image,
            box=item.true_box,
            resized_size=item.resized_sizes[image - 1],
        )
        for _ in range(candidates)
    ]
    return [{"completion": candidate.completion, "planted": candidate.planted} for candidate in written]
