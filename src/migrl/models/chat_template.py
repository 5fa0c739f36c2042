"""A model's chat template is a program that others wrote: it is tried once, at fetch, where it can do no harm.

Another process renders it (template_trial.py), with bounds on its time and memory. A template may still choose to be
slow for some other conversation; then it is killed as any stage is.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.grounding.prompts import build_messages
from migrl.models import template_trial

SECONDS = 20  # of CPU; an honest template takes milliseconds
TEMPLATE_FILE, OLD_TEMPLATE_FILE = "chat_template.jinja", "chat_template.json"
PROCESSOR_CONFIG, TOKENIZER_CONFIG = "processor_config.json", "tokenizer_config.json"
TOKENS_FILE = "special_tokens_map.json"
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Template:
    """A template and the file it stands in; `used` if the processor's prompts are made with it."""

    file: str
    text: str
    used: bool


def check_template(folder: Path, seconds: int = SECONDS) -> None:
    """Render every chat template of a model folder on a question about three pictures, and on a talk that follows.

    Raises:
        UserError: one that does not end, needs much memory or makes much text, or the one that is used cannot be
            rendered or begins the reasoning itself.
    """
    templates = list(_find_templates(folder))
    if not templates:
        return
    prompt = build_messages("Where is it?", 3, "think", "box")
    talk = [*prompt, {"role": "assistant", "content": [{"type": "text", "text": "Here."}]}, *prompt]
    task = {
        "templates": [asdict(template) for template in templates],
        "conversations": [prompt, talk],
        "tokens": _find_tokens(folder),
        "seconds": seconds,
    }
    # By its path, with -P: no module of the folder that migrl was started in comes in between.
    command = [sys.executable, "-P", template_trial.__file__]
    ran = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True)
    last = [{"file": ""}, *map(json.loads, ran.stdout.splitlines())][-1]
    if ran.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        last["fault"] = f"does not end within {seconds} s"
    elif ran.returncode:
        said = ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"]
        last["fault"] = f"cannot be rendered ({said[-1][:300]})"
    if "fault" in last:
        thinks = last["fault"] == template_trial.BEGINS_THOUGHT
        remedy = "name the Instruct model of this size" if thinks else "take it from the model's source"
        raise UserError(f"{folder / last['file']}: the chat template {last['fault']}; {remedy}")


def _find_templates(folder: Path) -> Iterator[Template]:
    """Every template of a model folder, the processor's first: of several it takes the first in this order."""
    processor, old, tokenizer = (
        _read_config(folder / name) for name in (PROCESSOR_CONFIG, OLD_TEMPLATE_FILE, TOKENIZER_CONFIG)
    )
    own = folder / TEMPLATE_FILE
    places: list[tuple[str, Any]] = [
        (PROCESSOR_CONFIG, processor.get("chat_template")),
        (OLD_TEMPLATE_FILE, old.get("chat_template")),
        (TEMPLATE_FILE, _read_text(own) if own.is_file() else None),
    ]
    taken = next((file for file, template in places if template is not None), None)
    for file, template in [*places, (TOKENIZER_CONFIG, tokenizer.get("chat_template"))]:
        for name, text in _name_templates(template):
            yield Template(file, text, used=file == taken and name == "default")


def _name_templates(template: Any) -> Iterator[tuple[str, str]]:
    """One template, or several by name, in any of the forms that transformers reads."""
    if isinstance(template, list):
        template = {
            entry["name"]: entry.get("template") for entry in template if isinstance(entry, dict) and "name" in entry
        }
    for name, text in (template if isinstance(template, dict) else {"default": template}).items():
        if isinstance(text, str):
            yield name, text


def _find_tokens(folder: Path) -> dict[str, str]:
    """Special tokens by name, as templates see them. What no file states the tokenizer's class may, so it is there."""
    tokens = dict.fromkeys(TOKENS, "")
    for file in (TOKENS_FILE, TOKENIZER_CONFIG):
        config = _read_config(folder / file)
        extra = config.get("extra_special_tokens")
        for key, value in [*config.items(), *(extra.items() if isinstance(extra, dict) else ())]:
            text = value.get("content") if isinstance(value, Mapping) else value
            if key.endswith("_token") and isinstance(text, str):
                tokens[key] = text
    return tokens


def _read_config(path: Path) -> dict[str, Any]:
    """A file of the processor; empty if it is not there.

    Raises:
        UserError: it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        data = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); take it from the model's source") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object; take it from the model's source")
    return data


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); take it from the model's source") from error
