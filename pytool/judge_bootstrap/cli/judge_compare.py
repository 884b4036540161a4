"""`judge-bootstrap judge compare`: which of two answers is better, for one pair or a file of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.judge_batch import batch_options, run_file
from judge_bootstrap.cli.judge_score import grounds_text, show_provenance, suspect_error
from judge_bootstrap.cli.judge_server import ServerChoice, open_judge, server_options
from judge_bootstrap.cli.judge_texts import Text, read_texts, text_options
from judge_bootstrap.core.errors import UsageProblem

if TYPE_CHECKING:
    from judge_client import Comparison, Winner

_TEXTS = ("prompt", "response_a", "response_b")


@click.command()
@click.argument("pairs", required=False, metavar="[PAIRS]")
@click.option("-o", "--out", metavar="FILE", help="With PAIRS: where the comparisons go, as JSONL (default: "
                                                  "PAIRS.comparisons.jsonl, without the ending of PAIRS).")
@text_options("prompt", "the prompt that was answered")
@text_options("response-a", "one answer")
@text_options("response-b", "the other answer")
@click.option("--fail-on-suspect", is_flag=True, help="Exit code 1 for a pair with an answer that is suspect, too.")
@batch_options
@server_options
@global_options
@pass_app
def compare(app: AppContext, /, server: ServerChoice, pairs: str | None, out: str | None, fail_on_suspect: bool,
            **options: Any) -> int:
    """Ask which of two answers to a prompt is better.

    The judge reads each pair in both orders, because judges favour what they read first; where the orders name two
    different winners, it is a tie. One pair is given by options. PAIRS is a file of many (JSONL, CSV or Parquet with
    the columns original_prompt, response_a and response_b): it is worked on as `judge batch` does, with its options.

    \b
    Examples:
      judge-bootstrap judge compare --url http://127.0.0.1:8000 --prompt "2+2?" --response-a "4" --response-b "5"
      judge-bootstrap --env prod judge compare --prompt-file q.txt --response-a-file a.txt --response-b-file b.txt
      judge-bootstrap --env prod judge compare pairs.jsonl --out compared.jsonl
    """
    app.command = "judge compare"
    given = {name: options.pop(name) for one in _TEXTS for name in (one, f"{one}_file")}
    if pairs is None:
        _refuse(["out", *options], "only a file of pairs takes")
        return _one(app, server, given, fail_on_suspect=fail_on_suspect)
    _refuse([*given, "fail_on_suspect"], "only a single pair takes")
    return run_file(app, server, pairs, out, options, pairs=True)


def _refuse(names: Sequence[str], only: str) -> None:
    """Raise UsageProblem for options that were typed and would be lost without a word."""
    ctx = click.get_current_context()
    typed = [one.opts[-1] for one in ctx.command.params
             if one.name in names and ctx.get_parameter_source(one.name) is ParameterSource.COMMANDLINE]
    if typed:
        raise UsageProblem(f"{only} {' and '.join(typed)}", hint="judge-bootstrap judge compare --help")


def _one(app: AppContext, server: ServerChoice, given: Mapping[str, str | None], *, fail_on_suspect: bool) -> int:
    """Compare the pair that the options hold."""
    prompt, first, second = read_texts([Text(name.replace("_", "-"), given[name], given[f"{name}_file"])
                                        for name in _TEXTS])
    with open_judge(app, server) as judge, judge.client() as client:
        found = client.compare(prompt, first, second)
        error = judge.error_of(str(found.reason), str(found.message)) if found.reason else None
    if error is None and fail_on_suspect and found.suspect:
        error = suspect_error(_grounds(found))
    if not app.json:
        if found.reason is None:
            _show(app, found)
        show_provenance(app, found.provenance, found.model)
    return app.end(error, comparison=found.to_dict())


def _show(app: AppContext, found: Comparison) -> None:
    app.say(f"Winner: {_name(found.winner)}" + ("" if found.consistent else ", for the two orders do not agree"))
    for order, winner, reasoning in zip(("A", "B"), found.orders, found.reasonings, strict=True):
        app.say(f"Response {order} read first: {_name(winner)}. {reasoning}")
    if found.suspect:
        app.say(f"Suspect: {_grounds(found)}")
    app.say(f"Judged by {found.model} in {found.latency_ms / 1000:.1f} s ({found.requests} requests).")


def _grounds(found: Comparison) -> str:
    return "; ".join(f"response {name}: {grounds_text(grounds)}"
                     for name, grounds in zip("AB", found.grounds, strict=True) if grounds)


def _name(winner: Winner | None) -> str:
    return "a tie" if winner == "tie" else f"response {str(winner).upper()}"
