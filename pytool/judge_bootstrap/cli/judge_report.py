"""`judge-bootstrap judge report`: one page about a batch's results."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.core.errors import BootstrapError, Refusal

if TYPE_CHECKING:
    from judge_client.report import Report

# How much of a file is read to tell one of our pages from anything else.
_HEAD_BYTES = 4096


@click.command()
@click.argument("results", metavar="RESULTS.jsonl", type=click.Path(path_type=Path))
@click.option("--out", metavar="REPORT.html", type=click.Path(path_type=Path),
              help="Where to write the page (default: beside the results, RESULTS.html).")
@click.option("--gold", metavar="GOLD.jsonl", type=click.Path(path_type=Path),
              help="Scores that people gave to some of the same items: adds how far the judge agrees with them.")
@click.option("--title", metavar="TEXT", help="The page's heading (default: the name of the results file).")
@global_options
@pass_app
def report(app: AppContext, results: Path, out: Path | None, gold: Path | None, title: str | None) -> int:
    """Write one page about the results of a batch.

    The page is a single HTML file that needs no network and runs no script: scores by criterion, coverage, what could
    not be judged and why, suspects with their grounds, the slowest and the lowest items, and which judge gave the
    scores; for comparisons, who wins. The results may be of a batch that still runs.

    A page that is there is replaced; any other file is left alone (OUTPUT_EXISTS, exit code 3).

    \b
    Examples:
      judge-bootstrap judge report verdicts.jsonl
      judge-bootstrap judge report verdicts.jsonl --out report.html --title "Release 12, judged"
      judge-bootstrap judge report verdicts.jsonl --gold gold.jsonl
      judge-bootstrap judge report verdicts.jsonl --json | jq .figures.criteria.overall.mean
    """
    from judge_client.report import need_packages, read_report, render

    app.command = "judge report"
    need_packages()
    # A link is followed, so that it still leads to the page afterwards.
    place = (out or results.with_suffix(".html")).expanduser().resolve()
    check_place(place, results)
    found = read_report(results, gold)
    page = render(found, title).encode()
    _write(place, page, results)
    if not app.json:
        for sentence in found.warnings:
            app.warn(sentence)
    if not (app.json or app.quiet):
        for line in told(found):
            app.say(line)
        app.say(f"Wrote {place}")
    return app.end(None, file=str(place), figures=found.to_dict())


def check_place(place: Path, results: Path) -> None:
    """Raise Refusal (OUTPUT_EXISTS) where something else than one of our pages is at the place."""
    from judge_client.report import GENERATOR

    hint = f"judge-bootstrap judge report {shlex.quote(str(results))} --out OTHER.html"
    try:
        if place.is_file():
            with place.open("rb") as file:
                head = file.read(_HEAD_BYTES)
            if not head or f'<meta name="generator" content="{GENERATOR}">'.encode() in head:
                return
        elif not place.exists():
            return
    except OSError as error:
        raise Refusal(f"{place} cannot be looked at: {error.strerror}", reason="OUTPUT_EXISTS", hint=hint) from error
    raise Refusal(f"{place} is there and is no page of `judge report`, so it is left alone", reason="OUTPUT_EXISTS",
                  hint=hint)


def _write(place: Path, page: bytes, results: Path) -> None:
    """Write the page at once or not at all; who may not read the results may not read it either."""
    from judge_node.files import make_directory, staging_name, write_file

    try:
        make_directory(place.parent)
        write_file(place, page, results.stat().st_mode & 0o666 | 0o600)
    except OSError as error:
        with contextlib.suppress(OSError):
            place.with_name(staging_name(place.name)).unlink()
        raise BootstrapError(f"{place} cannot be written: {error.strerror}", reason="OUTPUT_UNWRITABLE",
                             hint=f"df -h {shlex.quote(str(place.parent))}; ls -ld {shlex.quote(str(place.parent))}"
                             ) from error


def told(found: Report) -> list[str]:
    """Return the headline of a report in lines."""
    figures, end = found.figures, found.end
    floor = f", floor {end.floor:.0%}" if end else ""
    noun = "answers" if figures.kind == "judgements" else "comparisons"
    lines = [f"{figures.total:,} {noun}: {figures.scored:,} scored, {figures.unscored:,} unscored, "
             f"{figures.errored:,} errored ({figures.coverage:.1%} coverage{floor}); {figures.suspects:,} suspect"]
    if figures.overall is not None:
        lines.append(f"Mean overall {figures.overall.mean:.2f}{_interval(figures.overall.interval)}, median "
                     f"{figures.overall.median:g}")
    if figures.pairs is not None:
        pairs = figures.pairs
        lines.append(f"A wins {pairs.a.value:.1%}, B {pairs.b.value:.1%}, tie {pairs.tie.value:.1%}; both orders agree "
                     f"in {pairs.consistent.value:.1%}")
    return lines


def _interval(ends: Any) -> str:
    return "" if ends is None else f" (95 % interval {ends[0]:.2f} to {ends[1]:.2f})"
