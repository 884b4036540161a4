"""The reading of a judge's reply. That the server enforced the schema is not relied on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from judge_client.rubric import (
    DEFAULT_RUBRIC,
    HIGHEST,
    LOWEST,
    REASONING_MAX_CHARACTERS,
    REASONING_PATTERN,
    Rubric,
)


@dataclass(frozen=True)
class Reply:
    """A reply of the judge that holds to its rubric's schema; scores by criterion, overall last."""

    reasoning: str
    scores: dict[str, int]


class InvalidReply(ValueError):
    """The judge's reply breaks the schema; the message says where, what was found and what was wanted."""


def parse_reply(text: str, rubric: Rubric = DEFAULT_RUBRIC) -> Reply:
    """Read the judge's reply. Raises InvalidReply."""
    document = read_object(text, ("reasoning", "scores"))
    reasoning = checked_reasoning(document["reasoning"])
    scores = document["scores"]
    expect_keys(scores, rubric.names, "scores")
    for name, score in scores.items():
        # bool is a subclass of int: `true` must not count as 1.
        if type(score) is not int or not LOWEST <= score <= HIGHEST:
            raise InvalidReply(f"scores.{name} is {shown(score)}, wanted an integer from {LOWEST} to {HIGHEST}")
    return Reply(reasoning, {name: scores[name] for name in rubric.names})


def read_object(text: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return the JSON object in a reply, which must have these keys and no other. Raises InvalidReply."""
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except InvalidReply:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidReply(f"reply is not JSON: {error}; it starts with {text[:80]!r}") from None
    expect_keys(document, keys, "reply")
    found: dict[str, Any] = document
    return found


def checked_reasoning(value: object) -> str:
    """Return the reasoning. Raises InvalidReply unless it is as the schema wants it."""
    if not isinstance(value, str) or not re.fullmatch(REASONING_PATTERN, value):
        raise InvalidReply(
            f"reasoning is {shown(value)}, wanted 1 to {REASONING_MAX_CHARACTERS} printable ASCII characters "
            "without quote or backslash"
        )
    return value


def expect_keys(value: object, names: Sequence[str], what: str) -> None:
    """Raise InvalidReply unless `value` is an object with exactly these keys."""
    if not isinstance(value, dict):
        raise InvalidReply(f"{what} is {shown(value)}, wanted an object with {', '.join(names)}")
    missing = [name for name in names if name not in value]
    extra = [name for name in value if name not in names]
    if missing or extra:
        # A reply may hold thousands of keys: three tell enough.
        found = [*(f"no {name}" for name in missing), *(f"unknown {name[:40]!r}" for name in extra[:3])]
        raise InvalidReply(f"{what} has {', '.join(found)}, wanted exactly {', '.join(names)}")


def shown(value: object) -> str:
    """Return a value for a message, 80 characters at most."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for position, key in enumerate(keys) if key in keys[:position])
        raise InvalidReply(f"reply names a key twice: {twice[:40]!r}")
    return found


def _no_constant(name: str) -> None:
    raise InvalidReply(f"reply holds {name}, which is not JSON")
