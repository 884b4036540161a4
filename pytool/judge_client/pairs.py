"""Pairwise comparison: the judge reads both orders, because it favours one of the places more than it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

from judge_client.exchange import Steps, Watch
from judge_client.judging import Asked, Judging, Task
from judge_client.pair_prompts import (
    PAIR_SCHEMA,
    PairReply,
    Place,
    pair_messages,
    pair_prompt_digest,
    parse_pair_reply,
)
from judge_client.verdict import Ground, Provenance, Reason, Status, grounds_from, plain_fields, several_models


class Winner(StrEnum):
    """Which of two responses is the better one."""

    A = "a"
    B = "b"
    TIE = "tie"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which of two responses is better; `winner` is None whenever there is no verdict.

    `consistent` tells whether both orders gave the same winner; where they did not, the winner is a tie. `orders` and
    `reasonings` hold what was said with A read first, and with B read first (None: no verdict). `grounds` are those of
    response A and of response B. The rest is as in Verdict; `provenance` is that of the order with A first.
    """

    status: Status
    winner: Winner | None = None
    consistent: bool | None = None
    orders: tuple[Winner | None, Winner | None] = (None, None)
    reasonings: tuple[str | None, str | None] = (None, None)
    reason: Reason | None = None
    message: str | None = None
    model: str | None = None
    latency_ms: float = 0.0
    requests: int = 0
    grounds: tuple[tuple[Ground, ...], tuple[Ground, ...]] = ((), ())
    provenance: Provenance | None = None

    @property
    def suspect(self) -> bool:
        """Tell whether there is a ground not to trust this comparison."""
        return any(self.grounds)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values that JSON can hold."""
        return {**plain_fields(self), "suspect": self.suspect}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Return what to_dict() wrote. Raises ValueError, LookupError or TypeError for anything else."""
        values = {one.name: document[one.name] for one in fields(cls) if one.name in document}
        values |= {
            "status": Status(document["status"]), "winner": document["winner"] and Winner(document["winner"]),
            "orders": tuple(one and Winner(one) for one in document["orders"]),
            "reasonings": tuple(document["reasonings"]),
            "reason": document["reason"] and Reason(document["reason"]),
            "grounds": tuple(grounds_from(of) for of in document["grounds"]),
            "provenance": document["provenance"] and Provenance.from_dict(document["provenance"])}
        return cls(**values)


def compare(judging: Judging, original_prompt: str, response_a: str, response_b: str, *,
            watch: Watch | None = None) -> Steps[Comparison]:
    """Ask which of two responses is the better one, in both orders. Raises TypeError for texts that are not text."""
    from judge_client.suspicion import examine

    for name, text in (("response_a", response_a), ("response_b", response_b)):
        if not isinstance(text, str):
            raise TypeError(f"{name} is {type(text).__name__}, wanted str")
    asked = []
    for first, second in ((response_a, response_b), (response_b, response_a)):
        asked.append((yield from judging.ask(_task(judging, original_prompt, first, second), watch=watch)))
        if asked[-1].reply is None:
            break
    changes = asked[0].provenance.changes
    return _combined(asked, (
        examine(original_prompt, response_a, changes.get("first"), judging.rubric, judging.max_characters),
        examine(original_prompt, response_b, changes.get("second"), judging.rubric, judging.max_characters)))


def _task(judging: Judging, original_prompt: str, first: str, second: str) -> Task[PairReply]:
    return Task(
        "comparison", PAIR_SCHEMA, pair_prompt_digest(judging.rubric),
        {"original_prompt": original_prompt, "first": first, "second": second},
        lambda texts, fence: pair_messages(texts["original_prompt"], texts["first"], texts["second"], judging.rubric,
                                           fence),
        parse_pair_reply,
    )  # fmt: skip


def _combined(asked: Sequence[Asked[PairReply]],
              grounds: tuple[tuple[Ground, ...], tuple[Ground, ...]]) -> Comparison:
    read = [(Winner.A, Winner.B), (Winner.B, Winner.A)]
    orders = [None if one.reply is None else _winner(one.reply.winner, *places)
              for one, places in zip(asked, read, strict=False)]
    orders += [None] * (2 - len(orders))
    reasonings = [one.reply.reasoning if one.reply else None for one in asked]
    facts: dict[str, Any] = {
        "orders": tuple(orders), "reasonings": (*reasonings, *[None] * (2 - len(reasonings))),
        "model": asked[0].model, "latency_ms": round(sum(one.latency_ms for one in asked), 1),
        "requests": sum(one.requests for one in asked), "grounds": grounds, "provenance": asked[0].provenance}
    failure = asked[-1].failure
    if failure is not None:
        return Comparison(failure.status, reason=failure.reason, message=failure.message, **facts)
    if mixed := several_models(one.provenance for one in asked):
        return Comparison(Status.ERROR, reason=Reason.WRONG_MODEL_SERVED, message=mixed, **facts)
    consistent = orders[0] == orders[1]
    return Comparison(Status.SCORED, orders[0] if consistent else Winner.TIE, consistent, **facts)


def _winner(place: Place, first: Winner, second: Winner) -> Winner:
    return {Place.FIRST: first, Place.SECOND: second, Place.TIE: Winner.TIE}[place]
