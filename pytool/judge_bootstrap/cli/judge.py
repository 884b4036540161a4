"""`judge-bootstrap judge`: verdicts from a judge that serves, and where they came from. Each verb is a module."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from judge_bootstrap.cli.context import global_options

# name -> (module:attribute, its line in the help). They share nothing but the server's options, so each is imported
# only when it is asked for.
VERBS = {
    "score": ("judge_bootstrap.cli.judge_score:score", "Have one answer judged."),
    "batch": ("judge_bootstrap.cli.judge_batch:batch", "Have a file of answers judged; goes on where it was cut."),
    "compare": ("judge_bootstrap.cli.judge_compare:compare", "Ask which of two answers is better, or a file of pairs."),
    "calibrate": ("judge_bootstrap.cli.judge_calibrate:calibrate",
                  "Measure the judge against people's scores, itself, and what was accepted before."),
    "report": ("judge_bootstrap.cli.judge_report:report", "Write one page about the results of a batch."),
}


class JudgeGroup(click.Group):
    """Loads its verbs when they are asked for, and turns what judge_client says of a user's file into a known error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            from judge_client.errors import InputProblem

            from judge_bootstrap.cli.judge_server import input_error

            if not isinstance(error, InputProblem):
                raise
            raise input_error(error) from error


@click.group(cls=JudgeGroup)
@global_options
def judge() -> None:
    """Have answers judged: one, two against each other, or a file of them; and check the judge itself.

    The judge is any server with OpenAI's API (--url), or the one of an environment (--env), which is reached through
    the cluster with the key of its Secret. A key is never an argument: it is in a file (--api-key-file) or in the
    variable JUDGE_API_KEY.

    \b
    Examples:
      judge-bootstrap judge score --url http://127.0.0.1:8000 --prompt "2+2?" --response "4"
      judge-bootstrap --env prod judge score --prompt-file question.txt --response-file answer.txt --votes 3
      judge-bootstrap --env prod judge batch answers.jsonl --out verdicts.jsonl
      judge-bootstrap --env prod judge compare --prompt "2+2?" --response-a "4" --response-b "five"
      judge-bootstrap judge report verdicts.jsonl --out report.html
    """
