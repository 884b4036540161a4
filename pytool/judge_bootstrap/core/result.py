"""From Ansible's events to one result per host and one for the run. Pure: no clock, no file, no process.

`rc == 0` is not success (DESIGN.md section 4): success is that every host that the inventory promised has reported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judge_bootstrap.core.errors import ExitCode

UNREACHABLE = "NODE_UNREACHABLE"
SILENT = "NODE_SILENT"
INTERRUPTED = "INTERRUPTED"
# Ansible checks a role's arguments under the tag "always", so a run of nothing else has done nothing.
ALWAYS_RUN = ("validate_argument_spec", "ansible.builtin.validate_argument_spec")
# A command on the node -> the playbook that does the same from here.
REPAIRED_BY = {"judge-node disks ensure": "nvme", "judge-node cache sync": "model_cache"}


@dataclass(frozen=True)
class Change:
    """What one task changed (or would change, in check mode) on one host."""

    host: str
    task: str
    diff: str


@dataclass(frozen=True)
class HostOutcome:
    """What holds on one host after the run. `counts` are Ansible's: ok, changed, failures, dark, skipped, ..."""

    ok: bool
    changed: bool
    state: str | None = None
    reason: str | None = None
    message: str = ""
    repair: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    # True when the node program was asked to change something and would not touch what it found.
    refused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the documented JSON form."""
        return {"ok": self.ok, "changed": self.changed, "state": self.state, "reason": self.reason,
                "message": self.message, "repair": self.repair, "tasks": dict(self.counts)}


@dataclass(frozen=True)
class RunResult:
    """What a whole run came to."""

    command: str
    env: str
    run_id: str
    playbooks: tuple[str, ...]
    check: bool
    hosts: Mapping[str, HostOutcome]
    changes: tuple[Change, ...] = ()
    reason: str | None = None
    message: str = ""
    hint: str | None = None
    interrupted: bool = False
    elapsed_seconds: float = 0.0
    # The judged answer that `verify` got, as judge_client gives it; None when nothing asked for one.
    verdict: Mapping[str, Any] | None = None
    # What `models update` and `rollback` found of each replica that they moved; None when no pod was to move.
    roll: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """True when every expected host reported and holds, and nothing else went wrong."""
        nothing_else = self.reason is None and not self.message
        return bool(self.hosts) and nothing_else and all(host.ok for host in self.hosts.values())

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of DESIGN.md section 5."""
        if self.interrupted:
            return ExitCode.INTERRUPTED
        if self.ok:
            return ExitCode.OK
        failed = [host for host in self.hosts.values() if not host.ok]
        # "I would not touch it" is not "it broke": when nothing worse happened, the run was refused.
        if failed and all(host.refused for host in failed):
            return ExitCode.REFUSED
        return ExitCode.FAILED

    def to_json(self, next_steps: Sequence[str] = ()) -> dict[str, Any]:
        """Return the documented JSON form."""
        failed = {name: host for name, host in self.hosts.items() if not host.ok}
        first = next(iter(failed.values()), None)
        return {
            "ok": self.ok, "command": self.command, "env": self.env, "run_id": self.run_id,
            "playbooks": list(self.playbooks), "check": self.check, "interrupted": self.interrupted,
            "changed": sum(host.changed for host in self.hosts.values()),
            "reason": self.reason or (first.reason if first else None),
            "message": self.message or (f"{len(failed)} of {len(self.hosts)} hosts failed" if failed else ""),
            "hint": self.hint or (first.repair if first else None),
            "hosts": {name: host.to_json() for name, host in self.hosts.items()},
            "changes": [{"host": change.host, "task": change.task, "diff": change.diff} for change in self.changes],
            "verdict": dict(self.verdict) if self.verdict else None,
            "roll": dict(self.roll) if self.roll else None,
            "elapsed_seconds": round(self.elapsed_seconds, 1), "next": list(next_steps),
        }


@dataclass
class _Host:
    """What has been heard of one host so far."""

    verdicts: list[Mapping[str, Any]] = field(default_factory=list)
    failure: Any = None
    unreachable: str | None = None
    role: str | None = None
    changed: bool = False
    stopped_by: Any = None


