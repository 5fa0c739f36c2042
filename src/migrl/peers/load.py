"""peers.yaml: which published checkpoint states which level on which benchmark, and how its authors asked and read.

A file names checkpoints and protocols once, and has a record for each checkpoint on each benchmark. What nobody states
is null there: then the file's own `taken` decides, and the key stands in `Peer.unknown`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from migrl.benchmarks import BENCHMARKS
from migrl.benchmarks.reasoning_grounding import QUESTION_LEADS
from migrl.errors import UserError
from migrl.files import ROOT, Strict
from migrl.grounding.boxes import Frame
from migrl.models.family import FAMILIES, ModelFamily
from migrl.recipe import PromptForm
from migrl.yaml_file import load_model

PEERS_FILE = ROOT / "reproduce" / "peers.yaml"
OWN_PROMPT = "ours"
"""The name of the prompt that a recipe's own arms are asked with, answering at once."""
_Text = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
_Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Kind = Literal["box", "box_px", "choice"]
"""What a set asks for: a box in thousandths or fractions, one in pixels, a letter."""


class _Checkpoint(Strict):
    """Weights: a Hub id or a folder, their commit where one is known, and what their authors write boxes in."""

    path: _Text
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    family: str
    frame: str


class _Protocol(Strict):
    """How a set was asked and read; `prompt` names a form, `rule` a parser of the benchmark. Null: nobody states it."""

    prompt: _Text | None
    min_pixels: _Count | None
    max_pixels: _Count | None
    max_new_tokens: _Count | None
    decoding: Literal["greedy", "checkpoint"] | None
    rule: _Text | None
    averaging: Literal["macro", "micro"] | None
    source: _Text


class _Level(Strict):
    """A published score in percent, and the paper and table that state it. `doubt` says what speaks against it."""

    stated: _Percent
    source: _Text
    doubt: str = ""


class _Record(Strict):
    checkpoint: str
    benchmark: str
    protocol: str
    level: _Level | None = None


