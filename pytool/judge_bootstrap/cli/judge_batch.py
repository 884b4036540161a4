"""`judge-bootstrap judge batch`: a file of answers judged, and what `judge compare` shares with it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.judge_score import MOST_VOTES, OddNumber
from judge_bootstrap.cli.judge_server import OpenJudge, ServerChoice, open_judge, server_options
from judge_bootstrap.core.errors import BootstrapError, UsageProblem

if TYPE_CHECKING:
    from judge_client.batch import Canary, Progress, Summary

    from judge_bootstrap.cli.judge_progress import Bar

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
WINDOW = 32
FLOOR = 0.95
CANARY_EVERY = 1000
PATIENCE_SECONDS = 900.0
GOES_ON = "the same command again: it goes on"


def batch_options(function: Decorated) -> Decorated:
    """Add the options of a batch, whatever is asked in it."""
    for option in reversed([
        click.option("--window", type=click.IntRange(1, 1024), default=WINDOW, show_default=True, metavar="N",
                     help="Requests at a time, at most. Fewer are sent while the server turns some away."),
        click.option("--floor", type=click.FloatRange(0, 1), default=FLOOR, show_default=True, metavar="SHARE",
                     help="Share of the items that must be scored, from 0 to 1; with less the exit code is 1."),
        click.option("--canaries", "canary_file", metavar="FILE",
                     help="Answers of known worth that are asked in between, one a line: name, expect (good or bad), "
                          "original_prompt, model_response (default: two of our own)."),
        click.option("--canary-every", type=click.IntRange(1), default=CANARY_EVERY, show_default=True, metavar="N",
                     help="Ask the canaries after every N items, beside the start and the end."),
        click.option("--no-canaries", is_flag=True, help="Ask no canaries: a judge that drifts is not noticed."),
        click.option("--no-texts", is_flag=True, help="Leave the judged texts out of the output: ids and verdicts."),
        click.option("--retry-failed", is_flag=True,
                     help="Ask items without a score again, also of an output that is complete."),
        click.option("--patience", "patience_seconds", type=click.FloatRange(0, 604_800), default=PATIENCE_SECONDS,
                     show_default=True, metavar="SECONDS", help="How long a server that is gone is waited for."),
    ]):
        function = option(function)
    return function


@click.command()
@click.argument("items", metavar="ITEMS")
@click.option("-o", "--out", metavar="FILE", help="Where the verdicts go, as JSONL (default: ITEMS.verdicts.jsonl, "
                                                  "without the ending of ITEMS).")
@click.option("--votes", type=OddNumber(), default=1, show_default=True, metavar="N",
              help=f"Ask so often for each item (odd, {MOST_VOTES} at most); the medians count.")
@batch_options
@server_options
@global_options
@pass_app
def batch(app: AppContext, /, server: ServerChoice, items: str, out: str | None, votes: int, **options: Any) -> int:
    """Have a file of answers judged: JSONL, CSV or Parquet in, JSONL out, in the same order.

    Columns of ITEMS: original_prompt (or prompt), model_response (or response), and id where there is one; all others
    are handed through as `extra`. The output grows as items are done; FILE.summary.json says at the end how many are
    scored and what the canaries got.

    A batch that was cut (Ctrl-C, kill, full disk, a server that stayed away) goes on with the same command: what is
    done is in FILE.journal, and items that ended in an error are asked again. Items that the judge gave no verdict on
    (unscored) are asked again only with --retry-failed.

    Exit code 0: enough is scored, and the canaries were told apart; 1: not so, or it could not go on; 2: wrong usage,
    or items that are none; 3: the output is there and another batch's.

    \b
    Examples:
      judge-bootstrap --env prod judge batch answers.jsonl
      judge-bootstrap judge batch answers.csv --out verdicts.jsonl --url http://127.0.0.1:8000 --votes 3
      judge-bootstrap --env prod judge batch answers.parquet --window 64 --floor 0.99 --json
      judge-bootstrap --env prod judge batch answers.jsonl --retry-failed
    """
    app.command = "judge batch"
    return run_file(app, server, items, out, options, pairs=False, votes=votes)


def run_file(app: AppContext, server: ServerChoice, input_path: str, out_path: str | None, options: Mapping[str, Any],
             *, pairs: bool, votes: int = 1) -> int:
    """Judge (or, with `pairs`, compare) the items of a file, and return the exit code.

    `options` are those of batch_options. Raises BootstrapError and InputProblem.
    """
    source = Path(input_path)
    out = Path(out_path) if out_path else source.with_suffix(".comparisons.jsonl" if pairs else ".verdicts.jsonl")
    canaries = _canaries(options)
    with open_judge(app, server) as judge:
        shown = _Shown(app, judge)
        try:
            with shown:
                summary = asyncio.run(_judge(judge, source, out, canaries, options, pairs, votes, shown.show))
        except KeyboardInterrupt:
            from judge_bootstrap.cli.main import Interrupted

            raise Interrupted(f"interrupted{shown.kept(out)}", reason="INTERRUPTED", hint=GOES_ON) from None
        except Exception as found:
            raise _stopped(judge, found) from found.__cause__
    error = _error_of(judge, summary, out)
    was_complete = shown.last is None
    if not (app.json or app.quiet):
        for line in _lines(summary, out, was_complete):
            app.say(line)
    return app.end(error, out=str(out), was_complete=was_complete, summary=summary.to_dict())


async def _judge(judge: OpenJudge, source: Path, out: Path, canaries: tuple[Canary, ...], options: Mapping[str, Any],
                 pairs: bool, votes: int, show: Callable[[Progress], None]) -> Summary:
    from judge_client.batch import run_batch

    async with judge.async_client() as client:
        return await run_batch(
            client, source, out, pairs=pairs, votes=votes, window=options["window"], floor=options["floor"],
            canaries=canaries, canary_every=options["canary_every"], texts=not options["no_texts"],
            retry_failed=options["retry_failed"], patience_seconds=options["patience_seconds"], progress=show)


def _canaries(options: Mapping[str, Any]) -> tuple[Canary, ...]:
    from judge_client.batch import CANARIES, read_canaries

    if options["no_canaries"]:
        if options["canary_file"]:
            raise UsageProblem("--canaries and --no-canaries exclude each other", hint="leave one of them out")
        return ()
    return read_canaries(options["canary_file"]) if options["canary_file"] else CANARIES


def _stopped(judge: OpenJudge, error: Exception) -> Exception:
    """Return why a batch could not go on as the CLI's error; any other error as it is."""
    from judge_client.batch import BatchStopped
    from judge_client.verdict import Reason

    if not isinstance(error, BatchStopped):
        return error
    if error.reason not in list(Reason):
        return BootstrapError(error.message, reason=error.reason, hint=error.hint)
    of_server = judge.error_of(error.reason, error.message)
    if error.hint:
        of_server.hint = f"{of_server.hint}   # then {error.hint}" if of_server.hint else error.hint
    return of_server


