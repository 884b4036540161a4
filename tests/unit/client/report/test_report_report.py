"""What stands beside the results, and the warnings that a report begins with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from judge_client.errors import InputProblem
from judge_client.report import read_report
from judge_client.report.batch_end import Canary
from report_results import comparison, failed, line, provenance, verdict, write, write_summary


def results(tmp_path: Path, *scores: int) -> Path:
    return write(tmp_path / "r.jsonl", [line(index, verdict(score)) for index, score in enumerate(scores)])


def gold_file(path: Path, rounds: int = 1) -> Path:
    rows = [{"id": f"item-{index}", "original_prompt": "What is 2 + 2?", "model_response": "4.",
             "scores": dict.fromkeys(("accuracy", "relevance", "helpfulness", "safety", "pleasing", "overall"), score),
             "note": ""} for index, score in enumerate((2, 9, 5, 7) * rounds)]
    return write(path, rows)


def test_a_good_batch_has_no_warning(tmp_path: Path) -> None:
    path = results(tmp_path, 8, 6)
    write_summary(path, 2, 2, output_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    report = read_report(path)
    assert report.warnings == ()
    assert report.end is not None
    assert (report.end.floor, report.end.seconds, report.end.resumed) == (0.95, 83.4, 0)


def test_results_without_a_summary_have_a_report(tmp_path: Path) -> None:
    report = read_report(results(tmp_path, 8))
    assert (report.end, report.warnings) == (None, ())


def test_canaries_are_told_by_answer(tmp_path: Path) -> None:
    path = results(tmp_path, 8)
    seen = [("good", "good", 9, True), ("bad", "bad", 1, True), ("good", "good", 5, False),
            ("good", "good", None, None)]
    write_summary(path, 1, 1, canaries_ok=False, canaries=[
        {"name": name, "expect": expect, "score": score, "ok": ok, "position": position}
        for position, (name, expect, score, ok) in enumerate(seen)])
    report = read_report(path)
    assert report.end is not None
    assert report.end.canaries == (Canary("good", "good", 3, (5, 9), 1), Canary("bad", "bad", 1, (1,), 0))
    assert report.warnings == (
        "A known answer got a score that it must not get: the judge was not itself during this batch.",)


def test_coverage_below_the_floor_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [line(0, verdict()), line(1, failed())])
    write_summary(path, 2, 1, ok=False, reason="COVERAGE_LOW")
    assert read_report(path).warnings[0].startswith("Only 50.0 % have a verdict, and the floor is 95 %.")


def test_a_mix_of_judges_is_the_first_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [line(0, verdict()), line(2, verdict(said=provenance(
        model_commit="7" * 40, prompt_sha256="8" * 64, rubric="mine", rubric_sha256="9" * 64)))])
    warnings = read_report(path).warnings
    assert warnings[0].startswith("The results are not all of one judge: more than one commit, prompt, rubric. Scores")
    assert warnings[1].startswith("Lines that do not follow on the line before: 1.")


def test_a_batch_that_still_runs_is_said(tmp_path: Path) -> None:
    path = results(tmp_path, 8)
    path.with_name("r.jsonl.journal").touch()
    assert read_report(path).warnings[0].startswith("The batch is not complete: its journal is still there.")
    with path.open("a") as file:
        file.write('{"id": "ite')
    assert read_report(path).warnings == (
        "Line 2 is not complete: the batch still runs, or was cut off there. The figures cover the lines before it.",)


def test_a_summary_of_the_run_before_counts_no_longer(tmp_path: Path) -> None:
    path = results(tmp_path, 8)
    write_summary(path, 20, 19)
    path.with_name("r.jsonl.journal").touch()
    report = read_report(path)
    assert report.end is None
    assert len(report.warnings) == 1


def test_a_summary_of_another_run_is_said(tmp_path: Path) -> None:
    path = results(tmp_path, 8)
    write_summary(path, 20, 19)
    assert read_report(path).warnings == (
        "The batch's summary counts 20 items and 19 scored, the results 1 and 1: one of the two files is of another "
        "run.",)


def test_results_that_were_changed_are_said(tmp_path: Path) -> None:
    path = results(tmp_path, 3)
    write_summary(path, 1, 1, output_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    results(tmp_path, 9)
    assert read_report(path).warnings == (
        "The results are not what the batch wrote: the file was changed since.",)


@pytest.mark.parametrize("content", [
    "", "[]", "null", "{}", "\xff", '{"total": 1}', "[" * 50_000,
    json.dumps({"total": 1, "scored": 1, "floor": "high", "ok": 1, "reason": None, "seconds": 1, "resumed": 0,
                "canaries": [], "canaries_ok": True}),
    json.dumps({"total": 1, "scored": 1, "floor": 0.9, "ok": 1, "reason": None, "seconds": 1, "resumed": 0,
                "canaries": [7], "canaries_ok": True}),
])  # fmt: skip
def test_a_summary_that_cannot_be_used_is_a_warning(content: str, tmp_path: Path) -> None:
    path = results(tmp_path, 8)
    path.with_name("r.jsonl.summary.json").write_text(content, encoding="latin-1")
    report = read_report(path)
    assert report.end is None
    assert report.warnings[0].startswith("r.jsonl.summary.json cannot be used: ")


def test_agreement_with_people_is_of_the_items_with_both_scores(tmp_path: Path) -> None:
    path = results(tmp_path, *(3, 9, 5, 7) * 5, 1)
    report = read_report(path, gold_file(tmp_path / "gold.jsonl", 5))
    assert report.agreement is not None
    overall = report.agreement.measures["criteria"]["overall"]
    assert (report.agreement.gold_items, overall["items"]) == (20, 20)
    assert overall["spearman"]["value"] == pytest.approx(1)
    assert overall["mean_absolute_error"]["value"] == pytest.approx(0.25)
    assert report.warnings == ()


def test_results_without_texts_are_matched_by_their_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [line(index, verdict(5), None, None) for index in range(4)])
    agreement = read_report(path, gold_file(tmp_path / "gold.jsonl")).agreement
    assert agreement is not None
    assert agreement.measures["scored"] == 4


def test_an_id_with_another_text_is_not_compared(tmp_path: Path) -> None:
    lines = [line(0, verdict()), line(1, verdict(), response="Something else."), line(2, verdict())]
    report = read_report(write(tmp_path / "r.jsonl", lines), gold_file(tmp_path / "gold.jsonl"))
    assert report.agreement is not None
    assert report.agreement.measures["scored"] == 2
    assert report.warnings == ("1 results have the id of a gold item and another text; they are not compared.",)


@pytest.mark.parametrize("result", [verdict(), comparison()])
def test_a_gold_file_of_other_items_is_said(result: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [line(0, result, id="other")])
    report = read_report(path, gold_file(tmp_path / "gold.jsonl"))
    assert report.warnings == (
        "No result is of an item of the gold file, so nothing says how far the judge agrees with people.",)


def test_a_gold_file_that_is_none_is_a_known_error(tmp_path: Path) -> None:
    path = results(tmp_path, 8)
    with pytest.raises(InputProblem) as caught:
        read_report(path, path)
    assert caught.value.reason == "GOLD_UNUSABLE"