class Collector:
    """Takes events as they come and says at the end what they came to."""

    def __init__(self, env: str, playbooks: Sequence[str], expected: Collection[str], *, check: bool = False,
                 again: str | None = None) -> None:
        """`expected`: the hosts that the inventory gave for this run's limit; `playbooks`: their names, as typed.

        `again`: the command that repairs a host by being given again, where that is not `run` of these playbooks.
        """
        self.check = check
        self.again = again
        self.interrupted = False
        self.env = env
        self.playbooks = tuple(playbooks)
        self.expected = list(expected)
        self.changes: list[Change] = []
        self.counts: dict[str, Mapping[str, int]] = {}
        self.verdict: Mapping[str, Any] | None = None
        self.roll: Mapping[str, Any] | None = None
        # How many outcomes of tasks were heard of, those aside that run whatever the tags say.
        self.tasks = 0
        self._hosts: dict[str, _Host] = {}
        self._last_failure: Any = None

    def add(self, event: Any) -> None:
        """Take one event (adapters.runner.Event)."""
        if event.stats:
            self.counts = dict(event.stats)
        if event.kind == "playbook_on_no_hosts_remaining":
            # A task that runs once for all (run_once) fails on one host, and Ansible counts no failure for the others.
            for name in self.expected:
                self._hosts.setdefault(name, _Host()).stopped_by = self._last_failure
        if event.host and event.kind.startswith("runner_on_") and event.kind != "runner_on_start":
            self.tasks += event.action not in ALWAYS_RUN
        if not event.host or event.kind not in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            return
        host = self._hosts.setdefault(event.host, _Host())
        for answer in answers(event.result):
            if isinstance(answer.get("judge"), Mapping):
                host.verdicts.append(answer["judge"])
            if isinstance(answer.get("verdict"), Mapping):
                self.verdict = answer["verdict"]
            if isinstance(answer.get("roll"), Mapping):
                self.roll = answer["roll"]
        if event.kind == "runner_on_unreachable":
            host.unreachable = first_line(event.result.get("msg")) or "no answer over ssh"
            host.role = event.role
        elif event.kind == "runner_on_failed" and not event.ignored:
            host.failure, host.role = event, event.role
            self._last_failure = event
        elif event.kind == "runner_on_ok" and event.result.get("changed"):
            host.changed = True
            self.changes += changes_of(event.host, event.task or "", event.result)

    @property
    def did_anything(self) -> bool:
        """False when no task of a role or play was run, or skipped by its own condition."""
        return bool(self.tasks or any(counts.get("skipped") for counts in self.counts.values()))

    def last_answers(self) -> dict[str, Mapping[str, Any]]:
        """Return what judge-node answered last on each host that it answered on."""
        return {name: host.verdicts[-1] for name, host in self._hosts.items() if host.verdicts}

    def outcomes(self) -> dict[str, HostOutcome]:
        """Return the outcome of every expected host, and of every other host that was heard of."""
        names = [*self.expected, *(name for name in self.counts if name not in self.expected and name != "localhost")]
        return {name: self._outcome(name) for name in names}

    def _outcome(self, name: str) -> HostOutcome:
        host = self._hosts.get(name, _Host())
        counts = self.counts.get(name, {})
        verdict = next((found for found in reversed(host.verdicts) if found.get("state")),
                       host.verdicts[-1] if host.verdicts else {})
        changed = bool(host.changed or counts.get("changed"))
        if counts.get("dark") or (host.unreachable and not counts):
            # The same command alone would meet the same silence; the comment keeps it a command that can be pasted.
            first = "   # once ssh to it works: is it running, security group, key, known_hosts"
            return HostOutcome(False, changed, verdict.get("state"), UNREACHABLE, f"not reachable: {host.unreachable}",
                               self._repair(name, host.role) + first, counts)
        if counts.get("failures") or (host.failure is not None and not counts):
            return self._failed(name, host, changed, counts)
        if host.stopped_by is not None:
            return self._failed(name, _Host(failure=host.stopped_by, role=host.stopped_by.role), changed, counts)
        if not counts and self.interrupted:
            return HostOutcome(False, changed, verdict.get("state"), INTERRUPTED, "interrupted before it was done",
                               self._repair(name, host.role), counts)
        # A play that proves something skips it all in check mode: there the host has been asked, and that is all.
        if not counts.get("ok") and not (self.check and counts.get("skipped")):
            return HostOutcome(False, changed, verdict.get("state"), SILENT,
                               "the inventory names this host, but no task reported from it",
                               self._repair(name, None), counts)
        message = str(verdict.get("message") or "")
        return HostOutcome(True, changed, verdict.get("state"), None, message, None, counts)

    def _failed(self, name: str, host: _Host, changed: bool, counts: Mapping[str, int]) -> HostOutcome:
        if host.failure is None:
            return HostOutcome(False, changed, None, None, "a task failed", self._repair(name, host.role), counts)
        found = next((answer for answer in answers(host.failure.result) if answer.get("failed")), host.failure.result)
        judge = found.get("judge")
        verdict: Mapping[str, Any] = judge if isinstance(judge, Mapping) else {}
        reason, repair = (verdict.get(key) or found.get(key) for key in ("reason", "repair"))
        reason, repair = (str(value) if value else None for value in (reason, repair))
        said = verdict.get("message") or failure_text(found) or f"task {host.failure.task!r} failed"
        # Modules say both in their text too (BootstrapError.for_module, and judge_node's failure_message).
        message = str(said).removeprefix(f"{reason}: ").removesuffix(f" (repair: {repair})")
        if not reason:
            message = f"{host.failure.task}: {message}"
        if host.failure.host not in (None, name):
            message += f" (once for all hosts, from {host.failure.host})"
        # What only looks cannot refuse: a check that does not hold has failed.
        refused = is_refusal(reason) and not str(verdict.get("command")).endswith(("status", "verify"))
        return HostOutcome(False, changed, verdict.get("state"), reason, message,
                           self._from_afar(repair, name) or self._repair(name, host.role), counts, refused)

    def _from_afar(self, repair: str | None, name: str) -> str | None:
        """Return a repair command as it is typed here: what the node program says is meant for the node itself."""
        for on_node, playbook in REPAIRED_BY.items():
            if repair and repair.startswith(on_node):
                return f"judge-bootstrap --env {self.env} run {self._by_way_of(playbook)} --limit {name}"
        if not repair:
            return None
        return repair.replace("--env ENV", f"--env {self.env}").replace(
            "judge-bootstrap run", f"judge-bootstrap --env {self.env} run")

    def _by_way_of(self, playbook: str) -> str:
        """Return the playbook that repairs a link in the way this run took: a node of nvme_pod has no ssh."""
        return "nvme_pod" if playbook == "nvme" and "nvme_pod" in self.playbooks else playbook

    def _repair(self, name: str, role: str | None) -> str:
        if self.again is not None:
            return f"judge-bootstrap --env {self.env} {self.again} --limit {name}"
        if role in ("nvme", "model_cache", "vllm_k8s"):
            playbooks = [self._by_way_of(role)]
        else:
            playbooks = [playbook for playbook in self.playbooks if playbook != "site"]
        # A plan that failed is planned again: its hint must not be the command that changes things.
        verb = " plan" if self.check else " run" if playbooks else ""
        run = " ".join([verb, *playbooks])
        return f"judge-bootstrap --env {self.env}{run} --limit {name}"


