"""The live table of a terminal."""

from __future__ import annotations

import io

import pytest
from fakes_cli import failed, ok
from judge_bootstrap.adapters.runner import Event
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.output import Lines, Silent, Table, progress
from judge_bootstrap.core.result import diff_text, failure_text
from rich.console import Console


def screen(height: int = 30) -> Console:
    return Console(file=io.StringIO(), width=100, height=height, force_terminal=True, no_color=True, highlight=False)


def drawn(table: Table) -> str:
    console = screen()
    console.print(table.render())
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_the_table_shows_what_each_host_does_now() -> None:
    table = Table(screen(), ["node-1", "node-2"])
    table.add(Event("playbook_on_play_start", play="Prepare the disk"))
    table.add(Event("runner_on_start", host="node-1", task="Mount it"))
    table.add(ok("node-2", "Mount it", changed=True))
    text = drawn(table)
    assert "Prepare the disk" in text
    assert "node-1 Mount it" in text
    assert "node-2 changed: Mount it" in text


def test_a_failure_stays_on_the_screen_above_the_table() -> None:
    console = screen()
    table = Table(console, ["node-1"])
    table.add(failed("node-1", "Mount it", msg="no such disk"))
    output = console.file
    assert isinstance(output, io.StringIO)
    assert "node-1: failed: Mount it: no such disk" in output.getvalue()


def test_a_small_screen_shows_those_that_failed_or_work_and_counts_the_rest() -> None:
    console = screen(height=8)
    table = Table(console, [f"node-{index}" for index in range(1, 21)])
    table.add(failed("node-20", "Mount it", msg="x"))
    table.add(Event("runner_on_start", host="node-19", task="Mount it"))
    text = drawn(table)
    assert "node-20" in text and "node-19" in text
    assert "and 16 more hosts" in text


def test_markup_in_a_hosts_words_is_shown_as_it_is() -> None:
    table = Table(screen(), ["node-1"])
    table.add(ok("node-1", "[bold]Look[/bold]"))
    assert "[bold]Look[/bold]" in drawn(table)


def test_json_quiet_and_pipes_get_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(progress(AppContext(), ["node-1"]), Table)
    assert isinstance(progress(AppContext(json=True), ["node-1"]), Lines)
    assert isinstance(progress(AppContext(verbose=2), ["node-1"]), Lines)
    monkeypatch.delenv("FORCE_COLOR")
    assert isinstance(progress(AppContext(), ["node-1"]), Lines)
    monkeypatch.setenv("LOG_LEVEL", "error")
    assert isinstance(progress(AppContext(), ["node-1"]), Silent)


def test_very_verbose_lines_carry_ansibles_own_output() -> None:
    lines: list[str] = []
    shown = Lines(verbose=2, write=lines.append)
    shown.add(Event("verbose", stdout="Using /content/ansible.cfg\n"))
    shown.add(Event("runner_on_ok", host="node-1", task="Look", stdout="ok: [node-1]\n"))
    assert lines == ["Using /content/ansible.cfg", "node-1: ok: Look\nok: [node-1]"]


def test_progress_is_the_row_of_its_host() -> None:
    table = Table(screen(), ["node-1", "node-2"])
    table.add(Event("runner_on_start", host="node-1", task="Wait"))
    table.add(Event("progress", host="node-1", stdout="syncing a/b: 25 %"))
    assert "node-1 syncing a/b: 25 %" in drawn(table)


def test_without_a_terminal_a_hosts_progress_is_told_every_ten_seconds() -> None:
    lines: list[str] = []
    times = iter([0.0, 5.0, 6.0, 11.0])
    shown = Lines(write=lines.append, clock=lambda: next(times))
    for host, text in (("node-1", "a"), ("node-1", "b"), ("node-2", "c"), ("node-1", "d")):
        shown.add(Event("progress", host=host, stdout=text))
    assert lines == ["node-1: a", "node-2: c", "node-1: d"]


def test_a_command_that_failed_is_told_by_what_it_wrote() -> None:
    assert failure_text({"msg": "non-zero return code", "stderr": "\nmkfs: no\n"}) == "non-zero return code: mkfs: no"
    assert failure_text({"msg": "MODULE FAILURE: see", "module_stderr": "Killed"}) == "MODULE FAILURE: see: Killed"
    assert failure_text({"msg": "no disk", "stderr": "noise"}) == "no disk"


def test_a_diff_of_objects_is_a_diff_of_their_json() -> None:
    text = diff_text({"diff": {"before": {"replicas": 1}, "after": {"replicas": 2}}})
    assert '-  "replicas": 1' in text and '+  "replicas": 2' in text
    assert diff_text({"diff": [{"prepared": "+ one\n"}]}) == "+ one"
    named = {"before": "a", "after": "b", "before_header": "old.txt", "after_header": "new.txt"}
    assert diff_text({"diff": named}).splitlines()[:2] == ["--- old.txt", "+++ new.txt"]
    assert diff_text({}) == ""
