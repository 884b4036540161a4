"""Single results as a report lists them: what is said of each, in excerpts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from judge_client.pairs import Comparison
from judge_client.report.lines import ResultLine
from judge_client.report.text import SHORT, Excerpt, excerpt
from judge_client.verdict import Ground, Verdict

_ID_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Listed:
    """One result. `grounds` have the response that they are about (A, B, or nothing where there is one response)."""

    line: int
    id: str
    status: str
    score: int | None
    weighted_score: float | None
    winner: str | None
    orders: tuple[str | None, ...]
    latency_ms: float
    requests: int
    reason: str | None
    grounds: tuple[tuple[str, str, str], ...]
    shown_id: Excerpt
    found: tuple[Excerpt, ...]
    message: Excerpt | None
    texts: tuple[tuple[str, Excerpt], ...]
    reasonings: tuple[tuple[str, Excerpt], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values without the texts that were judged."""
        document: dict[str, Any] = {
            "line": self.line, "id": self.id, "status": self.status, "reason": self.reason,
            "latency_ms": self.latency_ms, "requests": self.requests,
            "grounds": [{"code": code, "found": found, **({"response": side} if side else {})}
                        for side, code, found in self.grounds]}
        if self.orders:
            return {**document, "winner": self.winner, "orders": list(self.orders)}
        return {**document, "score": self.score, "weighted_score": self.weighted_score}


def listed(line: ResultLine) -> Listed:
    """Return a line as it is listed. Excerpts of the responses show what made them suspect, where it stands in them."""
    result = line.result
    if isinstance(result, Comparison):
        sides: tuple[tuple[str, tuple[Ground, ...]], ...] = (("A", result.grounds[0]), ("B", result.grounds[1]))
        reasonings = [(f"Judge, {side} read first", text)
                      for side, text in zip("AB", result.reasonings, strict=True) if text]
        orders = tuple(one and str(one) for one in result.orders)
        winner, score, weighted = result.winner and str(result.winner), None, None
    else:
        sides = (("", result.grounds),)
        reasonings = [("Judge", result.reasoning)] if result.reasoning else []
        orders, winner, score, weighted = (), None, result.score, result.weighted_score
    texts = [] if line.prompt is None else [("Prompt", excerpt(line.prompt, SHORT * 2))]
    for (side, of), response in zip(sides, line.responses, strict=True):
        if response is not None:
            hit = next((one.found for one in of if one.found), "")
            texts.append((f"Answer {side}".strip(), excerpt(response, found=hit)))
    grounds = tuple((side, str(one.code), one.found) for side, of in sides for one in of)
    return Listed(
        line.number, line.id[:_ID_CHARACTERS], str(result.status), score, weighted, winner, orders,
        result.latency_ms, result.requests, result.reason and str(result.reason), grounds,
        shown_id=excerpt(line.id, SHORT), found=tuple(excerpt(found, SHORT * 2) for _, _, found in grounds),
        message=excerpt(result.message) if result.message else None, texts=tuple(texts),
        reasonings=tuple((label, excerpt(text)) for label, text in reasonings))


def grounds_of(result: Verdict | Comparison) -> list[Ground]:
    """Return all grounds of a result, of both responses where there are two."""
    if isinstance(result, Comparison):
        return [one for of in result.grounds for one in of]
    return list(result.grounds)
