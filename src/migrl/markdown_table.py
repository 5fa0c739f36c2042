"""Tables in Markdown."""

from collections.abc import Iterable


def make_table(head: str, rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table.

    Args:
        head: names of the columns with ` | ` between them; a colon behind a name sets its column to the right.
        rows: cells, which must be safe in a table already.
    """
    names = head.split(" | ")
    ruler = "|".join("---:" if name.endswith(":") else "---" for name in names)
    cells = [[name.removesuffix(":") for name in names], *rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{ruler}|", *lines[1:]]
