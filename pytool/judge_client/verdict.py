"""What comes back from the judge: a verdict, or the typed reason why there is none."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a judgement ended."""

    SCORED = "scored"
    UNSCORED = "unscored"  # the judge answered, and its answer is no verdict
    ERROR = "error"  # the judge could not be asked


class Reason(StrEnum):
    """Why there is no score."""

    REPLY_TRUNCATED = "REPLY_TRUNCATED"  # the judge ran into its token limit before it had finished
    REPLY_INVALID = "REPLY_INVALID"  # the reply breaks the schema
    REPLY_EMPTY = "REPLY_EMPTY"  # the server answered without a reply in it
    RESPONSE_INVALID = "RESPONSE_INVALID"  # what the server sent is no chat completion
    SERVER_UNREACHABLE = "SERVER_UNREACHABLE"
    SERVER_TIMEOUT = "SERVER_TIMEOUT"
    SERVER_DENIED = "SERVER_DENIED"  # 401 or 403
    SERVER_RATE_LIMITED = "SERVER_RATE_LIMITED"  # 429
    SERVER_FAILED = "SERVER_FAILED"  # 5xx
    REQUEST_REFUSED = "REQUEST_REFUSED"  # any other 4xx: too long a prompt, or no such endpoint
    WRONG_MODEL_SERVED = "WRONG_MODEL_SERVED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement. `score` is the judge's overall score from 1 to 10, and None whenever there is no verdict, never 0.

    `categories` holds all six scores by name. `reason` is a code for programs and `message` its sentence for people;
    both are None when scored. `latency_ms` covers the whole call. `provenance` says what gave the score: served model
    and commit, digests of prompt and rubric, sampling parameters, client version and time (UTC).
    """

    status: Status
    score: int | None = None
    categories: dict[str, int] = field(default_factory=dict)
    reasoning: str | None = None
    reason: Reason | None = None
    message: str | None = None
    model: str | None = None
    latency_ms: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values that JSON can hold."""
        return {**asdict(self), "status": str(self.status), "reason": self.reason and str(self.reason)}
