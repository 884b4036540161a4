"""Figures with what is known of their error: the value, a bootstrap interval over items, or why there is none.

The values are those of scipy and scikit-learn. Nothing here is ever NaN: what is not defined is None, with a sentence.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from judge_client.errors import InputProblem
from judge_client.rubric import HIGHEST, LOWEST

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Statistic = Callable[..., Any]

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2000
SEED: Final = 0
# A rank correlation of fewer items is a matter of luck, and so is an interval that is drawn from so few.
FEWEST_FOR_AGREEMENT: Final = 5
FEWEST_FOR_INTERVALS: Final = 10
# Where more of the resamples have no value than this, the rest are no fair sample of what could have been.
MOST_UNDEFINED: Final = 0.05

NO_SPREAD: Final = "every resample gives the same value, which says nothing about its error"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval. `reason` says why the value or the interval is None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values that JSON can hold."""
        return {"value": self.value, "low": self.low, "high": self.high, "reason": self.reason}


def need_statistics() -> None:
    """Import scipy and scikit-learn. Raises InputProblem EVALUATION_MISSING, with what to install."""
    try:
        for module in ("scipy.stats", "sklearn.metrics"):
            import_module(module)
    except ImportError as error:
        raise InputProblem(f"agreement is reckoned by scipy and scikit-learn, and {error.name or error} is not "
                           "installed", reason="EVALUATION_MISSING",
                           hint="pip install 'judge-bootstrap[evaluation]'") from error


def spearman(gold: Sequence[float], judge: Sequence[float]) -> Estimate:
    """Return Spearman's rank correlation, from -1 to 1; ties share their mean rank."""
    import scipy.stats

    missing = _too_few(gold) or _constant(gold, "the gold scores are") or _constant(judge, "the judge's scores are")
    if missing:
        return Estimate(None, reason=missing)
    return _estimate(float(scipy.stats.spearmanr(gold, judge).statistic), (gold, judge), rank_correlations)


def rank_correlations(one: Array, other: Array, axis: int = -1) -> Any:
    """Return Spearman's correlations along an axis: Pearson's of the ranks. spearmanr takes one pair of lists."""
    import scipy.stats

    ranks = [scipy.stats.rankdata(scores, axis=axis) for scores in (one, other)]
    return scipy.stats.pearsonr(*ranks, axis=axis).statistic


def weighted_kappa(gold: Sequence[int], judge: Sequence[int]) -> Estimate:
    """Return Cohen's kappa with quadratic weights over the scores 1 to 10: 1 = the same, 0 = as chance would have it.

    Unlike a correlation it falls when the judge is generous or strict throughout.
    """
    from sklearn.metrics import cohen_kappa_score

    missing = _too_few(gold)
    if not missing and len({*gold, *judge}) == 1:
        missing = f"both gave every item the score {gold[0]}: chance alone would agree as well"
    if missing:
        return Estimate(None, reason=missing)
    labels = list(range(LOWEST, HIGHEST + 1))
    value = float(cohen_kappa_score(gold, judge, labels=labels, weights="quadratic"))
    return _estimate(value, (gold, judge), weighted_kappas)


def weighted_kappas(one: Array, other: Array, axis: int = -1) -> Any:
    """Return the kappas along an axis, by moments: 1 - E(x-y)^2 / E(x-y')^2, where y' is drawn apart from x.

    The same numbers as scikit-learn's, which makes a table of counts for each: seconds for thousands of resamples.
    """
    seen = ((one - other) ** 2).mean(axis)
    by_chance = (one**2).mean(axis) + (other**2).mean(axis) - 2 * one.mean(axis) * other.mean(axis)
    return 1 - seen / by_chance


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of one value an item."""
    if not values:
        return Estimate(None, reason="no item has a score")
    return _estimate(math.fsum(values) / len(values), (values,), lambda sample, axis=-1: sample.mean(axis))


def share(hits: int, of: int) -> Estimate:
    """Return a share with Wilson's interval."""
    if of == 0:
        return Estimate(None, reason="no item has a score in every round")
    low, high = wilson(hits, of)
    return Estimate(_rounded(hits / of), _rounded(low), _rounded(high))


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Return the interval of a share, from 0 to 1 (Wilson's)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, of).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def _estimate(value: float, samples: Sequence[Sequence[float]], statistic: Statistic) -> Estimate:
    """Return a value with its bootstrap interval: items are drawn again, each with all that belongs to it.

    The interval is BCa's; where BCa is not defined, it is the percentiles'.
    """
    import numpy as np
    from scipy.stats import bootstrap

    value = _rounded(value)
    if len(samples[0]) < FEWEST_FOR_INTERVALS:
        found = f"{len(samples[0])} items, wanted {FEWEST_FOR_INTERVALS} for an interval"
        return Estimate(value, reason=found)
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    with _undefined_allowed():
        result = bootstrap(arrays, statistic, paired=True, vectorized=True, confidence_level=CONFIDENCE,
                           n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(SEED))
    drawn = np.asarray(result.bootstrap_distribution)
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < (1 - MOST_UNDEFINED) * RESAMPLES:
        return Estimate(value, reason="too few items differ: many of the resamples have no value")
    if np.ptp(defined) < 1e-9:
        return Estimate(value, reason=NO_SPREAD)
    low, high = map(float, result.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        edge = 100 * (1 - CONFIDENCE) / 2
        low, high = map(float, np.percentile(defined, [edge, 100 - edge]))
    return Estimate(value, _rounded(low), _rounded(high))


@contextmanager
def _undefined_allowed() -> Iterator[None]:
    """A resample in which nothing differs is no failure: scipy's and numpy's warnings about it are not passed on."""
    import numpy as np

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _too_few(scores: Sequence[float]) -> str | None:
    if len(scores) >= FEWEST_FOR_AGREEMENT:
        return None
    return f"{len(scores)} items have both scores, wanted {FEWEST_FOR_AGREEMENT}"


def _constant(scores: Sequence[float], whose: str) -> str | None:
    return f"{whose} all {scores[0]}: there is no order to compare" if len(set(scores)) == 1 else None


def _rounded(value: float) -> float:
    # + 0.0: a rounded -0.00001 would be printed as -0.0.
    return round(float(value), 4) + 0.0
