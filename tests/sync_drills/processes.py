"""A sync in a process of its own: killed at a moment or at a system call, or with a call that fails."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("child.py")
# `?`: not every architecture has it.
CALLS = ("pwrite64", "write", "fsync", "fdatasync", "?rename", "?renameat", "?renameat2", "?mkdir", "?mkdirat",
         "?symlink", "?symlinkat", "?unlink", "unlinkat", "fallocate", "ftruncate", "fchmod", "openat")  # fmt: skip
_READS = ("read", "pread64")
_LINE = re.compile(r"(?P<thread>\d+) +(?P<call>\w+)\((?P<rest>.*)")
_COMMAND_SECONDS = 600


def can_trace() -> bool:
    """Tell whether strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, check=False)
    return tried.returncode == 0


@dataclass(frozen=True)
class Call:
    """The `number`th call of one kind that a thread makes."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


@dataclass(frozen=True)
class Ended:
    """How a process ended: `code` is negative for a signal; `said` is empty when it printed no answer."""

    code: int
    said: dict[str, Any]
    errors: str
    seconds: float

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def state(self) -> str:
        """What it said: complete, a reason code, or how it broke."""
        if self.said.get("ok"):
            return str(self.said["state"])
        if self.said:
            return str(self.said["reason"] or "no reason")
        return "killed" if self.killed else f"exit code {self.code}: {self.errors.strip()[-300:]}"


@dataclass
class Job:
    """One sync: what it is told, and where it writes."""

    manifest: Path
    store: Path
    endpoint: str
    options: tuple[str, ...] = ()

    def command(self) -> list[str]:
        return [sys.executable, str(CHILD), "cache", "sync", str(self.manifest), "--store", str(self.store),
                "--endpoint", self.endpoint, "--json", *self.options]  # fmt: skip

    def start(self, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, *self.command()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    def run(self, before: Sequence[str] = ()) -> Ended:
        """Run it to its end."""
        started = time.monotonic()
        return finish(self.start(before), started)

    def run_and_kill(self, seconds: float) -> Ended:
        """Kill it after so many seconds, unless it has ended."""
        started = time.monotonic()
        process = self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        return finish(process, started)

    # Without --seccomp-bpf, with which strace 6.1 injects no signals.
    def run_struck(self, call: Call, what: str) -> Ended:
        """Run it with one call struck: `what` is strace's, such as signal=KILL or error=EIO."""
        return self.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call.name}",
                         "-e", f"inject={call.name}:{what}:when={call.number}"])  # fmt: skip

    def run_struck_from(self, call: Call, what: str) -> Ended:
        """Run it with that call and all later ones of its kind struck."""
        return self.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call.name}",
                         "-e", f"inject={call.name}:{what}:when={call.number}+"])  # fmt: skip

    def calls(self, log: Path, *, reads: bool = False) -> tuple[dict[str, list[int]], Ended]:
        """Run it to its end; return which calls of each kind had to do with the store: {name: [numbers]}."""
        names = ",".join(_READS if reads else CALLS)
        ended = self.run(["strace", "-f", "-qq", "-y", "-o", str(log), "-e", f"trace={names}"])
        counted: Counter[tuple[str, str]] = Counter()
        found: dict[str, list[int]] = {}
        for line in log.read_text(errors="replace").splitlines():
            matched = _LINE.match(line)
            if matched is None:
                continue
            counted[matched["thread"], matched["call"]] += 1
            if str(self.store) in matched["rest"]:
                found.setdefault(matched["call"], []).append(counted[matched["thread"], matched["call"]])
        return {name: sorted(set(numbers)) for name, numbers in found.items()}, ended


def finish(process: subprocess.Popen[str], started: float) -> Ended:
    """Wait for the end, and read what was said."""
    try:
        out, errors = process.communicate(timeout=_COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
        errors += f"\nit did not end in {_COMMAND_SECONDS} s"
    try:
        said = json.loads(out)
    except ValueError:
        said = {}
    return Ended(process.returncode, said, errors, time.monotonic() - started)


def draw(calls: dict[str, list[int]], rng: random.Random, names: Sequence[str] = ()) -> Call:
    """Draw a kind of call first, then one of its numbers: the many writes must not hide the one rename."""
    name = rng.choice(sorted(set(calls) & set(names) if names else calls))
    return Call(name, rng.choice(calls[name]))


def copy_store(before: Path, after: Path) -> None:
    """Make `after` a copy of a store, whatever was there."""
    shutil.rmtree(after, ignore_errors=True)
    shutil.copytree(before, after, symlinks=True)
