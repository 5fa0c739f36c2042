"""The command that compares two runs, two arms of one, or a run and a peer's outputs, sample by sample."""

import json
from pathlib import Path
from typing import Annotated

import typer

from migrl.cli.shared import app, console
from migrl.errors import UserError
from migrl.grounding.boxes import Frame
from migrl.outputs import PAGE_MARK, check_output


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="A results folder such as results/tiny, or runs/<recipe>/evaluate.")],
    run_b: Annotated[
        Path | None, typer.Argument(help="Another one, or a peer's file; without it two arms of RUN_A.")
    ] = None,
    arm: Annotated[str, typer.Option("--arm", help="Which arm of the runs.")] = "rl",
    arm_b: Annotated[str | None, typer.Option("--arm-b", help="Which arm of RUN_B, if it is another one.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Which training seed, where a run has several.")] = None,
    seed_b: Annotated[int | None, typer.Option("--seed-b", help="Which of RUN_B, if it is another one.")] = None,
    benchmark: Annotated[list[str] | None, typer.Option("--benchmark", help="Only this one; repeatable.")] = None,
    official: Annotated[
        bool, typer.Option("--official", help="Boxes by the official rule, blind to the image.")
    ] = False,
    frame: Annotated[Frame | None, typer.Option("--frame", help="Of the boxes in a peer's raw completions.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="Let a difference through, such as prompt_hash; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of tables.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page with the samples won and lost.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder that image paths start from, for --html.")
    ] = None,
) -> None:
    """Compare two runs, arms, or a run and a peer's outputs: paired deltas, wins and losses (B against A)."""
    from migrl.compare.differences import find_differences, narrow_sides, refuse_differences
    from migrl.compare.flips import write_flips
    from migrl.compare.pairs import compare_sides
    from migrl.compare.peer import is_peer_file, read_peer
    from migrl.compare.show import print_comparison, render_markdown
    from migrl.compare.sides import Rule, pick_arm, read_run

    if as_json and markdown:
        raise UserError("--json and --markdown: one output at a time; leave one out")
    if images is not None and html is None:
        raise UserError("--images: pictures are for the page only; add --html FILE")
    if html is not None:
        check_output(html, "--html", PAGE_MARK)
    if is_peer_file(run_a):
        raise UserError(f"{run_a}: a peer's file has answers only; name the run first, then the peer's file")
    rule: Rule = "official" if official else "strict"
    run = read_run(run_a)
    a = pick_arm("A", run, arm, seed=seed, rule=rule)
    other = run_b or run_a
    if is_peer_file(other):
        if arm_b is not None or seed_b is not None:
            raise UserError(f"{other}: a peer's file has no arms and seeds; leave out --arm-b and --seed-b")
        b = read_peer(other, a, frame=frame, rule=rule)
    else:
        if frame is not None:
            raise UserError(f"--frame: {other} is a run, whose rows say their frame; leave it out")
        if run_b is None and arm_b in (None, arm) and seed_b in (None, seed):
            raise UserError(f"{run_a}: one run and one arm; add RUN_B, --arm-b or --seed-b")
        run_of_b = run if run_b is None else read_run(other)
        has_seeds = any(row.seed is not None for row in run_of_b.rows if row.arm == (arm_b or arm))
        named = seed if seed_b is None and has_seeds else seed_b
        b = pick_arm("B", run_of_b, arm_b or arm, seed=named, rule=rule)
    a, b = narrow_sides(a, b, benchmark or ())
    unlike = refuse_differences(find_differences(a, b), allow or ())
    comparison = compare_sides(a, b, unlike)
    if html is not None:
        write_flips(comparison, html, images)
    if as_json:
        print(json.dumps(comparison.to_json(), indent=1))
    elif markdown:
        print(render_markdown(comparison), end="")
    else:
        print_comparison(comparison, console)
        if html is not None:
            console.print(f"page: {html}", markup=False, soft_wrap=True)
