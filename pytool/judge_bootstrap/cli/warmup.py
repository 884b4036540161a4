"""`judge-bootstrap warmup`: judge requests to every ready pod until its latency has settled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.options import variable_option
from judge_bootstrap.core.errors import BootstrapError, ExitCode

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from judge_bootstrap.adapters.judge_pods import ReadyPod
    from judge_bootstrap.adapters.judge_requests import Answered
    from judge_bootstrap.cli.cluster_settings import ClusterSettings
    from judge_bootstrap.core.settling import Figures

MOST_REQUESTS = 60
WAIT_SECONDS = 600
AT_ONCE = 16
# A pod's progress is told no more often than this.
TELL_SECONDS = 2.0
FEWEST_REQUESTS = 10


class Site(Protocol):
    """The ready pods, and how one is asked; tests give their own."""

    def servers(self) -> list[ReadyPod]:
        """Return the ready pods. Raises BootstrapError when the cluster does not say."""

    def forward(self, pod: str) -> AbstractContextManager[str]:
        """Return a context with the pod's base URL."""

    def ask(self, base_url: str, model: str, number: int, seconds: float) -> Answered:
        """Send the request with this number. Raises BootstrapError when there is no verdict within the time."""


class ClusterSite:
    """The real one."""

    def __init__(self, settings: ClusterSettings) -> None:
        from judge_bootstrap.adapters.kube_secrets import read_api_key
        from judge_bootstrap.adapters.pod_ports import forwarder

        self._api_client = settings.connect()
        self._settings = settings
        self._key = read_api_key(self._api_client, settings.namespace, settings.api_key_secret_name)
        self.forward = forwarder(self._api_client, settings.namespace, settings.port)

    def servers(self) -> list[ReadyPod]:
        """Return the pods that are ready, with the first of the names that they serve under."""
        from judge_bootstrap.adapters.judge_pods import ready_pods

        return ready_pods(self._api_client, self._settings.namespace, self._settings.serving_pods)

    def ask(self, base_url: str, model: str, number: int, seconds: float) -> Answered:
        """Send one request."""
        from judge_bootstrap.adapters.judge_requests import judge_timed

        return judge_timed(base_url, model, number, self._key, seconds=seconds)


