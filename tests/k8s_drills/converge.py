"""One round of R7: the role through an API server that answers badly, and what is in the cluster after each run.

Four runs: the first makes everything, the second nothing, the third changes one object, the fourth removes one. After
each the cluster is read past the proxy: every object of ours is there, once, and nothing that nobody asked for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters.kube import connect
from judge_bootstrap.adapters.objects import request

from .cluster import Cluster, Snapshot
from .faulty_api import FaultyApi, Plan
from .role import Role, Run

BEGIN: dict[str, Any] = {"vllm_k8s_replicas": 2, "vllm_k8s_ingress": {"host": "judge.example.org"}}
CHANGED: dict[str, Any] = {"vllm_k8s_extra_args": ["--seed", "1"]}
FEWER: dict[str, Any] = {**CHANGED, "vllm_k8s_ingress": None}
DEPLOYMENT, INGRESS = "Deployment/{}/judge-inference-service", "Ingress/{}/judge-inference-service"


@dataclass
class Round:
    """What was found. `wrong` is empty when everything held; `duplicates` are objects that nobody asked for."""

    seed: int
    struck: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    hasty: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def converged(self) -> bool:
        return not self.wrong


def play(api: FaultyApi, straight: Path, folder: Path, seed: int) -> Round:
    """Play one round in a namespace of its own, which goes at the end; `straight` is a kubeconfig without faults.

    In every second round others made the server's namespace before us, so that its pods are tried first.
    """
    found, client = Round(seed), connect(str(straight))
    role, cluster = Role(api.kubeconfig, folder, f"drill-{seed}", dict(BEGIN)), Cluster(client)
    api.plan = Plan(seed)
    try:
        if seed % 2:
            _make_namespace(client, role.namespace)
        _four_runs(found, role, lambda: cluster.snapshot(role.namespaces, role.owner), foreign=bool(seed % 2))
    finally:
        found.struck, found.requests, found.hasty = dict(api.plan.struck), api.plan.requests, list(api.plan.hasty)
        remove(cluster, role)
    return found


def _four_runs(found: Round, role: Role, snapshot: Callable[[], Snapshot], *, foreign: bool) -> None:
    def run(what: str, templates: int, **variables: Any) -> tuple[Run, Snapshot]:
        started = time.monotonic()
        ended, now = role.run(**variables), snapshot()
        found.seconds.append(round(time.monotonic() - started, 1))
        if ended.code != 0:
            found.wrong.append(f"{what}: exit code {ended.code}: {ended.why()}")
            raise _Over
        wanted = {*ended.rendered, f"Secret/{role.namespace}/judge-api-key"}
        found.wrong += [f"{what}: {name} is missing" for name in sorted(wanted - set(now.made))]
        sets = now.of_kind("ReplicaSet")
        found.duplicates += sorted(set(now.made) - wanted) + sets[templates:]
        return ended, now

    def expect(what: str, told: Any, wanted: Any) -> None:
        if told == wanted:
            return
        if isinstance(told, dict) and isinstance(wanted, dict):  # what both have says nothing
            told, wanted = dict(told.items() - wanted.items()), dict(wanted.items() - told.items())
        found.wrong.append(f"{what}: found {told}, wanted {wanted}")

    deployment, ingress = DEPLOYMENT.format(role.namespace), INGRESS.format(role.namespace)
    with contextlib.suppress(_Over):
        first, before = run("first run", 1)
        made = set(first.rendered) - ({f"Namespace/{role.namespace}"} if foreign else set())
        expect("first run, what it said", first.objects, dict.fromkeys(sorted(made), "created"))
        again, now = run("second run", 1)
        expect("second run, changed", (again.changed, again.objects), (0, {}))
        expect("second run, in the cluster", now.changed_since(before), {})
        other, then = run("another setting", 2, **CHANGED)
        expect("another setting, what it said", other.objects, {deployment: "changed"})
        expect("another setting, in the cluster", then.changed_since(now), {deployment: "changed"})
        fewer, last = run("no ingress any more", 2, **FEWER)
        expect("no ingress, what it said", fewer.objects, {ingress: "deleted"})
        expect("no ingress, in the cluster", last.changed_since(then), {ingress: "deleted"})


class _Over(Exception):
    """A run failed, so that what comes after it says nothing."""


def remove(cluster: Cluster, role: Role) -> None:
    """Remove the namespaces, and what carries the owner's label outside of them."""
    for name in cluster.snapshot(role.namespaces, role.owner).made:
        kind, *namespace, last = name.split("/")
        if not set(namespace) & set(role.namespaces):
            cluster.delete(kind, last, *namespace)


def wait_until_gone(client: Any, namespaces: Sequence[str], seconds: float = 900) -> None:
    """Wait until none of the namespaces is there. Raises TimeoutError."""
    until = time.monotonic() + seconds
    while left := sorted(set(namespaces) & {item["metadata"]["name"] for item in request(
            client, "GET", "/api/v1/namespaces")["items"]}):
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds:g} s for these namespaces to go: {', '.join(left)}")
        time.sleep(0.5)


def _make_namespace(client: Any, name: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    request(client, "POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}},
            content_type="application/json")
