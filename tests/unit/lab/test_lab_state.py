"""What the lab remembers, and the lock that lets one command change it at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from judge_lab import LabError, state
from judge_lab.layout import Layout
from judge_lab.process import Process
from judge_lab.state import NodeState, State


@pytest.fixture(autouse=True)
def own_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LOCK_FILE", tmp_path / "lab.lock")


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "lab")
    node = NodeState(2, wanted="stopped", instance_id="i-0abc", process=Process(7, 8))
    saved = State(layout, processes={"etcd": Process(3, 4)}, nodes={"node-2": node})
    saved.save()
    assert state.load(layout) == saved
    assert saved.of_this_boot()


def test_a_record_of_another_boot_is_told_apart(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "lab")
    State(layout, boot="of-last-week").save()
    loaded = state.load(layout)
    assert loaded is not None
    assert not loaded.of_this_boot()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"boot": "x", "processes": {}}'])
def test_a_record_that_cannot_be_read_counts_as_none(tmp_path: Path, content: str) -> None:
    layout = Layout(tmp_path)
    layout.state.write_text(content)
    assert state.load(layout) is None


def test_a_second_command_is_refused_while_the_first_holds_the_lock() -> None:
    with state.lock(), pytest.raises(LabError, match="another command is changing the lab"), state.lock(wait=False):
        pass


def test_who_waited_for_a_lab_down_locks_the_new_file() -> None:
    got = threading.Event()

    def second() -> None:
        with state.lock():
            got.set()

    with state.lock():
        waiter = threading.Thread(target=second)
        waiter.start()
        assert not got.wait(0.1)
        state.LOCK_FILE.unlink()  # as `lab down` does at its end
    waiter.join(60)
    assert got.is_set()
    assert state.LOCK_FILE.exists()


def test_who_may_not_change_the_lab_is_told_who_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(state.os, "open", denied)
    with pytest.raises(LabError, match="only be changed by root") as caught, state.lock():
        pass
    assert caught.value.hint == "run it as root (sudo -E)"
