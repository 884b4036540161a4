"""One run per environment at a time: flock on a file that says who holds it.

The kernel drops the lock when its holder ends, however it ends; what is written in the file is only for people and for
cleaning up after a run that was killed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any

from judge_bootstrap.core.errors import Refusal, UsageProblem


@dataclass(frozen=True)
class Holder:
    """Who holds the lock; `started` is ISO 8601 in UTC."""

    pid: int
    host: str
    user: str
    run_id: str
    command: str
    started: str

    def age(self, now: datetime) -> str:
        """Return how long ago the holder started, in words."""
        seconds = max(0, int((now - datetime.fromisoformat(self.started)).total_seconds()))
        for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
            if seconds >= size:
                return f"{seconds // size} {unit}"
        return f"{seconds} s"


def new_holder(run_id: str, command: str) -> Holder:
    """Return this process as a holder."""
    try:
        user = getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(os.getpid(), socket.gethostname(), user, run_id, command, started)


@contextmanager
def held(path: Path, env: str, holder: Holder, *,
         on_stale: Callable[[Holder], None] = lambda _: None) -> Iterator[None]:
    """Hold the environment's lock for the length of a with block.

    `on_stale` is called, lock in hand, with the holder of an earlier run that ended without letting go (killed, say).
    Raises Refusal, naming the holder, when another run has it; UsageProblem when the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Not through a link, nor into a pipe: who can write to the folder could have us empty another file, or wait.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no regular file")
    except OSError as problem:
        why = "it is a symbolic link" if problem.errno == errno.ELOOP else problem.strerror
        raise UsageProblem(f"the lock {path} cannot be made: {why}",
                           hint="set JUDGE_BOOTSTRAP_STATE to a folder that is yours") from problem
    with os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(env, _read(handle.read())) from None
        before = _read(handle.read())
        if before is not None:
            on_stale(before)
        _write(handle, json.dumps(asdict(holder)))
        try:
            yield
        finally:
            _write(handle, "")


def _refusal(env: str, holder: Holder | None) -> Refusal:
    who = "another run"
    hint = "wait for it to end, then try again"
    if holder is not None:
        who = (f"`{holder.command}` of {holder.user}@{holder.host} (pid {holder.pid}, run {holder.run_id}) "
               f"since {holder.started}, {holder.age(datetime.now(UTC))} ago")
        hint = f"wait for it, or end it with Ctrl-C where it runs (kill -INT {holder.pid} on {holder.host})"
    return Refusal(f"environment {env!r} is held by {who}", reason="LOCKED", hint=hint)


def _read(text: str) -> Holder | None:
    """Return the holder a file names; None when it is empty or not ours to understand."""
    try:
        found: Any = json.loads(text)
        holder = Holder(**found)
        texts = (holder.host, holder.user, holder.run_id, holder.command, holder.started)
        started = datetime.fromisoformat(holder.started)
    except (ValueError, TypeError, RecursionError):
        return None
    good = type(holder.pid) is int and all(isinstance(text, str) for text in texts) and started.tzinfo is not None
    return holder if good else None


def _write(handle: Any, text: str) -> None:
    handle.seek(0)
    handle.truncate()
    handle.write(text)
    handle.flush()
