"""The table of published levels beside ours: `README.md` to read, `peers.json` for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from migrl.files import write_json, write_text
from migrl.markdown_table import make_table
from migrl.peers.judge import Judged
from migrl.peers.load import Peer

_NONE = "not run"


def write_page(judged: Sequence[Judged], folder: Path) -> None:
    """Write both files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "peers.json", [describe(one) for one in judged])
    write_text(folder / "README.md", render_page(judged))


def describe(one: Judged) -> dict[str, Any]:
    """A record and what became of it, as JSON; what is unknown of the authors' run is None."""
    peer = one.peer
    asked = {"prompt": peer.asked.prompt, **vars(peer.asked), "rule": peer.rule, "averaging": peer.averaging}
    asked.pop("form")
    return {
        "name": peer.name,
        "path": peer.path,
        "revision": peer.revision,
        "family": peer.family.name,
        "frame": peer.frame,
        "authors": {key: None if key in peer.unknown else value for key, value in asked.items()},
        "taken": asked,
        "stated": peer.stated,
        "source": peer.source,
        "doubt": peer.doubt,
        "binding": peer.is_binding,
        **{key: getattr(one, key) for key in ("verdict", "reason", "measured", "low", "high", "tolerance", "n")},
        "tasks": dict(one.tasks),
        "ledger": dict(one.ledger),
        "device": one.device,
        "commit": one.commit,
    }


def render_page(judged: Sequence[Judged]) -> str:
    """The page; every measured cell of a record that was not run says so."""
    levels, asked = [], []
    for one in judged:
        peer, ran = one.peer, one.measured is not None
        ours = f"{one.measured:.2f} ({one.low:.2f} to {one.high:.2f})" if ran else _NONE
        tolerance = "unknown" if one.tolerance is None else f"±{one.tolerance:.1f}"
        mark = " (in doubt)" if peer.doubt else ""
        verdict = _NONE if one.verdict == _NONE else f"**{one.verdict}**" if peer.is_binding else one.verdict
        n = str(one.n) if ran else _NONE
        binds = "yes" if peer.is_binding else "no"
        row = (f"`{peer.checkpoint}`", peer.benchmark, f"{peer.stated:.2f}{mark}", tolerance, ours, n, verdict, binds)
        levels.append((*row, peer.source))
        asked.append((f"`{peer.checkpoint}`", peer.benchmark, *_show_asked(peer), one.reason if not ran else "–"))
    verdicts = [one.verdict for one in judged]
    counted = ", ".join(f"{verdicts.count(name)} {name}" for name in ("agrees", "differs", "not run"))
    doubts = [f"- `{one.peer.name}`: {one.peer.doubt}." for one in judged if one.peer.doubt]
    lines = [
        f"# Published checkpoints as their authors ran them: {counted}",
        "",
        "Written by `make peers` from `reproduce/peers.yaml`. Run it first on a new server: if a level does not come",
        "out, nothing measured there after it counts. Percent; the stated level agrees if it lies in the 95 % interval",
        "of ours, over image sets; the tolerance is half of that interval, before a run that of binomial samples.",
        "Not binding are records with an unknown of their authors' asking or reading, and levels in doubt: where such",
        "a one differs, it may be what we took that is wrong.",
        "",
        *make_table(
            "checkpoint | benchmark | stated: | tolerance: | ours, 95 % interval: | n: | verdict | binding | stated by",
            levels,
        ),
        "",
        *(["In doubt:", "", *doubts, ""] if doubts else []),
        "How each is asked and read; behind `unknown` what is taken, for nobody states what the authors did:",
        "",
        *make_table(
            "checkpoint | benchmark | weights | family, frame | prompt | pixels | tokens | decoding | read by | average"
            " | why not run",
            asked,
        ),
        "",
    ]
    return "\n".join(lines)


def _show_asked(peer: Peer) -> tuple[str, ...]:
    def show(key: str, value: object) -> str:
        return f"unknown: {value}" if key in peer.unknown else str(value)

    asked = peer.asked
    low, high = show("min_pixels", asked.min_pixels), show("max_pixels", asked.max_pixels)
    revision = show("revision", "the newest") if peer.revision is None else peer.revision[:8]
    return (
        f"{peer.path} @ {revision}",
        f"{peer.family.name}, {peer.frame}",
        show("prompt", asked.prompt),
        f"{low} to {high}",
        show("max_new_tokens", asked.max_new_tokens),
        show("decoding", asked.decoding),
        show("rule", peer.rule),
        show("averaging", peer.averaging),
    )
