"""Agreement and repeatability: what is counted, what is left out, and that nothing undefined hides as a number."""

from __future__ import annotations

import json
from typing import Any

import pytest
from judge_client.calibration import GoldItem, Pair, agreement, pairs_of, repeatability

NAMES = ("warmth", "overall")


def scores(warmth: int, overall: int) -> dict[str, int]:
    return {"warmth": warmth, "overall": overall}


def record(identity: str, *, status: str = "scored", **texts: str) -> dict[str, Any]:
    verdict = {"status": status, "categories": scores(5, 6) if status == "scored" else {}}
    return {"id": identity, "original_prompt": f"P{identity}", "model_response": f"R{identity}", **texts,
            "verdict": verdict}


GOLD = [GoldItem(one, f"P{one}", f"R{one}", scores(4, 4)) for one in ("a", "b", "c")]


def test_the_errors_are_judge_minus_gold() -> None:
    pairs = [Pair(str(one), scores(one, 5), scores(one + 2, 5 + (-1) ** one)) for one in range(1, 9)]
    found = agreement(pairs, NAMES)["criteria"]
    assert found["warmth"]["mean_error"]["value"] == found["warmth"]["mean_absolute_error"]["value"] == 2
    assert (found["overall"]["mean_error"]["value"], found["overall"]["mean_absolute_error"]["value"]) == (0, 1)


def test_an_item_without_a_verdict_is_left_out_and_lowers_the_coverage() -> None:
    pairs = [Pair(str(one), scores(one, one), scores(one, one)) for one in range(1, 10)]
    found = agreement([*pairs, Pair("x", scores(10, 10), None)], NAMES)
    assert (found["items"], found["scored"], found["coverage"]) == (10, 9, 0.9)
    assert found["criteria"]["overall"]["items"] == 9
    assert found["criteria"]["overall"]["mean_absolute_error"]["value"] == 0


def test_no_verdict_at_all_gives_reasons_and_no_numbers() -> None:
    found = agreement([Pair("x", scores(10, 10), None)] * 12, NAMES)
    json.dumps(found, allow_nan=False)
    assert found["coverage"] == 0
    assert found["criteria"]["warmth"]["kappa"] == {
        "value": None, "low": None, "high": None, "reason": "0 items have both scores, wanted 5"}


def test_no_pairs_have_no_coverage() -> None:
    assert agreement([], NAMES)["coverage"] is None


def test_a_criterion_that_nobody_scored_says_so_and_leaves_the_others_alone() -> None:
    pairs = [Pair(str(one), {"overall": one}, scores(one, one)) for one in range(1, 11)]
    found = agreement(pairs, NAMES)["criteria"]
    assert found["warmth"]["mean_error"]["reason"] == "no item has a score"
    assert found["overall"]["spearman"]["value"] == 1


def test_records_are_matched_by_id() -> None:
    found = pairs_of(GOLD, [record("c"), record("a", status="error"), record("z")])
    assert found.pairs == [Pair("c", scores(4, 4), scores(5, 6)), Pair("a", scores(4, 4), None)]
    assert (found.unknown, found.other_text) == (1, 0)


def test_a_record_of_another_text_is_not_the_gold_item_of_its_number() -> None:
    found = pairs_of(GOLD, [record("a", model_response="something else"), record("a")])
    assert [pair.id for pair in found.pairs] == ["a"]
    assert found.other_text == 1


def test_a_record_without_texts_is_matched_by_its_id() -> None:
    bare = {"id": "b", "verdict": record("b")["verdict"]}
    assert [pair.id for pair in pairs_of(GOLD, [bare]).pairs] == ["b"]


@pytest.mark.parametrize("bad", [{}, {"id": "a"}, {"id": "a", "verdict": None}, {"id": "a", "verdict": {}},
                                 {"id": "a", "verdict": {"status": "scored"}}])
def test_a_record_that_is_no_verdict_counts_as_none(bad: dict[str, Any]) -> None:
    assert all(pair.judge is None for pair in pairs_of(GOLD, [bad]).pairs)


def test_repeatability_counts_scores_and_whole_verdicts() -> None:
    # Of 4 items one differs in warmth by 3, another in overall by 1.
    first = [scores(5, 5), scores(5, 5), scores(5, 5), scores(5, 5)]
    second = [scores(5, 5), scores(8, 5), scores(5, 4), scores(5, 5)]
    found = repeatability([first, second], NAMES)
    assert (found["rounds"], found["items"], found["verdicts_identical"]["value"]) == (2, 4, 0.5)
    assert found["criteria"]["warmth"]["identical"]["value"] == 0.75
    assert found["criteria"]["warmth"]["mean_absolute_difference"]["value"] == 0.75
    assert found["criteria"]["overall"]["mean_absolute_difference"]["value"] == 0.25


def test_of_three_rounds_the_mean_distance_of_two_counts() -> None:
    # 1, 2 and 4: the distances are 1, 3 and 2.
    rounds = [[scores(one, 5)] for one in (1, 2, 4)]
    found = repeatability(rounds, NAMES)["criteria"]
    assert (found["warmth"]["mean_absolute_difference"]["value"], found["warmth"]["identical"]["value"]) == (2, 0)
    assert found["overall"]["identical"]["value"] == 1


def test_an_item_that_one_round_did_not_score_is_no_repetition() -> None:
    assert repeatability([[scores(5, 5), None], [scores(5, 5), scores(9, 9)]], NAMES)["items"] == 1


def test_one_round_says_nothing_of_repeatability() -> None:
    found = repeatability([[scores(5, 5)]], NAMES)
    assert found["criteria"]["warmth"]["identical"]["reason"] == "every item was judged once"


def test_rounds_without_a_verdict_say_so() -> None:
    found = repeatability([[None], [None]], NAMES)
    json.dumps(found, allow_nan=False)
    assert found["verdicts_identical"]["reason"] == "no item has a score in every round"