def is_refusal(reason: str | None) -> bool:
    """Tell whether a reason code says that something was left alone for safety (judge_node.reasons)."""
    from judge_node.reasons import REASONS

    return reason in REASONS and REASONS[reason].exit_code == ExitCode.REFUSED


def answers(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a module's answers: one, or one for each turn of a loop."""
    items = result.get("results")
    if isinstance(items, list) and items and all(isinstance(item, Mapping) for item in items):
        return items
    return [result]


def first_line(value: Any) -> str:
    """Return the first line with anything in it, at most 300 characters."""
    for line in str(value or "").splitlines():
        if line.strip():
            return line.strip() if len(line.strip()) <= 300 else line.strip()[:297] + "..."
    return ""


def failure_text(result: Mapping[str, Any]) -> str:
    """Return what a failed module said, in one line; a censored result says that it is censored."""
    if "censored" in result:
        return "failed; its output is hidden because it may hold secrets (no_log)"
    said = first_line(result.get("msg"))
    errors = first_line(result.get("stderr") or result.get("module_stderr"))
    # "non-zero return code" and "MODULE FAILURE" say nothing without what the program wrote.
    says_nothing = not said or said.lower().startswith(("non-zero", "module failure"))
    return f"{said}: {errors}".removeprefix(": ") if errors and says_nothing else said


def diff_text(result: Mapping[str, Any]) -> str:
    """Return what a task changed as text: its diff (unified for before/after), else the things it names."""
    from difflib import unified_diff

    parts: list[str] = []
    for answer in answers(result):
        diffs = answer.get("diff")
        for diff in diffs if isinstance(diffs, list) else [diffs]:
            if not isinstance(diff, Mapping):
                continue
            if diff.get("prepared"):
                parts.append(str(diff["prepared"]).rstrip("\n"))
                continue
            before, after = (_as_text(diff.get(side)).splitlines() for side in ("before", "after"))
            lines = unified_diff(before, after, str(diff.get("before_header") or "before"),
                                 str(diff.get("after_header") or "after"), lineterm="")
            parts.extend(lines)
    return "\n".join(parts or _named_things(result))


def changes_of(host: str, task: str, result: Mapping[str, Any]) -> list[Change]:
    """Return what a task changed: one change, or one for each object that it names (Kubernetes objects)."""
    named = [entry for answer in answers(result) for entry in answer.get("objects") or []
             if isinstance(entry, Mapping) and entry.get("action") not in ("unchanged", "left")]
    if not named:
        return [Change(host, task, diff_text(result))]
    diffs = {str(diff.get("before_header")): diff for answer in answers(result) for diff in answer.get("diff") or []
             if isinstance(diff, Mapping)}
    return [Change(host, f"{task}: {entry.get('object')} {entry.get('action')}",
                   diff_text({"diff": diffs.get(str(entry.get("object")))})) for entry in named]


def _named_things(result: Mapping[str, Any]) -> list[str]:
    """Return a line a thing for an answer that names what it changed in a list, without a diff."""
    said = result.get("msg")
    return [f"+{thing}" for thing in said] if isinstance(said, list) else []


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    import json

    return json.dumps(value, indent=2, sort_keys=True, default=str)
