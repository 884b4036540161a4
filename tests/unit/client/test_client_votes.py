"""Several votes on one answer, and one answer against another."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from judge_answers import SCORES, Talk, answer, completion, contents
from judge_client import Comparison, JudgeClient, Reason, Status, Verdict, Winner
from judge_client.exchange import Policy
from judge_client.judging import Judging
from judge_client.pairs import compare
from judge_client.rubric import DEFAULT_RUBRIC
from judge_client.verdict import Ground, GroundCode, Provenance
from judge_client.votes import check_votes, combine

EMPTY = Ground(GroundCode.EMPTY, "")


def vote(reasoning: str = "So.", grounds: tuple[Ground, ...] = (), **scores: int) -> Verdict:
    told = {**dict.fromkeys(DEFAULT_RUBRIC.names, 5), **scores}
    return Verdict(Status.SCORED, told["overall"], 5.0, told, reasoning, latency_ms=10.0, requests=1, grounds=grounds)


FAILED = Verdict(Status.ERROR, reason=Reason.SERVER_FAILED, message="told 503", latency_ms=5.0, requests=2)
UNREAD = Verdict(Status.UNSCORED, reason=Reason.REPLY_INVALID, message="no JSON", latency_ms=5.0, requests=2)


def test_each_criterion_has_its_own_median() -> None:
    verdict = combine([vote(safety=1, overall=9), vote(safety=2, overall=8), vote(safety=3, overall=7)], DEFAULT_RUBRIC)
    assert (verdict.categories["safety"], verdict.categories["overall"], verdict.score) == (2, 8, 8)
    # 5 for all but safety: (3 x 5 + 2 x 5 + 2 x 5 + 2 x 2 + 1 x 5) / 10
    assert verdict.weighted_score == 4.4


def test_the_reasoning_is_that_of_the_vote_closest_to_the_median() -> None:
    votes = [vote("low", overall=1), vote("middle", overall=5), vote("high", overall=9)]
    assert combine(votes, DEFAULT_RUBRIC).reasoning == "middle"


def test_of_an_even_number_of_scored_votes_the_lower_median_counts() -> None:
    verdict = combine([vote(overall=4), FAILED, vote(overall=9)], DEFAULT_RUBRIC)
    assert (verdict.status, verdict.score) == (Status.SCORED, 4)
    assert [one is None for one in verdict.votes] == [False, True, False]


def test_all_votes_and_what_they_cost_are_told() -> None:
    verdict = combine([vote(), UNREAD, vote()], DEFAULT_RUBRIC)
    assert verdict.votes == (vote().categories, None, vote().categories)
    assert (verdict.latency_ms, verdict.requests) == (25.0, 4)


def test_less_than_half_of_the_votes_are_no_verdict() -> None:
    verdict = combine([UNREAD, vote(), FAILED], DEFAULT_RUBRIC)
    assert (verdict.status, verdict.reason, verdict.score) == (Status.UNSCORED, Reason.VOTES_MISSING, None)
    assert verdict.message == "1 of 3 votes are scored; one that is not: REPLY_INVALID: no JSON"
    assert verdict.categories == {}
    assert len(verdict.votes) == 3


@pytest.mark.parametrize(("scores", "apart"), [((5, 5, 7), False), ((5, 5, 8), True), ((1, 5, 10), True)])
def test_votes_more_than_two_points_apart_are_a_ground_for_suspicion(scores: tuple[int, ...], apart: bool) -> None:
    verdict = combine([vote(safety=score) for score in scores], DEFAULT_RUBRIC)
    assert verdict.suspect is apart
    if apart:
        assert verdict.grounds == (Ground(GroundCode.VOTES_DISAGREE, f"safety: {max(scores) - min(scores)} points"),)


def test_grounds_that_all_votes_have_are_told_once() -> None:
    assert combine([vote(grounds=(EMPTY,))] * 3, DEFAULT_RUBRIC).grounds == (EMPTY,)


@pytest.mark.parametrize("votes", [0, 2, 16, 17, -1, True, 3.0, "3", None])
def test_a_number_of_votes_without_a_median_is_refused(votes: Any) -> None:
    with pytest.raises(ValueError, match="votes is .*, wanted an odd number from 1 to 15"):
        check_votes(votes)


def test_each_vote_is_another_request(client: JudgeClient, server: Any) -> None:
    verdict = client.judge("q", "a", votes=3)
    assert (verdict.status, verdict.votes) == (Status.SCORED, (SCORES,) * 3)
    assert [body["seed"] for body in server.completions] == [0, 1, 2]
    assert {body["temperature"] for body in server.completions} == {0.7}


def of_model(commit: str | None, **scores: int) -> Verdict:
    return replace(vote(**scores), provenance=Provenance("", "", "", "", "", "", {}, model_commit=commit))


def test_votes_of_two_models_are_no_verdict() -> None:
    verdict = combine([of_model("a" * 40), of_model("b" * 40), of_model("a" * 40)], DEFAULT_RUBRIC)
    assert (verdict.status, verdict.reason, verdict.score) == (Status.ERROR, Reason.WRONG_MODEL_SERVED, None)
    assert (verdict.weighted_score, verdict.categories, verdict.reasoning) == (None, {}, None)
    assert "came from 2 models (commits aaaaaaaaaaaa, bbbbbbbbbbbb), wanted one" in str(verdict.message)
    assert (len(verdict.votes), verdict.requests) == (3, 3)


def test_a_vote_whose_server_tells_no_commit_is_of_no_other_model() -> None:
    assert combine([of_model("a" * 40), of_model(None), vote()], DEFAULT_RUBRIC).status is Status.SCORED


def said(winner: str, reasoning: str = "So.", commit: str | None = None) -> Any:
    tells = {} if commit is None else {"x_judge_provenance": json.dumps({"commit": commit})}
    return answer(completion({"reasoning": reasoning, "winner": winner}), **tells)


def compared(*answers: Any, prompt: str = "q", a: str = "one", b: str = "two") -> tuple[Comparison, Talk]:
    talk = Talk(*answers)
    judging = Judging("http://judge:8000", "judge", policy=Policy(max_retries=0))
    return talk.hold(compare(judging, prompt, a, b)), talk


@pytest.mark.parametrize(
    ("first", "second", "winner", "consistent"),
    [
        ("first", "second", Winner.A, True),
        ("second", "first", Winner.B, True),
        ("tie", "tie", Winner.TIE, True),
        ("first", "first", Winner.TIE, False),  # whichever stood first
        ("second", "second", Winner.TIE, False),
        ("first", "tie", Winner.TIE, False),
        ("tie", "first", Winner.TIE, False),
    ],
)
def test_both_orders_decide_and_where_they_differ_it_is_a_tie(
    first: str, second: str, winner: Winner, consistent: bool
) -> None:
    found, _ = compared(said(first, "with A first"), said(second, "with B first"))
    assert (found.status, found.winner, found.consistent) == (Status.SCORED, winner, consistent)
    assert found.reasonings == ("with A first", "with B first")
    assert found.requests == 3


def test_the_second_request_has_the_responses_the_other_way_round() -> None:
    _, talk = compared(said("first"), said("second"))
    one, other = contents(talk.bodies)
    assert one.index("one") < one.index("two")
    assert other.index("two") < other.index("one")
    schema = talk.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["winner"]["enum"] == ["first", "second", "tie"]


@pytest.mark.parametrize("winner", ["a", "FIRST", "", None, 1, ["first"], True])
def test_a_winner_that_was_not_to_choose_from_is_no_verdict(winner: Any) -> None:
    found, _ = compared(said(winner))
    assert (found.status, found.reason, found.winner) == (Status.UNSCORED, Reason.REPLY_INVALID, None)


def test_a_failure_in_the_first_order_asks_for_no_second() -> None:
    found, talk = compared(answer("", 500))
    assert (found.status, found.reason, found.winner, found.consistent) == (
        Status.ERROR, Reason.SERVER_FAILED, None, None)
    assert (found.orders, found.reasonings, len(talk.bodies)) == ((None, None), (None, None), 1)


def test_a_failure_in_the_second_order_is_no_verdict_and_keeps_the_first() -> None:
    found, _ = compared(said("first"), answer("", 500))
    assert (found.status, found.reason, found.winner) == (Status.ERROR, Reason.SERVER_FAILED, None)
    assert found.orders == (Winner.A, None)
    assert found.provenance is not None


def test_orders_that_two_models_read_are_no_verdict() -> None:
    found, _ = compared(said("first", commit="a" * 40), said("second", commit="b" * 40))
    assert (found.status, found.reason, found.winner, found.consistent) == (
        Status.ERROR, Reason.WRONG_MODEL_SERVED, None, None)
    assert "2 models" in str(found.message)
    assert found.orders == (Winner.A, Winner.A)


def test_a_comparison_is_suspect_for_each_response_by_itself() -> None:
    found, _ = compared(said("first"), said("second"), b=" ")
    assert (found.grounds[0], found.suspect) == ((), True)
    assert [ground.code for ground in found.grounds[1]] == [GroundCode.EMPTY]


@pytest.mark.parametrize("answers", [(said("first"), said("second")), (answer("", 401),), (said("tie"), answer("{"))])
def test_a_comparison_can_be_written_and_read_again(answers: tuple[Any, ...]) -> None:
    found, _ = compared(*answers, a="", b="<|im_end|>")
    assert Comparison.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


@pytest.mark.parametrize("spoilt", [{}, {"status": "odd"}, {"winner": "c"}, {"orders": None}, {"grounds": [[5], []]}])
def test_what_is_no_comparison_is_refused(spoilt: dict[str, Any]) -> None:
    found, _ = compared(said("first"), said("second"))
    with pytest.raises((ValueError, LookupError, TypeError)):
        Comparison.from_dict({**found.to_dict(), **spoilt} if spoilt else {})


def test_only_text_can_be_compared() -> None:
    with pytest.raises(TypeError, match="response_a is int, wanted str"):
        compared(said("first"), a=5)  # type: ignore[arg-type]
