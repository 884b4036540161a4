"""What is counted while the lines go by. Everything here has a size that does not grow with the number of lines."""

from __future__ import annotations

import datetime
import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from judge_client.calibration.statistics import CONFIDENCE
from judge_client.rubric import HIGHEST, LOWEST
from judge_client.verdict import Provenance

Kept = TypeVar("Kept")

# A latency is known to this ratio: 1 %.
_STEP: Final = 1.01
_SHORTEST_MS: Final = 0.1
MAX_VALUES: Final = 12
OTHERS: Final = "others"


class Top(Generic[Kept]):
    """The few that rank highest; of equals, those that came first. What is kept is made only for these."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[Any, int, Kept]] = []
        self._count = 0

    def offer(self, rank: Any, make: Callable[[], Kept]) -> None:
        """Keep what `make` returns where `rank` is among the highest so far."""
        self._count += 1
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, (rank, -self._count, make()))
        elif self._size and rank > self._heap[0][0]:
            heapq.heapreplace(self._heap, (rank, -self._count, make()))

    def ranked(self) -> tuple[Kept, ...]:
        """Return what was kept, highest first."""
        return tuple(kept for _, _, kept in sorted(self._heap, key=lambda one: one[:2], reverse=True))


class Latencies:
    """Milliseconds in classes that are 1 % wide."""

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()
        self._sum = 0.0
        self._longest = 0.0

    def add(self, latency_ms: float) -> None:
        """Count one."""
        self._classes[round(math.log(max(latency_ms, _SHORTEST_MS)) / math.log(_STEP))] += 1
        self._sum += latency_ms
        self._longest = max(self._longest, latency_ms)

    def told(self) -> dict[str, float] | None:
        """Return mean, p50, p95, p99 and the longest, in milliseconds; None without any."""
        count = self._classes.total()
        if not count:
            return None
        wanted = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
        found: dict[str, float] = {"mean": round(self._sum / count, 1)}
        seen = 0
        for one in sorted(self._classes):
            seen += self._classes[one]
            for name, share in wanted.items():
                if name not in found and seen >= share * count:
                    found[name] = round(min(_STEP**one, self._longest), 1)
        return {**found, "longest": round(self._longest, 1)}


@dataclass
class Scores:
    """How often each score from 1 to 10 was given."""

    counts: list[int] = field(default_factory=lambda: [0] * (HIGHEST - LOWEST + 1))

    def add(self, score: int) -> None:
        """Count one."""
        self.counts[score - LOWEST] += 1

    @property
    def n(self) -> int:
        """How many scores there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Their mean; None without any."""
        return sum(score * count for score, count in self._pairs()) / self.n if self.n else None

    @property
    def median(self) -> float | None:
        """Their median, half way between the two middle ones of an even number; None without any."""
        return (self._at((self.n - 1) // 2) + self._at(self.n // 2)) / 2 if self.n else None

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean (Student's t), within the scale; None for fewer than two scores."""
        n, mean = self.n, self.mean
        if n < 2 or mean is None:
            return None
        from scipy.special import stdtrit  # a third of scipy.stats' import time

        variance = sum(count * (score - mean) ** 2 for score, count in self._pairs()) / (n - 1)
        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance / n)
        return max(float(LOWEST), mean - half), min(float(HIGHEST), mean + half)

    def _pairs(self) -> Iterable[tuple[int, int]]:
        return enumerate(self.counts, LOWEST)

    def _at(self, position: int) -> int:
        for score, count in self._pairs():
            position -= count
            if position < 0:
                return score
        raise IndexError(position)


# What a judge is told apart by, and whether a mix of several makes their scores no longer comparable.
ASPECTS: Final[Mapping[str, bool]] = {
    "model": True, "repository": True, "commit": True, "manifest": True, "image": True, "prompt": True,
    "rubric": True, "rubric digest": True, "sampling": True, "loaded from": False, "client": False, "server": False,
}  # fmt: skip


class Sources:
    """Which judges, prompts and rubrics gave the scores, and when."""

    def __init__(self) -> None:
        self._values: dict[str, Counter[str | None]] = {name: Counter() for name in ASPECTS}
        self._first: datetime.datetime | None = None
        self._last: datetime.datetime | None = None

    def add(self, model: str | None, provenance: Provenance | None, *, scored: bool) -> None:
        """Count one. What gave no score is of no one: only its time counts."""
        if provenance is not None:
            at = datetime.datetime.fromisoformat(provenance.time)
            at = at if at.tzinfo else at.replace(tzinfo=datetime.UTC)
            self._first = at if self._first is None else min(self._first, at)
            self._last = at if self._last is None else max(self._last, at)
        if not scored:
            return
        for name, value in _aspects(model, provenance).items():
            counts = self._values[name]
            told = None if value is None else str(value)
            counts[told if told in counts or len(counts) < MAX_VALUES else OTHERS] += 1

    def values(self) -> dict[str, list[tuple[str | None, int]]]:
        """Return each aspect's values with their counts, the most frequent first; what is not told apart comes last."""
        return {name: sorted(counts.most_common(), key=lambda one: one[0] == OTHERS)
                for name, counts in self._values.items()}

    def mixed(self) -> list[str]:
        """Return the aspects with several values that make scores incomparable."""
        return [name for name, matters in ASPECTS.items() if matters and len(self._values[name]) > 1]

    def span(self) -> tuple[str, str] | None:
        """Return the times (UTC, to the second) of the first and the last question; None where none is told."""
        if self._first is None or self._last is None:
            return None
        first, last = (at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for at in (self._first, self._last))
        return first, last


def _aspects(model: str | None, told: Provenance | None) -> dict[str, Any]:
    if told is None:
        return {name: model if name == "model" else None for name in ASPECTS}
    # Votes and questions asked anew have seeds of their own; that makes no other judge.
    sampling = {key: value for key, value in told.sampling.items() if key != "seed"}
    return {
        "model": model, "repository": told.repo_id, "commit": told.model_commit, "manifest": told.manifest_digest,
        "image": told.image, "prompt": told.prompt_sha256, "rubric": told.rubric, "rubric digest": told.rubric_sha256,
        "sampling": json.dumps(sampling, sort_keys=True), "loaded from": told.model_root,
        "client": told.client_version, "server": told.base_url}