def _error_of(judge: OpenJudge, summary: Summary, out: Path) -> BootstrapError | None:
    if summary.reason is None:
        return None
    # A forwarded port has gone by now.
    calibrate = f"--env {judge.env} judge calibrate" if judge.env else f"judge calibrate --url {judge.base_url}"
    report = f"judge-bootstrap judge report {shlex.quote(str(out))}"
    hints = {"COVERAGE_LOW": f"{report}   # why; then the same command with --retry-failed",
             "CANARY_DRIFT": f"judge-bootstrap {calibrate}   # how far the judge is off; trust no score in {out}"}
    return BootstrapError(summary.message, reason=summary.reason, hint=hints[summary.reason])


class _Shown:
    """What a person sees while a batch runs: a bar on a terminal, and warnings anywhere."""

    def __init__(self, app: AppContext, judge: OpenJudge) -> None:
        self._app, self._judge = app, judge
        self.last: Progress | None = None
        self._bar: Bar | None = None
        self._place: AbstractContextManager[Any] = nullcontext()
        console = None if app.json or app.quiet else app.console(stderr=True)
        if console is not None and console.is_terminal:
            from judge_bootstrap.cli.judge_progress import Bar

            self._place = self._bar = Bar(console)

    def __enter__(self) -> None:
        self._place.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._place.__exit__(*error)

    def show(self, progress: Progress) -> None:
        """Show how far it is."""
        before, self.last = self.last, progress
        if not self._app.quiet:
            if before is None and progress.resumed:
                self._app.warn(f"going on: {progress.resumed} of {progress.total} items are done already")
            if progress.warning and not (before and before.warning):
                self._app.warn(f"CANARY_DRIFT: {progress.warning}; the batch will fail")
            if progress.gone_seconds is not None and (before is None or before.gone_seconds is None):
                self._app.warn(f"{self._judge.base_url} is gone; nothing is sent until it is back")
            if progress.gone_seconds is None and before and before.gone_seconds is not None:
                self._app.warn(f"{self._judge.base_url} is back")
        if self._bar is not None:
            self._bar.show(progress)

    def kept(self, out: Path) -> str:
        """Return what is kept of a batch that is cut now."""
        if self.last is None:
            return ""
        return f": {self.last.done} of {self.last.total} items are done and kept, {out} and its journal hold them"


def _lines(summary: Summary, out: Path, was_complete: bool) -> list[str]:
    if was_complete:
        first = f"{out}: complete already, nothing was asked"
    else:
        rate = (summary.total - summary.resumed) / summary.seconds if summary.seconds else 0.0
        first = f"{out}: {summary.total} items in {summary.seconds:.1f} s ({rate:.1f} per second)"
        if summary.resumed:
            first += f", {summary.resumed} of them done before"
    judged = "judged" if summary.kind == "judgements" else "compared"
    lines = [first, f"{judged.capitalize()} by {summary.model}: {summary.scored} scored ({summary.coverage:.1%}), "
                    f"{summary.unscored} unscored, {summary.errored} errors, {summary.suspects} suspect"]
    if summary.reasons:
        lines.append("Without a score: " + ", ".join(f"{code} {count}" for code, count in summary.reasons.items()))
    if summary.canaries:
        told = ", ".join(f"{name} got {_range(scores)}" for name, scores in _by_canary(summary).items())
        lines.append(f"Canaries {'were told apart' if summary.canaries_ok else 'DRIFTED'}: {told}")
    return lines


def _by_canary(summary: Summary) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in summary.canaries:
        found.setdefault(one.name, []).extend([] if one.score is None else [one.score])
    return found


def _range(scores: list[int]) -> str:
    if not scores:
        return "no verdict"
    return str(scores[0]) if len(set(scores)) == 1 else f"{min(scores)} to {max(scores)}"
