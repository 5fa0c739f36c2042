"""A progress bar over batches."""

from collections.abc import Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from migrl.models.inputs import ModelInput


def track(batches: list[list[ModelInput]], label: str, *, visible: bool = True) -> Iterator[list[ModelInput]]:
    """Iterate over batches under a progress bar with counts and remaining time."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), disable=not visible) as progress:
        task = progress.add_task(label, total=sum(len(batch) for batch in batches))
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))
