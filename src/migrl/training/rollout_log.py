"""`rollouts.jsonl`: what some groups of GRPO answered while it trained, so that one can watch it learn.

Of every `every`-th step the first `prompts` groups of the main process are kept whole, in the order in which trl drew
them: a random choice that no result had a part in. A row is a group:

    uid          <step>/<number of the group>
    step, sample
    completions  text, characters, tokens, reward, rewards, advantage, status, letter, boxes, iou, hit

`text` is cut at TEXT_CHARS, `characters` is its whole length; `reward` is the weighted sum of `rewards`; boxes are
in px of the original pictures. TensorBoard shows the same groups as pictures while the training runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from migrl.files import write_jsonl
from migrl.grounding.boxes import convert_box
from migrl.recipe import GrpoSettings, RewardSettings
from migrl.running.progress_log import ProgressLog
from migrl.running.stage import PROGRESS, TENSORBOARD
from migrl.training.rewards import REWARDS, Rollout

NAME = "rollouts.jsonl"
TEXT_CHARS = 2000
SHOWN_SIDE = 320  # px of the longer side of a picture in TensorBoard
HIT, MISS, TRUTH = "#16c060", "#ff4d4d", "#3b82f6"


class RolloutLog:
    """Keeps rows in the stage's working state, and shows them in `tensorboard` where that is a folder.

    A training that goes on from a checkpoint makes the steps after it once more, and so their rows: the last count.
    """

    def __init__(self, folder: Path, settings: GrpoSettings, *, tensorboard: bool) -> None:
        (folder / PROGRESS).mkdir(exist_ok=True)
        self.settings, self.path = settings, folder / NAME
        self.log = ProgressLog(folder / PROGRESS / NAME)
        self.writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # seconds, and not without tensorboard

            self.writer = SummaryWriter(str(folder / TENSORBOARD))

    def close(self) -> None:
        """Write the file; nothing may be noted any more."""
        self.log.close()
        write_jsonl(self.path, sorted(self.log.rows.values(), key=lambda row: (row["step"], row["uid"])))
        if self.writer is not None:
            self.writer.close()

    def note(self, step: int, rollouts: Sequence[Rollout], advantages: Sequence[float]) -> None:
        """Keep what is to be kept of a step's rollouts; rows of a group stand together."""
        kept, group = self.settings.rollout_log, self.settings.num_generations
        if (step - 1) % kept.every:
            return
        for number in range(1, min(kept.prompts, len(rollouts) // group) + 1):
            part = slice((number - 1) * group, number * group)
            row = describe_group(rollouts[part], advantages[part], self.settings.rewards)
            self.log.append([{"uid": f"{step}/{number}", "step": step, **row}])
            if self.writer is not None:
                pixels, words = draw_group(rollouts[part]), describe_in_words(rollouts[part], row)
                self.writer.add_image(f"rollouts/{number}", pixels, step, dataformats="HWC")
                self.writer.add_text(f"rollouts/{number}", words, step)


def describe_group(
    rollouts: Sequence[Rollout], advantages: Sequence[float], rewards: Sequence[RewardSettings]
) -> dict[str, Any]:
    """The row of one group, without its step."""
    completions = []
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        earned = {setting.name: REWARDS[setting.name].compute(rollout) for setting in rewards}
        score = rollout.score
        completions.append(
            {
                "text": rollout.completion[:TEXT_CHARS],
                "characters": len(rollout.completion),
                "tokens": rollout.tokens,
                "reward": round(sum(setting.weight * earned[setting.name] for setting in rewards), 6),
                "rewards": {name: round(value, 6) for name, value in earned.items()},
                "advantage": round(advantage, 6),
                "status": score.status,
                "letter": score.letter,
                "boxes": [{"image": image, "box_px": list(box_px)} for image, box_px in score.named_px],
                "iou": None if score.iou is None else round(float(score.iou), 6),
                "hit": score.hit,
            }
        )
    return {"sample": rollouts[0].item.sample.uid, "completions": completions}


def draw_group(rollouts: Sequence[Rollout]) -> Any:
    """The group's pictures side by side as an array (height, width, 3): true box blue, hits green, misses red."""
    item = rollouts[0].item
    shown = []
    for number, image in enumerate(item.load_images(), 1):
        scale = min(SHOWN_SIDE / max(image.size), 8)
        picture = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        draw = ImageDraw.Draw(picture)
        size = {"original_size": image.size, "resized_size": item.resized_sizes[number - 1]}
        outlines = [
            (named, convert_box(box, item.frame, "original_px", **size), TRUTH, 4) for named, box in item.true_boxes
        ]
        for rollout in rollouts:
            colour = HIT if rollout.score.hit else MISS
            outlines += [(named, box_px, colour, 2) for named, box_px in rollout.score.named_px]
        for named, box_px, colour, width in outlines:
            if named == number:
                draw.rectangle(tuple(value * scale for value in box_px), outline=colour, width=width)
        shown.append(picture)
    sheet = Image.new("RGB", (sum(some.width + 6 for some in shown), max(some.height for some in shown)), "white")
    left = 0
    for picture in shown:
        sheet.paste(picture, (left, 0))
        left += picture.width + 6
    return np.asarray(sheet)


def describe_in_words(rollouts: Sequence[Rollout], row: dict[str, Any]) -> str:
    """A group as text that TensorBoard shows as it stands: indented, it is no markup."""
    lines = [f"{row['sample']}: {rollouts[0].item.sample.question}"]
    for one in row["completions"]:
        lines.append(json.dumps({key: one[key] for key in ("reward", "advantage", "tokens", "text")}))
    return "\n\n".join(f"    {line}" for line in lines)
