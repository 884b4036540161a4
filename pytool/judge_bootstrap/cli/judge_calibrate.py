"""`judge-bootstrap judge calibrate`: how far the judge can be trusted, and whether it still judges as it did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.judge_server import OpenJudge, ServerChoice, open_judge, server_options
from judge_bootstrap.core.errors import BootstrapError, UsageProblem

if TYPE_CHECKING:
    from judge_client import Rubric
    from judge_client.calibration import Baseline, GoldItem, Judged

ROUNDS = 2
TOLERANCE = 0.5
WINDOW = 16
FLOOR = 0.95
# A log has no line to overwrite: how far it is stands there no more often than this.
TELL_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """What a calibration found. `drift` is None without a baseline, `accepted` without --accept."""

    gold_name: str
    judged: Judged
    agreement: Mapping[str, Any]
    repeatability: Mapping[str, Any]
    seconds: float
    drift: Mapping[str, Any] | None = None
    accepted: Path | None = None
    problem: BootstrapError | None = None


@click.command()
@click.argument("gold_file", metavar="[GOLD.jsonl]", required=False)
@click.option("--rounds", type=click.IntRange(1, 50), default=ROUNDS, show_default=True, metavar="N",
              help="How often each answer is judged, with another code in the marker lines each time.")
@click.option("--baseline", "baseline_file", metavar="FILE",
              help="Compare with the scores accepted there; drift is an error.")
@click.option("--tolerance", type=click.FloatRange(0, 9, min_open=True), default=TOLERANCE, show_default=True,
              metavar="POINTS", help="With --baseline: how far a criterion's mean may move, between its 95 % limits. "
                                     "A score may lie twice as far away, on average.")
@click.option("--accept", "accept_file", metavar="FILE", help="Write these scores as a baseline, for people to commit.")
@click.option("--floor", type=click.FloatRange(0, 1), default=FLOOR, show_default=True, metavar="SHARE",
              help="The least share of judgements that must give a score.")
@click.option("--window", type=click.IntRange(1, 1000), default=WINDOW, show_default=True, metavar="N",
              help="Requests at the same time.")
@server_options
@global_options
@pass_app
def calibrate(app: AppContext, server: ServerChoice, gold_file: str | None, rounds: int, baseline_file: str | None,
              tolerance: float, accept_file: str | None, floor: float, window: int) -> int:
    """Measure the judge against gold scores, against itself, and against an accepted baseline.

    GOLD.jsonl holds answers with the scores that people gave them, one JSON object a line: id, original_prompt,
    model_response, and scores with a number from 1 to 10 for each criterion of the rubric. Without a file it is the
    small set that comes with the toolkit. Every figure has its 95 % interval; what has no verdict is left out of the
    figures and stands in the coverage. There is no pass mark: how much agreement you need is yours to say.

    \b
    Columns: spearman (do both order the answers alike, 1 = yes), kappa (quadratic weights: also the same scores,
    1 = yes, 0 = chance), error (mean distance in points), bias (above 0: generous), same (share of scores that were
    the same in every round), apart (mean distance between two rounds in points). Rounds differ in nothing but the code
    in the marker lines around the texts.

    The exit code is 1 when the judge drifted from --baseline, or less than --floor of the judgements gave a score.

    \b
    Examples:
      judge-bootstrap judge calibrate --url http://127.0.0.1:8000
      judge-bootstrap --env prod judge calibrate gold.jsonl --rounds 3 --json
      judge-bootstrap --env prod judge calibrate gold.jsonl --accept calibration.json
      judge-bootstrap --env prod judge calibrate gold.jsonl --baseline calibration.json
    """
    from judge_client.calibration import built_in_gold, check_place, need_statistics, read_baseline, read_gold
    from judge_client.calibration.gold import BUILT_IN_NAME
    from judge_client.calibration.statistics import FEWEST_FOR_INTERVALS

    app.command = "judge calibrate"
    if baseline_file and accept_file:
        raise UsageProblem("--baseline and --accept exclude each other: a baseline that follows every small step hides "
                           "the long way", hint="compare first, then run with --accept alone")
    need_statistics()
    baseline = read_baseline(baseline_file) if baseline_file else None
    if accept_file:
        _check_folder(Path(accept_file))
        check_place(accept_file)
    gold = read_gold(gold_file) if gold_file else built_in_gold()
    name = gold_file or BUILT_IN_NAME
    if (baseline_file or accept_file) and len(gold) < FEWEST_FOR_INTERVALS:
        raise UsageProblem(f"{name}: holds {len(gold)} items, wanted {FEWEST_FOR_INTERVALS} to tell drift",
                           reason="GOLD_UNUSABLE", hint="add answers; 50 are a good beginning")
    with open_judge(app, server) as judge:
        _check_fit(gold, name, judge.rubric, baseline, baseline_file)
        started = time.monotonic()
        judged = asyncio.run(_judged(app, judge, gold, rounds, window))
        seconds = time.monotonic() - started
        outcome = _found(judge, judged, name, seconds, floor, baseline, baseline_file, tolerance, accept_file)
    if not (app.json or app.quiet):
        _show(app, outcome, baseline, baseline_file)
    return app.end(outcome.problem, **_as_json(outcome, baseline, baseline_file))


def _check_folder(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise UsageProblem(f"--accept: the folder {path.absolute().parent} does not exist",
                           hint=f"mkdir -p {path.absolute().parent}")


def _check_fit(gold: Sequence[GoldItem], name: str, rubric: Rubric, baseline: Baseline | None,
               baseline_file: str | None) -> None:
    """Refuse, before anything is asked, a gold set of other criteria and a baseline of another question."""
    from judge_client.calibration import check_criteria, gold_digest
    from judge_client.prompts import prompt_digest

    check_criteria(gold, name, rubric)
    if baseline is not None and baseline_file is not None:
        baseline.check_same(baseline_file, prompt_sha256=prompt_digest(rubric), rubric_sha256=rubric.digest,
                            gold_sha256=gold_digest(gold))


async def _judged(app: AppContext, judge: OpenJudge, gold: Sequence[GoldItem], rounds: int, window: int) -> Judged:
    from judge_client.calibration import judge_rounds
    from judge_client.exchange import Failure

    async with judge.async_client() as client:
        try:
            await client.hold(client.judging.served_model())
        except Failure as failure:
            # What every judgement would fail with is better said once.
            raise judge.error_of(str(failure.reason), failure.message) from failure
        with _progress(app, len(gold) * rounds) as tell:
            return await judge_rounds(client, gold, rounds, window=window, progress=tell)


@contextmanager
def _progress(app: AppContext, total: int) -> Iterator[Callable[[int], None] | None]:
    """Yield what shows how many are judged: a bar on a terminal, now and then a line elsewhere."""
    if app.quiet:
        yield None
        return
    console = app.console(stderr=True)
    if console.is_terminal and not app.json:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(TextColumn("judged"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
                      transient=True) as bar:
            task = bar.add_task("judged", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            click.echo(f"judged {done} of {total}", err=True)

    yield tell


def _found(judge: OpenJudge, judged: Judged, name: str, seconds: float, floor: float, baseline: Baseline | None,
           baseline_file: str | None, tolerance: float, accept_file: str | None) -> Outcome:
    from judge_client.calibration import agreement, drift, repeatability

    names = judged.rubric.names
    outcome: dict[str, Any] = {
        "gold_name": name, "judged": judged, "seconds": seconds, "agreement": agreement(judged.pairs, names),
        "repeatability": repeatability(judged.scores, names)}
    problem = _too_little(judge, judged, floor) or (_mixed(judged) if baseline or accept_file else None)
    if baseline is not None and judged.by_item:
        found = drift(baseline.scores, judged.by_item, names, tolerance)
        outcome["drift"] = found
        if found["verdict"] == "drift" and problem is None:
            problem = _drifted(found, baseline, baseline_file)
    if accept_file and problem is None:
        problem = _written(Path(accept_file), judged.baseline(name))
        outcome["accepted"] = None if problem else Path(accept_file)
    return Outcome(**outcome, problem=problem)


def _too_little(judge: OpenJudge, judged: Judged, floor: float) -> BootstrapError | None:
    """Return the error of too few judgements with a score; with the most frequent reason, which is what to repair."""
    if judged.coverage >= floor and judged.by_item:
        return None
    failed = [verdict for verdict in judged.verdicts if verdict.reason]
    most = next(iter(judged.reasons), None)
    first = next((verdict for verdict in failed if str(verdict.reason) == most), None)
    counts = ", ".join(f"{count} {reason}" for reason, count in judged.reasons.items())
    hint = judge.error_of(str(most), str(first.message)).hint if first else None
    return BootstrapError(
        f"{len(judged.verdicts) - len(failed)} of {len(judged.verdicts)} judgements gave a score, wanted {floor:.0%}: "
        f"{counts}" + (f"; the first {most}: {first.message}" if first else ""),
        reason="COVERAGE_LOW", hint=hint)


def _mixed(judged: Judged) -> BootstrapError | None:
    """Return the error of several models that judged at the same time: their scores are no one's."""
    if len(judged.sources) < 2:
        return None
    told = " and ".join(_named(source) for source in judged.sources)
    return BootstrapError(f"{told} judged in turns: the model was changed meanwhile, or several are served",
                          reason="WRONG_MODEL_SERVED", hint="wait until one is served, then run the same command again")


