"""Write docs/cli.md from the commands' own help.

    python scripts/cli_doc.py           write it
    python scripts/cli_doc.py --check   exit 1 when it is not what would be written
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
from generated import ROOT, write_or_check

sys.path.insert(0, str(ROOT / "pytool"))

from judge_bootstrap.cli.main import cli

DOCUMENT = ROOT / "docs" / "cli.md"
WIDTH = 110
INTRODUCTION = """\
# The command line

<!-- Written by scripts/cli_doc.py from the commands' help: change the help, then run it again. -->

`judge-bootstrap --env ENV` runs the whole chain; a command does one part of it. `--env`, `--json`, `-v` and
`--no-color` may stand before the command or after it. Coming from shell scripts? [from-scripts.md](from-scripts.md).

Tab completion: `eval "$(_JUDGE_BOOTSTRAP_COMPLETE=bash_source judge-bootstrap)"` (or `zsh_source`, `fish_source`).

## What a run answers with --json

One object on stdout; everything for people goes to stderr. Keys are only ever added.

| key | what |
| --- | --- |
| `ok` | whether everything asked for holds: every host that the inventory promised has reported, and none failed |
| `command`, `env`, `run_id`, `playbooks` | what ran (`site` is the whole chain), and where |
| `check` | whether it only looked |
| `hosts` | for each host an object, see below |
| `changed` | how many hosts changed, or would change |
| `changes` | each task that changed something: `host`, `task`, `diff` |
| `reason`, `message`, `hint` | what went wrong for the run as a whole, and the next command |
| `verdict` | the judged answer that `verify` got (status, score, categories, reasoning, model, ...), or null |
| `interrupted`, `elapsed_seconds`, `next` | whether it was stopped, how long it took, and what comes next in words |

A host has `ok`, `changed`, `state`, `reason` ([a code](reason-codes.md) or null), `message`, `repair` (the next
command) and `tasks` (Ansible's counts).

A command that fails before it starts answers `{"ok": false, "command", "env", "reason", "message", "hint"}`.

## Exit codes

| code | meaning |
| --- | --- |
| 0 | everything asked for holds |
| 1 | at least one host or check failed |
| 2 | wrong usage, configuration or environment; nothing was touched |
| 3 | refused for safety: a disk with data, no hosts or fewer than expected, another run at work |
| 130 | interrupted (Ctrl-C, SIGTERM, SIGHUP); nothing is left running, and the same command goes on where it stopped |

## One run at a time

A run holds its environment: a second one is refused with exit code 3 and the name of who holds it. The lock ends with
its process, however that ends. A run that was killed is named by the next one, which ends what it left and goes on.

## Secrets

No token is taken with `-e`, and none reaches Ansible's files, a command line or a host. `HF_TOKEN` is read by this
program alone and handed to the step on this machine that asks the Hub, through a file in memory that is gone with the
run; a node that needs a token reads its own file (`model_cache_token_file`).

The API key of a judge is in a file (`--api-key-file`), in the variable `JUDGE_API_KEY`, or with `--env` in the Secret
of that environment; no option takes it. `JUDGE_API_KEY` is for servers that `--url` names: an environment's judge is
never sent it, and no program that we start inherits it.

## Commands
"""


def sections(command: click.Command, path: list[str]) -> Iterator[str]:
    """Yield a command's section and those of its subcommands."""
    ctx = click.Context(command, info_name=" ".join(path), terminal_width=WIDTH, max_content_width=WIDTH,
                        help_option_names=["-h", "--help"])
    text = "\n".join(line.rstrip() for line in command.get_help(ctx).splitlines())
    yield f"### {' '.join(path)}\n\n```text\n{text}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            yield from sections(inner, [*path, name])


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, {DOCUMENT: INTRODUCTION + "\n" + "\n".join(sections(cli, ["judge-bootstrap"]))}))
