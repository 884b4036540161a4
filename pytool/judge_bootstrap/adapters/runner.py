"""Run playbooks through ansible-runner: private files, no secrets in them, and an end that really ends.

What ansible-runner does by default and this adapter does not (each seen with 2.4.3): it switches ssh's host key
checking off, keeps the whole environment in `artifacts/<id>/command`, and leaves workers and ssh running when it is
cancelled.
"""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from judge_bootstrap.adapters import processes
from judge_bootstrap.adapters.private import private_directory
from judge_bootstrap.adapters.tools import LOCALE
from judge_bootstrap.core.redact import HUB_TOKEN_VARIABLES, without_our_tokens

log = logging.getLogger("judge_bootstrap.runner")

# What a task of ours that was told to stop has for what it must not leave behind, such as a pod: a few requests.
_CLEAN_UP_SECONDS = 10.0
INTERRUPT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What the judge_node action plugin displays while a host syncs: a line that is also good to read where Ansible runs
# without us.
PROGRESS_LINE = re.compile(r"(?P<host>\S+): (?P<text>syncing \S.*)")


@dataclass(frozen=True)
class PlaybookRun:
    """One request: which playbooks (absolute paths, in order), over which inventory, how."""

    run_id: str
    content_root: Path
    playbooks: tuple[Path, ...]
    inventory: Path
    limit: str | None = None
    tags: str | None = None
    skip_tags: str | None = None
    check: bool = False
    diff: bool = False
    forks: int | None = None
    verbosity: int = 0
    # After this long the run is stopped as if it were interrupted; None: it takes as long as it takes.
    limit_seconds: float | None = None
    extra_vars: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One thing that Ansible reported. `kind` is ansible-runner's name of the event; `result` a module's answer.

    A kind of our own is `progress`: how far a host is, in `stdout`, while its task still runs.
    """

    kind: str
    host: str | None = None
    task: str | None = None
    play: str | None = None
    role: str | None = None
    action: str | None = None
    # The task's file and line.
    path: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    ignored: bool = False
    stats: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    stdout: str = ""


@dataclass(frozen=True)
class Ended:
    """How a run ended: Ansible's exit status (None when it was killed), and whether we were asked to stop."""

    rc: int | None
    interrupted: bool = False
    # The last lines of output that belong to no task: what Ansible says when it never got to one.
    complaints: tuple[str, ...] = ()


class PlaybookRunner(Protocol):
    """What the CLI needs of ansible-runner."""

    def __call__(self, request: PlaybookRun, on_event: Callable[[Event], None]) -> Ended:
        """Run the playbooks to their end, handing each event on as it comes."""