def _drifted(found: Mapping[str, Any], baseline: Baseline, baseline_file: str | None) -> BootstrapError:
    moved = {name: one for name, one in found["criteria"].items() if one["drift"]}
    # What has been shown is told; what only cannot be ruled out is told when there is nothing else.
    told = {name: one for name, one in moved.items() if one["shown"]} or moved
    message = "; ".join(f"{name} {one['why']}" for name, one in told.items())
    hint = f"judge-bootstrap judge calibrate ... --accept {baseline_file}   # if the new scores are the right ones"
    verdict = "does not judge"
    if not any(one["shown"] for one in moved.values()):
        verdict = "cannot be said to judge"
        hint = "judge-bootstrap judge calibrate ... --rounds 5   # or a larger gold set: narrower intervals"
    return BootstrapError(f"the judge {verdict} as accepted on {baseline.time} (tolerance {found['tolerance']:g}): "
                          f"{message}", reason="CALIBRATION_DRIFT", hint=hint)


def _written(path: Path, baseline: Baseline) -> BootstrapError | None:
    """Write the baseline; an error is returned, not raised: the figures are shown all the same."""
    from judge_client.calibration import write_baseline

    try:
        write_baseline(path, baseline)
    except OSError as error:
        return BootstrapError(f"{path} cannot be written: {error.strerror or error}", reason="OUTPUT_UNWRITABLE",
                              hint=f"df -h {path.absolute().parent}; ls -ld {path.absolute().parent}")
    return None