class _File(Strict):
    forms: dict[_Text, Annotated[str, Field(pattern=r"\{question\}|\{instruction\}")]]
    taken: dict[Kind, _Protocol]
    checkpoints: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")], _Checkpoint]
    protocols: dict[_Text, _Protocol]
    peers: Annotated[tuple[_Record, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Asked:
    """How a checkpoint is asked and decoded; `form` None is our own prompt. Pixel limits are areas in px."""

    prompt: str
    form: PromptForm | None
    min_pixels: int
    max_pixels: int
    max_new_tokens: int
    decoding: str


@dataclass(frozen=True)
class Peer:
    """One checkpoint on one benchmark. `unknown` names the keys that nobody states, for which ours are taken."""

    checkpoint: str
    path: str
    revision: str | None
    family: ModelFamily
    frame: Frame
    benchmark: str
    asked: Asked
    rule: str
    averaging: str
    unknown: tuple[str, ...]
    stated: float
    source: str
    doubt: str

    @property
    def name(self) -> str:
        """Such as `migician/mig_bench`."""
        return f"{self.checkpoint}/{self.benchmark}"

    @property
    def is_binding(self) -> bool:
        """Whether a difference speaks against this machine: nothing is unknown, and no level in doubt."""
        return not self.doubt and set(self.unknown) <= {"revision"}


def load_peers(path: Path = PEERS_FILE) -> tuple[Peer, ...]:
    """Every record of a file, checked and with what is taken where something is unknown.

    Raises:
        UserError: as `load_model`, or a record that names what does not exist or does not fit, with the nearest that
            does.
    """
    file = load_model(path, _File)
    if missing := set(get_args(Kind)) - file.taken.keys():
        raise UserError(f"{path}: key 'taken': {sorted(missing)[0]!r} is missing; say what is taken for it")
    peers = tuple(_resolve(file, record, f"{path}: {record.checkpoint}/{record.benchmark}") for record in file.peers)
    names = [peer.name for peer in peers]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: {name} comes twice; keep one of them")
    return peers


def pick_peer(peers: Iterable[Peer], name: str) -> Peer:
    """The record of this name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    known = {peer.name: peer for peer in peers}
    return known[_find("entry", name, known, "peers")]


def _resolve(file: _File, record: _Record, where: str) -> Peer:
    checkpoint = file.checkpoints[_find("checkpoint", record.checkpoint, file.checkpoints, where)]
    families = {family.name: family for family in FAMILIES}
    family = families[_find("family", checkpoint.family, families, where)]
    frame = _find_frame(checkpoint, family, where)
    benchmark = BENCHMARKS[_find("benchmark", record.benchmark, BENCHMARKS, where)]
    protocol = file.protocols[_find("protocol", record.protocol, file.protocols, where)]
    if record.level is None:
        raise UserError(
            f"{where}: no published level, so there is nothing to agree with; add level: {{stated: a percentage from 0 "
            "to 100, source: paper and table}, or remove the entry"
        )
    kind: Kind = "choice" if "box_only" not in benchmark.parsers else "box_px" if frame.endswith("px") else "box"
    taken = file.taken[kind]
    known = protocol.model_dump(exclude={"source"})
    chosen = {key: getattr(taken, key) if value is None else value for key, value in known.items()}
    unset = [key for key, value in chosen.items() if value is None and key != "rule"]
    if unset:
        raise UserError(f"{where}: {unset[0]} is unknown and `taken` has none either; write what is taken there")
    rule = chosen.pop("rule") or benchmark.compat.get(_OFFICIAL.get(record.benchmark, ""), "compat")
    _find("rule", rule, benchmark.parsers, where)
    unknown = [key for key, value in known.items() if value is None]
    unknown += ["revision"] if checkpoint.revision is None and not Path(checkpoint.path).exists() else []
    averaging = chosen.pop("averaging")
    return Peer(
        checkpoint=record.checkpoint,
        path=checkpoint.path,
        revision=checkpoint.revision,
        family=family,
        frame=frame,
        benchmark=record.benchmark,
        asked=Asked(form=_find_form(file, chosen["prompt"], record.benchmark, where), **chosen),
        rule=rule,
        averaging=averaging,
        unknown=tuple(unknown),
        stated=record.level.stated,
        source=record.level.source,
        doubt=record.level.doubt,
    )


_OFFICIAL = {"mig_bench": "revised", "mig_bench_original": "original"}
"""The version of a benchmark whose official rule depends on it."""


def _find_frame(checkpoint: _Checkpoint, family: ModelFamily, where: str) -> Frame:
    for frame in family.frames:
        if frame == checkpoint.frame:
            return frame
    raise UserError(
        f"{where}: frame {checkpoint.frame!r} does not fit {family.name}, which reads and writes boxes in "
        f"{', '.join(family.frames)}; did you mean {_nearest(checkpoint.frame, family.frames)!r}?"
    )


def _find_form(file: _File, prompt: str, benchmark: str, where: str) -> PromptForm | None:
    if prompt == OWN_PROMPT:
        return None
    text = file.forms[_find("prompt", prompt, (*file.forms, OWN_PROMPT), where)]
    if "{instruction}" not in text:
        return PromptForm(text=text)
    # The instruction alone: the form has words of its own for what our question says around it.
    return PromptForm(text=text.replace("{instruction}", "{question}"), lead=QUESTION_LEADS.get(benchmark, ""))


def _find(kind: str, name: str, known: Mapping[str, Any] | Iterable[str], where: str) -> str:
    legal = list(known)
    if name not in legal:
        raise UserError(
            f"{where}: {kind} {name!r} is unknown; did you mean {_nearest(name, legal)!r}? There are {', '.join(legal)}"
        )
    return name


def _nearest(name: str, legal: Iterable[str]) -> str:
    return get_close_matches(name, list(legal), n=1, cutoff=0.0)[0]
