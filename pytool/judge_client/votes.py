"""Several votes on the same texts, made one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from judge_client.rubric import OVERALL, Rubric
from judge_client.verdict import Ground, GroundCode, Reason, Status, Verdict, several_models

# Votes on one criterion that are further apart than this say that the judge does not know.
LARGEST_SPREAD = 2


def check_votes(votes: int) -> None:
    """Raise ValueError unless so many votes have a median: an odd number from 1 to 15."""
    if type(votes) is not int or not 1 <= votes <= 15 or votes % 2 == 0:
        raise ValueError(f"votes is {votes!r}, wanted an odd number from 1 to 15")


def combine(votes: Sequence[Verdict], rubric: Rubric) -> Verdict:
    """Return the verdict of all votes: the median of each criterion, and the reasoning of the vote closest to it.

    Less than half of them scored is no verdict (VOTES_MISSING), and neither are votes of two models. Of the same
    number above and below, the lower median counts, so that each score is one that was given.
    """
    scored = [vote for vote in votes if vote.status is Status.SCORED]
    first = votes[0]
    seen = tuple(dict(vote.categories) if vote.status is Status.SCORED else None for vote in votes)
    sums: dict[str, Any] = {"latency_ms": round(sum(vote.latency_ms for vote in votes), 1),
                            "requests": sum(vote.requests for vote in votes), "votes": seen}
    if 2 * len(scored) < len(votes):
        failed = next(vote for vote in votes if vote.status is not Status.SCORED)
        message = f"{len(scored)} of {len(votes)} votes are scored; one that is not: {failed.reason}: {failed.message}"
        return replace(failed, reason=Reason.VOTES_MISSING, message=message, **sums)
    if mixed := several_models(vote.provenance for vote in scored):
        return replace(first, status=Status.ERROR, score=None, weighted_score=None, categories={}, reasoning=None,
                       reason=Reason.WRONG_MODEL_SERVED, message=mixed, **sums)
    middle = (len(scored) - 1) // 2
    scores = {name: sorted(vote.categories[name] for vote in scored)[middle] for name in rubric.names}
    closest = min(scored, key=lambda vote: sum(abs(vote.categories[name] - scores[name]) for name in rubric.names))
    apart = {name: max(vote.categories[name] for vote in scored) - min(vote.categories[name] for vote in scored)
             for name in rubric.names}
    disagree = tuple(Ground(GroundCode.VOTES_DISAGREE, f"{name}: {apart[name]} points") for name in rubric.names
                     if apart[name] > LARGEST_SPREAD)
    return replace(closest, score=scores[OVERALL], weighted_score=rubric.weighted(scores), categories=scores,
                   grounds=(*first.grounds, *disagree), **sums)