@dataclass(frozen=True)
class Outcome:
    """What a pod came to. `reason` None: its latency has settled."""

    pod: str
    figures: Figures | None
    seconds: float
    reason: str | None = None
    message: str = ""
    repair: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form."""
        return {"ok": self.reason is None, "changed": False, "state": "settled" if self.reason is None else "unsettled",
                "reason": self.reason, "message": self.message, "repair": self.repair,
                "elapsed_seconds": round(self.seconds, 3),
                "figures": self.figures.as_json() if self.figures else None}


@click.command()
@click.option("--requests", type=click.IntRange(FEWEST_REQUESTS, 10_000), default=MOST_REQUESTS, show_default=True,
              metavar="N", help="Requests to each pod at most.")
@click.option("--wait", "wait_seconds", type=click.IntRange(1, 86_400), default=WAIT_SECONDS, show_default=True,
              metavar="SECONDS", help="How long it may take in all.")
@variable_option
@global_options
@pass_app
def warmup(app: AppContext, requests: int, wait_seconds: int, extra: tuple[str, ...]) -> int:
    """Send judge requests until the latency has settled.

    Every ready pod gets them, and its figures are shown. The requests are fixed, of several lengths, and one follows on
    the other in each pod; the pods are asked at the same time. Settled means: the median of the last 5 requests is
    within 10 % of that of the 5 before. The exit code is 1 when a pod's latency did not settle within --requests and
    --wait, or a pod gave an error.

    \b
    Examples:
      judge-bootstrap --env prod warmup
      judge-bootstrap --env prod warmup --requests 200 --wait 1800 --json
    """
    from judge_bootstrap.adapters.parallel import each
    from judge_bootstrap.cli.cluster_settings import read_cluster_settings

    app.command = "warmup"
    settings = read_cluster_settings(app, extra)
    site: Site = (app.extra.get("warmup") or ClusterSite)(settings)
    servers = site.servers()
    if not servers:
        raise BootstrapError(f"no pod of {settings.namespace}/{settings.service_name} is ready, so there is nothing to "
                             "warm up", reason="POD_PENDING", hint=f"judge-bootstrap --env {settings.env} health")
    pace = _Pace(app, settings.env, requests, wait_seconds, time.monotonic)
    outcomes = each(lambda server: pace.warm(site, server), servers, AT_ONCE)
    bad = [outcome for outcome in outcomes if outcome.reason]
    if app.json:
        first = bad[0] if bad else None
        app.emit({"ok": not bad, "command": "warmup", "env": settings.env,
                  "reason": first.reason if first else None,
                  "message": f"{first.pod}: {first.message}" if first else "", "hint": first.repair if first else None,
                  "pods": {outcome.pod: outcome.as_json() for outcome in outcomes}})
        return int(ExitCode.FAILED if bad else ExitCode.OK)
    if not app.quiet:
        _print(app, outcomes)
    for outcome in bad:
        app.fail(BootstrapError(f"{outcome.pod}: {outcome.reason}: {outcome.message}", hint=outcome.repair))
    return int(ExitCode.FAILED if bad else ExitCode.OK)


class _Pace:
    """Warms one pod after the other or several at once, and tells how far each is."""

    def __init__(self, app: AppContext, env: str, requests: int, wait_seconds: int,
                 clock: Callable[[], float]) -> None:
        self._app, self._env, self._requests, self._wait_seconds, self._clock = app, env, requests, wait_seconds, clock
        self._give_up = clock() + wait_seconds
        self._telling = threading.Lock()

    def warm(self, site: Site, server: ReadyPod) -> Outcome:
        """Send requests to one pod until its latency has settled. Never raises for what the pod does."""
        from judge_bootstrap.core.problems import one_line
        from judge_bootstrap.core.settling import figures, has_settled

        started, told = self._clock(), 0.0
        seconds: list[float] = []
        tokens: list[int | None] = []

        def outcome(reason: str | None = None, message: str = "", repair: str | None = None) -> Outcome:
            return Outcome(server.pod, figures(seconds, tokens), self._clock() - started, reason, message, repair)

        try:
            with site.forward(server.pod) as base_url:
                while len(seconds) < self._requests:
                    left = self._give_up - self._clock()
                    if left <= 0:
                        break
                    answered = site.ask(base_url, server.model, len(seconds), left)
                    seconds.append(answered.seconds)
                    tokens.append(answered.tokens)
                    if has_settled(seconds):
                        return outcome()
                    if self._clock() - told >= TELL_SECONDS:
                        told = self._clock()
                        self._tell(f"{server.pod}: request {len(seconds)}, {answered.seconds:.2f} s")
        except BootstrapError as error:
            if self._clock() >= self._give_up:
                return self._unsettled(outcome, len(seconds))
            after = f"after {len(seconds)} requests it " if seconds else ""
            return outcome(error.reason or "PROBE_FAILING", after + error.message,
                           error.hint or f"judge-bootstrap --env {self._env} logs --pod {server.pod}")
        except Exception as error:  # one pod's odd answer must not hide the others
            return outcome("PROBE_FAILING", one_line(f"could not be asked: {error}"),
                           f"judge-bootstrap --env {self._env} health")
        return self._unsettled(outcome, len(seconds))

    def _unsettled(self, outcome: Callable[..., Outcome], sent: int) -> Outcome:
        limit, more = "time", f"--wait {2 * self._wait_seconds}"
        if sent >= self._requests:
            limit, more = "requests", f"--requests {2 * self._requests}"
        message = f"its latency had not settled when the {limit} ran out, after {sent} requests"
        return outcome("LATENCY_UNSETTLED", message,
                       f"judge-bootstrap --env {self._env} warmup {more}")

    def _tell(self, text: str) -> None:
        from judge_bootstrap.core.redact import redactor

        if not self._app.quiet:
            with self._telling:
                click.echo(redactor().clean(text), err=True)


_HEAD = ("pod", "settled", "first", "median", "p95", "last", "tokens/s")


def _print(app: AppContext, outcomes: Sequence[Outcome]) -> None:
    from judge_bootstrap.cli.output import show_rows

    rows = []
    for outcome in outcomes:
        found = outcome.figures
        if found is None:
            rows.append((outcome.pod, "no", *["-"] * 5))
            continue
        after = f"{found.requests} requests, {outcome.seconds:.1f} s"
        speed = "-" if found.tokens_per_second is None else f"{found.tokens_per_second:.1f}"
        rows.append((outcome.pod, f"after {after}" if outcome.reason is None else f"no ({after})",
                     *(f"{value:.2f} s" for value in (found.first, found.median, found.p95, found.last)), speed))
    show_rows(app, _HEAD, rows)
