"""The README's verdict table, generated from claims.yaml and the committed claims.json files."""

from pathlib import Path
from typing import Any

from migrl.claims import load_claims
from migrl.errors import UserError
from migrl.evidence import read_json

START, END = "<!-- verdicts:start -->", "<!-- verdicts:end -->"


def render_verdicts(results: Path) -> str:
    """The table as markdown; claims without a run are 'not run'."""
    lines = [
        "| claim | recipe | compares | paper | ours | 95 % interval | n | verdict |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for claim in load_claims():
        path = results / claim.recipe / "claims.json"
        entries: list[dict[str, Any]] = read_json(path) if path.exists() else []
        entry = next((entry for entry in entries if entry["id"] == claim.id), None)
        paper = "direction" if claim.expected is None else f"{claim.expected:+.2f}"
        compares = f"{claim.minuend} − {claim.subtrahend} on {', '.join(claim.benchmarks)}"
        if entry is None or entry["delta"] is None:
            ours, interval, n, verdict = "–", "–", "–", "not run"
        else:
            ours, n, verdict = f"{entry['delta']:+.1f}", str(entry["n"]), f"**{entry['verdict']}**"
            interval = f"{entry['low']:+.1f} to {entry['high']:+.1f}"
        lines.append(
            f"| `{claim.id}` | {claim.recipe} | {compares} | {paper} | {ours} | {interval} | {n} | {verdict} |"
        )
    return "\n".join(lines)


def update_readme(readme: Path, results: Path) -> None:
    """Replace the table between the two markers.

    Raises:
        UserError: a marker is missing.
    """
    text = readme.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise UserError(f"{readme}: the markers {START} and {END} are missing; put them where the table belongs")
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{START}\n{render_verdicts(results)}\n{END}{after}", encoding="utf-8")
