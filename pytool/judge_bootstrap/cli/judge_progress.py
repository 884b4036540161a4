"""The progress bar of a batch, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from judge_client.batch import Progress
    from rich.console import Console


class Bar:
    """Shows how many items are done, how fast they come, how long it will take, and how the server bears it."""

    def __init__(self, console: Console) -> None:
        self._bars = RichProgress(
            TextColumn("{task.fields[counts]}"), BarColumn(bar_width=None), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[pace]}"), TextColumn("{task.fields[state]}", style="dim"),
            console=console, transient=True, refresh_per_second=4, expand=True)
        self._task = self._bars.add_task("", total=None, counts="reading the items", pace="", state="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Show how far the batch is."""
        self._bars.update(self._task, total=progress.total, completed=progress.done,
                          counts=f"{progress.done}/{progress.total}", pace=pace_text(progress),
                          state=state_text(progress))


def pace_text(progress: Progress) -> str:
    """Return the rate and the remaining time."""
    if progress.gone_seconds is not None:
        return f"server gone for {duration(progress.gone_seconds)}"
    if progress.rate is None or progress.remaining_seconds is None:
        return ""
    return f"{progress.rate:.1f}/s, {duration(progress.remaining_seconds)} left"


def state_text(progress: Progress) -> str:
    """Return how the server bears it, and what has no score so far."""
    parts = [f"window {progress.limit}" + (f" of {progress.ceiling}" if progress.limit < progress.ceiling else "")]
    parts += [f"{count} {name}" for count, name in ((progress.unscored, "unscored"), (progress.errored, "errors"),
                                                    (progress.suspects, "suspect")) if count]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time as people read it: 42 s, 3 min 5 s, 2 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
