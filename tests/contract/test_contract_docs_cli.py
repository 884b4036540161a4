"""docs/cli.md says what the commands say, and every verb in docs/from-scripts.md exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from judge_bootstrap.cli.main import cli
from judge_bootstrap.cli.run import playbook_names
from judge_node.cli import build_parser

ROOT = Path(__file__).parents[2]
FROM_SCRIPTS = (ROOT / "docs" / "from-scripts.md").read_text(encoding="utf-8")
CALLS = sorted(set(re.findall(r"`(judge-(?:bootstrap|node) [^`]*)`", FROM_SCRIPTS)))


def parse(call: str) -> None:
    """Parse a command line down to its last command without running it. Raises click.UsageError when it is wrong."""
    words = call.replace("ENV", "local").split()[1:]
    command: click.Command = cli
    ctx = click.Context(cli, info_name="judge-bootstrap")
    while True:
        ctx = command.make_context(command.name, words, parent=ctx)
        # click 8 keeps the first word behind a group's options there, click 9 will not; no public name fits both.
        rest = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        if not isinstance(command, click.Group) or not rest:
            break
        name, inner, words = command.resolve_command(ctx, rest)
        assert inner is not None, name
        command = inner
    for playbook in ctx.params.get("playbooks", ()):
        assert playbook in playbook_names(ROOT), f"no playbook {playbook}"


def test_docs_cli_is_what_the_generator_writes() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "cli_doc.py"), "--check"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_docs_from_scripts_has_every_verb_of_the_first_run() -> None:
    for verb in ("plan", "doctor", "config show", "run verify", "run nvme model_cache", "disks ensure"):
        assert any(verb in call for call in CALLS), verb


@pytest.mark.parametrize("call", [call for call in CALLS if call.startswith("judge-bootstrap")])
def test_docs_from_scripts_verb_exists_and_takes_these_options(call: str) -> None:
    parse(call)


@pytest.mark.parametrize("call", [call for call in CALLS if call.startswith("judge-node")])
def test_docs_from_scripts_node_verb_exists_and_takes_these_options(call: str) -> None:
    build_parser().parse_args(call.split()[1:])


@pytest.mark.parametrize(
    "call", ["judge-bootstrap --env ENV run nvmee", "judge-bootstrap fly", "judge-bootstrap run --fast x"])
def test_docs_check_would_notice_a_verb_that_is_not_there(call: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        parse(call)
