"""Why a batch ended before its end. What it has is kept, and the same command goes on with it."""

from __future__ import annotations

import errno
from pathlib import Path


class BatchStopped(Exception):
    """A batch that could not go on. `reason` is a code (judge-node reasons), `hint` the next command."""

    def __init__(self, message: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.reason, self.hint = message, reason, hint


def unwritable(path: Path, error: OSError) -> BatchStopped:
    """Return what a file that cannot be written stops a batch with."""
    look = f"mkdir -p {path.parent}" if error.errno == errno.ENOENT else f"df -h {path.parent}; ls -ld {path.parent}"
    return BatchStopped(f"{path} cannot be written: {error.strerror or error}", reason="OUTPUT_UNWRITABLE",
                        hint=f"{look}   # then the same command again: it goes on")
