"""What every command answers with: one result as JSON or as text, and one exception for known failures."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from .reasons import REASONS

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_INTERRUPTED = 130


# What a Hub, a marker file or a disk's name says must not clear the screen or turn the text around (CVE-2021-42574);
# lone surrogates cannot be printed at all. Line feed and tab stay.
_TERMINAL_SIGN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return `text` with every sign that a terminal obeys shown as an escape."""
    return _TERMINAL_SIGN.sub(lambda found: ascii(found[0])[1:-1], text)


def foreign(text: object, longest: int = 160) -> str:
    """Return what somebody else said (a Hub, a library) as one line of at most `longest` signs."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= longest else line[:longest] + "..."


class NodeError(Exception):
    """A known failure: what was found and what was wanted in `message`, the next command in `repair`.

    `reason` is a code of the registry, or None for wrong usage. `exit_code` follows the reason unless it is given.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        repair: str | None = None,
        state: str | None = None,
        exit_code: int | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        known = REASONS[reason] if reason is not None else None
        self.repair = repair if repair is not None else (known.repair if known else None)
        self.state = state
        self.exit_code = exit_code if exit_code is not None else (known.exit_code if known else EXIT_USAGE)
        self.facts = facts or {}


@dataclass
class Result:
    """The answer of one command. `changed` in check mode says what a run would do; `diff` lists it in words."""

    command: str
    ok: bool = True
    changed: bool = False
    state: str | None = None
    reason: str | None = None
    message: str = ""
    repair: str | None = None
    before: str = ""
    after: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    exit_code: int = EXIT_OK

    @classmethod
    def of_error(cls, command: str, error: NodeError) -> Result:
        """Return the result that reports a known failure."""
        return cls(
            command=command,
            ok=False,
            state=error.state,
            reason=error.reason,
            message=error.message,
            repair=error.repair,
            facts=error.facts,
            exit_code=error.exit_code,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the documented keys; they are only ever added to."""
        return {
            "ok": self.ok,
            "command": self.command,
            "changed": self.changed,
            "state": self.state,
            "reason": self.reason,
            "message": self.message,
            "repair": self.repair,
            "diff": {"before": self.before, "after": self.after},
            "facts": self.facts,
        }

    def as_json(self) -> str:
        """Return one line of JSON with the newline."""
        return json.dumps(self.as_dict(), sort_keys=True) + "\n"

    def as_text(self) -> str:
        """Return what a person reads: the message, then what changed, then the next command."""
        lines = [f"{self.reason}: {self.message}" if self.reason else self.message]
        if self.before != self.after:
            lines += [f"  - {line}" for line in self.before.splitlines()]
            lines += [f"  + {line}" for line in self.after.splitlines()]
        if self.repair:
            lines.append(f"Hint: {self.repair}")
        return "\n".join(lines) + "\n"
