"""`judge-bootstrap judge score`: a verdict on one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.judge_server import ServerChoice, open_judge, server_options
from judge_bootstrap.cli.judge_texts import Text, read_texts, text_options
from judge_bootstrap.core.errors import BootstrapError

if TYPE_CHECKING:
    from judge_client import Ground, Provenance, Rubric, Verdict

MOST_VOTES = 15


class OddNumber(click.IntRange):
    """A number of votes: odd, so that they have a median."""

    name = "odd number"

    def __init__(self) -> None:
        super().__init__(1, MOST_VOTES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number % 2 == 0:
            self.fail(f"{number} is even, wanted an odd number from 1 to {MOST_VOTES}.", param, ctx)
        return number


@click.command()
@text_options("prompt", "the prompt that was answered")
@text_options("response", "the answer to judge")
@click.option("--votes", type=OddNumber(), default=1, show_default=True, metavar="N",
              help=f"Ask so often (odd, {MOST_VOTES} at most), each time sampled anew; the medians count.")
@click.option("--fail-on-suspect", is_flag=True, help="Exit code 1 for a verdict that is suspect, too.")
@server_options
@global_options
@pass_app
def score(app: AppContext, server: ServerChoice, prompt: str | None, prompt_file: str | None, response: str | None,
          response_file: str | None, votes: int, fail_on_suspect: bool) -> int:
    """Have one answer judged, and show its scores from 1 to 10 with the judge's reasoning.

    A verdict is suspect when the answer holds what is meant for the judge (it asks for a score, forges a marker, hides
    text) or is none (empty, an opener only), or when the votes disagree. That never changes a score. With -v it is
    shown where the verdict came from: model, commit, image, prompt and rubric digests, sampling.

    Exit code 0: scored; 1: there is no score, and the reason says why; 2: wrong usage, or a text that is none.

    \b
    Examples:
      judge-bootstrap judge score --url http://127.0.0.1:8000 --prompt "2+2?" --response "4"
      judge-bootstrap --env prod judge score --prompt-file question.txt --response-file - < answer.txt
      judge-bootstrap --env prod judge score --prompt "2+2?" --response "4" --votes 5 --json
    """
    app.command = "judge score"
    question, given = read_texts([Text("prompt", prompt, prompt_file), Text("response", response, response_file)])
    with open_judge(app, server) as judge, judge.client() as client:
        verdict = client.judge(question, given, votes=votes)
        error = judge.error_of(str(verdict.reason), str(verdict.message)) if verdict.reason else None
    if error is None and fail_on_suspect and verdict.suspect:
        error = suspect_error(grounds_text(verdict.grounds))
    if not app.json:
        if verdict.reason is None:
            _show(app, verdict, judge.rubric)
        show_provenance(app, verdict.provenance, verdict.model)
    return app.end(error, verdict=verdict.to_dict())


def suspect_error(grounds: str) -> BootstrapError:
    """Return what --fail-on-suspect fails with."""
    return BootstrapError(f"what was judged is suspect: {grounds}", reason="VERDICT_SUSPECT",
                          hint="read the answer; without --fail-on-suspect this is shown, and no failure")


def _show(app: AppContext, verdict: Verdict, rubric: Rubric) -> None:
    from judge_bootstrap.cli.output import show_rows

    head, rows = ["criterion", "score", "weight"], []
    if verdict.votes:
        head.append("votes")
    for criterion in rubric.all:
        weight = "-" if criterion is rubric.overall else f"{criterion.weight:g}"
        row = [criterion.name, str(verdict.categories[criterion.name]), weight]
        if verdict.votes:
            row.append(" ".join("-" if vote is None else str(vote[criterion.name]) for vote in verdict.votes))
        rows.append(row)
    rows.append(["weighted mean", f"{verdict.weighted_score:.2f}", "-", *([""] if verdict.votes else [])])
    show_rows(app, head, rows)
    app.say(f"Reasoning: {verdict.reasoning}")
    if verdict.suspect:
        app.say(f"Suspect: {grounds_text(verdict.grounds)}")
    asked = f"{verdict.requests} requests" if verdict.requests != 1 else "1 request"
    app.say(f"Judged by {verdict.model} in {verdict.latency_ms / 1000:.1f} s ({asked}).")


def grounds_text(grounds: Sequence[Ground]) -> str:
    """Return why something is suspect in one line."""
    return "; ".join(f"{ground.code} ({ground.found})" if ground.found else str(ground.code) for ground in grounds)


def show_provenance(app: AppContext, provenance: Provenance | None, model: str | None) -> None:
    """Print where a verdict came from, with -v: a line a fact; what the server does not say is left out."""
    if provenance is None or not app.verbose:
        return
    changes = "; ".join(f"{text}: {_counted(counts)}" for text, counts in provenance.changes.items())
    facts = {
        "server": provenance.base_url, "model": model, "repository": provenance.repo_id,
        "commit": provenance.model_commit, "loaded from": provenance.model_root,
        "manifest digest": provenance.manifest_digest, "image": provenance.image,
        "rubric": f"{provenance.rubric} (sha256 {provenance.rubric_sha256})", "prompt sha256": provenance.prompt_sha256,
        "sampling": _counted(provenance.sampling), "fence": provenance.fence, "texts changed": changes or None,
        "client": provenance.client_version, "time": provenance.time}
    app.say("Where it came from:")
    for name, value in facts.items():
        if value:
            app.say(f"  {name}: {value}")


def _counted(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
