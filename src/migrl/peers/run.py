"""Running the records of peers.yaml: stages fetch and evaluate of a recipe for each checkpoint and way of asking."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import httpx
import torch

from migrl.benchmarks import Item
from migrl.data.download.catalog import Repo
from migrl.data.download.hub import Hub
from migrl.errors import UserError
from migrl.evidence.evaluations import EVALUATIONS
from migrl.files import ROOT, delete, read_json, write_json
from migrl.grounding.samples import read_samples
from migrl.models.folder import find_local_model
from migrl.peers.judge import Judged, judge, leave_out
from migrl.peers.load import Asked, Peer
from migrl.pipeline import run_pipeline
from migrl.recipe import Recipe, load_recipe
from migrl.scoring.rescore import Prediction
from migrl.scoring.rows import load_rows
from migrl.stages.fetch import bring_weights

BASE = ROOT / "reproduce" / "recipes" / "paper.yaml"
"""What a record does not decide is this recipe's: sources, and how a model runs on a GPU."""
REVISIONS, WEIGHTS = "revisions.json", "weights"
FIXED = (
    *("claims=none", "source.training=null", "pass_rates=null", "evaluate.arms=[base]", "evaluate.style=direct"),
    *("evaluate.engine=transformers", "model.attention=sdpa", "launch.processes=1"),
)
"""Evaluation alone, by the library that the authors' scripts use, with the kernel that needs no package."""


def run_peers(
    peers: Sequence[Peer],
    runs: Path,
    overrides: Sequence[str] = (),
    *,
    tell: Callable[[str], None] = lambda said: None,
) -> list[Judged]:
    """Evaluate what can be evaluated on this machine; the verdicts, in the records' order.

    Records of one checkpoint that are asked alike share a run under `runs/peers`. What cannot run says why in its
    record, and the others go on; what was finished is not run again.

    Args:
        overrides: keys of a recipe for all of them, such as `evaluate.engine=vllm`.
        tell: called with a sentence about each run.
    """
    found: dict[str, Judged] = {}
    for group in group_peers(peers):
        label = f"{group[0].checkpoint} on {', '.join(peer.benchmark for peer in group)}"
        try:
            tell(f"{label}: starts")
            judged = run_group(group, runs / "peers", overrides)
        except (UserError, httpx.HTTPError) as error:
            why = str(error) if isinstance(error, UserError) else f"{group[0].path}: cannot be fetched ({error})"
            judged = [leave_out(peer, " ".join(why.split())) for peer in group]
        for one in judged:
            found[one.peer.name] = one
            tell(f"{one.peer.name}: {one.verdict}; {one.reason}")
    return [found[peer.name] for peer in peers]


def group_peers(peers: Iterable[Peer]) -> list[list[Peer]]:
    """Records that one run of stage evaluate can answer: the same weights, asked and decoded alike."""
    groups: dict[tuple[str, Asked], list[Peer]] = {}
    for peer in peers:
        groups.setdefault((peer.checkpoint, peer.asked), []).append(peer)
    return list(groups.values())


def run_group(group: Sequence[Peer], home: Path, overrides: Sequence[str]) -> list[Judged]:
    """Fetch and evaluate one group, and judge its records.

    Raises:
        UserError: no GPU, no weights or pictures, or as a stage.
    """
    first = group[0]
    if build_recipe(group, first.path, overrides).model.needs_gpu and not torch.cuda.is_available():
        raise UserError("no GPU here")
    commit = None if find_local_model(first.path) else first.revision or find_revision(first.path, home)
    recipe = build_recipe(group, first.path if commit is None else bring_weights_once(first, commit, home), overrides)
    for stage in ("fetch", "evaluate"):
        run_pipeline(recipe, home, only=stage)
    folder = home / recipe.name
    device = read_json(folder / "evaluate" / EVALUATIONS)[0]["device"]
    rows = load_rows(folder / "evaluate" / "samples.jsonl")
    answers = {row.sample.uid: Prediction(row.completion, row.truncated, row.tokens) for row in rows}
    data = folder / "fetch" / "data"
    return [judge(peer, list(read_items(data, peer.benchmark)), answers, data, device, commit) for peer in group]


def build_recipe(group: Sequence[Peer], weights: str | Path, overrides: Sequence[str]) -> Recipe:
    """The recipe that answers a group's questions as its authors asked them, with the weights in a folder.

    Raises:
        UserError: an override that is none.
    """
    peer, asked = group[0], group[0].asked
    form = None if asked.form is None else asked.form.model_dump()
    own = {
        "name": f"{peer.checkpoint}-{peer.benchmark}",
        "source.benchmarks": [one.benchmark for one in group],
        "model.path": str(weights),
        "model.revision": None,
        "model.frame": peer.frame,
        "model.min_pixels": asked.min_pixels,
        "evaluate.form": form,
        "evaluate.max_pixels": asked.max_pixels,
        "evaluate.max_new_tokens": asked.max_new_tokens,
        "evaluate.decoding": asked.decoding,
    }
    return load_recipe(BASE, [*FIXED, *(f"{key}={json.dumps(value)}" for key, value in own.items()), *overrides])


def bring_weights_once(peer: Peer, commit: str, home: Path) -> Path:
    """The weights of a checkpoint on the Hub, downloaded once for all that it is asked.

    Raises:
        UserError: no whole and plain model folder, or too little disk.
    """
    place = home / WEIGHTS / f"{peer.checkpoint}-{commit[:12]}"
    if not place.is_dir():
        made = place.with_name(f"{place.name}.partial")
        delete(made)
        bring_weights(peer.path, commit, {}, made)
        made.rename(place)
    return place


def find_revision(path: str, home: Path) -> str:
    """The commit of weights that no record pins: the newest at the first run, and that one from then on."""
    kept = home / REVISIONS
    known: dict[str, str] = read_json(kept) if kept.is_file() else {}
    if path not in known:
        repo = Repo(type="model", revision=None, licence="on its page", note="peers.yaml pins none")
        home.mkdir(parents=True, exist_ok=True)
        write_json(kept, known | {path: Hub({path: repo}, None).find_commit(path)})
    commit: str = read_json(kept)[path]
    return commit


def read_items(data: Path, benchmark: str) -> Iterator[Item]:
    """The records of a benchmark as they were asked."""
    return (Item(sample) for sample in read_samples(data / f"{benchmark}.jsonl"))
