"""The private directory of a run: 0700, in memory where possible, gone afterwards whatever happens.

ansible-runner keeps the whole environment of a run in its artifacts, so the directory is as secret as AWS keys are. A
process that is killed cannot clean up; the next run does, by the owner that each directory names.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from judge_bootstrap.adapters import processes

# Short, because ssh's control sockets lie below it and a socket's path may have 108 bytes.
PREFIX = "jb-"
OWNER_FILE = "owner.json"


def parents() -> list[Path]:
    """Return where private directories may lie, best first: /dev/shm is memory, so nothing reaches a disk."""
    shared_memory = Path("/dev/shm")
    places = [shared_memory] if shared_memory.is_dir() and os.access(shared_memory, os.W_OK | os.X_OK) else []
    return [*places, Path(tempfile.gettempdir()).resolve()]


@contextmanager
def private_directory(run_id: str) -> Iterator[Path]:
    """Make a private directory for the length of a with block; remove what dead runs left."""
    sweep()
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parents()[0]))
    try:
        owner = {"pid": os.getpid(), "ticks": processes.started_ticks(os.getpid()), "run_id": run_id}
        (path / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep() -> list[Path]:
    """Remove our own user's private directories whose owner is dead, and end what still runs for them; return them."""
    removed = []
    for parent in parents():
        for path in parent.glob(PREFIX + "*"):
            try:
                status = path.lstat()
                owner = json.loads((path / OWNER_FILE).read_text(encoding="utf-8"))
                pid, ticks, run_id = owner["pid"], owner["ticks"], str(owner["run_id"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not ours, or just being made
            if status.st_uid != os.getuid() or path.is_symlink():
                continue
            if processes.is_alive(pid, ticks):
                continue
            processes.end(run_id, path)
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed
