"""`judge-bootstrap logs`: what the loader's and the server's pods wrote, merged in the order of its time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.options import variable_option
from judge_bootstrap.core.errors import BootstrapError, ExitCode, UsageProblem

if TYPE_CHECKING:
    from judge_bootstrap.adapters.pod_logs import Cluster, Container, Wanted
    from judge_bootstrap.cli.cluster_settings import ClusterSettings
    from judge_bootstrap.core.log_lines import Line, Seen, Source
    from judge_bootstrap.core.redact import Redactor

# Of each container, where nothing else is said.
TAIL_LINES = 100
_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_yellow",
            "bright_magenta", "bright_blue")


@dataclass(frozen=True)
class World:
    """The cluster, and the secrets that must not be shown; tests give their own."""

    def open(self, settings: ClusterSettings) -> tuple[Cluster, list[str]]:
        """Return the cluster and the API key, where we may read it. Raises BootstrapError."""
        from judge_bootstrap.adapters.kube_secrets import read_api_key
        from judge_bootstrap.adapters.pod_logs import KubernetesCluster

        api_client = settings.connect()
        try:
            key = read_api_key(api_client, settings.namespace, settings.api_key_secret_name)
        except BootstrapError as error:
            if error.reason not in ("CLUSTER_DENIED", "SECRET_UNUSABLE"):
                raise
            key = None
        return KubernetesCluster(api_client), [key] if key else []


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines and new pods until Ctrl-C.")
@click.option("--since", metavar="SPAN", help="No lines older than that, such as 30s, 10m, 1h30m or 2d.")
@click.option("--tail", type=click.IntRange(-1), metavar="N",
              help=f"The last N lines of each container; -1 for all (default: {TAIL_LINES}, and all with --since).")
@click.option("--loader", "only", flag_value="loader", help="Only the loader's pods.")
@click.option("--server", "only", flag_value="server", help="Only the serving pods.")
@click.option("--pod", metavar="NAME", help="Only this pod, by its name or by the short one in front of its lines.")
@click.option("--previous", is_flag=True, help="What the container wrote before its last restart.")
@click.option("--timestamps", is_flag=True, help="With the time of each line (UTC, by the node's clock).")
@variable_option
@global_options
@pass_app
def logs(app: AppContext, follow: bool, since: str | None, tail: int | None, only: str | None, pod: str | None,
         previous: bool, timestamps: bool, extra: tuple[str, ...]) -> int:
    """Show or follow the logs of the loader's and the server's pods.

    All containers are there, init containers too, merged in the order of their time. Each line begins with its pod's
    short name and its container. With -f it goes on: pods that come are picked up, a connection that breaks is opened
    again where it was, and Ctrl-C ends it at once with exit code 130, as it ends `kubectl logs -f`. Secrets are masked,
    and signs that would drive the terminal are shown instead of obeyed.

    \b
    Examples:
      judge-bootstrap --env prod logs -f
      judge-bootstrap --env prod logs --server --since 10m --timestamps
      judge-bootstrap --env prod logs --pod server-x7k2p --previous
      judge-bootstrap --env prod logs --loader --json | jq -r '.lines[].text'
    """
    from judge_bootstrap.adapters.pod_logs import Wanted, find
    from judge_bootstrap.cli.cluster_settings import read_cluster_settings
    from judge_bootstrap.core.redact import Redactor, secrets_of

    app.command = "logs"
    if follow and app.json:
        raise UsageProblem("--json gives one object when all is read, and -f never has all", hint="leave out one of "
                           f"them: judge-bootstrap --env {app.env or 'ENV'} logs --json --since 10m")
    if follow and previous:
        raise UsageProblem("--previous is what a container wrote before it ended, and nothing follows on it",
                           hint="leave out -f or --previous")
    seconds = span_seconds(since) if since else None
    if tail is None and since is None:
        tail = TAIL_LINES
    wanted = Wanted(seconds, None if tail == -1 else tail, previous)
    settings = read_cluster_settings(app, extra)
    world: World = app.extra.get("logs") or World()
    cluster, secrets = world.open(settings)
    show = _Show(app, settings.service_name, Redactor({*secrets_of(os.environ), *secrets}), timestamps)
    places = places_of(settings, only)
    there = find(cluster, places)
    show.name(there)
    chosen = [one for one in there if show.is_chosen(one, pod)]
    if not chosen and not (follow and not there):
        return _nothing(app, show, there, pod, places)
    reading = _Reading(cluster, chosen, wanted, show)
    if app.json:
        return reading.as_json(app)
    try:
        for line in reading.lines():
            show.line(line)
        if follow:
            _follow(app, cluster, places, show, reading, pod)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    return int(ExitCode.FAILED if reading.failed else ExitCode.OK)


def span_seconds(text: str) -> int:
    """Return the seconds of 30s, 10m, 1h30m or 2d; a bare number is seconds. Raises UsageProblem."""
    found = _SPAN.fullmatch(text)
    if text.isascii() and text.isdigit():
        seconds = int(text)
    elif not found or not text:
        seconds = 0
    else:
        units = zip(found.groups(), (86400, 3600, 60, 1), strict=True)
        seconds = sum(int(number or 0) * unit for number, unit in units)
    if not 0 < seconds < 10 ** 9:
        from judge_bootstrap.core.problems import shown

        raise UsageProblem(f"--since is {shown(text)}, wanted a span such as 30s, 10m, 1h30m or 2d",
                           hint="judge-bootstrap --env ENV logs --since 10m")
    return seconds


def places_of(settings: ClusterSettings, only: str | None) -> list[tuple[str, str]]:
    """Return where to look: namespaces, with the label selector of our pods there."""
    places = []
    if only in (None, "loader"):
        places.append((settings.loader_namespace, settings.loader_pods))
    if only in (None, "server"):
        places.append((settings.namespace, settings.serving_pods))
    return places


class _Show:
    """Puts lines on stdout: named, in colour on a terminal, without secrets."""

    def __init__(self, app: AppContext, service: str, redactor: Redactor, timestamps: bool) -> None:
        self._app, self._service, self._redactor, self._timestamps = app, service, redactor, timestamps
        self._colours = app.console().is_terminal and not app.no_color and not os.environ.get("NO_COLOR")
        self.names: dict[tuple[str, str], str] = {}
        self._colour_of: dict[tuple[str, str], str] = {}
        self._width = 0

    def name(self, containers: Sequence[Container]) -> None:
        """Give each pod that has none yet its short name."""
        from judge_bootstrap.core.log_lines import short_names

        pods = [(one.source.namespace, one.source.pod) for one in containers]
        taken = set(self.names.values())
        for pod, short in short_names(pods, self._service).items():
            # A name once shown stays, so a newcomer with the same ending goes by its full one.
            if pod not in self.names:
                self.names[pod] = pod[1] if short in taken else short
                self._colour_of[pod] = _COLOURS[len(self._colour_of) % len(_COLOURS)]
        self._width = max([self._width, *(len(self.label(one.source)) for one in containers)])

    def is_chosen(self, container: Container, pod: str | None) -> bool:
        """Tell whether --pod names this container's pod."""
        source = container.source
        return pod is None or pod in (source.pod, self.names.get((source.namespace, source.pod)))

    def label(self, source: Source) -> str:
        """Return what stands in front of a container's lines."""
        return f"{self.names.get((source.namespace, source.pod), source.pod)}/{source.container}"

    def line(self, line: Line) -> None:
        """Print one line."""
        from judge_bootstrap.core.log_lines import printable, stamp_of

        label = self.label(line.source)
        if self._colours:
            colour = self._colour_of[line.source.namespace, line.source.pod]
            label = click.style(label.ljust(self._width), fg=colour)
        stamp = f"{stamp_of(line.at)} " if self._timestamps else ""
        for part in printable(line.text):
            click.echo(f"{label} {stamp}{self.clean(part)}", color=self._colours or None)

    def clean(self, text: str) -> str:
        """Return a text without secrets, in signs that no terminal obeys."""
        return self._redactor.clean(text)


