"""Rounds: each item as often as asked, never more at a time than the window, and what came of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from judge_client import AsyncJudgeClient
from judge_client.calibration import GoldItem, Judged, judge_rounds
from judge_client.exchange import Answer, Request
from judge_client.judging import Judging
from judge_client.rubric import DEFAULT_RUBRIC
from judge_client.verdict import Ground, GroundCode, Provenance, Reason, Status, Verdict

SCORES = dict.fromkeys(DEFAULT_RUBRIC.names, 6)
GOLD = [GoldItem(f"i{number}", f"P{number}", f"R{number}", SCORES) for number in range(7)]


def verdict(score: int = 6, *, commit: str | None = "c1", suspect: bool = False) -> Verdict:
    provenance = Provenance("2026-01-01T00:00:00Z", "0", "http://judge", "p", "r", "d", {"temperature": 0.0},
                            model_commit=commit)
    grounds = (Ground(GroundCode.EMPTY, ""),) if suspect else ()
    return Verdict(Status.SCORED, score, categories={**SCORES, "overall": score}, model="judge", grounds=grounds,
                   provenance=provenance)


FAILED = Verdict(Status.ERROR, reason=Reason.SERVER_FAILED, message="answered 500")
CUT = Verdict(Status.UNSCORED, reason=Reason.REPLY_TRUNCATED, message="cut")


@dataclass
class FakeTransport:
    """A server whose score is the item's number and one more; remembers what it was asked, how many at a time."""

    asked: Counter[str] = field(default_factory=Counter)
    fences: set[str] = field(default_factory=set)
    now: int = 0
    most: int = 0

    async def close(self) -> None:
        return None

    async def send(self, request: Request) -> Answer:
        if request.method == "GET":
            return Answer(200, json.dumps({"object": "list", "data": [{"id": "judge", "root": "/models/judge"}]}))
        assert request.body is not None
        found = re.search(r"\[RESPONSE ([0-9a-f]+)\]\nR(\d+)\n", request.body["messages"][1]["content"])
        assert found is not None
        number = int(found[2])
        self.asked[f"R{number}"] += 1
        self.fences.add(found[1])
        self.now += 1
        self.most = max(self.most, self.now)
        # The later an item, the sooner it is done.
        await asyncio.sleep(0.01 / (1 + number))
        self.now -= 1
        reply = json.dumps({"reasoning": "Read.", "scores": dict.fromkeys(DEFAULT_RUBRIC.names, 1 + number)})
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        return Answer(200, json.dumps({"id": "x", "model": "judge", "choices": [choice]}))


def run(server: FakeTransport, rounds: int, window: int, progress: Callable[[int], None] | None = None) -> Judged:
    client = AsyncJudgeClient.of(Judging("http://judge"), server)
    return asyncio.run(judge_rounds(client, GOLD, rounds, window=window, progress=progress))


def test_every_item_is_judged_in_every_round_and_keeps_its_place() -> None:
    server, told = FakeTransport(), []
    judged = run(server, 3, 4, told.append)
    assert set(server.asked.values()) == {3} and len(server.asked) == 7
    assert [[one.score for one in each] for each in judged.rounds] == [list(range(1, 8))] * 3
    assert told == list(range(1, 22))


def test_no_judgement_is_asked_with_the_fence_of_another() -> None:
    server = FakeTransport()
    run(server, 3, 4)
    assert len(server.fences) == 21


def test_another_run_asks_every_round_with_the_same_fences() -> None:
    one, other = FakeTransport(), FakeTransport()
    run(one, 3, 4)
    run(other, 3, 4)
    assert one.fences == other.fences


def test_no_more_are_asked_at_a_time_than_the_window() -> None:
    server = FakeTransport()
    run(server, 1, 2)
    assert server.most == 2


def test_what_has_no_verdict_lowers_the_coverage_and_is_no_score() -> None:
    judged = Judged(GOLD[:2], DEFAULT_RUBRIC, [[verdict(7), FAILED], [verdict(8), CUT]])
    assert judged.coverage == 0.5
    assert (judged.count(Status.ERROR), judged.count(Status.UNSCORED)) == (1, 1)
    assert judged.reasons == {"SERVER_FAILED": 1, "REPLY_TRUNCATED": 1}
    assert [pair.judge is None for pair in judged.pairs] == [False, True]
    assert judged.by_item == {"i0": {**{name: [6, 6] for name in DEFAULT_RUBRIC.names}, "overall": [7, 8]}}


def test_the_agreement_is_that_of_the_first_round() -> None:
    judged = Judged(GOLD[:1], DEFAULT_RUBRIC, [[verdict(7)], [verdict(8)]])
    assert judged.pairs[0].judge is not None and judged.pairs[0].judge["overall"] == 7


def test_an_item_that_is_suspect_once_is_named_once() -> None:
    judged = Judged(GOLD[:2], DEFAULT_RUBRIC, [[verdict(), verdict()], [verdict(), verdict(suspect=True)]])
    assert judged.suspects == ["i1"]


def test_two_models_that_judge_in_turns_are_both_named() -> None:
    judged = Judged(GOLD[:2], DEFAULT_RUBRIC, [[verdict(), verdict(commit="c2")]])
    assert [source["model_commit"] for source in judged.sources] == ["c1", "c2"]


def test_a_baseline_says_who_judged_and_what() -> None:
    found = Judged(GOLD[:2], DEFAULT_RUBRIC, [[verdict(7), FAILED]]).baseline("mine.jsonl")
    assert (found.model, found.model_commit, found.gold, found.rounds) == ("judge", "c1", "mine.jsonl", 1)
    assert (found.rubric, found.rubric_sha256) == ("answer-quality", DEFAULT_RUBRIC.digest)
    assert found.sampling == {"temperature": 0.0}
    assert list(found.scores) == ["i0"]


def test_nothing_that_was_judged_is_nothing_to_accept() -> None:
    with pytest.raises(ValueError, match="nothing to accept"):
        Judged(GOLD[:1], DEFAULT_RUBRIC, [[FAILED]]).baseline("mine.jsonl")
