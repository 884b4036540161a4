"""Reading a reply: what holds to the schema, and everything that does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_client.replies import InvalidReply, parse_reply
from judge_client.rubric import CRITERIA, CRITERION_NAMES, DEFAULT_RUBRIC, RESPONSE_SCHEMA

SCORES = dict.fromkeys(CRITERION_NAMES, 5)


def reply(**changes: Any) -> str:
    return json.dumps({"reasoning": "Fine.", "scores": SCORES, **changes})


def test_a_valid_reply_is_read_in_the_order_of_the_rubric() -> None:
    scores = dict(reversed(SCORES.items()))
    read = parse_reply(reply(scores=scores))
    assert read.reasoning == "Fine."
    assert tuple(read.scores) == CRITERION_NAMES


@pytest.mark.parametrize("score", [1, 10])
def test_the_ends_of_the_scale_count(score: int) -> None:
    assert parse_reply(reply(scores={**SCORES, "overall": score})).scores["overall"] == score


@pytest.mark.parametrize("score", [0, 11, -1, 5.0, 5.5, "5", True, False, None, [5], {"value": 5}, 10**30])
def test_a_score_that_is_no_integer_from_1_to_10_is_refused(score: object) -> None:
    with pytest.raises(InvalidReply, match=r"scores\.safety is .*, wanted an integer from 1 to 10"):
        parse_reply(reply(scores={**SCORES, "safety": score}))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_json_does_not_have_is_refused(constant: str) -> None:
    text = reply(scores={**SCORES, "safety": 7.25}).replace("7.25", constant)
    with pytest.raises(InvalidReply, match=f"holds {constant}, which is not JSON"):
        parse_reply(text)


@pytest.mark.parametrize(
    "reasoning", ["", "x" * 501, "line\nbreak", 'quo"te', "back\\slash", "dash \u2014", "\x0b", None, 5, ["x"]]
)
def test_a_reasoning_beyond_the_pattern_is_refused(reasoning: object) -> None:
    with pytest.raises(InvalidReply, match="reasoning is .*, wanted 1 to 500 printable ASCII"):
        parse_reply(reply(reasoning=reasoning))


def test_a_reasoning_may_not_end_in_a_line_break() -> None:
    with pytest.raises(InvalidReply, match="reasoning is"):
        parse_reply(reply(reasoning="fine\n"))


@pytest.mark.parametrize("missing", ["reasoning", "scores"])
def test_a_missing_part_is_named(missing: str) -> None:
    document = json.loads(reply())
    del document[missing]
    with pytest.raises(InvalidReply, match=f"reply has no {missing}, wanted exactly reasoning, scores"):
        parse_reply(json.dumps(document))


def test_a_missing_criterion_is_named() -> None:
    scores = {name: 5 for name in CRITERION_NAMES if name != "pleasing"}
    with pytest.raises(InvalidReply, match="scores has no pleasing"):
        parse_reply(reply(scores=scores))


def test_an_extra_key_is_named() -> None:
    with pytest.raises(InvalidReply, match="reply has unknown 'verdict'"):
        parse_reply(reply(verdict="pass"))
    with pytest.raises(InvalidReply, match="scores has unknown 'style'"):
        parse_reply(reply(scores={**SCORES, "style": 5}))


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(InvalidReply, match="names a key twice"):
        parse_reply(reply().replace('"overall": 5', '"overall": 5, "overall": 10'))


@pytest.mark.parametrize("text", ["", "null", "[]", "5", '"text"', "{", "```json\n{}\n```", "[" * 100_000, "9" * 5000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidReply, match=r"reply is"):
        parse_reply(text)


KEYS = st.sampled_from(["reasoning", "scores", "x"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=8,
)


@given(st.text(max_size=200) | DOCUMENTS.map(json.dumps))
def test_any_text_is_a_reply_or_an_invalid_reply(text: str) -> None:
    try:
        read = parse_reply(text)
    except InvalidReply as error:
        assert len(str(error)) < 400
    else:
        assert all(type(score) is int and 1 <= score <= 10 for score in read.scores.values())


def test_the_schema_asks_for_what_the_reading_checks() -> None:
    scores = RESPONSE_SCHEMA["properties"]["scores"]
    assert RESPONSE_SCHEMA["required"] == ["reasoning", "scores"]
    assert RESPONSE_SCHEMA["additionalProperties"] is scores["additionalProperties"] is False
    assert tuple(scores["required"]) == tuple(scores["properties"]) == CRITERION_NAMES
    assert {(one["type"], one["minimum"], one["maximum"]) for one in scores["properties"].values()} == {
        ("integer", 1, 10)
    }


def test_each_criterion_describes_its_ends_and_levels_between() -> None:
    for criterion in CRITERIA:
        assert {1, 10} < set(criterion.levels), criterion.name


def test_the_digest_stays_the_same_within_a_version() -> None:
    assert DEFAULT_RUBRIC.digest == DEFAULT_RUBRIC.digest
    assert len(DEFAULT_RUBRIC.digest) == 64
