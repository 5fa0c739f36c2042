"""Recipes: one frozen model of every setting, read from YAML, refusing what it does not know.

The tiny, the rehearsal and the paper recipe have the same keys and differ in sizes and sources
only. `load_recipe` merges a file with dotted overrides (`grpo.max_steps=5`); an unknown key is an
error that names the nearest legal one. Arithmetic that would only fail hours later (batches,
groups, checkpoints) is checked here, before anything is loaded.
"""

from migrl.recipe.engines import EngineName, ServedArm, ServerSettings, VllmSettings
from migrl.recipe.keys import list_keys
from migrl.recipe.load import load_recipe
from migrl.recipe.recipe import SEEDED_SECTIONS, Recipe
from migrl.recipe.section import dump_whole
from migrl.recipe.sources import (
    SINGLE_IMAGE,
    TRAINING_SPLITS,
    FolderSource,
    HubSource,
    MgroundingTask,
    MgroundingTraining,
    PoolTraining,
    PreparedTraining,
    RehearsalSource,
    UnivgTraining,
    WorldSource,
)
from migrl.recipe.stages import (
    EvaluateSettings,
    GrpoSettings,
    LaunchSettings,
    LoraSettings,
    ModelSettings,
    Parallel,
    PassRatesSettings,
    PromptForm,
    RewardName,
    RewardSettings,
    SamplingSettings,
    SelectSettings,
    SftSettings,
    SynthesizeSettings,
)
from migrl.recipe.teachers import (
    LocalTeacher,
    PromptedTeacher,
    ScriptedTeacher,
    ServerTeacher,
    TeacherSettings,
    TransformersTeacher,
    VllmTeacher,
)
from migrl.recipe.watching import AlarmSettings, RolloutLogSettings, Tracker, WatchSettings

__all__ = [
    "SEEDED_SECTIONS",
    "SINGLE_IMAGE",
    "TRAINING_SPLITS",
    "AlarmSettings",
    "EngineName",
    "EvaluateSettings",
    "FolderSource",
    "GrpoSettings",
    "HubSource",
    "LaunchSettings",
    "LocalTeacher",
    "LoraSettings",
    "MgroundingTask",
    "MgroundingTraining",
    "ModelSettings",
    "Parallel",
    "PoolTraining",
    "PassRatesSettings",
    "PreparedTraining",
    "PromptForm",
    "PromptedTeacher",
    "Recipe",
    "RehearsalSource",
    "RewardName",
    "RewardSettings",
    "RolloutLogSettings",
    "SamplingSettings",
    "ScriptedTeacher",
    "SelectSettings",
    "ServedArm",
    "ServerSettings",
    "ServerTeacher",
    "SftSettings",
    "SynthesizeSettings",
    "TeacherSettings",
    "TransformersTeacher",
    "UnivgTraining",
    "VllmSettings",
    "VllmTeacher",
    "Tracker",
    "WatchSettings",
    "WorldSource",
    "dump_whole",
    "list_keys",
    "load_recipe",
]
