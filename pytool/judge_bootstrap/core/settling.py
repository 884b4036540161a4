"""Has latency settled? Pure: latencies in, figures out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

# One window holds each of the prompts once, so that both windows weigh the same lengths.
WINDOW = 5
TOLERANCE = 0.10
FEWEST = 2 * WINDOW


def has_settled(seconds: Sequence[float], *, window: int = WINDOW, tolerance: float = TOLERANCE) -> bool:
    """Tell whether the median of the last `window` latencies is within `tolerance` of that of the `window` before."""
    if len(seconds) < 2 * window:
        return False
    before, last = median(seconds[-2 * window:-window]), median(seconds[-window:])
    return abs(last - before) <= tolerance * before


@dataclass(frozen=True)
class Figures:
    """Latencies of one pod, in seconds. `tokens_per_second` is over all requests, None where none told its usage."""

    requests: int
    first: float
    median: float
    p95: float
    last: float
    total: float
    tokens_per_second: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the figures under names with units."""
        found = {f"{name}_seconds": round(value, 4) for name, value in asdict(self).items()
                 if name not in ("requests", "tokens_per_second")}
        speed = self.tokens_per_second
        return {"requests": self.requests, **found, "tokens_per_second": None if speed is None else round(speed, 2)}


def figures(seconds: Sequence[float], tokens: Sequence[int | None]) -> Figures | None:
    """Return the figures of requests in their order, None for no request. `tokens` are those that each generated."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    told = [(count, took) for count, took in zip(tokens, seconds, strict=True) if count is not None]
    spent = sum(took for _, took in told)
    return Figures(requests=len(seconds), first=seconds[0], median=median(seconds), p95=_p95(ordered),
                   last=seconds[-1], total=sum(seconds),
                   tokens_per_second=sum(count for count, _ in told) / spent if spent > 0 else None)


def _p95(ordered: Sequence[float]) -> float:
    """Return the smallest value that 95 % are not above (nearest rank)."""
    return ordered[max(0, -(-len(ordered) * 95 // 100) - 1)]
