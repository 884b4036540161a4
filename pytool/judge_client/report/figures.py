"""The figures of a report, from results that go by once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from judge_client.calibration.statistics import CONFIDENCE, wilson
from judge_client.pairs import Comparison, Winner
from judge_client.report.items import Listed, grounds_of, listed
from judge_client.report.lines import MAX_CRITERIA, ResultLine
from judge_client.report.tallies import Latencies, Scores, Sources, Top
from judge_client.rubric import HIGHEST, LOWEST, OVERALL
from judge_client.verdict import Status, Verdict

SUSPECTS_LISTED: Final = 25
LOWEST_LISTED: Final = 15
SLOWEST_LISTED: Final = 10
GAPS_LISTED: Final = 5
DISAGREEING_LISTED: Final = 15
EXAMPLES: Final = 3
# Repeats from here on are one class.
MOST_REPEATS: Final = 10


@dataclass(frozen=True)
class Spread:
    """How the scores of one criterion lie: `counts` of the scores 1 to 10."""

    name: str
    counts: tuple[int, ...]
    n: int
    mean: float
    median: float
    interval: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"n": self.n, "mean": round(self.mean, 4), "median": self.median, "counts": list(self.counts),
                "interval": self.interval and [round(end, 4) for end in self.interval]}


@dataclass(frozen=True)
class Weighed:
    """The judge's overall score beside the weighted one: `grid[overall - 1][weighted, rounded - 1]` counts items."""

    n: int
    grid: tuple[tuple[int, ...], ...]
    mean_difference: float
    within_one: float
    widest: tuple[Listed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"n": self.n, "mean_difference": round(self.mean_difference, 4), "within_one": round(self.within_one, 4),
                "grid": [list(row) for row in self.grid], "widest": [one.to_dict() for one in self.widest]}


@dataclass(frozen=True)
class Share:
    """A part of a whole, with its 95 % interval (Wilson), from 0 to 1."""

    count: int
    value: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"count": self.count, "share": round(self.value, 4),
                "interval": [round(end, 4) for end in self.interval]}


@dataclass(frozen=True)
class Pairs:
    """Comparisons: how often A won, B won and neither, and what the places did where the two orders disagreed."""

    n: int
    a: Share
    b: Share
    tie: Share
    consistent: Share
    favours_first: int
    favours_second: int
    disagreeing: tuple[Listed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"n": self.n, "confidence": CONFIDENCE, "a": self.a.to_dict(), "b": self.b.to_dict(),
                "tie": self.tie.to_dict(), "consistent": self.consistent.to_dict(),
                "favours_first": self.favours_first, "favours_second": self.favours_second,
                "disagreeing": [one.to_dict() for one in self.disagreeing]}


