"""Why a batch ended before its end. What it has is kept, and the same command goes on with it."""

from __future__ import annotations


class BatchStopped(Exception):
    """A batch that could not go on. `reason` is a code (judge-node reasons), `hint` the next command."""

    def __init__(self, message: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.reason, self.hint = message, reason, hint
