"""What is wrong with a file or an argument that a person gave, in one line, with what to do about it."""

from __future__ import annotations


class InputProblem(ValueError):
    """A file or an argument that cannot be used: what was found and what was wanted.

    `reason` is its code (judge-node reasons), `hint` the next command.
    """

    def __init__(self, message: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.reason, self.hint = message, reason, hint
