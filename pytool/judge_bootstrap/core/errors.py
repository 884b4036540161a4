"""The one exception that commands turn into a line of text, JSON and an exit code (DESIGN.md section 5)."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    INTERRUPTED = 130


class BootstrapError(Exception):
    """A known failure: what was found and what was wanted, with the next command as `hint`.

    `reason` is a stable code (DESIGN.md section 5) or None; `exit_code` is what the process ends with.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, reason: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.hint = hint

    def for_module(self) -> dict[str, str | None]:
        """Return what an Ansible module fails with; `msg` says it all, for people who run ansible-playbook by hand."""
        code = f"{self.reason}: " if self.reason else ""
        return {"msg": f"{code}{self.message} (repair: {self.hint})", "reason": self.reason, "repair": self.hint}


class UsageProblem(BootstrapError):
    """Wrong options, configuration or environment: exit code 2."""

    exit_code = ExitCode.USAGE


class Refusal(BootstrapError):
    """Refused for safety (zero hosts, lock held, ...): exit code 3."""

    exit_code = ExitCode.REFUSED
