"""`doctor` where the manifests are written to files and no cluster is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from judge_bootstrap.adapters.appconfig import AppConfigLayer
from judge_bootstrap.adapters.config import Loaded, load_environment, role_variables
from judge_bootstrap.adapters.kube_checks import ClusterUnavailable
from judge_bootstrap.cli.doctor import World, examine
from judge_bootstrap.core.checks import Check, Cluster
from judge_bootstrap.core.environment import Environment
from judge_bootstrap.core.settings import Settings, Source, Value

ROOT = Path(__file__).parents[3]

SOURCE = Source(layer="default", detail="roles")
NAMES = {name: Value(value="x", source=SOURCE) for name in ("kubernetes.namespace", "kubernetes.hf_secret_name")}


class Asked(Exception):
    """A cluster was asked."""


def cluster_check(environment: Environment) -> Check:
    """Return doctor's check of the cluster; raises Asked when it asks one. Nothing else is there to be asked."""

    def unavailable(*_: object, **__: object) -> Cluster:
        raise ClusterUnavailable("asked")

    settings = Settings(env=environment.name, values=NAMES)
    world = replace(World(), settings=lambda env: Loaded(environment, settings, AppConfigLayer("absent")),
                    cluster=unavailable)
    (check,) = (check for check in examine(environment, world) if check.name == "Kubernetes")
    if check.found == "asked":
        raise Asked
    return check


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_tools", "_identity"):
        monkeypatch.setattr(f"judge_bootstrap.cli.doctor.{name}", lambda *_: [])
    monkeypatch.setattr("judge_bootstrap.cli.doctor._inventory", lambda *_: ([], None))


def test_where_manifests_are_files_no_cluster_is_asked_and_that_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = load_environment("staging", ROOT / "inventory")
    with pytest.raises(Asked):
        cluster_check(environment)
    variables = {**role_variables(environment), "vllm_k8s_render_dir": "/srv/manifests"}
    monkeypatch.setattr("judge_bootstrap.adapters.config.role_variables", lambda environment: variables)
    check = cluster_check(environment)
    assert (check.status, check.found) == (
        "warn", "not asked: manifests are written to /srv/manifests instead of being applied")
    assert check.hint


def test_the_local_environment_says_by_a_variable_that_it_has_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    local = load_environment("local", ROOT / "inventory")
    monkeypatch.setenv("JUDGE_LAB_RENDER_DIR", "")
    with pytest.raises(Asked):
        cluster_check(local)
    monkeypatch.setenv("JUDGE_LAB_RENDER_DIR", "/lab/manifests")
    assert (cluster_check(local).status, cluster_check(local).hint) == (
        "warn", "judge-bootstrap lab status says how to have one")
