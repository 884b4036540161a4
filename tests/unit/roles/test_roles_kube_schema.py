"""Objects against the Kubernetes client's models: what the API server would refuse is told without one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from judge_bootstrap.adapters.kube_schema import problems

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "judge", "labels": {"a": "b"}},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {
                "containers": [{
                    "name": "vllm",
                    "args": ["--port", "8000"],
                    "resources": {"requests": {"cpu": 2, "memory": "1Gi"}},
                    "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
                    "securityContext": {"readOnlyRootFilesystem": True},
                }],
                "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": 1024}}],
            },
        },
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the Deployment with `value` at the dotted path; numbers are places in lists."""
    whole = copy.deepcopy(DEPLOYMENT)
    place: Any = whole
    *way, last = path.split(".")
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    return whole


def test_a_well_formed_object_has_no_problem() -> None:
    assert problems([DEPLOYMENT]) == []


@pytest.mark.parametrize("kind", ["Namespace", "Service", "ServiceAccount", "PersistentVolume"])
def test_kinds_of_the_core_group_are_known(kind: str) -> None:
    assert problems([{"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}}]) == []


@pytest.mark.parametrize(("version", "kind"), [
    ("networking.k8s.io/v1", "NetworkPolicy"), ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("policy/v1", "PodDisruptionBudget")])
def test_kinds_of_other_groups_are_known(version: str, kind: str) -> None:
    assert problems([{"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}]) == []


CONTAINER = "spec.template.spec.containers.0"


@pytest.mark.parametrize(("path", "value", "problem"), [
    (f"{CONTAINER}.readOnlyRootFileSystem", True, "unknown field " + CONTAINER.replace(".0", "[0]")
     + ".readOnlyRootFileSystem"),
    (f"{CONTAINER}.readynessProbe", {}, "readynessProbe; did you mean readinessProbe?"),
    (f"{CONTAINER}.securityContext.readOnlyRootFileSystem", True, "did you mean readOnlyRootFilesystem?"),
    ("spec.replica", 1, "unknown field spec.replica; did you mean replicas?"),
    ("spec.replicas", "1", "spec.replicas: found str '1', wanted a whole number"),
    ("spec.replicas", True, "spec.replicas: found bool 'True', wanted a whole number"),
    ("metadata.labels", {"a": 1}, "metadata.labels.a: found int '1', wanted a string"),
    (f"{CONTAINER}.args", "serve", "args: found str 'serve', wanted a list"),
    (f"{CONTAINER}.args", [8000], "args[0]: found int '8000', wanted a string"),
    (f"{CONTAINER}.securityContext", [], "securityContext: found list '[]', wanted a mapping"),
    (f"{CONTAINER}.securityContext", {"readOnlyRootFilesystem": "yes"}, "found str 'yes', wanted true or false"),
    (f"{CONTAINER}.name", None, "spec.template.spec.containers[0].name is missing"),
    ("spec.selector", None, "spec.selector is missing"),
    ("metadata.name", "", "metadata.name is missing"),
    ("apiVersion", "app/v1", "found apiVersion app/v1 with kind Deployment, which the Kubernetes API does not have"),
    ("apiVersion", "apps/v2", "found apiVersion apps/v2 with kind Deployment"),
    ("kind", "Deploymnt", "kind Deploymnt, which the Kubernetes API does not have"),
])
def test_each_mistake_is_named_with_its_path_and_what_was_wanted(path: str, value: Any, problem: str) -> None:
    (found,) = problems([changed(path, value)])
    assert problem in found
    assert found.startswith(("Deployment/judge: ", "Deploymnt/judge: ", "Deployment (object 1, without a name): "))


def test_every_mistake_is_told_at_once() -> None:
    broken = changed("spec.replica", 1)
    broken["spec"]["replicas"] = "1"
    assert len(problems([broken, "no object"])) == 3


def test_an_absent_field_may_be_null() -> None:
    assert problems([changed(f"{CONTAINER}.lifecycle", None)]) == []
