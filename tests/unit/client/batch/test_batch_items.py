"""Items are read from three forms alike, a line at a time, and what is wrong with one is said with its place."""

from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from judge_client.batch import Item, PairItem, read_items
from judge_client.batch.survey import check_unchanged, survey
from judge_client.errors import InputProblem
from pyarrow import parquet

ROWS: list[dict[str, Any]] = [
    {"id": "a", "original_prompt": "2+2?", "model_response": "4", "source": "set, one"},
    {"id": "b", "original_prompt": "Two\nlines?", "model_response": 'He said "no".', "source": "ä"},
]
ITEMS = [Item(row["id"], row["original_prompt"], row["model_response"], {"source": row["source"]}) for row in ROWS]


def _jsonl(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _problem(path: Path, pairs: bool = False) -> InputProblem:
    with pytest.raises(InputProblem) as caught:
        list(read_items(path, pairs))
    assert caught.value.reason == "ITEMS_UNUSABLE"
    assert caught.value.hint
    assert str(path) in caught.value.message
    return caught.value


def test_jsonl_csv_and_parquet_give_the_same_items(tmp_path: Path) -> None:
    lines = _jsonl(tmp_path / "a.jsonl", *(json.dumps(row) for row in ROWS))
    table = tmp_path / "a.csv"
    table.write_text('id,original_prompt,model_response,source\na,2+2?,4,"set, one"\n'
                     'b,"Two\nlines?","He said ""no"".",ä\n')
    columns = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), columns)
    assert list(read_items(lines)) == list(read_items(table)) == list(read_items(columns)) == ITEMS


def test_short_names_of_the_columns_are_taken_and_an_id_is_the_lines_number(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", '{"prompt": "p", "response": "r"}', "", '{"prompt": "q", "response": "s"}')
    assert list(read_items(path)) == [Item("1", "p", "r"), Item("3", "q", "s")]


def test_the_full_name_wins_and_the_short_one_is_kept_as_extra(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", '{"prompt": "p", "original_prompt": "o", "response": "r", "id": 7}')
    assert list(read_items(path)) == [Item("7", "o", "r", {"prompt": "p"})]


def test_pairs_have_two_responses(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", '{"prompt": "p", "response_a": "x", "response_b": "y", "n": 1}')
    assert list(read_items(path, pairs=True)) == [PairItem("1", "p", "x", "y", {"n": 1})]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,response\r\np,r\r\n")
    assert list(read_items(path)) == [Item("1", "p", "r")]


def test_what_json_has_no_word_for_is_null_in_extra(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", '{"prompt": "p", "response": "r", "mean": NaN, "far": -1e999, "near": 1.5}')
    assert [item.extra for item in read_items(path)] == [{"mean": None, "far": None, "near": 1.5}]


def test_columns_of_parquet_become_values_that_json_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    row = {"prompt": "p", "response": "r", "at": datetime.datetime(2026, 1, 2, 3), "mean": float("inf"),
           "raw": b"ab", "tags": [{"n": 1.5}]}
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    extra = next(read_items(path)).extra
    assert extra == {"at": "2026-01-02T03:00:00", "mean": None, "raw": "ab", "tags": [{"n": 1.5}]}
    json.dumps(extra, allow_nan=False)


def test_a_long_answer_fits_in_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,response\np,"{"x" * 300_000}"\n')
    assert len(next(read_items(path)).model_response) == 300_000


def test_items_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", '{"prompt": "p", "response": "r"}', "no JSON")
    assert next(iter(read_items(path))) == Item("1", "p", "r")


@pytest.mark.parametrize(("line", "said"), [
    ("no JSON", "line 2: Expecting value"),
    ("[1]", "line 2: found list '[1]', wanted a JSON object"),
    ('{"prompt": "p"}', "line 2: found prompt, wanted model_response (or response)"),
    ('{"response": "r", "Prompt": "p"}', "line 2: found response, Prompt, wanted original_prompt (or prompt)"),
    ('{"prompt": "p", "response": null}', "line 2: response is null, wanted text"),
    ('{"prompt": "p", "response": ["r"]}', "line 2: response is list"),
    ('{"prompt": "p", "response": "r", "id": true}', "line 2: id is bool 'True', wanted text or a whole number"),
    ('{"n": ' + "1" * 5000 + "}", "line 2: Exceeds the limit"),
    ("[" * 100_000, "line 2:"),
])
def test_a_line_that_is_no_item_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = _jsonl(tmp_path / "a.jsonl", '{"prompt": "p", "response": "r"}', line)
    problem = _problem(path)
    assert said in problem.message
    assert len(problem.message) < 400


def test_bytes_that_are_no_utf8_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "p", "response": "r"}\n{"prompt": "\xe4"}\n')
    assert "line 2: invalid continuation byte at byte 12, wanted UTF-8" in _problem(path).message


@pytest.mark.parametrize(("text", "said"), [
    ("prompt,response\np,r\np,r,more\n", "line 3: found 3 values, wanted 2"),
    ('prompt,response\np,"r\n', "line 2: unexpected end of data"),
    ("prompt,response,prompt\np,r,q\n", "line 1: found prompt, response, prompt, wanted each column once"),
    ("prompt;response\np;r\n", "row 1: found prompt;response, wanted original_prompt"),
])
def test_a_csv_that_is_none_is_named_by_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert said in _problem(path).message


def test_a_file_that_only_claims_to_be_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("not at all")
    assert "wanted a Parquet file" in _problem(path).message


def test_a_file_of_an_unknown_form_is_refused(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.txt", "x")
    assert "ends in '.txt', wanted .jsonl, .ndjson, .csv or .parquet" in _problem(path).message


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert "No such file" in _problem(tmp_path / "a.jsonl").message


def test_responses_given_for_comparison_are_sent_to_the_columns_of_compare(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", '{"prompt": "p", "response": "r"}')
    with pytest.raises(InputProblem, match="found prompt, response, wanted response_a") as caught:
        list(read_items(path, pairs=True))
    assert caught.value.hint == "correct the file; its columns: judge-bootstrap judge compare --help"


def test_pairs_given_for_judging_are_sent_to_compare(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", '{"prompt": "p", "response_a": "x", "response_b": "y"}')
    assert "judge compare" in str(_problem(path).hint)


def test_a_survey_counts_the_items_and_knows_the_file(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", *(json.dumps(row) for row in ROWS))
    found = asyncio.run(survey(path, False))
    assert found.total == 2
    assert len(found.sha256) == 64
    check_unchanged(path, found)
    path.write_text("x")
    with pytest.raises(InputProblem, match="was changed while it was read"):
        check_unchanged(path, found)


def test_an_id_that_comes_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": "p", "response": "r"} for name in ("a", "b", "c", "b", "a")]
    path = _jsonl(tmp_path / "a.jsonl", *(json.dumps(row) for row in rows))
    with pytest.raises(InputProblem, match="items 2 and 4 have the same id 'b', wanted each id once"):
        asyncio.run(survey(path, False))


def test_a_number_given_as_an_id_must_not_be_that_of_another_line(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", '{"id": 2, "prompt": "p", "response": "r"}', '{"prompt": "p", "response": "r"}')
    with pytest.raises(InputProblem, match="items 1 and 2 have the same id '2'"):
        asyncio.run(survey(path, False))


def test_a_file_without_items_is_refused(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", "", "")
    with pytest.raises(InputProblem, match="holds no items"):
        asyncio.run(survey(path, False))


def test_what_cannot_be_read_twice_is_refused() -> None:
    with pytest.raises(InputProblem, match="is no regular file"):
        asyncio.run(survey(Path("/dev/null"), False))
