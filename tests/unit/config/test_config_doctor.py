"""`doctor`: every check runs, whatever the first ones say, and each that does not hold names the next command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from judge_bootstrap.adapters.appconfig import AppConfigLayer
from judge_bootstrap.adapters.aws import AwsUnavailable
from judge_bootstrap.adapters.config import Loaded, load_environment
from judge_bootstrap.adapters.inventory import InventoryHost, InventoryHosts
from judge_bootstrap.adapters.kube_checks import ClusterUnavailable
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.doctor import World, examine
from judge_bootstrap.cli.main import cli
from judge_bootstrap.core.checks import Check, Cluster, ClusterNode, Identity, Tools, check_cluster, check_tools
from judge_bootstrap.core.environment import Environment
from judge_bootstrap.core.errors import Refusal, UsageProblem
from judge_bootstrap.core.settings import Settings, Source, Value
from judge_bootstrap.core.terraform import TerraformOutput, inventory_text

ROOT = Path(__file__).parents[3]
TOOLS = Tools(python="3.11.7", programs={"ansible-playbook": "ansible-core 2.19.14", "ssh": "OpenSSH_9.2p1"},
              collections={"amazon.aws": "10.1.2"}, wanted_collections={"amazon.aws": "10.1.2"}, work_dir="/tmp",
              free_bytes=10 << 30, install_collections="make setup")
NODES = [ClusterNode("node-1", "aws:///us-east-1a/i-1", "10.77.0.11", 1, True),
         ClusterNode("node-2", None, "10.77.0.12", 1, True)]
CLUSTER = Cluster(server="https://c", version="v1.36.3", namespace="llm-judge", has_namespace=True, secret="hf-secret",
                  secret_namespace="llm-judge-loader", has_secret=True, selector="role=ai-gpu", nodes=NODES)
HOSTS = {"i-1": InventoryHost("i-1", "10.77.0.11"), "i-2": InventoryHost("i-2", "10.77.0.12")}
ADDRESSES = {name: host.address for name, host in HOSTS.items()}
SOURCE = Source(layer="default", detail="roles")
SETTINGS = Settings(env="staging", values={"kubernetes.namespace": Value(value="llm-judge", source=SOURCE),
                                           "kubernetes.hf_secret_name": Value(value="hf-secret", source=SOURCE)})


def raising(error: Exception) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise error
    return call


@pytest.fixture
def environment() -> Environment:
    return load_environment("staging", ROOT / "inventory")


@pytest.fixture
def world(environment: Environment) -> World:
    return World(tools=lambda: TOOLS, identity=lambda region: Identity("arn:aws:iam::1:user/x", 1.0),
                 settings=lambda env: Loaded(environment, SETTINGS, AppConfigLayer("live", version="7", age_seconds=0)),
                 inventory=lambda env: InventoryHosts(HOSTS), cluster=lambda **names: CLUSTER)


def doctor(world: World, *words: str) -> Result:
    app = AppContext(extra={"doctor": world})
    return CliRunner().invoke(cli, ["--env", "staging", "doctor", *words], obj=app,
                              env={"JUDGE_BOOTSTRAP_INVENTORY": str(ROOT / "inventory")})


def bad(checks: list[Check]) -> dict[str, tuple[str, str]]:
    return {check.name: (check.status, check.found) for check in checks if check.status != "ok"}


def test_all_well_is_exit_code_0_and_says_what_comes_next(world: World) -> None:
    done = doctor(world)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "All 15 checks hold, 0 warnings. Next: judge-bootstrap --env staging plan"


def test_everything_broken_is_reported_at_once(world: World) -> None:
    broken = World(tools=lambda: replace(TOOLS, programs={"ssh": None}, collections={}, free_bytes=1),
                   identity=raising(AwsUnavailable("Unable to locate credentials")),
                   settings=raising(UsageProblem("bad settings", hint="mend them")),
                   inventory=raising(Refusal("no host", hint="start one")), cluster=world.cluster)
    done = doctor(broken, "--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["ok"]) == (1, False)
    assert [(check["name"], check["hint"]) for check in answer["checks"] if check["status"] == "fail"] == [
        ("ssh", "apt-get install openssh-client"),
        ("collection amazon.aws", "make setup"),
        ("disk space", "df -h /tmp"),
        ("AWS identity", "aws sts get-caller-identity, then sign in (such as aws sso login)"),
        ("settings", "mend them"), ("inventory", "start one")]
    assert all(check["hint"] for check in answer["checks"] if check["status"] != "ok")


def test_a_cluster_that_cannot_be_reached_is_a_failed_check(environment: Environment, world: World) -> None:
    checks = examine(environment, replace(world, cluster=raising(ClusterUnavailable("connection refused"))))
    assert bad(checks) == {"Kubernetes": ("fail", "connection refused")}


def test_the_last_good_copy_is_a_warning(environment: Environment, world: World) -> None:
    old = AppConfigLayer("last good", version="6", age_seconds=7200, warnings=("AppConfig is down",))
    checks = examine(environment, replace(world, settings=lambda env: Loaded(environment, SETTINGS, old)))
    assert bad(checks) == {"AppConfig": ("warn", "AppConfig is down")}


def test_the_cluster_is_asked_with_the_names_from_settings_and_roles(environment: Environment, world: World) -> None:
    asked: dict[str, Any] = {}

    def cluster(**names: Any) -> Cluster:
        asked.update(names)
        return CLUSTER

    examine(environment, replace(world, cluster=cluster))
    assert asked == {"kubeconfig": None, "context": None, "namespace": "llm-judge", "secret": None,
                     "secret_namespace": "llm-judge-loader", "selector": {"role": "ai-gpu"}}


def test_the_secret_is_looked_for_where_the_loader_reads_it(environment: Environment, world: World) -> None:
    asked: dict[str, Any] = {}

    def cluster(**names: Any) -> Cluster:
        asked.update(names)
        return CLUSTER

    with_token = SETTINGS.model_copy(update={"passed_on": {"vllm_k8s_loader_gated_model": "true",
                                                           "vllm_k8s_loader_namespace": "loaders"}})
    examine(environment, replace(world, cluster=cluster, settings=lambda env: Loaded(
        environment, with_token, AppConfigLayer("live", version="7", age_seconds=0))))
    assert (asked["secret_namespace"], asked["secret"]) == ("loaders", "hf-secret")


def test_a_loader_without_a_token_needs_no_secret() -> None:
    found = check_cluster(replace(CLUSTER, secret=None, has_secret=None), None, "staging")
    assert [check.found for check in found if check.name == "Hub token"] == [
        "none is wanted: the loader fetches without one"]


def test_a_kubeconfig_that_is_a_template_is_rendered(environment: Environment, world: World) -> None:
    asked: dict[str, Any] = {}

    def cluster(**names: Any) -> Cluster:
        asked.update(names)
        return CLUSTER

    def render(variables: Any, names: Any, inventory_dir: Path) -> dict[str, Any]:
        return {name: variables[name] for name in names} | {"vllm_k8s_kubeconfig": "/rendered"}

    examine(environment, replace(world, cluster=cluster, render=render))
    assert asked["kubeconfig"] == "/rendered"


def test_hosts_and_nodes_are_matched_by_instance_id_else_by_address() -> None:
    assert bad(check_cluster(CLUSTER, ADDRESSES, "staging")) == {}


def test_a_host_that_is_no_node_fails_and_a_node_that_is_no_host_warns() -> None:
    assert bad(check_cluster(CLUSTER, {**ADDRESSES, "i-3": None}, "staging")) == {
        "inventory and cluster": ("fail", "2 of 3 inventory hosts are nodes; not joined: i-3")}
    assert bad(check_cluster(CLUSTER, {"i-1": None}, "staging")) == {
        "inventory and cluster": ("warn", "1 of 1 inventory hosts are nodes; nodes outside the inventory: node-2")}


def test_nodes_without_gpu_or_not_ready_are_named() -> None:
    nodes = [NODES[0], replace(NODES[1], gpus=0), replace(NODES[1], name="node-3", ready=False)]
    assert bad(check_cluster(replace(CLUSTER, nodes=nodes), None, "staging")) == {
        "GPU nodes": ("warn", "1 ready with nvidia.com/gpu, of 3 with label role=ai-gpu; without: node-2 (no GPU), "
                              "node-3 (not ready)")}


def test_no_gpu_at_all_fails() -> None:
    assert bad(check_cluster(replace(CLUSTER, nodes=[]), None, "staging"))["GPU nodes"][0] == "fail"


@pytest.mark.parametrize("has_secret", [False, None])
def test_a_missing_secret_is_only_a_warning(has_secret: bool | None) -> None:
    assert list(bad(check_cluster(replace(CLUSTER, has_secret=has_secret), None, "staging"))) == ["Hub token"]


@pytest.mark.parametrize(("offset", "status"), [(59.0, {}), (-61.0, {"clock": "warn"}), (301.0, {"clock": "fail"})])
def test_a_clock_that_is_off_is_noticed_before_aws_refuses(environment: Environment, world: World, offset: float,
                                                           status: dict[str, str]) -> None:
    checks = examine(environment, replace(world, identity=lambda region: Identity("arn", offset)))
    assert {name: found for name, (found, _) in bad(checks).items()} == status


def test_a_collection_of_another_version_is_a_warning() -> None:
    assert bad(check_tools(replace(TOOLS, collections={"amazon.aws": "11.4.0"}))) == {
        "collection amazon.aws": ("warn", "11.4.0")}


def test_an_inventory_that_looks_elsewhere_than_at_terraforms_nodes_is_one_failed_check(
        world: World, environment: Environment, tmp_path: Path) -> None:
    output = TerraformOutput.model_validate({
        "schema": 1, "region": "us-east-1", "environment": "staging", "cluster_name": "judge-staging",
        "node_group": {"name": "judge-staging-ai", "launch_template_id": "lt-0abc", "launch_template_version": 3,
                       "autoscaling_group_names": []},
        "inventory_filters": {"tag:role": "ai-gpu"}, "appconfig": None, "variables": {}})
    folder = tmp_path / "staging"
    folder.mkdir()
    (folder / "terraform.yml").write_text(inventory_text(output))
    filters = folder / "aws_ec2.yml"
    own = environment.model_copy(update={"inventory_dir": folder})

    def found() -> list[Check]:
        return [check for check in examine(own, world) if check.name == "Terraform"]

    filters.write_text("regions: [us-east-1]\nfilters: {tag:role: ai-gpu}\n")
    assert [(check.status, check.found) for check in found()] == [
        ("ok", "node group judge-staging-ai, launch template version 3")]
    filters.write_text("regions: [eu-west-1]\nfilters: {tag:role: cpu}\n")
    assert [(check.status, check.found, check.hint, check.reason) for check in found()] == [
        ("fail", f"{filters}: regions is eu-west-1, wanted: us-east-1 | "
                 f"{filters}: filters.tag:role is cpu, wanted: ai-gpu",
         "terraform output -json | judge-bootstrap --env staging config terraform   # shows what it must say",
         "INVENTORY_DIFFERS")]
    filters.write_text("regions: [us-east-1]\nfilters: {tag:role: ai-gpu}\n")
    (folder / "group_vars").mkdir()
    given = folder / "group_vars" / "all.yml"
    given.write_text("judge_environment: {region: eu-west-1}\n")
    assert [(check.status, check.found, check.reason) for check in found()] == [
        ("fail", f"{given}: judge_environment.region is eu-west-1, wanted: us-east-1", "INVENTORY_DIFFERS")]
    (folder / "terraform.yml").unlink()
    assert found() == []
