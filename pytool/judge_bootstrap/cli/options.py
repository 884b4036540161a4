"""The options of a run, for the bare command, `run` and `plan` alike. Imports click alone, as --help needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True)
class RunOptions:
    """What may be said about a run, beyond which playbooks."""

    limit: str | None = None
    tags: str | None = None
    skip_tags: str | None = None
    check: bool = False
    diff: bool = False
    extra_vars: tuple[str, ...] = ()
    forks: int | None = None

    def words(self, *, limit: bool = True) -> str:
        """Return what decides which hosts, tasks and values are meant, as it is typed, with a space in front."""
        import shlex

        given = [("--limit", self.limit if limit else None), ("--tags", self.tags), ("--skip-tags", self.skip_tags),
                 *(("-e", text) for text in self.extra_vars)]
        return "".join(f" {name} {shlex.quote(value)}" for name, value in given if value)


def run_options(function: Decorated) -> Decorated:
    """Add the options that are handed to Ansible, --check and --diff aside."""
    options = [
        click.option("--limit", metavar="PATTERN",
                     help="Only hosts that match this Ansible host pattern, such as i-0abc,i-0def."),
        click.option("--tags", metavar="TAGS", help="Only tasks with one of these tags, comma-separated."),
        click.option("--skip-tags", metavar="TAGS", help="No tasks with one of these tags, comma-separated."),
        click.option("-e", "--extra-vars", "extra_vars", multiple=True, metavar="NAME=VALUE",
                     help="Set a setting (model.id, vllm.port) or a variable of a role; @FILE reads many from YAML or "
                          "JSON. Never a token. May be given again."),
        click.option("--forks", type=click.IntRange(1, 500), metavar="N", help="How many hosts at a time."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def variable_option(function: Decorated) -> Decorated:
    """Add -e, as `extra`, for commands that start no Ansible."""
    return click.option("-e", "--extra-vars", "extra", multiple=True, metavar="NAME=VALUE",
                        help="A setting or variable as `run` takes it.")(function)


def host_options(function: Decorated) -> Decorated:
    """Add what a command may say about its hosts: --limit, -e and --forks."""
    options = [
        click.option("--limit", metavar="PATTERN",
                     help="Only hosts that match this Ansible host pattern, such as i-0abc,i-0def."),
        click.option("-e", "--extra-vars", "extra_vars", multiple=True, metavar="NAME=VALUE",
                     help="A setting or variable as `run` takes it."),
        click.option("--forks", type=click.IntRange(1, 500), metavar="N", help="How many hosts at a time."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def check_options(function: Decorated) -> Decorated:
    """Add --check and --diff."""
    function = click.option("--diff", is_flag=True, help="Show what each task changes.")(function)
    return click.option("--check", is_flag=True, help="Change nothing; say what would change.")(function)
