"""`judge batch`: what a person sees and a program reads of a batch, and the next command for all that can stop it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fakes_batch import TRUNCATED, FakeJudge, assert_whole, read_lines, scored, write_items
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.judge_progress import Bar, duration, pace_text, state_text
from judge_bootstrap.cli.judge_server import OpenJudge
from judge_bootstrap.cli.main import cli
from judge_client.batch import CANARIES, Progress
from judge_client.exchange import Answer
from pod_servers import served, serving
from rich.console import Console

URL = "http://judge:8000"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> FakeJudge:
    """Return the judge that answers instead of the server at --url."""
    found = FakeJudge()
    monkeypatch.setattr(OpenJudge, "async_client", lambda self, **_: found.client(rubric=self.rubric))
    return found


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """Return a file of 40 items."""
    write_items(tmp_path / "items.jsonl", 40)
    return tmp_path / "items.jsonl"


def batch(*words: object) -> Result:
    return CliRunner().invoke(cli, ["judge", "batch", "--url", URL, *map(str, words)], obj=AppContext())


def _refused(done: Result, code: int, *said: str) -> None:
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    for text in said:
        assert text in done.stderr


def test_a_file_is_judged_into_one_beside_it(judge: FakeJudge, items: Path) -> None:
    done = batch(items)
    assert done.exit_code == 0, done.stderr
    out = items.with_name("items.verdicts.jsonl")
    assert_whole(out, [f"Answer number {number}." for number in range(40)])
    first, judged, canaries = done.stdout.splitlines()
    assert re.fullmatch(rf"{out}: 40 items in \d+\.\d s \(\d+\.\d per second\)", first)
    assert judged == "Judged by judge: 40 scored (100.0%), 0 unscored, 0 errors, 0 suspect"
    assert canaries == "Canaries were told apart: known good got 9, known bad got 2"
    assert done.stderr == ""


def test_json_is_one_object_with_the_summary(judge: FakeJudge, items: Path, tmp_path: Path) -> None:
    done = batch(items, "--out", tmp_path / "o.jsonl", "--json")
    answer = json.loads(done.stdout)
    summary = json.loads((tmp_path / "o.jsonl.summary.json").read_text())
    assert answer == {
        "ok": True, "command": "judge batch", "env": None, "reason": None, "message": "", "hint": None,
        "out": str(tmp_path / "o.jsonl"), "was_complete": False, "summary": summary}
    assert done.stderr == ""


def test_too_few_scores_fail_with_what_is_missing_and_the_next_command(judge: FakeJudge, items: Path) -> None:
    judge.plan = lambda text, _: TRUNCATED if text.startswith("Answer number 1") else None
    done = batch(items)
    assert done.exit_code == 1
    assert "Without a score: REPLY_TRUNCATED 11" in done.stdout.splitlines()
    assert "Error: COVERAGE_LOW: 29 of 40 items are scored (72.5%), wanted at least 95.0%" in done.stderr
    assert f"Hint: judge-bootstrap judge report {items.with_name('items.verdicts.jsonl')} " in done.stderr
    assert "the same command with --retry-failed" in done.stderr
    answer = json.loads(batch(items, "--json").stdout)
    assert (answer["ok"], answer["reason"], answer["was_complete"]) == (False, "COVERAGE_LOW", True)


def test_a_lower_floor_takes_what_is_there(judge: FakeJudge, items: Path) -> None:
    judge.plan = lambda text, _: TRUNCATED if text.startswith("Answer number 1") else None
    assert batch(items, "--floor", "0.7").exit_code == 0


def test_a_batch_that_is_complete_says_so_and_asks_nothing(judge: FakeJudge, items: Path) -> None:
    batch(items)
    asked = judge.asked.total()
    done = batch(items)
    assert done.exit_code == 0
    assert "complete already, nothing was asked" in done.stdout
    assert judge.asked.total() == asked


def test_retry_failed_mends_a_complete_output(judge: FakeJudge, items: Path) -> None:
    judge.plan = lambda text, _: TRUNCATED if text.startswith("Answer number 1") else None
    batch(items)
    judge.plan = lambda *_: None
    done = batch(items, "--retry-failed")
    assert done.exit_code == 0, done.stderr
    assert "40 items in" in done.stdout
    assert "29 of them done before" in done.stdout


def test_drift_is_said_at_once_and_fails_at_the_end(judge: FakeJudge, items: Path) -> None:
    judge.plan = lambda text, _: scored(3) if text == CANARIES[0].model_response else None
    done = batch(items)
    assert done.exit_code == 1
    said = "the canary 'known good' got 3 after 0 items, wanted at least 7"
    assert f"Warning: CANARY_DRIFT: {said}; the batch will fail" in done.stderr
    assert f"Error: CANARY_DRIFT: {said}" in done.stderr
    assert f"Hint: judge-bootstrap judge calibrate --url {URL} " in done.stderr
    assert "Canaries DRIFTED: known good got 3, known bad got 2" in done.stdout
    assert len(read_lines(items.with_name("items.verdicts.jsonl"))) == 40


def test_canaries_of_ones_own_are_asked_instead(judge: FakeJudge, items: Path, tmp_path: Path) -> None:
    own = tmp_path / "canaries.jsonl"
    own.write_text(json.dumps({"name": "mine", "expect": "bad", "original_prompt": "?", "model_response": "!"}) + "\n")
    judge.plan = lambda text, _: scored(1) if text == "!" else None
    done = batch(items, "--canaries", own, "--canary-every", "10")
    assert "Canaries were told apart: mine got 1" in done.stdout
    assert judge.asked["!"] == 5
    assert judge.asked[CANARIES[0].model_response] == 0


@pytest.mark.parametrize(("line", "said"), [
    ('{"name": "x"}', "line 1: KeyError 'expect', wanted a canary"),
    ('{"name": "x", "expect": "ok", "original_prompt": "", "model_response": ""}', "expect is 'ok', wanted good or"),
    ("", "holds 0 canaries, wanted at least one"),
])
def test_canaries_that_are_none_are_refused(
    judge: FakeJudge, items: Path, tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "c.jsonl").write_text(line + "\n")
    _refused(batch(items, "--canaries", tmp_path / "c.jsonl"), 2, said, "Hint: one a line:")


def test_no_canaries_are_asked_on_request(judge: FakeJudge, items: Path) -> None:
    assert "Canar" not in batch(items, "--no-canaries").stdout
    assert judge.asked.total() == 40


def test_both_options_about_canaries_exclude_each_other(judge: FakeJudge, items: Path) -> None:
    _refused(batch(items, "--no-canaries", "--canaries", "x"), 2, "exclude each other")


def test_texts_are_left_out_on_request(judge: FakeJudge, items: Path, tmp_path: Path) -> None:
    batch(items, "--no-texts", "--out", tmp_path / "o.jsonl")
    assert "Answer number" not in (tmp_path / "o.jsonl").read_text()


def test_another_batchs_output_is_refused_with_3(judge: FakeJudge, items: Path) -> None:
    batch(items)
    _refused(batch(items, "--votes", "3"), 3, "of a batch with another votes: it is not overwritten",
             "Hint: give another --out, or move it away")


def test_a_journal_of_another_batch_is_refused_with_3(judge: FakeJudge, items: Path) -> None:
    items.with_name("items.verdicts.jsonl.journal").write_text('{"schema": 1, "items": 7}\n')
    _refused(batch(items), 3, "items.verdicts.jsonl.journal is of a batch with another kind", "or begin anew: rm")


def test_items_that_are_none_are_refused_with_2(judge: FakeJudge, items: Path) -> None:
    items.write_text('{"prompt": "p", "answer": "a"}\n')
    _refused(batch(items), 2, "line 1: found prompt, answer, wanted model_response (or response)")
    assert judge.asked.total() == 0


@pytest.mark.parametrize("words", [("--votes", "2"), ("--window", "0"), ("--floor", "95"), ("--patience", "-1")])
def test_options_out_of_range_are_wrong_usage(judge: FakeJudge, items: Path, words: tuple[str, str]) -> None:
    assert batch(items, *words).exit_code == 2


def test_a_server_that_refuses_the_key_stops_the_batch_which_then_goes_on(judge: FakeJudge, items: Path) -> None:
    judge.plan = lambda *_: Answer(401, '{"error": "no"}')
    _refused(batch(items), 1, "Error: SERVER_DENIED: 3 answers in a row failed", "items are kept",
             "Hint: --api-key-file FILE, or export JUDGE_API_KEY   # then the same command again: it goes on")
    judge.plan = lambda *_: None
    assert batch(items).exit_code == 0


def test_a_server_that_is_not_there_is_one_line(judge: FakeJudge, items: Path) -> None:
    judge.is_down = True
    done = batch(items, "--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["reason"], answer["message"]) == (1, "SERVER_UNREACHABLE", "connection refused")


def test_a_folder_that_is_missing_is_one_line(judge: FakeJudge, items: Path, tmp_path: Path) -> None:
    _refused(batch(items, "--out", tmp_path / "no" / "o.jsonl"), 1, "cannot be written: No such file or directory",
             f"Hint: mkdir -p {tmp_path / 'no'}")


def _start(url: str, items: Path, **options: Any) -> subprocess.Popen[bytes]:
    code = "from judge_bootstrap.cli.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen([sys.executable, "-c", code, "judge", "batch", "--url", url, str(items)], env=environment,
                            **options)


def test_ctrl_c_ends_with_130_and_says_what_is_kept(items: Path) -> None:
    server = serving("org/judge", "a" * 40)
    hold = threading.Event()
    real = server.answer

    def answer(method: str, path: str, authorization: str | None) -> tuple[int, Any]:
        if method == "POST" and len(server.bodies) > 12:
            hold.wait(60)
        return real(method, path, authorization)

    server.answer = answer  # type: ignore[method-assign]
    out = items.with_name("items.verdicts.jsonl")
    with served(server) as url:
        running = _start(url, items, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=300)
        hold.set()
    assert (running.returncode, stdout) == (130, b"")
    assert re.search(rb"Error: interrupted: \d+ of 40 items are done and kept", stderr), stderr
    assert b"Hint: the same command again: it goes on" in stderr
    assert b"Traceback" not in stderr
    assert items.with_name("items.verdicts.jsonl.journal").stat().st_size > 0


def test_a_terminal_gets_a_bar_and_its_end_is_the_same_text(items: Path) -> None:
    mine, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(mine, 65536)
            except OSError:
                return
            shown.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with served(serving("org/judge", "a" * 40)) as url:
        running = _start(url, items, stdout=subprocess.PIPE, stderr=theirs)
        os.close(theirs)
        stdout, _ = running.communicate(timeout=120)
    reader.join(10)
    os.close(mine)
    assert b"40 items in" in stdout
    assert b"\x1b" not in stdout
    assert b"40/40" in shown


def _progress(**more: Any) -> Progress:
    values: dict[str, Any] = {
        "done": 25, "total": 100, "scored": 20, "unscored": 3, "errored": 2, "suspects": 0, "resumed": 0, "rate": 2.5,
        "remaining_seconds": 30.0, "in_flight": 8, "limit": 8, "ceiling": 8}
    return Progress(**{**values, **more})


def test_the_bar_shows_rate_remaining_time_and_what_failed() -> None:
    drawn = io.StringIO()
    with Bar(Console(file=drawn, width=120, force_terminal=True, color_system=None)) as bar:
        bar.show(_progress())
    text = drawn.getvalue()
    for part in ("25/100", " 25 %", "2.5/s, 30 s left", "window 8, 3 unscored, 2 errors"):
        assert part in text


@pytest.mark.parametrize(("more", "said"), [
    ({"rate": None, "remaining_seconds": None}, ""),
    ({"remaining_seconds": 185.0}, "2.5/s, 3 min 5 s left"),
    ({"remaining_seconds": 7620.0}, "2.5/s, 2 h 7 min left"),
    ({"gone_seconds": 12.4}, "server gone for 12 s"),
])
def test_the_pace_in_words(more: dict[str, Any], said: str) -> None:
    assert pace_text(_progress(**more)) == said


def test_a_window_that_was_narrowed_is_shown_against_its_ceiling() -> None:
    assert state_text(_progress(limit=4, unscored=0, errored=0, suspects=1)) == "window 4 of 8, 1 suspect"


def test_durations_are_rounded_before_they_are_cut() -> None:
    assert [duration(seconds) for seconds in (0.2, 59.6, 3599.7)] == ["0 s", "1 min 0 s", "1 h 0 min"]
