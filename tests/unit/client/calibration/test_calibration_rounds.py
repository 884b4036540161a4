"""Rounds: each item as often as asked, never more at a time than the window, and what came of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from judge_client.calibration import GoldItem, Judged, judge_rounds
from judge_client.rubric import DEFAULT_RUBRIC, Rubric
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
class FakeJudge:
    """Gives 6 for all; remembers what it was asked and how many waited at the same time."""

    rubric: Rubric = DEFAULT_RUBRIC
    asked: Counter[str] = field(default_factory=Counter)
    now: int = 0
    most: int = 0

    async def judge(self, _prompt: str, response: str, **_options: Any) -> Verdict:
        self.asked[response] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        # The later an item, the sooner it is done.
        await asyncio.sleep(0.01 / (1 + int(response[1:])))
        self.now -= 1
        return verdict(1 + int(response[1:]))


def test_every_item_is_judged_in_every_round_and_keeps_its_place() -> None:
    judge, told = FakeJudge(), []
    judged = asyncio.run(judge_rounds(judge, GOLD, 3, window=4, progress=told.append))
    assert set(judge.asked.values()) == {3} and len(judge.asked) == 7
    assert [[one.score for one in each] for each in judged.rounds] == [list(range(1, 8))] * 3
    assert told == list(range(1, 22))


def test_no_more_are_asked_at_a_time_than_the_window() -> None:
    judge = FakeJudge()
    asyncio.run(judge_rounds(judge, GOLD, 1, window=2))
    assert judge.most == 2


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
