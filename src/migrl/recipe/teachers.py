"""Recipe section `synthesize.teacher`: who writes the reasoning."""

from typing import Literal

from migrl.recipe.section import Rate, Section


class TeacherSettings(Section):
    """Who writes the reasoning. `scripted` is the tiny world's teacher, which errs at the stated rates."""

    engine: Literal["scripted"]
    wrong_object: Rate = 0.0
    leaked_truth: Rate = 0.0
    malformed: Rate = 0.0
    too_long: Rate = 0.0
