"""Gold files: each fault is named with its line, and the built-in set is what its README says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from judge_client.calibration import built_in_gold, check_criteria, gold_digest, read_gold
from judge_client.errors import InputProblem
from judge_client.rubric import CRITERION_NAMES, DEFAULT_RUBRIC, Criterion, Rubric

LEVELS = {1: "bad", 10: "good"}
RUBRIC = Rubric("tone", (Criterion("warmth", "Is it warm?", LEVELS),), Criterion("overall", "Is it good?", LEVELS))
SCORES = {"warmth": 8, "overall": 7}


def line(**changes: Any) -> str:
    """Return a good line with these changes; None leaves a key out."""
    document = {"id": "a", "original_prompt": "Hi", "model_response": "Hello", "scores": SCORES, **changes}
    return json.dumps({key: value for key, value in document.items() if value is not None})


def read(tmp_path: Path, *lines: str) -> Any:
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_gold(path, RUBRIC.names)


def test_a_gold_file_is_read(tmp_path: Path) -> None:
    first, second = read(tmp_path, line(note="why"), "", line(id="b"), "")
    assert (first.id, first.original_prompt, first.model_response, first.note) == ("a", "Hi", "Hello", "why")
    assert (second.id, dict(second.scores)) == ("b", SCORES)


def test_the_short_names_of_the_texts_will_do(tmp_path: Path) -> None:
    item, = read(tmp_path, line(original_prompt=None, model_response=None, prompt="P", response="R"))
    assert (item.original_prompt, item.model_response) == ("P", "R")


def test_an_item_without_an_id_is_called_by_its_line(tmp_path: Path) -> None:
    assert [item.id for item in read(tmp_path, line(), line(id=None))] == ["a", "2"]


def test_a_byte_order_mark_and_carriage_returns_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line().encode() + b"\r\n" + line(id="b").encode() + b"\r\n")
    assert len(read_gold(path)) == 2


def test_a_line_separator_within_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps({**json.loads(line()), "note": "a\u2028b"}, ensure_ascii=False), encoding="utf-8")
    assert read_gold(path)[0].note == "a\u2028b"


@pytest.mark.parametrize(("bad", "found"), [
    ("{", "line 2: is not JSON: Expecting property name enclosed in double quotes (column 2)"),
    ("[1]", "line 2: is no object but '[1]'"),
    (line(original_prompt=None), "line 2: original_prompt is missing"),
    (line(model_response=7), "line 2: model_response is no text"),
    (line(scores=None), "line 2: scores is missing"),
    (line(scores={"warmth": 8}), "line 2: has no score for overall; wanted scores for exactly warmth, overall"),
    (line(scores={**SCORES, "wit": 3}), "line 2: has scores for wit; wanted scores for exactly warmth, overall"),
    (line(scores={**SCORES, "warmth": 11}), "line 2: scores.warmth is '11', wanted an integer from 1 to 10"),
    (line(scores={**SCORES, "warmth": 0}), "line 2: scores.warmth is '0'"),
    (line(scores={**SCORES, "warmth": True}), "line 2: scores.warmth is 'True'"),
    (line(scores={**SCORES, "warmth": 7.5}), "line 2: scores.warmth is '7.5'"),
    (line(id=""), "line 2: id is ''"),
    (line(id="first"), "line 2: the id 'first' stands in line 1, too"),
    ('{"id": 1, "id": 2}', "line 2: is not JSON: the key 'id' stands twice"),
])
def test_a_fault_is_named_with_its_line(tmp_path: Path, bad: str, found: str) -> None:
    with pytest.raises(InputProblem) as caught:
        read(tmp_path, line(id="first"), bad)
    assert found in caught.value.message
    assert caught.value.reason == "GOLD_UNUSABLE"


def test_bytes_that_are_no_text_are_named_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(InputProblem, match=r"line 1: is not UTF-8 \(byte 9\)"):
        read_gold(path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_items_is_no_gold_set(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputProblem, match="holds no item"):
        read(tmp_path, content)


def test_what_is_not_a_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, found in ((tmp_path, "is not a file"), (tmp_path / "pipe", "is not a file"),
                        (tmp_path / "none", "does not exist")):
        with pytest.raises(InputProblem, match=found):
            read_gold(path)


def test_all_lines_have_the_criteria_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(line() + "\n" + line(id="b", scores={"warmth": 8}))
    with pytest.raises(InputProblem, match="line 2: has no score for overall"):
        read_gold(path)


def test_a_gold_set_of_another_rubric_says_what_is_missing() -> None:
    with pytest.raises(InputProblem) as caught:
        check_criteria(built_in_gold(), "built-in", RUBRIC)
    assert caught.value.message.startswith("built-in line 1: has no score for warmth and scores for accuracy, ")
    assert caught.value.hint == "give a GOLD.jsonl with the scores of the rubric 'tone'"


def test_the_digest_stays_when_a_score_is_corrected_and_not_when_a_text_is(tmp_path: Path) -> None:
    before = gold_digest(read(tmp_path, line(), line(id="b")))
    assert gold_digest(read(tmp_path, line(id="b"), line(scores={"warmth": 2, "overall": 2}))) == before
    assert gold_digest(read(tmp_path, line(model_response="Hallo"), line(id="b"))) != before


def test_the_built_in_set_covers_the_range_of_every_criterion() -> None:
    items = built_in_gold()
    check_criteria(items, "built-in", DEFAULT_RUBRIC)
    assert 40 <= len(items) <= 60
    for name in CRITERION_NAMES:
        given = {item.scores[name] for item in items}
        assert min(given) == 1 and max(given) == 10 and len(given) >= 7, name


def test_no_question_of_the_built_in_set_stands_there_twice() -> None:
    # Items are resampled as if they had nothing to do with each other.
    items = built_in_gold()
    assert len({item.original_prompt for item in items}) == len(items)
    assert all(item.note for item in items)
