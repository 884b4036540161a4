"""`judge report`: a page is written whole or not at all, and never over somebody's file."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fakes_cli import Desk
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.main import cli
from judge_client.report import GENERATOR
from report_results import comparison, failed, line, verdict, write, write_summary


@pytest.fixture
def results(tmp_path: Path, desk: Desk) -> Path:
    """Return a results file of four answers, three of them scored."""
    assert desk
    return write(tmp_path / "verdicts.jsonl", [line(0, verdict(8)), line(1, verdict(6)), line(2, verdict(7)),
                                               line(3, failed())])


def report(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["judge", "report", *map(str, words)], obj=AppContext())


def test_the_page_stands_beside_the_results_and_the_headline_is_said(results: Path) -> None:
    found = report(results)
    page = results.with_suffix(".html")
    assert found.exit_code == 0, found.output
    assert found.output == (
        "4 answers: 3 scored, 0 unscored, 1 errored (75.0% coverage); 0 suspect\n"
        "Mean overall 7.00 (95 % interval 4.52 to 9.48), median 7\n"
        f"Wrote {page}\n")
    assert f'<meta name="generator" content="{GENERATOR}">' in page.read_text()
    assert sorted(path.name for path in results.parent.glob("*verdicts*")) == ["verdicts.html", "verdicts.jsonl"]


def test_comparisons_have_their_own_headline(tmp_path: Path, desk: Desk) -> None:
    path = write(tmp_path / "pairs.jsonl", [line(0, comparison("a", "a")), line(1, comparison("a", "b"))])
    assert report(path).output.splitlines()[:2] == [
        "2 comparisons: 2 scored, 0 unscored, 0 errored (100.0% coverage); 0 suspect",
        "A wins 50.0%, B 0.0%, tie 50.0%; both orders agree in 50.0%"]


def test_warnings_are_said_on_stderr(results: Path) -> None:
    write_summary(results, 4, 3)
    found = report(results)
    assert "(75.0% coverage, floor 95%)" in found.stdout
    assert found.stderr.startswith("Warning: Only 75.0 % have a verdict, and the floor is 95 %.")


def test_out_and_title_are_taken_and_folders_are_made(results: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder" / "page.html"
    assert report(results, "--out", place, "--title", "Release <12>").exit_code == 0
    assert "<title>Release &lt;12&gt;</title>" in place.read_text()


def test_json_gives_the_figures_and_no_judged_text(results: Path) -> None:
    found = report(results, "--json")
    answer = json.loads(found.stdout)
    assert (answer["ok"], answer["command"], answer["reason"]) == (True, "judge report", None)
    assert answer["file"] == str(results.with_suffix(".html"))
    assert answer["figures"]["criteria"]["overall"]["mean"] == 7
    assert answer["figures"]["reasons"] == {"SERVER_TIMEOUT": 1}
    assert "What is 2 + 2?" not in found.stdout
    assert found.stderr == ""


def test_a_page_of_ours_is_replaced(results: Path) -> None:
    assert report(results, "--title", "First").exit_code == 0
    assert report(results, "--title", "Second").exit_code == 0
    assert "<title>Second</title>" in results.with_suffix(".html").read_text()


@pytest.mark.parametrize("content", ["<html>mine</html>", "\0" * 5_000, f"quoted: {GENERATOR}"])
def test_a_file_that_is_no_page_of_ours_is_left_alone(content: str, results: Path) -> None:
    place = results.with_suffix(".html")
    place.write_text(content)
    found = report(results)
    assert found.exit_code == 3
    assert found.stderr == (
        f"Error: OUTPUT_EXISTS: {place} is there and is no page of `judge report`, so it is left alone\n"
        f"Hint: judge-bootstrap judge report {results} --out OTHER.html\n")
    assert place.read_text() == content


def test_the_results_are_never_written_over(results: Path) -> None:
    before = results.read_bytes()
    assert report(results, "--out", results).exit_code == 3
    assert results.read_bytes() == before


def test_a_folder_and_a_device_are_no_place_for_a_page(results: Path, tmp_path: Path) -> None:
    for place in (tmp_path, Path("/dev/null")):
        found = report(results, "--out", place, "--json")
        assert found.exit_code == 3
        assert json.loads(found.stdout)["reason"] == "OUTPUT_EXISTS"


def test_a_link_to_a_page_still_leads_to_it(results: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest.html"
    link.symlink_to("page.html")
    assert report(results, "--out", link).exit_code == 0
    assert link.is_symlink()
    assert (tmp_path / "page.html").is_file()


def test_an_empty_file_holds_nothing_that_could_be_lost(results: Path, tmp_path: Path) -> None:
    place = tmp_path / "made-by-mktemp.html"
    place.touch()
    assert report(results, "--out", place).exit_code == 0


def test_who_may_not_read_the_results_may_not_read_the_page(results: Path) -> None:
    results.chmod(0o600)
    assert report(results).exit_code == 0
    assert results.with_suffix(".html").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_the_old_page_and_nothing_else(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report(results, "--title", "Old").exit_code == 0
    page = results.with_suffix(".html")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    found = report(results)
    assert found.exit_code == 1
    assert found.stderr == (f"Error: OUTPUT_UNWRITABLE: {page} cannot be written: No space left on device\n"
                            f"Hint: df -h {page.parent}; ls -ld {page.parent}\n")
    assert "<title>Old</title>" in page.read_text()
    assert not list(page.parent.glob(".*"))


def test_a_broken_line_is_one_clear_error_and_writes_no_page(results: Path) -> None:
    with results.open("a") as file:
        file.write('{"id": \n')
    found = report(results, "--json")
    assert found.exit_code == 2
    answer = json.loads(found.stdout)
    assert answer["reason"] == "REPORT_UNUSABLE"
    assert answer["message"].startswith(f"{results} line 5: found what is not JSON, wanted a result")
    assert not results.with_suffix(".html").exists()


def test_results_that_are_not_there_are_one_clear_error(tmp_path: Path, desk: Desk) -> None:
    found = report(tmp_path / "none.jsonl")
    assert found.exit_code == 2
    assert found.stderr == (f"Error: {tmp_path / 'none.jsonl'} cannot be read: No such file or directory\n"
                            f"Hint: ls -l {tmp_path / 'none.jsonl'}\n")


def test_a_batch_that_still_runs_has_a_report(results: Path) -> None:
    with results.open("a") as file:
        file.write('{"id": "item-4", "ver')
    found = report(results)
    assert found.exit_code == 0
    assert found.stderr.startswith("Warning: Line 5 is not complete: the batch still runs")


def test_a_missing_package_is_one_clear_error(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    found = report(results)
    assert found.exit_code == 2
    assert found.stderr == ("Error: a report needs the package jinja2, which is not installed\n"
                            "Hint: pip install 'judge-bootstrap[evaluation]'\n")


def test_agreement_with_people_is_on_the_page(results: Path, tmp_path: Path) -> None:
    scores = dict.fromkeys(("accuracy", "relevance", "helpfulness", "safety", "pleasing", "overall"), 7)
    gold = write(tmp_path / "gold.jsonl", [{"id": "item-0", "original_prompt": "What is 2 + 2?", "model_response": "4.",
                                            "scores": scores, "note": ""}])
    assert report(results, "--gold", gold).exit_code == 0
    assert "1 of 1 items of the gold file have a verdict here." in results.with_suffix(".html").read_text()


def test_a_wrong_gold_file_is_a_known_error(results: Path) -> None:
    found = report(results, "--gold", results, "--json")
    assert found.exit_code == 2
    assert json.loads(found.stdout)["reason"] == "GOLD_UNUSABLE"