class Interrupt:
    """Counts the times a person or a supervisor asked us to stop."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def listening(self) -> Iterator[Interrupt]:
        """Count signals instead of dying of them, for the length of a with block (main thread only: Python's rule)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._on_signal) for number in INTERRUPT_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self.count += 1


class Drain:
    """A pipe in the place of a file that nobody may keep: what is written to it is read at once and forgotten.

    ansible-runner dumps argv and the whole environment, AWS keys included, into `artifacts/<id>/command`.
    """

    def __init__(self, path: Path) -> None:
        """Put the pipe at `path`."""
        os.mkfifo(path, 0o600)
        # Not blocking, so that it can be opened before there is a writer; a reader must be there before the writer is.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="drain", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while not self._closing.is_set():
            # A pipe without a writer is always readable, at its end: hence the pause.
            if not (select.select([self._descriptor], [], [], 0.2)[0] and os.read(self._descriptor, 1 << 16)):
                self._closing.wait(0.02)

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        self._thread.join()
        os.close(self._descriptor)


class AnsibleRunner:
    """The real PlaybookRunner."""

    def __init__(self, *, grace_seconds: float = 10.0) -> None:
        """`grace_seconds`: how long Ansible may take to stop by itself after the first Ctrl-C."""
        self.grace_seconds = grace_seconds

    def __call__(self, request: PlaybookRun, on_event: Callable[[Event], None]) -> Ended:
        """Run the playbooks; whatever happens, nothing of the run is left: no process, no file."""
        with Interrupt().listening() as interrupt, private_directory(request.run_id) as private:
            try:
                return self._run(request, private, on_event, interrupt)
            finally:
                # Also after a good run: ssh's control masters would live on for ControlPersist.
                count = processes.end(request.run_id, private)
                log.debug("ended %d processes of run %s", count, request.run_id)

    def _run(self, request: PlaybookRun, private: Path, on_event: Callable[[Event], None],
             interrupt: Interrupt) -> Ended:
        from ansible_runner.interface import init_runner

        complaints: list[str] = []
        pids: list[int] = []

        def handle(raw: dict[str, Any]) -> bool:
            if raw.get("pid"):
                pids[:] = [raw["pid"]]
            event = to_event(raw)
            if event.kind in ("verbose", "error") and event.stdout.strip():
                complaints.append(event.stdout.strip())
                del complaints[:-20]
            on_event(event)
            return False  # write no job_events file: what is in the event may be private

        runner = init_runner(
            private_data_dir=str(private), project_dir=str(request.content_root), ident="run",
            playbook=str(_one_playbook(request, private)), inventory=str(request.inventory),
            extravars=dict(request.extra_vars) or None, limit=request.limit, tags=request.tags,
            skip_tags=request.skip_tags, forks=request.forks, verbosity=request.verbosity or None,
            cmdline=" ".join(flag for flag, on in (("--check", request.check), ("--diff", request.diff)) if on) or None,
            quiet=True, event_handler=handle, cancel_callback=lambda: False,
            settings={"suppress_output_file": True},
        )
        runner.config.env = child_environment(os.environ, request, private, of_runner=runner.config.env)
        drain = Drain(Path(runner.config.artifact_dir) / "command")

        failure: list[BaseException] = []

        def work() -> None:
            try:
                runner.run()
            except BaseException as problem:  # handed to the main thread, which raises it
                failure.append(problem)
            finally:
                drain.close()

        worker = threading.Thread(target=work, name="ansible-runner", daemon=True)
        deadline = None if request.limit_seconds is None else time.monotonic() + request.limit_seconds
        worker.start()
        while worker.is_alive():
            worker.join(0.1)
            if interrupt.count or (deadline is not None and time.monotonic() > deadline):
                self._stop(request, worker, pids, interrupt)
                return Ended(None, interrupted=True, complaints=tuple(complaints))
        if failure:
            raise failure[0]
        return Ended(runner.rc, interrupted=bool(interrupt.count), complaints=tuple(complaints))

    def _stop(self, request: PlaybookRun, worker: threading.Thread, pids: list[int], interrupt: Interrupt) -> None:
        """Ask Ansible itself to stop (it then ends its workers); end it if it does not, or on a second Ctrl-C."""
        asked = interrupt.count
        for pid in pids or _playbook_processes(request.run_id):
            if pid in processes.carriers(request.run_id):
                processes.send(pid, signal.SIGINT)
        give_up = time.monotonic() + self.grace_seconds
        while worker.is_alive() and time.monotonic() < give_up and interrupt.count == asked:
            worker.join(0.05)
        processes.end(request.run_id, grace_seconds=_CLEAN_UP_SECONDS, hurry=lambda: interrupt.count != asked)
        worker.join(5.0)


def child_environment(ours: Mapping[str, str], request: PlaybookRun, private: Path,
                      of_runner: Mapping[str, str]) -> dict[str, str]:
    """Return ansible-playbook's environment: ours and what ansible-runner adds, without Hub token and judge's key.

    The token goes into a 0600 file of the private directory: there the resolver finds it, and neither ssh nor a
    task can hand it on. AWS keys stay: reading the inventory needs them, and ssh sends no variable by itself.
    """
    environment = without_our_tokens(of_runner)
    token = next((ours[name] for name in HUB_TOKEN_VARIABLES if ours.get(name)), None)
    if token:
        token_file = private / "hub-token"
        token_file.touch(mode=0o600)
        token_file.write_text(token, encoding="utf-8")
        environment["HF_TOKEN_PATH"] = str(token_file)
    collections = [str(request.content_root / ".collections"),
                   ours.get("ANSIBLE_COLLECTIONS_PATH") or "~/.ansible/collections:/usr/share/ansible/collections"]
    temporary = private / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    environment.update({
        processes.RUN_ID_VARIABLE: request.run_id,
        # Started as VENV/bin/judge-bootstrap, the venv need not be in PATH; ansible-playbook must be.
        "PATH": str(Path(sys.executable).parent) + os.pathsep + ours.get("PATH", os.defpath),
        "ANSIBLE_CONFIG": str(request.content_root / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join(collections),
        "ANSIBLE_LOCAL_TEMP": str(temporary),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(private / "cp"),
        # ansible-runner says False unless somebody said something.
        "ANSIBLE_HOST_KEY_CHECKING": ours.get("ANSIBLE_HOST_KEY_CHECKING", "True"),
        **LOCALE,
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONUNBUFFERED": "1",
    })
    return environment


def to_event(raw: Mapping[str, Any]) -> Event:
    """Return ansible-runner's event as ours. Unknown kinds pass, with what they have."""
    if raw.get("event") == "verbose" and (found := PROGRESS_LINE.fullmatch(str(raw.get("stdout")).strip())):
        return Event(kind="progress", host=found["host"], stdout=found["text"])
    data: Mapping[str, Any] = raw.get("event_data") or {}
    result = data.get("res")
    stats: dict[str, dict[str, int]] = {}
    if raw.get("event") == "playbook_on_stats":
        for counter in ("ok", "changed", "failures", "dark", "skipped", "rescued", "ignored"):
            for host, count in (data.get(counter) or {}).items():
                stats.setdefault(host, {})[counter] = count
    return Event(
        kind=str(raw.get("event", "")), host=data.get("host"), task=data.get("task") or data.get("name"),
        play=data.get("play") or (data.get("name") if raw.get("event") == "playbook_on_play_start" else None),
        role=data.get("role"), action=data.get("task_action"), path=str(data.get("task_path") or ""),
        result=result if isinstance(result, Mapping) else {},
        ignored=bool(data.get("ignore_errors")), stats=stats, stdout=str(raw.get("stdout") or ""))


def _one_playbook(request: PlaybookRun, private: Path) -> Path:
    """Return the playbook, or one that imports several.

    That way the inventory is read once, and a host that fails in one playbook is left out of the next.
    """
    if len(request.playbooks) == 1:
        return request.playbooks[0]
    path = private / "run.yml"
    imports = [{"import_playbook": str(playbook)} for playbook in request.playbooks]
    path.write_text(yaml.safe_dump(imports), encoding="utf-8")
    return path


def _playbook_processes(run_id: str) -> list[int]:
    """Return the pids of ansible-playbook itself, for a stop that comes before its first event."""
    return [pid for pid in processes.carriers(run_id)
            if any(Path(word).name == "ansible-playbook" for word in processes.command_line(pid)[:3])]
