"""The dotted keys of a recipe: which there are, what pydantic calls them, and which one an unknown one was meant to be.

Some sections are of several kinds, told apart by a tag such as `kind` or `engine`; each kind has keys of its own.
"""

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from migrl.errors import shorten

ALIKE = 0.8
LONGEST_KEY = 200  # characters of what may be a slip
MAX_FAULTS = 10  # a message tells of

Needs = dict[str, str]
"""The tags that a key goes with, such as {"source.kind": "hub"}; empty for a key of every recipe."""


def list_keys(model: type[BaseModel]) -> list[str]:
    """Every legal dotted key of a model and its sections, those of all kinds."""
    return list(dict.fromkeys(key for key, _ in _walk_keys(model, "", {})))


def name_key(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """The dotted key of a place where pydantic found an error: it also tells the kind of each section on the way."""
    names: list[str] = []
    sections = [model]
    for part in place:
        kinds = {_read_tag(section)[1]: section for section in sections} if len(sections) > 1 else {}
        if part in kinds:
            sections = [kinds[str(part)]]
        elif part != "[key]":  # a name in a mapping, not what it names
            names.append(str(part))
            field = sections[0].model_fields.get(str(part)) if len(sections) == 1 else None
            sections = _list_sections(field.annotation) if field else []
    return ".".join(names)


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Give a dotted key of a recipe's data another value; sections on the way that are not there are made.

    Raises:
        ValueError: what should be a section holds a value.
    """
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(f"{parent!r} holds a value, not keys")
        node = child
    node[last] = value


def explain_faults(model: type[BaseModel], error: ValidationError, data: Mapping[str, Any]) -> str:
    """What is wrong with `data` and what to do about it, a sentence a fault."""
    faults = error.errors()
    told = [_explain(model, item, data) for item in faults[:MAX_FAULTS]]
    more = [f"{len(faults) - MAX_FAULTS} more like these"] if len(faults) > MAX_FAULTS else []
    return "; ".join([*told, *more])


def explain_unknown(model: type[BaseModel], key: str, data: Mapping[str, Any]) -> str:
    """What to do about a key of `data` that the model refuses: it is of another kind, or another one was meant."""
    if len(key) > LONGEST_KEY:
        return f"key {shorten(key, LONGEST_KEY)!r} is unknown; leave it out"
    known = list(_walk_keys(model, "", {}))
    unmet = [_find_unmet(needs, data) for name, needs in known if name == key]
    if unmet:
        tag = next(iter(unmet[0]))
        kinds = " or ".join(dict.fromkeys(needs[tag] for needs in unmet if tag in needs))
        return (
            f"key {key!r} is for {tag}={kinds}, and this recipe has {tag}={_look_up(data, tag)}; leave it out, or "
            f"change {tag}"
        )
    parent, last = _split(key)
    legal = list(dict.fromkeys(name for name, needs in known if not _find_unmet(needs, data)))
    alike = [name for name in legal if SequenceMatcher(None, _split(name)[1], last).ratio() >= ALIKE]
    beside = [name for name in legal if _split(name)[0] == parent]
    meant = [name for name in alike if name in beside] or alike or beside or legal
    return f"key {key!r} is unknown; did you mean {get_close_matches(key, meant, n=1, cutoff=0.0)[0]!r}?"


def _explain(model: type[BaseModel], item: Any, data: Mapping[str, Any]) -> str:
    key = name_key(model, item["loc"])
    if item["type"] == "extra_forbidden":
        return explain_unknown(model, key, data)
    if item["type"] == "missing":
        return f"key {key!r} is missing; add it (reproduce/recipes/tiny.yaml shows every key)"
    got = "" if isinstance(item["input"], dict) else f"; got {item['input']!r}"
    return shorten(f"key {key or 'recipe'!r}: {item['msg'].removeprefix('Value error, ')}{got}", 600)


def _walk_keys(model: type[BaseModel], prefix: str, needs: Needs) -> Iterator[tuple[str, Needs]]:
    for name, field in model.model_fields.items():
        yield prefix + name, needs
        sections = _list_sections(field.annotation)
        for section in sections:
            inner = f"{prefix}{name}."
            tag, kind = _read_tag(section) if len(sections) > 1 else ("", "")
            yield from _walk_keys(section, inner, {**needs, inner + tag: kind} if tag else needs)


def _list_sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a key may hold: none for a plain value, several where a tag tells them apart."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [section for part in get_args(annotation) for section in _list_sections(part)]


def _read_tag(section: type[BaseModel]) -> tuple[str, str]:
    """The key that tells a section apart from its alternatives, and its value: a literal without a choice."""
    annotations = {name: field.annotation for name, field in section.model_fields.items()}
    return next(
        (name, get_args(literal)[0])
        for name, literal in annotations.items()
        if get_origin(literal) is Literal and len(get_args(literal)) == 1
    )


def _find_unmet(needs: Needs, data: Mapping[str, Any]) -> Needs:
    """The tags that a recipe has set to something else."""
    return {tag: kind for tag, kind in needs.items() if _look_up(data, tag) not in (None, kind)}


def _look_up(data: Any, key: str) -> Any:
    for part in key.split("."):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _split(key: str) -> tuple[str, str]:
    parent, _, last = key.rpartition(".")
    return parent, last
