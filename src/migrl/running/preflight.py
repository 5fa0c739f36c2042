"""What a stage needs of the machine, asked before it starts: a GPU, packages that are not in the main lock, keys.

A whole run is asked at its first stage for what any of its stages needs, so that it does not fail after hours.
Downloads alone may be made anywhere. A finished stage is not asked.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

from migrl.errors import UserError
from migrl.recipe import HubSource, Recipe, RehearsalSource, VllmTeacher
from migrl.recipe.arms import name_kind
from migrl.running.api_key import read_key
from migrl.running.packages import read_version
from migrl.running.stage import StageContext

Run = Callable[[StageContext], dict[str, Any]]
LOCKS = {"vllm": "requirements-vllm.lock", "flash_attn": "requirements-flash-attn.lock"}
VLLM_RELEASE = "0.31."
"""What engines/vllm_engine.py and training/vllm_rollouts.py are written for."""


def check_first(stage: str, recipe: Recipe, run: Run, *, alone: bool) -> Run:
    """`run`, behind the questions whether this machine can do it; `alone` if no other stage is to follow."""

    def checked(context: StageContext) -> dict[str, Any]:
        whole = stage == "fetch" and not alone
        if needs_gpu(stage, recipe, whole=whole):
            refuse_without_gpu(stage, recipe)
        refuse_without_packages(stage, recipe, whole=whole)
        if whole:
            refuse_without_keys(recipe)
        return run(context)

    return checked


def needs_gpu(stage: str, recipe: Recipe, *, whole: bool) -> bool:
    """Whether a stage, or with `whole` any stage, has no use where there is no GPU."""
    trains = whole or name_kind(stage) in ("sft", "grpo")
    if not recipe.model.needs_gpu and not (trains and recipe.model.dtype == "bfloat16"):
        return False
    if stage == "fetch":
        return whole or isinstance(recipe.source, RehearsalSource)
    return stage not in ("synthesize", "report")


def refuse_without_gpu(stage: str, recipe: Recipe) -> None:
    """Stop where there is none.

    Raises:
        UserError: naming the settings that need it.
    """
    import torch  # takes seconds, which recipes for the CPU do not need here

    if not torch.cuda.is_available():
        model = recipe.model
        alone = "; `migrl fetch` alone works here" if isinstance(recipe.source, HubSource) else ""
        raise UserError(
            f"recipe {recipe.name!r}, stage {stage}: no GPU here, and model.dtype={model.dtype} with "
            f"model.attention={model.attention} needs one; run it on a GPU server{alone}"
        )


def refuse_without_packages(stage: str, recipe: Recipe, *, whole: bool) -> None:
    """Stop where an optional package is missing, or vLLM is another release than this is written for.

    Raises:
        UserError: naming the setting that needs it, and how to install it or do without.
    """
    for package, setting in list_packages(stage, recipe, whole=whole).items():
        if importlib.util.find_spec(package) is None:
            fault = f"the package {package}, which is not here"
        elif package == "vllm" and not (found := read_version("vllm")).startswith(VLLM_RELEASE):
            fault = f"vllm {VLLM_RELEASE}*, and {found} is here"
        else:
            continue
        raise UserError(
            f"recipe {recipe.name!r}, stage {stage}: {setting} needs {fault}; "
            f"`make setup-gpu` installs {LOCKS[package]} (the container image has it), or change the setting"
        )


def refuse_without_keys(recipe: Recipe) -> None:
    """Stop where the key of a served arm cannot be read: it is asked only after all others are trained.

    Raises:
        UserError: as `read_key`.
    """
    for arm in recipe.evaluate.arms:
        server = recipe.find_arm(arm).server
        if server and server.key_file:
            read_key(server.key_file, f"arms.{arm}")


def list_packages(stage: str, recipe: Recipe, *, whole: bool) -> dict[str, str]:
    """The optional packages that a stage needs, or with `whole` any stage, each with the setting that names it."""
    packages = {}
    if recipe.model.attention == "flash_attention_2" and (whole or stage not in ("fetch", "synthesize", "report")):
        packages["flash_attn"] = "model.attention=flash_attention_2"
    if isinstance(recipe.local_teacher, VllmTeacher) and (whole or stage == "synthesize"):
        packages["vllm"] = "synthesize.teacher.engine=vllm"
    asked = {"select": ("select", "pass_rates"), "grpo": ("grpo",), "evaluate": ("evaluate",)}
    arms = [recipe, *map(recipe.with_arm, recipe.evaluate.arms)] if whole else [recipe]
    for section, stages in asked.items():
        runs = name_kind(stage) in stages or (whole and (recipe.trains or section == "evaluate"))
        if runs and any(getattr(own, section).engine == "vllm" for own in arms):
            packages["vllm"] = f"{section}.engine=vllm"
    return packages
