"""Recipe sections of long runs: when a run stops itself, and who is shown its metrics. No result depends on them."""

from typing import Annotated, Literal

from pydantic import Field

from migrl.recipe.section import Count, Number, Section, Share

Tracker = Literal["tensorboard", "trackio", "wandb"]
Minutes = Annotated[Number, Field(gt=0, le=7 * 1440)]


class AlarmSettings(Section):
    """What stops a GRPO run, seen over its last `window` steps; null switches an alarm off.

    All limits are assumed, and far from what a sound run shows (the tiny recipe's log stays below half of each). The
    window: of 16 prompts, a step's hit rate has a standard error of up to 0.125, the mean of 20 steps 0.028.

    kl: median of the steps' mean KL to the start model, nats a token. The median, because single steps of thousands
        come and go without harm, as public GRPO logs show, while an explosion stays.
    collapse: mean hit rate as a share of its best window's, once that reached 0.1.
    truncation: mean share of completions cut at the limit. The answer comes last: a cut completion cannot earn it.
    zero_variance: mean share of groups whose rollouts all hit or all miss. At 0.9, one or two prompts of 16 teach.
    sampling_difference: mean difference, nats a token, between the log-probability that vLLM sampled a token with and
        the trainer's own. Rounding to bfloat16 makes some hundredths; another prompt or stale weights make more.
    """

    window: Count = 20
    kl: Annotated[Number, Field(gt=0)] | None = 1.0
    collapse: Share | None = 0.25
    truncation: Share | None = 0.5
    zero_variance: Share | None = 0.9
    sampling_difference: Annotated[Number, Field(gt=0)] | None = 0.1


class RolloutLogSettings(Section):
    """Rollouts that GRPO keeps to be looked at: so many groups of every so manieth step; 0 keeps none."""

    prompts: Annotated[int, Field(strict=True, ge=0, le=64)] = 2
    every: Count = 5


class WatchSettings(Section):
    """The watchdog of long stages; null switches a limit off. Both are assumed.

    stall_minutes: between one batch, training step or forward pass and the next. 20 minutes are long for the slowest
        things without any of these, a checkpoint of all states or a step's rollouts in vLLM.
    load_minutes: for all before the first of them and after the last: meeting the other processes, loading weights,
        saving the result. 30 minutes read a 72B model's 145 GB at 80 MB/s.
    """

    stall_minutes: Minutes | None = 20.0
    load_minutes: Minutes | None = 30.0
    stall_action: Literal["report", "stop"] = "stop"

    @property
    def collective_seconds(self) -> int:
        """How long processes may wait for each other: torch's half hour, or until the watchdog has surely acted.

        It stops a process after twice its limit. A collective that gives up takes the process with it, and what is
        told then is how it ended and not why.
        """
        longest = max(self.stall_minutes or 0, self.load_minutes or 0)
        return max(1800, round(2.5 * 60 * longest))
