"""Reading a recipe file: overrides applied, every mistake named with its nearest legal key."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from migrl.errors import UserError, shorten
from migrl.recipe.keys import explain_faults, set_key
from migrl.recipe.recipe import Recipe
from migrl.yaml_file import parse_yaml, read_yaml


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply overrides such as `grpo.max_steps=5` (values are YAML).

    Raises:
        UserError: no such file, no YAML, an unknown key (with the nearest legal one), or a bad value.
    """
    try:
        data = read_yaml(path)
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        raise UserError(f"{path}: no such recipe; the recipes here are: {known or 'none'}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys; correct the file")
    for override in overrides or []:
        _apply_override(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {explain_faults(Recipe, error, data)}") from error


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    shown = f"override {shorten(override, 100)!r}"
    if not equals or not key:
        raise UserError(f"{shown}: write it as key=value, for example grpo.max_steps=5")
    try:
        set_key(data, key, parse_yaml(value))
    except yaml.YAMLError as error:
        raise UserError(f"{shown}: the value is not YAML ({error}); quote it") from error
    except ValueError as error:
        raise UserError(f"{shown}: {error}; use a legal key") from error
