"""Fakes for tests of the CLI: a runner that plays events, an environment, a lab that remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from judge_bootstrap.adapters.runner import Ended, Event, PlaybookRun
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.main import cli
from judge_bootstrap.cli.services import Services
from judge_lab import LabError

OK = {"ok": 2}


def ok(host: str, task: str = "Look", **result: Any) -> Event:
    """Return the event of a task that went well."""
    return Event("runner_on_ok", host=host, task=task, result=result)


def failed(host: str, task: str = "Look", *, role: str | None = None, ignored: bool = False, **result: Any) -> Event:
    """Return the event of a task that failed."""
    return Event(
        "runner_on_failed", host=host, task=task, role=role, ignored=ignored, result={**result, "failed": True}
    )


def stats(**hosts: Mapping[str, int]) -> Event:
    """Return Ansible's recap; a host's name is its keyword with dashes as underscores (node_1 is node-1)."""
    return Event("playbook_on_stats", stats={name.replace("_", "-"): counts for name, counts in hosts.items()})


@dataclass
class FakeRunner:
    """Plays events and ends as it is told; remembers what it was asked to run."""

    events: list[Event] = field(default_factory=lambda: [ok("node-1"), ok("node-2"), stats(node_1=OK, node_2=OK)])
    ended: Ended = field(default_factory=lambda: Ended(0))
    calls: list[PlaybookRun] = field(default_factory=list)
    # What the second run and those after it play, when they are other ones; they end well.
    later: list[Event] | None = None

    def __call__(self, request: PlaybookRun, on_event: Callable[[Event], None]) -> Ended:
        self.calls.append(request)
        again = self.later is not None and len(self.calls) > 1
        for event in (self.later or []) if again else self.events:
            on_event(event)
        return Ended(0) if again else self.ended


@dataclass
class FakeEnvironment:
    """An environment as far as a run looks at it."""

    name: str
    inventory_dir: Path
    provider: str = "aws"
    region: str = "us-east-1"


@dataclass
class FakeSettings:
    """Settings as far as a run looks at them."""

    variables: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    passed_on: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __getitem__(self, path: str) -> Any:
        return {"kubernetes.namespace": "llm-judge", "kubernetes.service_name": "judge-inference-service",
                "vllm.port": 8000, **self.values}[path]

    def extra_vars(self) -> dict[str, Any]:
        return {**self.passed_on, **self.variables}


@dataclass
class FakeLab:
    """judge_lab.site without a lab. `broken`: what it says instead of working."""

    broken: LabError | None = None
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def up(self, nodes: int = 2, report: Callable[[str], None] = print) -> None:
        self.asked.append(("up", nodes))
        if self.broken:
            raise self.broken
        report("node-1 is up")

    def down(self, report: Callable[[str], None] = print) -> None:
        self.asked.append(("down",))
        report("node-1 is gone")

    def status(self) -> dict[str, Any]:
        return {"nodes": {"node-1": {"state": "running", "address": "10.77.0.11"}}, "servers": ["aws", "hub"]}

    def environment(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": "http://10.77.0.1:5000", "KUBECONFIG": "/a path/admin.kubeconfig"}

    def node(self, verb: str, name: str) -> None:
        self.asked.append((verb, name))
        if self.broken:
            raise self.broken

    def stand_ins(self) -> list[str]:
        return ["AWS: moto", "GPU: a device plugin"]


@dataclass
class Desk:
    """One test's CLI with all its fakes; `content` is a content root with playbooks and one environment, `lab`."""

    content: Path
    runner: FakeRunner = field(default_factory=FakeRunner)
    lab: FakeLab = field(default_factory=FakeLab)
    settings: FakeSettings = field(default_factory=FakeSettings)
    hosts: list[str] = field(default_factory=lambda: ["node-1", "node-2"])
    provider: str = "aws"
    role_variables: dict[str, Any] = field(default_factory=dict)
    refuse: Exception | None = None
    asked_settings: list[tuple[str, ...]] = field(default_factory=list)

    def services(self) -> Services:
        """Return the fakes as the CLI takes them."""
        def hosts(_environment: Any, _limit: str | None) -> list[str]:
            if self.refuse:
                raise self.refuse
            return self.hosts

        def settings(_environment: Any, extra: Any) -> Any:
            self.asked_settings.append(tuple(extra))
            return self.settings

        def environment(name: str) -> Any:
            return FakeEnvironment(name, self.content / "inventory" / name, self.provider)

        return Services(run_playbooks=self.runner, environment=environment, settings=settings, hosts=hosts,
                        role_variables=lambda _environment: self.role_variables, lab=lambda: self.lab)

    def invoke(self, *words: str) -> Result:
        """Run a command line."""
        return CliRunner().invoke(
            cli, list(words), obj=AppContext(services=self.services()), prog_name="judge-bootstrap"
        )

    def invoke_json(self, *words: str) -> tuple[Result, dict[str, Any]]:
        """Run a command line with --json; return the result and the one object on stdout."""
        result = self.invoke(*words, "--json")
        answer = json.loads(result.stdout)
        assert isinstance(answer, dict)
        return result, answer