def _named(source: Mapping[str, Any]) -> str:
    commit = source.get("model_commit")
    return f"{source.get('model')} (commit {commit[:12] if commit else 'unknown'})"


_AGREEMENT = ("criterion", "spearman", "kappa", "error", "bias")
_REPEATED = ("criterion", "same", "apart")
# A narrower terminal gets each interval below its figure.
_WIDE = 100


def _show(app: AppContext, outcome: Outcome, baseline: Baseline | None, baseline_file: str | None) -> None:
    from judge_bootstrap.cli.output import show_rows

    judged = outcome.judged
    times = "once" if len(judged.rounds) == 1 else f"{len(judged.rounds)} times"
    by = " and ".join(_named(source) for source in judged.sources) or "nobody"
    app.say(f"{len(judged.gold)} gold answers ({outcome.gold_name}), each judged {times} by {by}: "
            f"coverage {judged.coverage:.1%}, {outcome.seconds:.1f} s")
    console = app.console()
    between = "\n" if console.is_terminal and console.width < _WIDE else " "
    show_rows(app, _AGREEMENT, [
        (name, _cell(found["spearman"], between=between), _cell(found["kappa"], between=between),
         _cell(found["mean_absolute_error"], between=between), _cell(found["mean_error"], "{:+.2f}", between))
        for name, found in outcome.agreement["criteria"].items()])
    for reason in _reasons_of(outcome):
        app.say(reason)
    whole = outcome.repeatability["verdicts_identical"]
    if len(judged.rounds) > 1:
        app.say("")
        show_rows(app, _REPEATED, [
            *((name, _cell(again["identical"], "{:.0%}"), _cell(again["mean_absolute_difference"]))
              for name, again in outcome.repeatability["criteria"].items()),
            ("all of them", _cell(whole, "{:.0%}"), "")])
    if judged.suspects:
        app.say(f"suspect verdicts on {len(judged.suspects)} answers: {', '.join(judged.suspects[:5])}"
                + (", ..." if len(judged.suspects) > 5 else ""))
    if outcome.drift is not None and baseline is not None:
        _show_drift(app, outcome.drift, baseline, baseline_file)
    if outcome.accepted:
        app.say("")
        app.say(f"Wrote {outcome.accepted}")
        app.say(f"Next: read it, commit it, and compare with it: judge-bootstrap judge calibrate ... --baseline "
                f"{outcome.accepted}")


