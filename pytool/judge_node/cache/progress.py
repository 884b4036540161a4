"""How far a sync is, in words: one line for a terminal, a log, or the row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..disks.facts import format_size

_LIMITS = {"network": "the network", "disk": "the disk", "hash": "hashing", "rate limit": "the rate limit"}


def progress_text(progress: Mapping[str, Any] | None) -> str:
    """Return `1.2 GiB of 5.6 GiB (21 %), 480.0 MiB/s, limited by the network, 9 s left`, or what is known of it.

    `progress` is what sync() gives to on_progress; None: it has not begun to fetch.
    """
    if not progress:
        return "not fetching yet"
    done, total = progress["bytes_done"], progress["bytes"]
    percent = f" ({100 * done // total} %)" if total else ""
    said = [f"{format_size(done)} of {format_size(total)}{percent}", f"{format_size(progress['bytes_per_second'])}/s"]
    if progress.get("limited_by"):
        said.append(f"limited by {_LIMITS.get(progress['limited_by'], progress['limited_by'])}")
    if progress.get("eta_seconds") is not None:
        said.append(f"{_duration(progress['eta_seconds'])} left")
    return ", ".join(said)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
