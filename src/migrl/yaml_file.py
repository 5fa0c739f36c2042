"""Reading YAML that people write, or got from others: strict, and bounded in time and memory.

A key that comes twice is an error, and not the last one's silent victory. What an alias stands for counts each time, so
that a few lines cannot become gigabytes.
"""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from migrl.errors import UserError, shorten
from migrl.files import explain_fault, is_unicode

MAX_BYTES = 40_000  # the longest file of the project has 15,000, and PyYAML takes a second for 60,000
MAX_CHARS = 250_000  # with every alias written out
MAX_DEPTH = 30
MAX_DIGITS = 100
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MERGE = "tag:yaml.org,2002:merge"
_Model = TypeVar("_Model", bound=BaseModel)
_Size = tuple[int, int]
"""Characters and depth of a node."""


class _Reader(yaml.SafeLoader):
    """A safe loader that checks a document before it builds it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.sizes: dict[yaml.Node, _Size] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, "is nested too deep", self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def read(self) -> Any:
        try:
            node = self.get_single_node()
            if node is None:
                return None
            self.measure(node, "")
            return self.construct_document(node)
        finally:
            self.dispose()

    def measure(self, node: yaml.Node, key: str) -> _Size:
        """Size of the node at a dotted key.

        Raises:
            yaml.YAMLError: a key that is no plain value or comes twice, a value that is not what its tag says, a text
                that no file can hold, or too much of anything.
        """
        if node not in self.sizes:
            self.sizes[node] = (0, MAX_DEPTH)  # if it is met again below itself
            if isinstance(node, yaml.ScalarNode):
                self._check_value(node, key)
                inner = [(len(node.value), 0)]
            elif isinstance(node, yaml.MappingNode):
                inner = self._measure_pairs(node, key)
            else:
                inner = [self.measure(item, f"{key}.{number}") for number, item in enumerate(node.value)]
            self.sizes[node] = 1 + sum(size for size, _ in inner), 1 + max((depth for _, depth in inner), default=0)
        size, depth = self.sizes[node]
        if size > MAX_CHARS or depth > MAX_DEPTH:
            raise _fail(node, key, "is nested too deep" if depth > MAX_DEPTH else "its aliases stand for too much")
        return size, depth

    def _measure_pairs(self, node: yaml.MappingNode, key: str) -> list[_Size]:
        inner: list[_Size] = []
        seen: set[str] = set()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise _fail(name, key, "a list or a mapping is no key")
            if name.tag != _MERGE:
                if name.value in seen:
                    raise _fail(name, key, f"key {name.value!r} comes twice")
                seen.add(name.value)
                inner.append(self.measure(name, key))
            inner.append(self.measure(value, f"{key}.{name.value}"))
        return inner

    def _check_value(self, node: yaml.ScalarNode, key: str) -> None:
        if "\0" in node.value or not is_unicode(node.value):
            raise _fail(node, key, "holds a character that no file can hold, a null or half of a surrogate pair")
        if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
            raise _fail(node, key, f"a number of {len(node.value)} characters; the most are {MAX_DIGITS}")
        try:
            self.construct_object(node)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            tag = node.tag.rpartition(":")[2]
            raise _fail(node, key, f"{node.value!r} is no {tag}; put quotes around a text") from error


def _fail(node: yaml.Node, key: str, reason: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(
        f"key {shorten(key[1:], 100)!r}" if key else None, None, shorten(reason, 300), node.start_mark
    )


def parse_yaml(text: str) -> Any:
    """Decoded YAML.

    Raises:
        yaml.YAMLError: it is none, a mapping holds a key twice, or it is larger than anyone writes; a line of text.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise yaml.YAMLError(f"more than {MAX_BYTES} bytes, which nobody writes by hand")
    try:
        return _Reader(text).read()
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}" if error.problem_mark else None
        raise yaml.YAMLError(": ".join(filter(None, (place, error.context, error.problem)))) from error
    except yaml.reader.ReaderError as error:
        raise yaml.YAMLError(" ".join(str(error).split())) from error


def read_yaml(path: Path) -> Any:
    """Decoded YAML of a file.

    Raises:
        FileNotFoundError: there is none; the caller knows the remedy.
        UserError: it is no file, cannot be read, is not UTF-8, or no YAML as `parse_yaml` takes it.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file; name a YAML file")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8", "strict" if path.stat().st_size <= MAX_BYTES else "replace")
        return parse_yaml(text)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); put a file there that you may read") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML as it is read here ({error}); correct it") from error


def load_model(path: Path, model: type[_Model]) -> _Model:
    """A file of the experiment as the model that describes it.

    Raises:
        UserError: the file is missing, is no YAML, or breaks the model's form (the key is named).
    """
    try:
        return model.model_validate(read_yaml(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run from a checkout that has it, or name another") from error
    except ValidationError as error:
        raise UserError(f"{path}: {explain_fault(error)}; correct it") from error
