"""The last result of a command in this boot: in /run for `judge-node status`, and in the journal when it failed."""

from __future__ import annotations

import contextlib
import json
import os
import syslog
import time
from pathlib import Path
from typing import Any

from .files import make_directory, read_file, write_file
from .result import Result

CACHE_RESULT = Path("/run/judge-bootstrap/cache-result.json")


def leave(path: Path, result: Result) -> None:
    """Leave the result at `path`, and what failed in the journal (where a unit's output is already)."""
    with contextlib.suppress(OSError):
        write_last(path, result.as_dict())
    if not result.ok and "JOURNAL_STREAM" not in os.environ:
        syslog.openlog("judge-node", facility=syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_ERR, f"{result.reason or result.command}: {result.message}")


def write_last(path: Path, result: dict[str, Any]) -> None:
    """Write the result with time and process; it ends with the boot."""
    make_directory(path.parent)
    write_file(path, (json.dumps(dict(result, at=int(time.time()), pid=os.getpid()), sort_keys=True) + "\n").encode())


def read_last(path: Path) -> dict[str, Any] | None:
    """Return the last result of this boot, or None when there was none."""
    try:
        said = json.loads(read_file(path, 1 << 20))
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None
