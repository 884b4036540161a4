"""The page: one file of HTML that needs no network, no script and nothing beside it.

Judged texts are written by whoever wants a good score, so everything is escaped by the template engine, shown in
excerpts in which nothing is invisible, and the page forbids the browser to run or to load anything.
"""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from judge_client.errors import InputProblem
from judge_client.report import charts, wording
from judge_client.report.tallies import ASPECTS
from judge_client.report.text import SHORT, Excerpt, excerpt

if TYPE_CHECKING:
    from jinja2 import Environment

    from judge_client.report.report import Report

# What tells one of our pages from any other file.
GENERATOR: Final = "judge-bootstrap judge report"
_TEMPLATES: Final = Path(__file__).with_name("templates")


def need_packages() -> None:
    """Raise InputProblem (EVALUATION_MISSING) unless the packages of a report are installed."""
    try:
        import jinja2
        import scipy
    except ImportError as error:
        raise InputProblem(f"a report needs the package {error.name}, which is not installed",
                           reason="EVALUATION_MISSING", hint="pip install 'judge-bootstrap[evaluation]'") from error
    del jinja2, scipy


def render(report: Report, title: str | None = None, *, now: datetime.datetime | None = None) -> str:
    """Return the page. Every character of it can be encoded."""
    from judge_client import __version__

    need_packages()
    made = (now or datetime.datetime.now(datetime.UTC)).strftime("%Y-%m-%d %H:%M UTC")
    page = _environment().get_template("report.html.j2").render(
        report=report, figures=report.figures, end=report.end, agreement=report.agreement,
        title=excerpt(title or f"Judged: {report.path.name}", SHORT * 2),
        file_name=excerpt(report.path.name, SHORT) if title else None,
        made=made, version=__version__, generator=GENERATOR, css=(_TEMPLATES / "report.css").read_text(),
        charts=charts, wording=wording, sources=_sources(report), winners=wording.WINNERS)
    return page.encode("utf-8", "replace").decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "band": _band, "count": _count, "duration": _duration, "floor": _floor, "moment": _moment, "score": _score,
        "share": _share, "shown": excerpt, "time": _time}
    return environment


def _sources(report: Report) -> list[tuple[str, bool, list[tuple[Excerpt | None, int]]]]:
    """Return the aspects of the judges with a heading, whether their values should be one, and the values."""
    return [(wording.ASPECTS[name], name in report.figures.mixed,
             [(None if value is None else excerpt(value, SHORT * 2), count) for value, count in
              report.figures.sources[name]])
            for name in ASPECTS if report.figures.sources[name]]


def _count(value: int) -> str:
    return f"{value:,}"


def _share(value: float) -> str:
    """Return a share in percent; what is not quite all does not read as all, nor what is not quite nothing as none."""
    if 0 < value < 0.001:
        return "<0.1\u00a0%"
    if 0.999 < value < 1:
        return ">99.9\u00a0%"
    return f"{100 * value:.0f}\u00a0%" if value in (0, 1) else f"{100 * value:.1f}\u00a0%"


def _floor(value: float) -> str:
    return f"{100 * value:g}\u00a0%"


def _moment(at: str) -> str:
    return at.replace("T", " ").removesuffix("Z")


def _score(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.2f}".replace("-", "\u2212")


def _time(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{milliseconds:.0f}\u00a0ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f}\u00a0s"
    return _duration(milliseconds / 1000)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u00a0h {minutes:02d}\u00a0min" if hours else f"{minutes}\u00a0min {rest:02d}\u00a0s"


def _band(score: Any) -> str:
    """Return the class of a score's colour."""
    if score is None:
        return "none"
    return "low" if score < 4 else "middle" if score < 7 else "high"
