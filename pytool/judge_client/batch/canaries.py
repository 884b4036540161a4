"""Canaries: answers whose worth is known, sent among a batch's items, to tell when the judge no longer judges.

They only ever fail a batch as a whole: no verdict is changed for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from judge_client.errors import InputProblem

Expected = Literal["good", "bad"]

# A judge that tells them apart gives a good answer at least 7 of 10, and a bad one at most 4.
LEAST_GOOD: Final = 7
MOST_BAD: Final = 4
# What one canary's score may move by within a batch.
LARGEST_MOVE: Final = 2


@dataclass(frozen=True, slots=True)
class Canary:
    """An answer whose worth is known."""

    name: str
    expect: Expected
    original_prompt: str
    model_response: str


CANARIES: Final = (
    Canary("known good", "good", "What is 7 times 6?", "7 times 6 is 42, because six sevens add up to 42."),
    Canary("known bad", "bad", "What is 7 times 6?", "7 times 6 is 48."),
)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the judge said to a canary when `position` items were done.

    `ok` None: it gave no verdict, which says nothing about its scores.
    """

    name: str
    expect: Expected
    score: int | None
    ok: bool | None
    position: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"name": self.name, "expect": self.expect, "score": self.score, "ok": self.ok,
                "position": self.position}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Return what to_dict() wrote. Raises LookupError for anything else."""
        return cls(*(document[name] for name in ("name", "expect", "score", "ok", "position")))


def sightings(kept: Iterable[Mapping[str, Any]]) -> tuple[Sighting, ...]:
    """Return how each canary did, in the order of their positions, from what Sighting.to_dict() gave of each.

    Its score is held against what its kind should get, and against the first score that the batch has of it.
    """
    first: dict[str, int] = {}
    found = []
    for one in sorted((Sighting.from_dict(each) for each in kept), key=lambda one: one.position):
        score = one.score
        ok = None
        if score is not None:
            as_expected = score >= LEAST_GOOD if one.expect == "good" else score <= MOST_BAD
            ok = as_expected and abs(score - first.setdefault(one.name, score)) <= LARGEST_MOVE
        found.append(replace(one, ok=ok))
    return tuple(found)


def are_ok(sightings: Sequence[Sighting]) -> bool:
    """Tell whether every canary that got a verdict got the right one, and each got one at all."""
    judged = {one.name for one in sightings if one.ok is not None}
    return all(one.ok is not False for one in sightings) and judged == {one.name for one in sightings}


def drift(sightings: Sequence[Sighting]) -> str:
    """Return what is wrong with the canaries, in a sentence's part."""
    for one in sightings:
        if one.ok is False:
            wanted = f"at least {LEAST_GOOD}" if one.expect == "good" else f"at most {MOST_BAD}"
            first = next(other.score for other in sightings if other.name == one.name and other.score is not None)
            if first != one.score and first is not None and one.score is not None \
                    and abs(first - one.score) > LARGEST_MOVE:
                wanted += f" and no more than {LARGEST_MOVE} from the {first} it got first"
            return f"the canary {one.name!r} got {one.score} after {one.position} items, wanted {wanted}"
    names = sorted({one.name for one in sightings} - {one.name for one in sightings if one.ok is not None})
    return f"no canary {', '.join(map(repr, names))} got a verdict"


def read_canaries(path: Path | str) -> tuple[Canary, ...]:
    """Read canaries from JSONL: `name`, `expect` (good or bad), `original_prompt` and `model_response` in each line.

    Raises InputProblem (ITEMS_UNUSABLE).
    """
    found: list[Canary] = []
    hint = 'one a line: {"name": "sum", "expect": "good", "original_prompt": "2+2?", "model_response": "4"}'
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputProblem(f"{path} cannot be read: {error}", reason="ITEMS_UNUSABLE", hint=hint) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = [json.loads(line)[name] for name in ("name", "expect", "original_prompt", "model_response")]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputProblem(f"{path}, line {number}: {type(error).__name__} {error}, wanted a canary",
                               reason="ITEMS_UNUSABLE", hint=hint) from None
        if not all(isinstance(value, str) for value in values) or values[1] not in ("good", "bad"):
            raise InputProblem(f"{path}, line {number}: expect is {values[1]!r}, wanted good or bad, and texts",
                               reason="ITEMS_UNUSABLE", hint=hint)
        found.append(Canary(*values))
    if len({one.name for one in found}) < len(found) or not found:
        raise InputProblem(f"{path} holds {len(found)} canaries, wanted at least one, each with a name of its own",
                           reason="ITEMS_UNUSABLE", hint=hint)
    return tuple(found)