@dataclass(frozen=True)
class Figures:
    """Everything that a report says of the lines of one results file.

    `spreads` are by criterion, overall first. `out_of_place` counts lines whose index does not follow the one before.
    `repeats` counts items by the requests beyond those that an item needs at least.
    """

    kind: str
    total: int
    scored: int
    unscored: int
    errored: int
    cut_line: int | None
    out_of_place: int
    without_texts: bool
    spreads: tuple[Spread, ...]
    weighed: Weighed | None
    pairs: Pairs | None
    reasons: tuple[tuple[str, int, tuple[Listed, ...]], ...]
    suspects: int
    grounds: tuple[tuple[str, int], ...]
    suspect_items: tuple[Listed, ...]
    suspects_mean: float | None
    others_mean: float | None
    lowest: tuple[Listed, ...]
    slowest: tuple[Listed, ...]
    latency: Mapping[str, float] | None
    requests: int
    repeats: tuple[tuple[int, int], ...]
    sources: Mapping[str, Sequence[tuple[str | None, int]]]
    mixed: tuple[str, ...]
    span: tuple[str, str] | None

    @property
    def coverage(self) -> float:
        """The share of the lines that have a verdict."""
        return self.scored / self.total

    @property
    def overall(self) -> Spread | None:
        """The spread of the overall score; None without any."""
        return next((one for one in self.spreads if one.name == OVERALL), None)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, without any judged text."""
        return {
            "kind": self.kind, "total": self.total, "scored": self.scored, "unscored": self.unscored,
            "errored": self.errored, "coverage": round(self.coverage, 6), "cut_line": self.cut_line,
            "out_of_place": self.out_of_place, "confidence": CONFIDENCE,
            "criteria": {one.name: one.to_dict() for one in self.spreads},
            "overall_and_weighted": self.weighed and self.weighed.to_dict(),
            "comparisons": self.pairs and self.pairs.to_dict(),
            "reasons": {code: count for code, count, _ in self.reasons}, "suspects": self.suspects,
            "grounds": dict(self.grounds), "suspects_mean": _rounded(self.suspects_mean),
            "others_mean": _rounded(self.others_mean), "latency_ms": self.latency, "requests": self.requests,
            "repeats": {str(repeats): count for repeats, count in self.repeats},
            "suspect_items": [one.to_dict() for one in self.suspect_items],
            "lowest": [one.to_dict() for one in self.lowest], "slowest": [one.to_dict() for one in self.slowest],
            "provenance": {name: [{"value": value, "count": count} for value, count in values]
                           for name, values in self.sources.items()},
            "mixed": list(self.mixed), "span": self.span and list(self.span)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


@dataclass
class Collector:
    """Takes lines one by one; `figures()` says what they come to. Its size does not grow with their number."""

    lines: int = 0
    _statuses: Counter[Status] = field(default_factory=Counter)
    _expected_index: int = 0
    _out_of_place: int = 0
    _texts: int = 0
    _scores: dict[str, Scores] = field(default_factory=lambda: defaultdict(Scores))
    _grid: list[list[int]] = field(default_factory=lambda: [[0] * HIGHEST for _ in range(HIGHEST)])
    _difference: float = 0.0
    _within_one: int = 0
    _weighed: int = 0
    _winners: Counter[Winner] = field(default_factory=Counter)
    _consistent: int = 0
    _places: Counter[str] = field(default_factory=Counter)
    _reasons: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, list[Listed]] = field(default_factory=lambda: defaultdict(list))
    _grounds: Counter[str] = field(default_factory=Counter)
    _suspects: int = 0
    _by_suspicion: dict[bool, Scores] = field(default_factory=lambda: {True: Scores(), False: Scores()})
    _latencies: Latencies = field(default_factory=Latencies)
    _requests: int = 0
    _repeats: Counter[int] = field(default_factory=Counter)
    _sources: Sources = field(default_factory=Sources)
    _kind: str = "judgements"
    _widest: Top[Listed] = field(default_factory=lambda: Top(GAPS_LISTED))
    _suspect_items: Top[Listed] = field(default_factory=lambda: Top(SUSPECTS_LISTED))
    _lowest: Top[Listed] = field(default_factory=lambda: Top(LOWEST_LISTED))
    _slowest: Top[Listed] = field(default_factory=lambda: Top(SLOWEST_LISTED))
    _disagreeing: Top[Listed] = field(default_factory=lambda: Top(DISAGREEING_LISTED))

    def add(self, line: ResultLine) -> None:
        """Count one line."""
        result = line.result
        scored = result.status is Status.SCORED
        self.lines += 1
        self._statuses[result.status] += 1
        self._texts += any(text is not None for text in line.responses)
        if line.index is not None:
            self._out_of_place += line.index != self._expected_index
            self._expected_index = line.index + 1
        self._sources.add(result.model, result.provenance, scored=scored)
        if result.requests:
            self._latencies.add(result.latency_ms)
            self._slowest.offer(result.latency_ms, lambda: listed(line))
        self._requests += result.requests
        if isinstance(result, Comparison):
            self._kind = "comparisons"
            self._add_comparison(line, result)
            needed = 2
        else:
            self._add_verdict(line, result)
            needed = max(1, len(result.votes))
        self._repeats[min(max(0, result.requests - needed), MOST_REPEATS)] += 1
        if not scored:
            code = str(result.reason)
            self._reasons[code] += 1
            examples = self._examples[code]
            if len(examples) < EXAMPLES:
                example = listed(line)
                if all(one.message != example.message for one in examples):
                    examples.append(example)
        grounds = grounds_of(result)
        if grounds:
            self._suspects += 1
            self._grounds.update({str(one.code) for one in grounds})
            # A suspect answer with a high score is the one to look at.
            rank = result.score if isinstance(result, Verdict) else scored
            self._suspect_items.offer(rank or 0, lambda: listed(line))

    def _add_verdict(self, line: ResultLine, verdict: Verdict) -> None:
        if verdict.score is None:
            return
        self._scores[OVERALL].add(verdict.score)
        for name, score in verdict.categories.items():
            if name != OVERALL and (name in self._scores or len(self._scores) < MAX_CRITERIA):
                self._scores[name].add(score)
        self._by_suspicion[verdict.suspect].add(verdict.score)
        weighted = verdict.weighted_score
        self._lowest.offer((-verdict.score, -(weighted or verdict.score)), lambda: listed(line))
        if weighted is not None:
            self._weighed += 1
            self._grid[verdict.score - LOWEST][int(weighted + 0.5) - LOWEST] += 1
            gap = verdict.score - weighted
            self._difference += gap
            self._within_one += abs(gap) <= 1
            self._widest.offer(abs(gap), lambda: listed(line))

    def _add_comparison(self, line: ResultLine, result: Comparison) -> None:
        if result.winner is None:
            return
        self._winners[result.winner] += 1
        if result.consistent:
            self._consistent += 1
            return
        if result.orders == (Winner.A, Winner.B):
            self._places["first"] += 1
        elif result.orders == (Winner.B, Winner.A):
            self._places["second"] += 1
        self._disagreeing.offer(0, lambda: listed(line))

    def figures(self, cut_line: int | None = None) -> Figures:
        """Return what the lines come to. Raises ValueError without any."""
        if not self.lines:
            raise ValueError("no line, no figures")
        names = sorted(self._scores, key=lambda name: name != OVERALL)
        return Figures(
            kind=self._kind, total=self.lines, scored=self._statuses[Status.SCORED],
            unscored=self._statuses[Status.UNSCORED], errored=self._statuses[Status.ERROR], cut_line=cut_line,
            out_of_place=self._out_of_place, without_texts=not self._texts,
            spreads=tuple(_spread(name, self._scores[name]) for name in names),
            weighed=self._overall_and_weighted(), pairs=self._pairs(),
            reasons=tuple((code, count, tuple(self._examples[code])) for code, count in self._reasons.most_common()),
            suspects=self._suspects, grounds=tuple(self._grounds.most_common()),
            suspect_items=self._suspect_items.ranked(), suspects_mean=self._by_suspicion[True].mean,
            others_mean=self._by_suspicion[False].mean, lowest=self._lowest.ranked(), slowest=self._slowest.ranked(),
            latency=self._latencies.told(), requests=self._requests, repeats=tuple(sorted(self._repeats.items())),
            sources=self._sources.values(), mixed=tuple(self._sources.mixed()), span=self._sources.span())

    def _overall_and_weighted(self) -> Weighed | None:
        if not self._weighed:
            return None
        return Weighed(self._weighed, tuple(tuple(row) for row in self._grid), self._difference / self._weighed,
                       self._within_one / self._weighed, self._widest.ranked())

    def _pairs(self) -> Pairs | None:
        n = self._winners.total()
        if not n:
            return None
        a, b, tie, consistent = (_share(count, n) for count in (
            self._winners[Winner.A], self._winners[Winner.B], self._winners[Winner.TIE], self._consistent))
        return Pairs(n, a, b, tie, consistent, self._places["first"], self._places["second"],
                     self._disagreeing.ranked())


def collect(lines: Iterable[ResultLine]) -> Collector:
    """Return a collector that has seen all lines."""
    collector = Collector()
    for line in lines:
        collector.add(line)
    return collector


def _spread(name: str, scores: Scores) -> Spread:
    assert scores.mean is not None and scores.median is not None, "a criterion is known by its first score"
    return Spread(name, tuple(scores.counts), scores.n, scores.mean, scores.median, scores.interval())


def _share(count: int, n: int) -> Share:
    return Share(count, count / n, wilson(count, n))