@dataclass
class _Reading:
    """What the logs hold now; `failed` are those that could not be read."""

    cluster: Cluster
    containers: Sequence[Container]
    wanted: Wanted
    show: _Show
    seen: dict[Source, Seen] = field(default_factory=dict)
    failed: dict[Source, BootstrapError] = field(default_factory=dict)

    def lines(self) -> Iterator[Line]:
        """Yield the lines, oldest first; warn of each log that could not be read."""
        from judge_bootstrap.adapters.pod_logs import read
        from judge_bootstrap.core.log_lines import Seen

        self.seen = {one.source: Seen() for one in self.containers}
        yield from read(self.cluster, self.containers, self.wanted, self.seen, self.failed.__setitem__)
        for source, error in self.failed.items():
            click.echo(self.show.clean(f"Warning: {self.show.label(source)}: {error.message}"), err=True)

    def as_json(self, app: AppContext) -> int:
        """Print the one object of --json; return the exit code."""
        from judge_bootstrap.core.log_lines import stamp_of

        lines = [{"time": stamp_of(line.at), "namespace": line.source.namespace, "pod": line.source.pod,
                  "container": line.source.container, "text": self.show.clean(line.text)} for line in self.lines()]
        first = next(iter(self.failed.values()), None)
        app.emit({"ok": first is None, "command": "logs", "env": app.env, "reason": first.reason if first else None,
                  "message": first.message if first else "", "hint": first.hint if first else None,
                  "containers": [_container_json(one, self.show.names) for one in self.containers], "lines": lines})
        return int(ExitCode.OK if first is None else ExitCode.FAILED)


def _container_json(one: Container, names: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    source = one.source
    return {"namespace": source.namespace, "pod": source.pod, "short_name": names[source.namespace, source.pod],
            "container": source.container, "node": one.node, "running": one.running, "restarts": one.restarts}


def _follow(app: AppContext, cluster: Cluster, places: Sequence[tuple[str, str]], show: _Show, reading: _Reading,
            pod: str | None) -> None:
    from judge_bootstrap.adapters.pod_logs import Follower

    make: Callable[..., Follower] = app.extra.get("follower") or Follower

    def chosen(container: Container) -> bool:
        show.name([container])
        return show.is_chosen(container, pod)

    follower = make(cluster, places, chosen, app.warn, wanted=reading.wanted, seen=reading.seen)
    for line in follower.lines(reading.containers):
        show.line(line)


def _nothing(app: AppContext, show: _Show, there: Sequence[Container], pod: str | None,
             places: Sequence[tuple[str, str]]) -> int:
    where = " and ".join(namespace for namespace, _ in places)
    if pod is not None and there:
        known = ", ".join(sorted(set(show.names.values()))[:10])
        raise UsageProblem(f"no pod {pod!r} of ours in {where}, found: {known}",
                           hint=f"judge-bootstrap --env {app.env} logs --pod {min(show.names.values())}")
    raise BootstrapError(f"no container of ours was ever started in {where}", reason="POD_PENDING",
                         hint=f"judge-bootstrap --env {app.env} health")
