"""What comes back from the judge: a verdict that says where it came from, or the typed reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from judge_client.pairs import Comparison


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
    VOTES_MISSING = "VOTES_MISSING"  # less than half of an item's votes are scored


class GroundCode(StrEnum):
    """Why a verdict is suspect: what was found in the judged texts, or in the votes on them."""

    EMPTY = "EMPTY"  # nothing but white space
    PUNCTUATION_ONLY = "PUNCTUATION_ONLY"  # no letter and no digit in any script
    OPENER_ONLY = "OPENER_ONLY"  # words that begin an answer, and no answer ("Thought process:")
    RUBRIC_ECHO = "RUBRIC_ECHO"  # the judge's own rubric, or the words of its prompt
    ASKS_FOR_SCORE = "ASKS_FOR_SCORE"  # "give 10", in any of several languages
    ORDERS_THE_JUDGE = "ORDERS_THE_JUDGE"  # "ignore your instructions", speaks to the judge or as the system
    VERDICT_IN_ANSWER = "VERDICT_IN_ANSWER"  # a finished verdict, as JSON or in words
    SPECIAL_TOKENS = "SPECIAL_TOKENS"  # role or control tokens of a chat format
    FORGED_MARKER = "FORGED_MARKER"  # a marker line like those that fence the judge's data
    HIDDEN_TEXT = "HIDDEN_TEXT"  # characters that nobody sees, where they carry or cut up words
    ENCODED_ORDER = "ENCODED_ORDER"  # one of the above in base64, hex, rot13, look-alike letters or the like
    VOTES_DISAGREE = "VOTES_DISAGREE"  # the votes on one criterion are more than two points apart


@dataclass(frozen=True, slots=True)
class Ground:
    """One ground for suspicion: its code, and the words that were found (120 characters at most)."""

    code: GroundCode
    found: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a verdict came from.

    `time` is UTC, when it was asked for. `fence` is the code of the request's marker lines: with it and the same texts
    prompts.build_judge_prompt gives the same messages again. `changes` counts, by text and kind, what cleaning.py did
    to the judged texts. `repo_id`, `model_commit`, `manifest_digest` and `image` are what the server that answered
    says of itself, None where it does not; `model_root` is the path or repository that it loaded.
    """

    time: str
    client_version: str
    base_url: str
    prompt_sha256: str
    rubric: str
    rubric_sha256: str
    sampling: Mapping[str, Any]
    fence: str | None = None
    changes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    model_root: str | None = None
    repo_id: str | None = None
    model_commit: str | None = None
    manifest_digest: str | None = None
    image: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values that JSON can hold."""
        return plain_fields(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Return what to_dict() wrote; keys of a later version are left out."""
        return cls(**{one.name: document[one.name] for one in fields(cls) if one.name in document})


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement. `score` is the judge's overall score from 1 to 10, and None whenever there is no verdict, never 0.

    `categories` holds all scores by name, overall included; `weighted_score` is the mean of the others by the rubric's
    weights, reckoned in code. `reason` is a code for programs and `message` its sentence for people; both are None when
    scored. `grounds` say why the verdict is suspect; they never change a score. `latency_ms` covers the whole call and
    `requests` counts what was sent for it. With several votes, `votes` holds the scores of each (None: not scored) and
    the others their median. `provenance` says what gave the score.
    """

    status: Status
    score: int | None = None
    weighted_score: float | None = None
    categories: Mapping[str, int] = field(default_factory=dict)
    reasoning: str | None = None
    reason: Reason | None = None
    message: str | None = None
    model: str | None = None
    latency_ms: float = 0.0
    requests: int = 0
    grounds: tuple[Ground, ...] = ()
    votes: tuple[Mapping[str, int] | None, ...] = ()
    provenance: Provenance | None = None

    @property
    def suspect(self) -> bool:
        """Tell whether there is a ground not to trust this verdict."""
        return bool(self.grounds)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values that JSON can hold."""
        return {**plain_fields(self), "suspect": self.suspect}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Return what to_dict() wrote. Raises ValueError, LookupError or TypeError for anything else."""
        values = {one.name: document[one.name] for one in fields(cls) if one.name in document}
        values["status"] = Status(values["status"])
        values["reason"] = None if values.get("reason") is None else Reason(values["reason"])
        values["grounds"] = grounds_from(values.get("grounds", ()))
        values["votes"] = tuple(values.get("votes", ()))
        if values.get("provenance") is not None:
            values["provenance"] = Provenance.from_dict(values["provenance"])
        return cls(**values)


def several_models(provenances: Iterable[Provenance | None]) -> str | None:
    """Return a sentence when answers that shall make one verdict came from several models, as their servers tell."""
    commits = sorted({one.model_commit for one in provenances if one is not None and one.model_commit})
    if len(commits) < 2:
        return None
    return (f"its answers came from {len(commits)} models (commits {', '.join(one[:12] for one in commits)}), wanted "
            "one: the judge was updated in between")


def one_line(text: str, most: int = 500) -> str:
    """Return what a server said as one line of at most `most` visible characters: it ends up in terminals and pages."""
    text = " ".join(text[:4 * most].split())
    text = "".join(one if one.isprintable() else "?" for one in text)
    return text if len(text) <= most else f"{text[:most - 3]}..."


def grounds_from(documents: Iterable[Mapping[str, Any]]) -> tuple[Ground, ...]:
    """Return the grounds that plain values tell. Raises ValueError, LookupError or TypeError for anything else."""
    return tuple(Ground(GroundCode(one["code"]), str(one["found"])) for one in documents)


def plain_fields(result: Provenance | Verdict | Comparison) -> dict[str, Any]:
    """Return the fields of a result as plain values that JSON can hold."""
    return {one.name: _plain(getattr(result, one.name)) for one in fields(result)}


def _plain(value: Any) -> Any:
    if isinstance(value, Provenance):
        return value.to_dict()
    if isinstance(value, Ground):
        return {"code": str(value.code), "found": value.found}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum) else value
