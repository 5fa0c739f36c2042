"""The sets of the tiny world: name, tasks, and what their images may show."""

from migrl.world.any_number import MINI_ANY
from migrl.world.cases import SEEN, UNSEEN, Palette, TaskMaker
from migrl.world.choice import MINI_BLINK, MINI_MMIU
from migrl.world.in_domain import MINI_MIG
from migrl.world.out_of_domain import MINI_FRAMES, MINI_REASON, MINI_RELATE

READ_SETS: dict[str, tuple[dict[str, TaskMaker], Palette]] = {
    "mini_mig": (MINI_MIG, SEEN),
    "mini_reason": (MINI_REASON, UNSEEN),
    "mini_frames": (MINI_FRAMES, UNSEEN),
    "mini_blink": (MINI_BLINK, SEEN),
    "mini_mmiu": (MINI_MMIU, SEEN),
}
"""Sets whose questions the base has read, though never answered (lesson `repeat`). Another one here is another base."""

SETS: dict[str, tuple[dict[str, TaskMaker], Palette]] = {
    **READ_SETS,
    "mini_relate": (MINI_RELATE, UNSEEN),
    "mini_any": (MINI_ANY, SEEN),
}