def _show_drift(app: AppContext, found: Mapping[str, Any], baseline: Baseline, baseline_file: str | None) -> None:
    from judge_bootstrap.cli.output import show_rows

    app.say("")
    app.say(f"against {baseline_file}, accepted on {baseline.time} from "
            f"{_named({'model': baseline.model, 'model_commit': baseline.model_commit})}:")
    rows = [(name, _cell(one["mean_difference"], "{:+.2f}"), _cell(one["mean_distance"]),
             ("drift" if one["shown"] else "not ruled out") if one["drift"] else "ok")
            for name, one in found["criteria"].items()]
    show_rows(app, ("criterion", "moved", "away", "verdict"), rows)


def _cell(estimate: Mapping[str, Any], form: str = "{:.2f}", between: str = " ") -> str:
    """Return a figure with its interval, as `0.81 [0.70, 0.89]`."""
    if estimate["value"] is None:
        return "-"
    value = form.format(estimate["value"])
    if estimate["low"] is None:
        return value
    return f"{value}{between}[{form.format(estimate['low'])}, {form.format(estimate['high'])}]"


def _reasons_of(outcome: Outcome) -> list[str]:
    """Return why figures are missing from the table, each reason once."""
    criteria = outcome.agreement["criteria"]
    found: dict[tuple[str, str], list[str]] = {}
    for name, criterion in criteria.items():
        for figure in ("spearman", "kappa"):
            if criterion[figure]["value"] is None:
                found.setdefault((figure, criterion[figure]["reason"]), []).append(name)
    return [f"no {figure} of {'any criterion' if len(names) == len(criteria) else ', '.join(names)}: {reason}"
            for (figure, reason), names in found.items()]


def _as_json(outcome: Outcome, baseline: Baseline | None, baseline_file: str | None) -> dict[str, Any]:
    from judge_client.calibration import gold_digest
    from judge_client.prompts import prompt_digest
    from judge_client.verdict import Status

    judged, drift = outcome.judged, None
    if outcome.drift is not None and baseline is not None:
        drift = {**outcome.drift, "baseline": {
            "file": baseline_file, "time": baseline.time, "model": baseline.model,
            "model_commit": baseline.model_commit, "rounds": baseline.rounds}}
    return {
        "gold": {"name": outcome.gold_name, "items": len(judged.gold), "sha256": gold_digest(judged.gold)},
        "judges": judged.sources, "rubric": judged.rubric.name, "rubric_sha256": judged.rubric.digest,
        "prompt_sha256": prompt_digest(judged.rubric), "rounds": len(judged.rounds),
        "judgements": len(judged.verdicts), "scored": judged.count(Status.SCORED),
        "unscored": judged.count(Status.UNSCORED), "errored": judged.count(Status.ERROR),
        "coverage": round(judged.coverage, 4), "reasons": judged.reasons, "suspects": judged.suspects,
        "seconds": round(outcome.seconds, 3), "agreement": outcome.agreement, "repeatability": outcome.repeatability,
        "drift": drift, "accepted": str(outcome.accepted) if outcome.accepted else None}
