"""The command that evaluates published checkpoints as their authors did."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from migrl.cli.shared import Overrides, Results, Runs, app, console
from migrl.errors import UserError


@app.command()
def peers(
    only: Annotated[
        str | None, typer.Option("--only", help="One record, such as univg_r1/mig_bench; the page stays as it is.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Judge stored outputs of --only, as for `migrl score`.")
    ] = None,
    annotations: Annotated[Path | None, typer.Option("--annotations", help="Their benchmark's published file.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Folder that image paths start from.")] = None,
    path: Annotated[Path | None, typer.Option("--peers", help="Records; else reproduce/peers.yaml.")] = None,
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
    overrides: Overrides = None,
) -> None:
    """Evaluate published checkpoints and compare with their published levels; exit 1 if a binding one differs."""
    from migrl.evidence.publication import PEERS, lock_results
    from migrl.peers import PEERS_FILE, load_peers, read_stored, run_peers, write_page
    from migrl.peers.load import pick_peer

    known = load_peers(path or PEERS_FILE)
    chosen = known if only is None else (pick_peer(known, only),)
    if predictions is not None:
        if only is None or annotations is None:
            raise UserError("--predictions are those of one record; name it by --only, and its file by --annotations")
        judged = [read_stored(chosen[0], annotations, predictions, images or annotations.parent)]
    else:
        tell = partial(console.print, markup=False, soft_wrap=True)
        judged = run_peers(chosen, runs, overrides or (), tell=tell)
        if only is None:
            with lock_results(results):
                write_page(judged, results / PEERS)
            console.print(f"{results / PEERS / 'README.md'}: written", markup=False, soft_wrap=True)
    for one in judged:
        ours = "" if one.measured is None else f" {one.measured:.2f} ({one.low:.2f} to {one.high:.2f}),"
        line = f"{one.peer.name}:{ours} stated {one.peer.stated:.2f}: {one.verdict}"
        console.print(line, markup=False, soft_wrap=True)
    differing = [one.peer.name for one in judged if one.verdict == "differs" and one.peer.is_binding]
    if differing:
        raise UserError(
            f"{', '.join(differing)}: not the published level; find out why before anything else is measured here"
        )
