"""Golden answers: what a judge says to fixed questions, and how far that is from what people accepted. All pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .config import GoldenItem

LOWEST, HIGHEST = 1, 10


class ReplyInvalid(ValueError):
    """The answer is no verdict; the message says what was found and what was wanted."""


@dataclass(frozen=True)
class Drift:
    """How far the answers are from the accepted scores: `mean` in points over all items and criteria, `worst` by id.

    Both are None where no item has accepted scores.
    """

    mean: float | None
    worst: str | None


def scores_of(completion: bytes, request: Mapping[str, Any]) -> dict[str, int]:
    """Return the scores in the answer to a golden request. Raises ReplyInvalid."""
    try:
        choice = json.loads(completion)["choices"][0]
        content, finish_reason = choice["message"]["content"], choice["finish_reason"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ReplyInvalid(f"no chat completion: {_shown(completion)}") from None
    if finish_reason != "stop" or not isinstance(content, str):
        raise ReplyInvalid(f"the judge did not end its answer itself (finish_reason {_shown(finish_reason)})")
    try:
        scores = json.loads(content, object_pairs_hook=_unique)["scores"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ReplyInvalid(f"no JSON with scores: {_shown(content)}") from None
    bounds = _bounds(request)
    if not isinstance(scores, dict) or not scores or (bounds and set(scores) != set(bounds)):
        raise ReplyInvalid(f"scores are {_shown(scores)}, wanted {', '.join(sorted(bounds)) or 'at least one'}")
    for name, score in scores.items():
        lowest, highest = bounds.get(name, (LOWEST, HIGHEST))
        # bool is a subclass of int: `true` must not count as 1.
        if type(score) is not int or not lowest <= score <= highest:
            raise ReplyInvalid(f"{name} is {_shown(score)}, wanted an integer from {lowest} to {highest}")
    return scores


def drift(answers: Iterable[tuple[GoldenItem, Mapping[str, int]]]) -> Drift:
    """Return how far the answers are from what was accepted. Raises ReplyInvalid if one lacks an accepted criterion."""
    distances: dict[str, list[int]] = {}
    for item, scores in answers:
        if item.accepted is None:
            continue
        missing = sorted(set(item.accepted) - set(scores))
        if missing:
            raise ReplyInvalid(f"golden answer {item.id} has no {', '.join(missing)}, which was accepted")
        distances[item.id] = [abs(scores[name] - accepted) for name, accepted in item.accepted.items()]
    if not distances:
        return Drift(None, None)
    all_of_them = [distance for one in distances.values() for distance in one]
    worst = max(distances, key=lambda name: sum(distances[name]) / len(distances[name]))
    return Drift(sum(all_of_them) / len(all_of_them), worst)


def _bounds(request: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the lowest and highest score of each criterion that the request's schema names; {} if it has none."""
    try:
        criteria = request["response_format"]["json_schema"]["schema"]["properties"]["scores"]["properties"]
        return {name: (one.get("minimum", LOWEST), one.get("maximum", HIGHEST)) for name, one in criteria.items()}
    except (LookupError, TypeError, AttributeError):
        return {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _shown(value: object) -> str:
    text = " ".join(ascii(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
