"""The one way to start a program: no shell, no stdin, C locale, a deadline, and a clear message when it is missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence

from .result import NodeError

# ssh sessions of a service user often lack the sbin directories, where mkfs and blkid live.
_PATH = os.pathsep.join(filter(None, (os.environ.get("PATH"), "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")))


def environment() -> dict[str, str]:
    """Return the environment for child programs: English messages, complete PATH, nothing secret.

    No blkid cache: mkfs.ext4 asks it, and it still tells of the filesystem that a device of that name had minutes ago.
    """
    return {"PATH": _PATH, "LC_ALL": "C", "BLKID_FILE": "/dev/null"}


def find(name: str) -> str:
    """Return the path of a program. Raises NodeError TOOL_MISSING when it is not installed."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise NodeError(f"program {name!r} is not on this node, and it is needed to go on", reason="TOOL_MISSING")
    return path


def run(
    argv: Sequence[str], *, given: str = "", timeout_seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `argv` with `given` on stdin and return its exit status and output; the exit status is the caller's to judge.

    Raises NodeError TOOL_MISSING when the program is not installed, DISK_UNKNOWN when it does not end in time.
    """
    try:
        return subprocess.run(
            [find(argv[0]), *argv[1:]],
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment(),
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NodeError(
            f"`{' '.join(argv)}` gave no answer in {timeout_seconds:.0f} seconds", reason="DISK_UNKNOWN"
        ) from None


def checked(
    argv: Sequence[str], *, given: str = "", timeout_seconds: float = 60, reason: str = "FS_CREATE_FAILED"
) -> None:
    """Run `argv`; raise NodeError with the given reason and what it said when it fails."""
    done = run(argv, given=given, timeout_seconds=timeout_seconds)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        raise NodeError(f"`{' '.join(argv)}` ended with {done.returncode}: {said}", reason=reason)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold back SIGINT, SIGTERM and SIGHUP, for this process and for what it starts, until the block ends."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
