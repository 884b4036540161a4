"""Processes of the lab: recognised across commands, and never another one than ours is ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from judge_lab import LabError, process


def spawn_sleeper(mark: Path) -> process.Process:
    return process.spawn(["sleep", "60"], log=mark / "sleeper.log", mark=mark)


def wait_for_command(started: process.Process, word: str) -> None:
    deadline = time.monotonic() + 60
    while word not in process.command(started) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_started_process_is_not_our_child_and_is_found_by_its_mark(tmp_path: Path) -> None:
    started = spawn_sleeper(tmp_path)
    wait_for_command(started, "sleep 60")
    try:
        parent = int(Path(f"/proc/{started.pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent != os.getpid()
        assert process.marked(tmp_path) == [started]
        assert process.marked(tmp_path / "other") == []
    finally:
        process.end([started])
    assert not started.alive()


def test_a_process_with_the_same_pid_but_another_start_is_not_ours(tmp_path: Path) -> None:
    started = spawn_sleeper(tmp_path)
    try:
        stranger = process.Process(started.pid, started.started - 1)
        process.end([stranger])
        assert not stranger.alive()
        assert started.alive()
    finally:
        process.end([started])


def test_a_strangers_name_may_be_any_bytes(tmp_path: Path) -> None:
    named = os.fsencode(tmp_path) + b"/\xff\xfe"
    shutil.copy(shutil.which("sleep") or "", named)
    with subprocess.Popen([named, "60"]) as stranger:
        try:
            assert process.marked(tmp_path) == []
        finally:
            stranger.kill()


def test_a_zombie_counts_as_ended() -> None:
    child = subprocess.Popen(["true"])
    try:
        deadline = time.monotonic() + 60
        while "Z" not in Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2] and time.monotonic() < deadline:
            time.sleep(0.01)
        started = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
        assert not process.Process(child.pid, started).alive()
    finally:
        child.wait()


def test_a_program_whose_first_thread_has_ended_still_runs() -> None:
    only_first_ends = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); "
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    child = subprocess.Popen([sys.executable, "-c", only_first_ends])
    try:
        deadline = time.monotonic() + 60
        while "Z" not in Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2] and time.monotonic() < deadline:
            time.sleep(0.01)
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        assert fields[0] == "Z"
        assert process.Process(child.pid, int(fields[19])).alive()
    finally:
        child.kill()
        child.wait()


def test_output_goes_to_the_log_and_nothing_of_our_environment_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-operators-own")
    started = process.spawn(["env"], log=tmp_path / "env.log", mark=tmp_path, env={"OWN": "1"})
    process._wait([started], 60)
    log = (tmp_path / "env.log").read_text()
    assert "OWN=1" in log
    assert "an-operators-own" not in log


def test_a_grace_lets_a_process_end_by_itself(tmp_path: Path) -> None:
    script = "trap 'echo ended by TERM; exit' TERM; echo ready; while :; do sleep 0.05; done"
    log = tmp_path / "sh.log"
    started = process.spawn(["sh", "-c", script], log=log, mark=tmp_path)
    deadline = time.monotonic() + 60
    while not (log.exists() and "ready" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.end([started], grace_seconds=60)
    assert log.read_text() == "ready\nended by TERM\n"


def test_a_failed_command_is_told_with_its_words_and_what_it_said() -> None:
    with pytest.raises(LabError) as caught:
        process.run("sh", "-c", "echo no such bridge >&2; exit 3")
    assert caught.value.message == "`sh -c echo no such bridge >&2; exit 3` ended with 3: no such bridge"


def test_a_missing_command_is_a_known_error() -> None:
    with pytest.raises(LabError, match="command not found: no-such-command-of-the-lab"):
        process.run("no-such-command-of-the-lab")
