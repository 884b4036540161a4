"""The entry point: help, versions, environments, and how errors come out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from fakes_cli import Desk
from judge_bootstrap import __version__
from judge_bootstrap.cli import main as main_module
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.main import COMMANDS, cli
from judge_bootstrap.core.errors import Refusal

# What may not be imported for --help: each costs more than the CLI itself.
HEAVY = (
    "rich",
    "pydantic",
    "yaml",
    "boto3",
    "ansible_runner",
    "logging",
    "judge_node",
    "judge_lab",
    "importlib.resources",
)


def python(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh Python that finds our packages, installed or not."""
    source = str(Path(main_module.__file__).parents[2])
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": source})


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_only_click(option: str) -> None:
    code = ("import sys; from judge_bootstrap.cli.main import cli\n"
            f"try: cli.main([{option!r}])\n"
            f"except SystemExit as end: assert end.code == 0, end.code\n"
            f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
            "assert not heavy, heavy")
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_version_names_the_program_and_its_version(desk: Desk) -> None:
    assert desk.invoke("--version").output == f"judge-bootstrap {__version__}\n"


def test_help_lists_every_command_with_the_first_line_of_its_own_help(desk: Desk) -> None:
    output = " ".join(desk.invoke("--help").output.split())
    ctx = click.Context(cli)
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(ctx, name)
        assert command is not None
        assert (command.help or "").splitlines()[0] == line
        assert line in output


def test_no_environment_is_a_usage_error_that_lists_the_known_ones(desk: Desk) -> None:
    result = desk.invoke()
    assert result.exit_code == 2
    assert result.stderr == ("Error: no environment given, known: local, prod\n"
                             "Hint: add --env ENV, for example: judge-bootstrap --env local\n")
    assert result.stdout == ""
    assert desk.runner.calls == []


def test_an_unknown_environment_lists_the_known_ones_and_the_nearest(desk: Desk) -> None:
    result = desk.invoke("--env", "prd")
    assert result.exit_code == 2
    assert "unknown environment" in result.stderr
    assert "prd" in result.stderr and "known: local, prod" in result.stderr
    assert "did you mean prod?" in result.stderr
    assert desk.runner.calls == []


def test_an_error_with_json_is_one_object_on_stdout_and_nothing_on_stderr(desk: Desk) -> None:
    result, answer = desk.invoke_json("--env", "prd")
    assert result.exit_code == 2
    assert answer["ok"] is False
    assert answer["command"] == "site" and answer["env"] == "prd"
    assert answer["message"].startswith("unknown environment")
    assert answer["hint"]
    assert result.stderr == ""


@pytest.mark.parametrize("words", [["--bogus"], ["bogus"], ["run"], ["run", "nvme", "--forks", "many"],
                                   ["run", "nvme", "--limit"], ["lab", "node", "explode", "node-1"]])
def test_wrong_usage_is_one_line_and_a_hint_with_exit_code_2(desk: Desk, words: list[str]) -> None:
    result = desk.invoke(*words)
    assert result.exit_code == 2
    error, hint = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert hint.startswith("Hint: judge-bootstrap") and hint.endswith("--help")


def test_wrong_usage_with_json_is_json_even_when_json_stands_behind_the_mistake(desk: Desk) -> None:
    result = desk.invoke("--bogus", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["message"].startswith("No such option '--bogus'")


@pytest.mark.parametrize(
    "words", [["--env", "prod", "--json", "run", "nvme"], ["run", "nvme", "--env", "prod", "--json"]]
)
def test_global_options_may_stand_before_or_after_the_command(desk: Desk, words: list[str]) -> None:
    result = desk.invoke(*words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["env"] == "prod"


def test_an_unknown_exception_keeps_its_traceback(desk: Desk) -> None:
    desk.refuse = ZeroDivisionError("a bug")
    result = desk.invoke("--env", "prod")
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_refusal_ends_with_exit_code_3_and_its_reason(desk: Desk) -> None:
    desk.refuse = Refusal("no hosts", reason="INVENTORY_EMPTY", hint="start some")
    result, answer = desk.invoke_json("--env", "prod")
    assert result.exit_code == 3
    assert (answer["reason"], answer["message"], answer["hint"]) == ("INVENTORY_EMPTY", "no hosts", "start some")


def test_a_secret_in_an_error_message_is_masked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-token-0123456789")
    desk.refuse = Refusal("401 for header Bearer canary-token-0123456789")
    assert "canary" not in desk.invoke("--env", "prod").output
    assert "canary" not in desk.invoke("--env", "prod", "--json").output


def test_an_unknown_log_level_names_the_known_ones(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    result = desk.invoke("--env", "prod")
    assert result.exit_code == 2
    assert "LOG_LEVEL is 'LOUD', wanted one of DEBUG, INFO, WARNING, ERROR, CRITICAL" in result.stderr


def test_ctrl_c_outside_a_run_ends_with_130(desk: Desk) -> None:
    desk.refuse = None

    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    services = desk.services()
    services.hosts = interrupted
    from click.testing import CliRunner

    result = CliRunner().invoke(cli, ["--env", "prod"], obj=AppContext(services=services))
    assert result.exit_code == 130
    assert result.stderr.endswith("Error: interrupted\nHint: run the same command again\n")


def test_python_dash_m_is_the_same_program() -> None:
    done = python("-m", "judge_bootstrap", "--version")
    assert done.stdout == f"judge-bootstrap {__version__}\n", done.stderr


def test_an_error_before_json_is_parsed_is_json_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    result, answer = desk.invoke_json("--env", "prod", "run", "nvme")
    assert result.exit_code == 2
    assert answer["message"].startswith("LOG_LEVEL is 'LOUD'")
    assert result.stderr == ""


@pytest.mark.parametrize("words", [["--help"], ["--env", "prd", "--json"]])
def test_a_full_disk_under_stdout_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "judge_bootstrap", *words], stdout=full, stderr=subprocess.PIPE,
                              text=True, check=False,
                              env={**os.environ, "PYTHONPATH": str(Path(main_module.__file__).parents[2])})
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "Error: no space left to write the output or a temporary file"
    assert "Traceback" not in done.stderr


def test_what_aws_or_a_node_says_cannot_drive_the_terminal(desk: Desk) -> None:
    desk.settings.warnings = ("version \x1b[2J\x1b]0;owned\x07",)
    assert "\x1b" not in desk.invoke("--env", "prod").output
