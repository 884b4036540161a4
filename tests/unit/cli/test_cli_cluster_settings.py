"""What commands that start no playbook know of the cluster: as a run knows it, templates and -e included."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cluster_desks import ROLES, shipped_variables
from fakes_cli import Desk
from judge_bootstrap.adapters.rendered import is_template, render
from judge_bootstrap.cli.cluster_settings import (
    ClusterSettings,
    cluster_settings_of,
    read_cluster_and_model,
    read_cluster_settings,
)
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.core.documents import Vaulted
from judge_bootstrap.core.environment import Environment
from judge_bootstrap.core.errors import UsageProblem

ENVIRONMENT = Environment(name="prod", inventory_dir=Path("/inventory/prod"), production=True, region="us-east-1")


def settings_of(**changed: Any) -> ClusterSettings:
    return cluster_settings_of(render, ENVIRONMENT, shipped_variables(**changed))


def test_the_shipped_defaults_give_the_documented_names() -> None:
    found = settings_of()
    assert (found.namespace, found.service_name, found.loader_namespace, found.port, found.selector) == (
        "llm-judge", "judge-inference-service", "llm-judge-loader", 8000, "role=ai-gpu")
    assert (found.kubeconfig, found.context, found.render_dir) == (None, None, None)
    assert found.image == "{vllm_k8s_image}:{vllm_k8s_image_tag}".format(**shipped_variables())


def test_an_image_by_digest_is_named_as_the_role_names_it() -> None:
    digest = "sha256:" + "0" * 64
    found = settings_of(vllm_k8s_image="a/b", vllm_k8s_image_tag="v1", vllm_k8s_image_digest=digest)
    assert found.image == f"a/b:v1@{digest}"


def test_what_comes_from_the_command_line_is_text_and_is_read_as_ansible_does() -> None:
    found = settings_of(vllm_k8s_port="9000", vllm_k8s_replicas="3", vllm_k8s_loader="no")
    assert (found.port, found.replicas, found.loader) == (9000, 3, False)


def test_what_the_role_takes_as_null_is_null_here_too() -> None:
    found = settings_of(vllm_k8s_replicas=None, vllm_k8s_node_taint=None)
    assert (found.replicas, found.node_taint) == (None, "")
    with pytest.raises(UsageProblem, match="vllm_k8s_replicas is .many., wanted: a whole number"):
        settings_of(vllm_k8s_replicas="many")


def test_a_template_means_what_it_means_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/from/the/environment")
    found = settings_of(
        vllm_k8s_kubeconfig="{{ base }}/config", base="{{ lookup('ansible.builtin.env', 'WHERE') }}",
        vllm_k8s_render_dir="{{ lookup('ansible.builtin.env', 'NOT_THERE') or none }}",
        vllm_k8s_node_selector={"pool": "{{ 'judge' | upper }}"}, vllm_k8s_loader_namespace="{{ inventory_dir }}")
    assert (found.kubeconfig, found.render_dir, found.selector, found.loader_namespace) == (
        "/from/the/environment/config", None, "pool=JUDGE", "/inventory/prod")


def test_what_cannot_be_rendered_is_one_line_with_the_name() -> None:
    with pytest.raises(UsageProblem) as caught:
        settings_of(vllm_k8s_kubeconfig="{{ of_a_host }}")
    assert "vllm_k8s_kubeconfig: Ansible cannot render it here" in caught.value.message
    assert "'of_a_host' is undefined" in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint == "give it: -e vllm_k8s_kubeconfig=VALUE"


def test_a_vaulted_value_is_named_and_one_elsewhere_is_no_obstacle() -> None:
    with pytest.raises(UsageProblem, match="vllm_k8s_kubeconfig is encrypted with ansible-vault"):
        settings_of(vllm_k8s_kubeconfig=Vaulted())
    assert settings_of(other=[Vaulted()], vllm_k8s_context="{{ 'a' }}").context == "a"


def test_nothing_is_started_where_nothing_is_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("a program was started"))
    assert settings_of().namespace == "llm-judge"


@pytest.mark.parametrize(("value", "expected"), [
    ("{{ x }}", True), ("{% if x %}", True), ({"a": ["{{ x }}"]}, True), ("plain {", False), (8000, False),
    (None, False)])
def test_templates_are_found_wherever_they_stand(value: Any, expected: bool) -> None:
    assert is_template(value) is expected


@pytest.mark.parametrize(("name", "value", "said"), [
    ("vllm_k8s_port", "eighty", "a whole number"), ("vllm_k8s_port", True, "a whole number"),
    ("vllm_k8s_namespace", "", "a text that is not empty"), ("vllm_k8s_kubeconfig", ["a"], "a text, or null"),
    ("vllm_k8s_node_selector", "role=ai-gpu", "a mapping"), ("vllm_k8s_tolerations", ["sku"], "a list of mappings")])
def test_a_value_of_another_type_is_refused_by_name(name: str, value: Any, said: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        settings_of(**{name: value})
    assert name in caught.value.message and said in caught.value.message


def test_the_namespaces_are_those_of_the_roles_templates() -> None:
    """What the role applies next must find its own namespace, or every first run after `secrets apply` changes it."""
    found = settings_of()
    serving = (ROLES / "vllm_k8s/templates/namespace.yaml.j2").read_text()
    loader = (ROLES / "vllm_k8s/templates/loader/namespace.yaml.j2").read_text()
    for text, labels, ours in ((serving, found.namespace_object()["metadata"]["labels"], 2),
                               (loader, found.loader_namespace_object()["metadata"]["labels"], 4)):
        written = set(re.findall(r"pod-security\.kubernetes\.io/\w+", text))
        assert {key for key in labels if key.startswith("pod-security")} == written
        assert len(labels) == ours + len(written)


def test_the_flag_wins_over_the_environments_variables(desk: Desk) -> None:
    desk.role_variables = shipped_variables(vllm_k8s_namespace="from-inventory")
    desk.settings.variables = {"vllm_k8s_namespace": "from-flag"}
    app = AppContext(env="prod", services=desk.services())
    assert read_cluster_settings(app).namespace == "from-flag"


def test_cluster_and_model_are_read_together_and_ask_once(desk: Desk) -> None:
    desk.role_variables = shipped_variables()
    app = AppContext(env="prod", services=desk.services())
    cluster, model = read_cluster_and_model(app, ["model.id=org/name"])
    assert (cluster.env, model.env, desk.asked_settings) == ("prod", "prod", [("model.id=org/name",)])


def test_where_manifests_are_files_no_cluster_is_asked() -> None:
    with pytest.raises(UsageProblem, match="no cluster is asked in environment prod"):
        settings_of(vllm_k8s_render_dir="/srv/manifests").connect()
