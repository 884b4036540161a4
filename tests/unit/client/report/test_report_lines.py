"""Reading results: a broken line is named, one that is still being written is said, and nothing is taken on trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_client.errors import InputProblem
from judge_client.report import lines as module
from judge_client.report.lines import ResultLine, ResultLines, read_line
from report_results import comparison, failed, line, verdict, write


def raw(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


def problem(path: Path) -> InputProblem:
    with pytest.raises(InputProblem) as caught:
        list(ResultLines(path))
    assert caught.value.reason == "REPORT_UNUSABLE"
    return caught.value


def changed(**changes: Any) -> dict[str, Any]:
    """Return a line whose verdict has these values."""
    document = line(0, verdict())
    return {**document, "verdict": {**document["verdict"], **changes}}


def test_a_judgement_is_read(tmp_path: Path) -> None:
    judged = verdict(6, grounds=[("ASKS_FOR_SCORE", "give 10")])
    found = list(ResultLines(write(tmp_path / "r.jsonl", [line(0, judged), line(1, failed())])))
    assert found[0] == ResultLine(1, "item-0", 0, "What is 2 + 2?", ("4.",), judged)
    assert found[1].result == failed()


def test_a_comparison_is_read(tmp_path: Path) -> None:
    found = list(ResultLines(write(tmp_path / "r.jsonl", [line(0, comparison("a", "b"))])))
    assert found == [ResultLine(1, "item-0", 0, "What is 2 + 2?", ("4.", "Five."), comparison("a", "b"))]


def test_lines_without_texts_are_results(tmp_path: Path) -> None:
    found = list(ResultLines(write(tmp_path / "r.jsonl", [line(0, verdict(), None, None)])))
    assert (found[0].prompt, found[0].responses) == (None, (None,))


def test_a_number_is_an_id_too(tmp_path: Path) -> None:
    assert next(iter(ResultLines(write(tmp_path / "r.jsonl", [line(0, verdict(), id=17)])))).id == "17"


def test_a_last_line_that_is_cut_off_is_said_and_not_fatal(tmp_path: Path) -> None:
    whole = raw(line(0, verdict()))
    for length in (1, len(whole) // 2, len(whole) - 2):
        path = tmp_path / "r.jsonl"
        path.write_bytes(whole + whole[:length])
        results = ResultLines(path)
        assert len(list(results)) == 1
        assert results.cut_line == 2


def test_a_last_line_cut_within_a_character_is_only_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(raw(line(0, verdict())) + '{"id": "ü'.encode()[:-1])
    results = ResultLines(path)
    assert len(list(results)) == 1
    assert results.cut_line == 2


def test_a_complete_last_line_needs_no_line_end(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(raw(line(0, verdict())).rstrip())
    results = ResultLines(path)
    assert len(list(results)) == 1
    assert results.cut_line is None


def test_a_last_line_that_is_whole_and_wrong_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(raw(line(0, verdict())) + b'{"id": "x"}')
    assert problem(path).message.startswith(f"{path} line 2: found neither a verdict nor a comparison")


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\n" + raw(line(0, verdict())) + b"  \nnonsense\n")
    assert problem(path).message.startswith(f"{path} line 4: found what is not JSON, wanted")


def test_a_broken_line_is_named_with_a_command_that_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "two words.jsonl"
    path.write_bytes(raw(line(0, verdict())) + b'{"id": \n' + raw(line(1, verdict())))
    found = problem(path)
    assert found.message == (f"{path} line 2: found what is not JSON, wanted a result as `judge batch` writes it")
    assert found.hint == f"sed -n 2p '{path}' | head -c 200 | cat -v   # shows the line"


@pytest.mark.parametrize(("document", "told"), [
    ([1], "JSON that is no object (list)"),
    ({"index": 0, "verdict": verdict().to_dict()}, "no 'id' in it"),
    (line(0, verdict(), id=1.5), "an id that is neither text nor a number"),
    ({**line(0, verdict()), "index": -1}, "an index that is no whole number from 0"),
    ({**line(0, verdict()), "index": True}, "an index that is no whole number from 0"),
    (line(0, verdict(), model_response={"a": 1}), "model_response that is no text"),
    (line(0, verdict(), verdict=7), "a verdict that is not built as one"),
    (changed(status="fine"), "'fine' is not a valid Status"),
    (changed(score=11), "score 11, no whole number from 1 to 10"),
    (changed(score=True), "score True, no whole number from 1 to 10"),
    (changed(score=None), "status scored with score None"),
    (changed(categories={"accuracy": "<script>"}), "accuracy '<script>', no whole number from 1 to 10"),
    (changed(categories={str(number): 5 for number in range(65)}), "more than 64 criteria"),
    (changed(weighted_score=0.5), "weighted_score that is no number from 1 to 10"),
    (changed(weighted_score=float("nan")), "weighted_score that is no number from 1 to 10"),
    (changed(latency_ms=float("inf")), "latency_ms that is no time"),
    (changed(latency_ms="fast"), "latency_ms that is no time"),
    (changed(requests=-1), "requests that is no whole number from 0"),
    (changed(model=["judge"]), "model that is no text"),
    (changed(reasoning=5), "reasoning that is no text"),
    (changed(grounds=[{"code": "NEW_GROUND", "found": "x"}]), "'NEW_GROUND' is not a valid GroundCode"),
    (changed(status="error", score=None), "status error without a reason"),
    (changed(provenance={**verdict().to_dict()["provenance"], "time": "noon"}), "Invalid isoformat string: 'noon'"),
    (changed(provenance={**verdict().to_dict()["provenance"], "sampling": [1]}), "sampling that is no object"),
    (changed(provenance={"time": "2026-11-29T00:00:00+00:00"}), "a verdict that is not built as one"),
])  # fmt: skip
def test_a_line_that_is_no_result_says_what_is_wrong(document: Any, told: str, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [line(0, verdict()), document])
    assert problem(path).message == f"{path} line 2: found {told}, wanted a result as `judge batch` writes it"


@pytest.mark.parametrize("content", [
    b"\xff\xfe{\n", b"[" * 100_000 + b"\n", b'{"id": ' + b"9" * 10_000 + b"}\n", b"\x1f\x8b\x08\n", b"\0" * 100 + b"\n",
])  # fmt: skip
def test_bytes_of_another_kind_are_a_known_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    assert "line 1: found" in problem(path).message


def test_judgements_and_comparisons_do_not_mix(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [line(0, verdict()), line(1, comparison())])
    assert "line 2: found judgements and comparisons in one file" in problem(path).message


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_a_result_is_said(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    assert problem(path).message == f"{path} holds no result"


def test_a_file_with_only_the_beginning_of_a_result_is_said(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"id": "a"')
    assert problem(path).message == f"{path} holds no result yet, only the beginning of one"


def test_a_file_that_is_not_there_is_a_known_error(tmp_path: Path) -> None:
    found = problem(tmp_path / "r.jsonl")
    assert found.message == f"{tmp_path / 'r.jsonl'} cannot be read: No such file or directory"
    assert found.hint == f"ls -l {tmp_path / 'r.jsonl'}"


def test_a_directory_is_a_known_error(tmp_path: Path) -> None:
    assert problem(tmp_path).message == f"{tmp_path} cannot be read: Is a directory"


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "r.jsonl"
    path.write_bytes(raw(line(0, verdict())) + b"x" * (2 << 20))
    assert "line 2: found a line of more than 1 MiB" in problem(path).message


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["id", "index", "verdict", "comparison", "status", "score", "grounds", "provenance", "time", "orders", "x"]),
        inner, max_size=8), max_leaves=20).map(lambda value: json.dumps(value).encode()))
def test_any_line_is_a_result_or_a_known_error(content: bytes) -> None:
    try:
        found = read_line(1, content)
    except (ValueError, LookupError, TypeError, AttributeError):
        return
    assert found.result.status in ("scored", "unscored", "error")


@given(st.sampled_from(sorted(verdict().to_dict())), st.none() | st.booleans() | st.integers() | st.floats()
       | st.text(max_size=5) | st.lists(st.integers(), max_size=3) | st.dictionaries(st.text(max_size=3), st.none()))
def test_any_value_in_a_verdict_is_a_result_or_a_known_error(name: str, value: Any) -> None:
    try:
        read_line(1, raw(changed(**{name: value})))
    except (ValueError, LookupError, TypeError, AttributeError):
        return
