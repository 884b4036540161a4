"""A verdict on its way to a file, to another process and back."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_answers import Talk, answer, completion
from judge_client import DEFAULT_RUBRIC, Criterion, Ground, GroundCode, Provenance, Reason, Rubric, Status, Verdict
from judge_client.judging import Judging
from judge_client.rubric import RubricProblem
from judge_client.verdict import one_line

PROVENANCE = Provenance("2026-01-01T00:00:00.000+00:00", "0.1.0", "http://judge:8000", "a" * 64, "answer-quality",
                        "b" * 64, {"temperature": 0.0}, "0" * 16, {"model_response": {"cut": 5}}, "/m", "org/judge",
                        "c" * 40, "sha256:d", "vllm:1")
SCORED = Verdict(Status.SCORED, 8, 7.9, dict.fromkeys(DEFAULT_RUBRIC.names, 8), "Fine.", model="judge", latency_ms=12.5,
                 requests=2, grounds=(Ground(GroundCode.ASKS_FOR_SCORE, "give 10"),),
                 votes=(dict.fromkeys(DEFAULT_RUBRIC.names, 8), None), provenance=PROVENANCE)
FAILED = Verdict(Status.ERROR, reason=Reason.SERVER_TIMEOUT, message="too slow")


def asked(**options: Any) -> Verdict:
    verdict: Verdict = Talk(**options).hold(Judging("http://judge:8000").judge("<|im_end|>", ""))
    return verdict


@pytest.mark.parametrize("verdict", [SCORED, FAILED, Verdict(Status.UNSCORED, reason=Reason.VOTES_MISSING)])
def test_a_verdict_can_be_written_and_read_again(verdict: Verdict) -> None:
    document = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert Verdict.from_dict(document) == verdict
    assert document["suspect"] is verdict.suspect


def test_a_verdict_of_a_conversation_can_be_written_sent_and_copied() -> None:
    verdict = asked()
    assert verdict.provenance is not None
    assert verdict.provenance.changes
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
    assert pickle.loads(pickle.dumps(verdict)) == verdict
    assert copy.deepcopy(verdict) == verdict


def test_keys_of_a_later_version_do_no_harm() -> None:
    document = SCORED.to_dict()
    assert Verdict.from_dict({**document, "new": 1, "provenance": {**document["provenance"], "new": 1}}) == SCORED


@pytest.mark.parametrize("spoilt", [{"status": "fine"}, {"status": None}, {"reason": "BAD_LUCK"}, {"grounds": None},
                                    {"grounds": [{"code": "ODD", "found": ""}]}, {"grounds": [5]}, {"votes": 5},
                                    {"provenance": {}}, {"provenance": 5}])
def test_what_is_no_verdict_is_refused(spoilt: dict[str, Any]) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        Verdict.from_dict({**SCORED.to_dict(), **spoilt})


@pytest.mark.parametrize("document", [{}, [], None, "scored", 5])
def test_what_is_no_document_is_refused(document: Any) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        Verdict.from_dict(document)


def test_a_verdict_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        SCORED.score = 10  # type: ignore[misc]


@given(st.text(st.characters(), max_size=50), st.integers(5, 20))
def test_one_line_is_visible_and_short_whatever_is_said(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert len(line) <= most
    line.encode()


def test_a_rubric_can_be_sent_to_another_process_and_be_a_key() -> None:
    again = pickle.loads(pickle.dumps(DEFAULT_RUBRIC))
    assert (again, again.digest, hash(again)) == (DEFAULT_RUBRIC, DEFAULT_RUBRIC.digest, hash(DEFAULT_RUBRIC))


def rubric(**changes: Any) -> Rubric:
    told = {"name": "tone", "question": "Is it kind?", "levels": {1: "no", 10: "yes"}, **changes}
    return Rubric("mine", (Criterion(**told),), DEFAULT_RUBRIC.overall)


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"name": "a b"}, "name"), ({"name": "Overall"}, "criteria[0].name"), ({"levels": {1: "no"}}, "levels"),
     ({"levels": {1: "no", 10: "yes", 11: "more"}}, "levels"), ({"levels": {1: "no", 10: "a\nb"}}, "levels.10"),
     ({"question": "{}"}, "question"), ({"weight": 0}, "weight"), ({"weight": float("nan")}, "weight")],
)  # fmt: skip
def test_a_rubric_that_no_judge_can_be_asked_by_is_refused_where_it_is_made(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(RubricProblem) as caught:
        rubric(**changes)
    assert caught.value.key == key
    assert ", wanted " in str(caught.value)


@pytest.mark.parametrize("change", [{"name": "manner"}, {"question": "Is it rude?"}, {"levels": {1: "no", 10: "so"}},
                                    {"levels": {1: "no", 5: "well", 10: "yes"}}])
def test_whatever_decides_what_a_score_means_is_in_the_digest(change: dict[str, Any]) -> None:
    assert rubric(**change).digest != rubric().digest


def test_a_weight_is_the_same_number_however_it_is_written() -> None:
    assert rubric(weight=2).digest == rubric(weight=2.0).digest != rubric(weight=3).digest


def test_the_longest_reply_of_any_rubric_fits_in_what_the_judge_may_say() -> None:
    long = tuple(Criterion(f"{chr(97 + number) * 40}", "?", {1: "no", 10: "yes"}) for number in range(12))
    large = Rubric("large", long, DEFAULT_RUBRIC.overall)
    talk = Talk(answer(completion({"reasoning": "x", "scores": dict.fromkeys(large.names, 5)})))
    assert talk.hold(Judging("http://judge:8000", rubric=large).judge("q", "a")).status is Status.SCORED
    reply = json.dumps({"reasoning": "x" * 500, "scores": dict.fromkeys(large.names, 10)})
    assert len(reply) <= talk.bodies[0]["max_tokens"]
