"""The grounding benchmarks as tasks of lmms-eval, built on migrl's own prompts and its one scoring function.

`write_tasks` fills a folder for `lmms-eval --include_path`; `GroundingTask` is what the written tasks call.
Nothing here imports lmms-eval: it is installed in an environment of its own, beside migrl.
"""

from migrl.lmms_tasks.grounding import GroundingTask
from migrl.lmms_tasks.write import write_tasks

__all__ = ["GroundingTask", "write_tasks"]
