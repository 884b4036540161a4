"""What a person sees of a run: progress while it goes, diffs, the recap, and what comes next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import click

from judge_bootstrap.core.redact import redactor
from judge_bootstrap.core.result import Change, HostOutcome, RunResult, answers, diff_text, failure_text, first_line

if TYPE_CHECKING:
    from rich.console import Console

    from judge_bootstrap.adapters.runner import Event
    from judge_bootstrap.cli.context import AppContext


class Progress(Protocol):
    """Shows events as they come. A context manager: leaving it gives the terminal back."""

    def __enter__(self) -> Progress: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...
    def add(self, event: Event) -> None:
        """Show one event."""


def progress(app: AppContext, hosts: Sequence[str]) -> Progress:
    """Return the live table on a terminal, plain lines elsewhere, nothing at LOG_LEVEL=ERROR."""
    if app.quiet:
        return Silent()
    console = app.console(stderr=True)
    if console.is_terminal and not app.json and app.verbose < 2:
        return Table(console, hosts)
    return Lines(verbose=app.verbose)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add(self, event: Event) -> None:
        return None


# A log has no rows to overwrite: how far a host is stands there no more often than this.
PROGRESS_SECONDS = 10.0


class Lines:
    """One line an event, on stderr: for CI logs and pipes."""

    def __init__(self, *, verbose: int = 0, write: Callable[[str], None] | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.verbose = verbose
        self._write = write or (lambda text: click.echo(text, err=True))
        self._clock = clock
        # host -> when its progress was last told
        self._told: dict[str | None, float] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add(self, event: Event) -> None:
        """Print what a person would want to know; with -v every task, with -vv Ansible's own output too."""
        text = self._text(event)
        if text:
            self._write(redactor().clean(text))

    def _text(self, event: Event) -> str:
        if event.kind == "playbook_on_play_start":
            return f"== {event.play}"
        if event.kind in ("verbose", "error"):
            return event.stdout.rstrip() if self.verbose >= 2 else ""
        if event.kind == "progress":
            now = self._clock()
            if now - self._told.get(event.host, -PROGRESS_SECONDS) < PROGRESS_SECONDS:
                return ""
            self._told[event.host] = now
            return f"{event.host}: {event.stdout}"
        word = outcome_word(event)
        if word is None or (not self.verbose and (word == "skipped" or (word == "ok" and not is_finding(event)))):
            return ""
        line = f"{event.host}: {word}: {event.task}"
        said = event_text(event)
        if said:
            line += f": {said}"
        if self.verbose >= 2 and event.stdout.strip():
            line += "\n" + event.stdout.rstrip()
        return line


class Table:
    """One line a host on a terminal: what it does now, since when; the play and the time above."""

    def __init__(self, console: Console, hosts: Sequence[str]) -> None:
        from rich.live import Live

        self._console = console
        self._started = time.monotonic()
        self._play = "starting Ansible"
        # host -> (style, what, since when)
        self._rows: dict[str, tuple[str, str, float]] = dict.fromkeys(hosts, ("dim", "waiting", self._started))
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Table:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def add(self, event: Event) -> None:
        """Keep what the next redraw shows."""
        if event.kind == "playbook_on_play_start":
            self._play = event.play or ""
            return
        if not event.host:
            return
        now = time.monotonic()
        if event.kind == "runner_on_start":
            self._rows[event.host] = ("cyan", event.task or "", now)
            return
        if event.kind == "progress":
            style, _, since = self._rows.get(event.host, ("", "", now))
            self._rows[event.host] = ("cyan", redactor().clean(event.stdout), since if style == "cyan" else now)
            return
        word = outcome_word(event)
        if word is None or word == "skipped":
            return
        style = {"ok": "green", "changed": "yellow", "ignored": "dim"}.get(word, "red")
        text = redactor().clean(f"{word}: {event.task}")
        if style == "red":
            text += ": " + redactor().clean(event_text(event))
            self._console.print(f"{event.host}: {text}", style="red", markup=False)
        self._rows[event.host] = (style, text, now)

    def render(self) -> Any:
        """Return the table as it is now, cut to what a screen holds."""
        from rich.table import Table as RichTable
        from rich.text import Text

        now = time.monotonic()
        grid = RichTable.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(justify="right", no_wrap=True)
        grid.add_row("", Text(self._play, style="bold"), f"{now - self._started:.0f} s")
        room = max(3, self._console.height - 4)
        # On a small screen those that work or failed matter more than those that wait.
        ordered = sorted(self._rows.items(), key=lambda row: {"red": 0, "cyan": 1, "yellow": 2}.get(row[1][0], 3))
        shown = dict(ordered[:room])
        for host, (style, text, since) in self._rows.items():
            if host in shown:
                grid.add_row(Text(host), Text(text, style=style), f"{now - since:.0f} s" if style == "cyan" else "")
        if len(self._rows) > room:
            grid.add_row("", f"and {len(self._rows) - room} more hosts", "")
        return grid


def is_finding(event: Event) -> bool:
    """Tell whether a task that changed nothing still found something out: one of our own modules, not an assertion."""
    return (event.action or "").startswith(("judge_", "model_"))


