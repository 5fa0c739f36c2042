"""Reading YAML that people write: a key that comes twice is an error, and not the last one's silent victory."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from migrl.errors import UserError

_Model = TypeVar("_Model", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """Safe, and every key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} comes twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Decoded YAML.

    Raises:
        yaml.YAMLError: it is none, or a mapping holds a key twice.
    """
    return yaml.load(text, Loader=_StrictLoader)


def load_model(path: Path, model: type[_Model]) -> _Model:
    """A file of the experiment as the model that describes it.

    Raises:
        UserError: the file is missing, is no YAML, or breaks the model's form (the key is named).
    """
    try:
        return model.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run from a checkout that has it, or name another") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({error}); correct it") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: key {key!r}: {first['msg']}; correct it") from error
