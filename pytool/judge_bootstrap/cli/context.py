"""What every command shares: the environment that was asked for, how to answer (text or JSON), and the outside worlds.

Only click may be imported here at module level: `judge-bootstrap --help` pays for this file (figure P9).
"""

from __future__ import annotations

import json as jsonlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from judge_bootstrap.core.errors import BootstrapError, ExitCode, UsageProblem

if TYPE_CHECKING:
    from rich.console import Console

    from judge_bootstrap.cli.services import Services

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass
class AppContext:
    """The `obj` of every click context. Tests put fakes into `services`; a real run leaves it None."""

    env: str | None = None
    json: bool = False
    verbose: int = 0
    no_color: bool = False
    # Full name of the command that runs, such as "config show"; None until click has parsed it.
    command: str | None = None
    services: Services | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def require_env(self) -> str:
        """Return the name of the environment, which exists.

        Raises UsageProblem with the known names, and the nearest one, when it is missing or unknown.
        """
        from judge_bootstrap.core.environment import check_name

        known = known_environments()
        if self.env is None:
            raise UsageProblem(f"no environment given, known: {', '.join(known) or 'none'}",
                               hint="add --env ENV, for example: judge-bootstrap --env local")
        check_name(self.env, known)
        return self.env

    def get_services(self) -> Services:
        """Return the outside worlds of this run: real ones, unless a test gave its own."""
        if self.services is None:
            from judge_bootstrap.cli.services import Services

            self.services = Services()
        return self.services

    @property
    def quiet(self) -> bool:
        """True when LOG_LEVEL asks for errors only: no progress, no recap."""
        return os.environ.get("LOG_LEVEL", "").upper() in {"ERROR", "CRITICAL"}

    def emit(self, answer: dict[str, Any]) -> None:
        """Print the one JSON object of a command on stdout."""
        from judge_bootstrap.core.redact import redactor

        click.echo(redactor().clean(jsonlib.dumps(answer, default=str)))

    def say(self, text: str) -> None:
        """Print a line for people: on stdout, or on stderr when stdout belongs to JSON."""
        from judge_bootstrap.core.redact import redactor

        click.echo(redactor().clean(text), err=self.json)

    def warn(self, text: str) -> None:
        """Print a `Warning:` line on stderr."""
        from judge_bootstrap.core.redact import redactor

        click.echo(redactor().clean(f"Warning: {text}"), err=True)

    def console(self, *, stderr: bool = False) -> Console:
        """Return a rich console that honours --json, --no-color and NO_COLOR."""
        from rich.console import Console

        console = Console(stderr=stderr or self.json, no_color=True if self.no_color else None, highlight=False)
        if not console.is_terminal:
            console.width = 140  # logs have no edge, and rich's 80 folds messages
        return console

    def fail(self, error: BootstrapError) -> int:
        """Print a known error (one line and a hint on stderr, or one JSON object on stdout); return its exit code."""
        from judge_bootstrap.core.redact import redactor

        # What knows no environment writes ENV into a command; here it is known, where one was given.
        hint = error.hint.replace("--env ENV", f"--env {self.env}") if error.hint and self.env else error.hint
        if self.json:
            answer = {"ok": False, "command": self.command, "env": self.env, "reason": error.reason,
                      "message": error.message, "hint": hint}
            answer.update(getattr(error, "detail", {}))
            self.emit(answer)
        else:
            # What failed or was refused with its code, as it is looked up in docs/reason-codes.md; wrong usage explains
            # itself, and some messages name the code already.
            coded = error.exit_code in (ExitCode.FAILED, ExitCode.REFUSED)
            code = f"{error.reason}: " if coded and error.reason and error.reason not in error.message else ""
            click.echo(redactor().clean(f"Error: {code}{error.message}"), err=True)
            if hint:
                click.echo(redactor().clean(f"Hint: {hint}"), err=True)
        return int(error.exit_code)

    def end(self, error: BootstrapError | None, **found: Any) -> int:
        """End a command that found something: with --json print it in one object, else the error, with its code.

        `found` are the keys beside those that every answer has. Returns the exit code.
        """
        if self.json:
            self.emit({"ok": error is None, "command": self.command, "env": self.env,
                       "reason": error.reason if error else None, "message": error.message if error else "",
                       "hint": error.hint if error else None, **found})
        elif error:
            self.fail(error)
        return int(error.exit_code if error else ExitCode.OK)


def known_environments() -> list[str]:
    """Return the names of the environments that there are, sorted."""
    from judge_bootstrap.adapters import places

    return places.known_environments()


def nearest(word: str, known: list[str]) -> str:
    """Return "did you mean 'x'? " for the name that is most like `word`, or an empty string."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""


def complete_environment(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Tab completion of --env."""
    try:
        return [name for name in known_environments() if name.startswith(incomplete)]
    except BootstrapError:
        return []


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
        if value:
            setattr(ctx.ensure_object(AppContext), name, value)
        return value

    return callback


def global_options(function: Decorated) -> Decorated:
    """Add --env, --json, -v and --no-color: they may stand before the subcommand or after it."""
    options = [
        click.option("--env", metavar="ENV", expose_value=False, callback=_keep("env"),
                     shell_complete=complete_environment,
                     help="Environment to work on: a folder below inventory/, such as local, staging or prod."),
        click.option("--json", is_flag=True, expose_value=False, callback=_keep("json"),
                     help="One JSON object on stdout; text for people goes to stderr."),
        click.option("-v", "--verbose", count=True, expose_value=False, callback=_keep("verbose"),
                     help="Say more (-v steps, -vv tasks with their output, -vvv Ansible's own detail)."),
        click.option("--no-color", is_flag=True, expose_value=False, callback=_keep("no_color"),
                     help="No colours (NO_COLOR does the same)."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


pass_app = click.make_pass_decorator(AppContext)
