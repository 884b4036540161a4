"""Every reason code that any package gives is in the registry, with its meaning and repair."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from judge_bootstrap.cli.main import cli
from judge_client import Reason
from judge_node.reasons import REASONS

ROOT = Path(__file__).parents[2]
GIVEN = re.compile(
    r"""reason\s*=\s*["']([A-Z][A-Z_]+)["']|^[A-Z_]+ = "((?:INVENTORY|HOST|NODE|INTERRUPTED)[A-Z_]*)"$""", re.MULTILINE)


def test_every_reason_given_in_the_code_is_in_the_registry() -> None:
    sources = [path.read_text() for path in (ROOT / "pytool").rglob("*.py")]
    given = {code for text in sources for pair in GIVEN.findall(text) for code in pair if code}
    assert {"LOCKED", "NODE_SILENT", "INVENTORY_EMPTY", "SOURCE_DENIED"} <= given
    assert given - set(REASONS) == set()


def test_every_reason_of_the_client_is_in_the_registry_and_is_a_failure() -> None:
    assert {str(reason) for reason in Reason} - set(REASONS) == set()
    assert {REASONS[str(reason)].exit_code for reason in Reason} == {1}


def options_that_do_not_exist(words: list[str]) -> list[str]:
    """Return what the CLI would refuse of a command's options; `words` are those after the program's name."""
    command: click.Command = cli
    names = {name for option in cli.params for name in option.opts} | {"--help"}
    unknown = []
    for word in words:
        if word.startswith("-"):
            if word not in names | {name for option in command.params for name in option.opts}:
                unknown.append(word)
        elif isinstance(command, click.Group):
            command = command.get_command(click.Context(cli), word) or command
    return unknown


@pytest.mark.parametrize("code", REASONS)
def test_the_repair_is_a_command_that_the_cli_takes(code: str) -> None:
    commands = re.findall(r"judge-bootstrap ([^#;|`]+)", REASONS[code].repair)
    assert [options_that_do_not_exist(command.split()) for command in commands] == [[] for _ in commands]


def test_an_option_that_does_not_exist_would_be_found() -> None:
    assert options_that_do_not_exist(["--env", "ENV", "judge", "calibrate", "--gold", "FILE"]) == ["--gold"]
