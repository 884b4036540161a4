"""How far a judge agrees with itself when it is asked the same again, between other marker lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from judge_client.calibration import statistics
from judge_client.calibration.statistics import Estimate, need_statistics

ONE_ROUND = "every item was judged once"


def repeatability(rounds: Sequence[Sequence[Mapping[str, int] | None]], names: Sequence[str]) -> dict[str, Any]:
    """Return how alike the rounds are, as plain values that JSON can hold.

    `rounds` has, for each round, the scores of every item in the same order, None where there is no verdict. Only items
    with a verdict in every round count (`items`). `verdicts_identical` is the share of items with all scores the same
    in every round; `criteria` has for each name the share with this score the same (`identical`), and the mean over
    items of the distance between two rounds in points (`mean_absolute_difference`); each an Estimate.to_dict().
    """
    need_statistics()
    complete = [scores for item in zip(*rounds, strict=True)
                if len(scores := [one for one in item if one is not None and all(name in one for name in names)])
                == len(rounds)]
    if len(rounds) < 2:
        nothing = Estimate(None, reason=ONE_ROUND).to_dict()
        return {"rounds": len(rounds), "items": len(complete), "verdicts_identical": nothing,
                "criteria": {name: {"identical": nothing, "mean_absolute_difference": nothing} for name in names}}
    same = sum(all(len({one[name] for one in item}) == 1 for name in names) for item in complete)
    return {"rounds": len(rounds), "items": len(complete),
            "verdicts_identical": statistics.share(same, len(complete)).to_dict(),
            "criteria": {name: _criterion([[one[name] for one in item] for item in complete]) for name in names}}


def _criterion(items: Sequence[Sequence[int]]) -> dict[str, Any]:
    same = sum(len(set(scores)) == 1 for scores in items)
    return {"identical": statistics.share(same, len(items)).to_dict(),
            "mean_absolute_difference": statistics.mean([_distance(scores) for scores in items]).to_dict()}


def _distance(scores: Sequence[int]) -> float:
    """Return the mean distance between two of an item's rounds."""
    apart = [abs(one - other) for one, other in combinations(scores, 2)]
    return sum(apart) / len(apart)