def outcome_word(event: Event) -> str | None:
    """Return ok, changed, failed, ignored, skipped or unreachable; None for an event that is no outcome."""
    if event.kind == "runner_on_ok":
        return "changed" if event.result.get("changed") else "ok"
    if event.kind == "runner_on_failed":
        return "ignored" if event.ignored else "failed"
    return {"runner_on_unreachable": "unreachable", "runner_on_skipped": "skipped"}.get(event.kind)


def event_text(event: Event) -> str:
    """Return what a module said, in one line."""
    for answer in answers(event.result):
        judge = answer.get("judge")
        if isinstance(judge, dict) and judge.get("message"):
            reason = f"{judge['reason']}: " if judge.get("reason") else ""
            return reason + first_line(judge["message"])
    if event.kind != "runner_on_ok":
        return failure_text(event.result)
    said = event.result.get("msg")
    return first_line(said) if isinstance(said, str) else ""


def show_diff(app: AppContext, event: Event) -> None:
    """Print what one task changes on one host (`--diff`), where the progress lines go."""
    text = diff_text(event.result) if event.kind == "runner_on_ok" and event.result.get("changed") else ""
    if text and not app.quiet:
        click.echo(redactor().clean(f"--- {event.host}: {event.task}\n{text}"), err=True)


def show_changes(app: AppContext, changes: Iterable[Change]) -> None:
    """Print a plan: each host's tasks that would change something, with the diff."""
    by_host: dict[str, list[Change]] = {}
    for change in changes:
        by_host.setdefault(change.host, []).append(change)
    for host, found in by_host.items():
        app.say(f"{host}:")
        for change in found:
            app.say(f"  would change: {change.task}")
            for line in change.diff.splitlines():
                app.say(f"      {line}")


def recap(app: AppContext, result: RunResult, next_steps: Sequence[str]) -> None:
    """Print the run's end: a line a host, the total, and what comes next."""
    if app.quiet and result.ok:
        return
    if result.check and not app.quiet:
        show_changes(app, result.changes)
        if result.ok and not result.changes:
            app.say("Nothing would change.")
    if result.hosts:
        _hosts_table(app, result)
    if result.verdict:
        app.say(_verdict_text(result.verdict))
    app.say(_total(result))
    failed = {} if result.interrupted else {name: host for name, host in result.hosts.items() if not host.ok}
    for name, host in failed.items():
        click.echo(redactor().clean(f"Error: {name}: {_with_reason(host)}"), err=True)
        if host.repair:
            click.echo(redactor().clean(f"Hint: {host.repair}"), err=True)
    if result.message:
        click.echo(redactor().clean(f"Error: {result.message}"), err=True)
    if result.hint:
        click.echo(redactor().clean(f"Hint: {result.hint}"), err=True)
    if next_steps:
        app.say("")
        app.say("What comes next:")
        for step in next_steps:
            app.say(f"  {step}")


def _verdict_text(verdict: Mapping[str, Any]) -> str:
    """Return the judged answer of `verify` in one line: overall, each criterion, and which model said so."""
    scores = verdict.get("categories") or {}
    each = ", ".join(f"{name} {score}" for name, score in scores.items() if name != "overall")
    said = redactor().clean(first_line(verdict.get("reasoning")))
    return f"Judged one answer: overall {verdict.get('score')} of 10 ({each}), by {verdict.get('model')}: {said}"


def _with_reason(host: HostOutcome) -> str:
    return f"{host.reason}: {host.message}" if host.reason else host.message


def _hosts_table(app: AppContext, result: RunResult) -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("host", "ok", "changed", "failed", "state", "message"):
        table.add_column(column, justify="right" if column in ("ok", "changed", "failed") else "left",
                         no_wrap=column == "host", overflow="fold")
    for name, host in result.hosts.items():
        style = "red" if not host.ok else "yellow" if host.changed else "green"
        failures = host.counts.get("failures", 0) + host.counts.get("dark", 0)
        # What went wrong follows below the table, in full.
        message = redactor().clean(host.message) if host.ok else host.reason or "failed"
        if result.check and host.ok:
            message = f"{host.counts.get('changed', 0)} tasks would change something" if host.changed else ""
        table.add_row(Text(name, style=style), str(host.counts.get("ok", 0)), str(host.counts.get("changed", 0)),
                      str(failures), host.state or "-", Text(message))
    app.console().print(table)


def _total(result: RunResult) -> str:
    hosts = result.hosts.values()
    good, changed = sum(host.ok for host in hosts), sum(host.changed for host in hosts)
    ran = ", ".join(result.playbooks)
    took = f"{result.elapsed_seconds:.0f} s"
    if result.interrupted:
        return f"Interrupted after {took} ({ran}, environment {result.env}): {result.message.partition('; ')[2]}."
    verb = "would change" if result.check else "changed"
    return (f"{good} of {len(result.hosts)} hosts hold, {changed} {verb} "
            f"({ran}, environment {result.env}, run {result.run_id}, {took}).")


def show_rows(app: AppContext, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: aligned on a terminal; with tabs, nothing wrapped and nothing cut, for pipes."""
    from judge_bootstrap.core.redact import redactor

    console = app.console()
    if not console.is_terminal:
        for row in (head, *rows):
            app.say("\t".join(row))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        # Text, not str: a value in brackets is no markup.
        table.add_row(*(Text(redactor().clean(cell)) for cell in row))
    console.print(table)
