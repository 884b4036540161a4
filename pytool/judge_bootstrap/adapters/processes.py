"""Find and end the processes of one run, wherever they were reparented to.

Ansible's workers call setsid() and ssh's control masters daemonize, so neither a process group nor a parent pid finds
them. What they all keep is their environment, where every run puts its own id; all but ssh's masters, which write
their title over it (setproctitle) and name in it the control socket, in the run's private directory.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

RUN_ID_VARIABLE = "JUDGE_BOOTSTRAP_RUN_ID"
PROC = Path("/proc")


def carriers(run_id: str, folder: Path | None = None) -> list[int]:
    """Return the pids of our own user's live processes that carry `run_id` or name `folder`, without this one.

    Empty where there is no /proc: elsewhere than on Linux only Ansible's own clean-up works.
    """
    if not run_id or not PROC.is_dir():
        return []
    mark = f"{RUN_ID_VARIABLE}={run_id}".encode()
    below = f"{folder}/".encode() if folder else None
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if entry.stat().st_uid != os.getuid():
                continue
            environment = (entry / "environ").read_bytes()
            title = (entry / "cmdline").read_bytes() if below else b""
        except OSError:
            continue  # it ended meanwhile, or is not ours to read
        if mark in environment.split(b"\0") or (below and below in title and title.startswith(b"ssh: ")):
            found.append(int(entry.name))
    return found


def command_line(pid: int) -> list[str]:
    """Return a process's argv; empty when it has ended."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [word.decode(errors="replace") for word in words if word]


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that has ended meanwhile is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def end(run_id: str, folder: Path | None = None, *, grace_seconds: float = 2.0,
        hurry: Callable[[], bool] = lambda: False) -> int:
    """End all processes of a run (see `carriers`): SIGTERM, SIGKILL after the grace, or when there is a hurry.

    Return how many they were.
    """
    seen: set[int] = set()
    give_up = time.monotonic() + grace_seconds + 5.0
    patience = time.monotonic() + grace_seconds
    while left := carriers(run_id, folder):
        hard = time.monotonic() >= patience or hurry()
        for pid in left:
            # Each is asked once; children that it forks meanwhile are found by the next look.
            if hard or pid not in seen:
                send(pid, signal.SIGKILL if hard else signal.SIGTERM)
        seen.update(left)
        if time.monotonic() > give_up:
            break  # in uninterruptible sleep: nothing more can be done from here
        time.sleep(0.05)
    return len(seen)


def started_ticks(pid: int) -> int | None:
    """Return a process's start in clock ticks since boot, None when it is gone: pids are reused, the pair is not."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command in parentheses may contain anything, spaces and parentheses included. Field 22 of proc(5).
    return int(text.rpartition(")")[2].split()[19])


def is_alive(pid: int, ticks: int | None) -> bool:
    """Tell whether the process with this pid and start still runs (without /proc ticks are None, and pids must do)."""
    if ticks is not None:
        return started_ticks(pid) == ticks
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
