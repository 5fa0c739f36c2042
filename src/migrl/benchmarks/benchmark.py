"""What a benchmark is to the rest of the code: items, annotations, and the record `Benchmark`.

One module a benchmark, each with one `Benchmark` (or a few that share a loader); `benchmarks/__init__.py`
is the dictionary of all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from migrl.benchmarks.readings import BoxParser, ExactBox, LetterParser
from migrl.errors import UserError
from migrl.grounding.samples import Sample


@dataclass(frozen=True)
class Item:
    """One record of an annotation file.

    `sample` is what the pipeline evaluates; its images and question are empty where the file holds none (a plain
    answers file). `exact_box_unit` is the true box without rounding: whether an IoU reaches a threshold exactly is
    decided on it. `choices` are the texts of the options, empty where the file holds none.
    """

    sample: Sample
    exact_box_unit: ExactBox | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """A whole annotation file: which version it is, its items, and the uids of its known defects by kind."""

    version: str
    items: tuple[Item, ...]
    defects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class OfficialRule:
    """How the authors' script reads a box, and the name that scores.json gives it."""

    name: str
    parse: BoxParser


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read and scored.

    Attributes:
        load: reads (annotations, images folder, name); uids are `<name>:<key of the record>`. Images are opened
            only where the true boxes are in their pixels; then a missing one is an error.
        parsers: how a completion is read, by name. `strict` is our rule; `compat` stands for the official one.
        compat: the parser that `compat` stands for by version, where versions have different ones.
        official: what an evaluated run is scored by beside our rule; None: it has no official score.
        counts: published number of scored records of each version; a score of fewer says so.
        subsets: tasks of further macro averages, by name.
        extract: writes the pictures that the annotation file itself holds into the images folder, if it does.
    """

    name: str
    load: Callable[[Path, Path, str], Annotations]
    parsers: Mapping[str, BoxParser] | Mapping[str, LetterParser]
    counts: Mapping[str, int]
    compat: Mapping[str, str] = field(default_factory=dict)
    official: OfficialRule | None = None
    subsets: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    extract: Callable[[Path, Path], int] | None = None

    def pick_rule(self, parser: str, version: str) -> str:
        """The name of the rule that `parser` means for a version of the annotations.

        Raises:
            UserError: there is no such parser.
        """
        rule = self.compat.get(version, parser) if parser == "compat" else parser
        if rule not in self.parsers:
            legal = ", ".join(dict.fromkeys(("compat", *self.parsers)))
            raise UserError(f"--parser {parser}: {self.name} is read by {legal}; name one of them")
        return rule
