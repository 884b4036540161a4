"""Start, recognise and end processes. Only processes that this lab started are ever signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from judge_lab import LabError

# In the environment of everything the lab starts, with the lab's directory as value. A process that outlived the
# command which started it, before its pid was written down, is still recognised by it.
MARK = "JUDGE_LAB_MEMBER"


@dataclass(frozen=True)
class Process:
    """A process as the kernel tells it from a later one with the same pid: `started` is in clock ticks since boot."""

    pid: int
    started: int

    def alive(self) -> bool:
        return _started(self.pid) == self.started


def _started(pid: int) -> int | None:
    """Return the start time of a running process; None for one that is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")  # a name may be any bytes
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name before may hold blanks and brackets
    # A program's first thread is a zombie before its others have ended, which still hold its files and their locks.
    gone = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if gone else int(fields[19])


def boot_id() -> str:
    """Return what tells this boot of the machine from the one before."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def run(
    *argv: str | Path,
    stdin: bytes | None = None,
    check: bool = True,
    timeout_seconds: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it with its output as text.

    Raises LabError with the command and what it said when it fails (with `check`), is missing or takes too long.
    """
    line = " ".join(str(word) for word in argv)
    try:
        done = subprocess.run(
            [str(word) for word in argv], input=stdin, capture_output=True, check=False, timeout=timeout_seconds
        )
    except FileNotFoundError as err:
        raise LabError(f"command not found: {argv[0]}", hint="judge-bootstrap lab up names the Debian package") from err
    except subprocess.TimeoutExpired as err:
        raise LabError(f"`{line}` did not end in {timeout_seconds:.0f} s") from err
    out, err_text = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if check and done.returncode != 0:
        raise LabError(f"`{line}` ended with {done.returncode}: {(err_text or out).strip()[-600:]}")
    return subprocess.CompletedProcess(done.args, done.returncode, out, err_text)


def spawn(
    argv: Sequence[str | Path], *, log: Path, mark: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Process:
    """Start a command in a session of its own, with no parent to wait for it, and return it.

    Its output is appended to `log`. `env` is added to a clean environment.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # A shell starts it and ends: the process belongs to init then, so it neither dies with us nor stays as a zombie.
    # setsid execs in place here, because a background job of a non-interactive shell leads no process group.
    started = subprocess.run(
        [
            "/bin/sh",
            "-c",
            'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!',
            "sh",
            str(log),
            *map(str, argv),
        ],
        env={**base_environment(), MARK: str(mark), **(env or {})},
        cwd=cwd or "/",
        capture_output=True,
        check=True,
    )
    pid = int(started.stdout)
    return Process(pid, _started(pid) or 0)


def base_environment() -> dict[str, str]:
    """Return the environment of the lab's processes: nothing of the operator's credentials or proxies."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
    }


def marked(mark: Path) -> list[Process]:
    """Return every living process whose environment names the lab `mark`."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or a kernel thread
            continue
        started = _started(int(entry.name))
        if wanted in environment and started is not None:
            found.append(Process(int(entry.name), started))
    return found


def children(process: Process) -> list[Process]:
    """Return the living processes that a process started and that are still its own."""
    try:
        pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:  # gone
        return []
    return [Process(int(pid), started) for pid in pids if (started := _started(int(pid))) is not None]


def command(process: Process) -> str:
    """Return the command line of a process, for messages."""
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{process.pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()[:120]
        )
    return "?"


def end(processes: Iterable[Process], *, grace_seconds: float = 0, wait_seconds: float = 120) -> None:
    """End processes: TERM first where there is a grace, then KILL, and wait until they are gone.

    Raises LabError, naming them, if some are still there after `wait_seconds`.
    """
    left = [process for process in processes if process.alive()]
    if grace_seconds:
        _signal(left, signal.SIGTERM)
        left = _wait(left, grace_seconds)
    _signal(left, signal.SIGKILL)
    left = _wait(left, wait_seconds)
    if left:
        names = ", ".join(f"{process.pid} ({command(process)})" for process in left)
        raise LabError(
            f"still running {wait_seconds:.0f} s after KILL: {names}", hint="look for I/O that hangs: dmesg | tail"
        )


def _signal(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        if process.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _wait(processes: list[Process], seconds: float) -> list[Process]:
    deadline = time.monotonic() + seconds
    while (left := [process for process in processes if process.alive()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
