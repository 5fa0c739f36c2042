"""The processes that a stage has started."""

from pathlib import Path


def find_rank(rank: int, partial: Path) -> int | None:
    """Process id of one rank of the stage that works in `partial`; None if there is none."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text().split("\0")
            ranks = [word for word in (entry / "environ").read_text().split("\0") if word.startswith("RANK=")]
        except OSError:
            continue  # it ended meanwhile
        if str(partial / ".context.json") in command and "migrl.running.launcher" not in command:
            if ranks == [f"RANK={rank}"] or (not ranks and rank == 0):  # one process alone is told no rank
                return int(entry.name)
    return None
