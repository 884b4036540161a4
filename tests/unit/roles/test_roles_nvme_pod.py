"""Role nvme_pod: the pod that brings judge-node to a node without ssh, what it leaves behind, and what it says."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import ANY

import pytest
import yaml
from judge_bootstrap.adapters import node_pod
from judge_bootstrap.adapters.kube_schema import problems
from judge_bootstrap.adapters.node_pod import AlreadyThere, Request, object_name
from judge_bootstrap.core.errors import BootstrapError
from judge_node.bundle import build_pyz, for_nodes

from .conftest import ROOT, load

ROLE = ROOT / "roles/nvme_pod"
HOST = "i-0abc1234def567890"
POD = object_name("ip-10-0-1-2.ec2.internal")
ANSWER = {"ok": True, "command": "disks ensure", "changed": True, "state": "ours", "reason": None, "message": "mounted",
          "repair": None, "diff": {"before": "blank", "after": "mkfs"}, "facts": {}}
# What the host's half prints, as over ssh.
TOLD = {"changed": False, "rc": 0, "stdout": json.dumps(ANSWER) + "\n", "stderr": "", "program_changed": True}


def node(name: str = "ip-10-0-1-2.ec2.internal", instance: str = HOST, address: str = "10.0.1.2",
         ready: str = "True", message: str = "kubelet is posting ready status") -> dict[str, Any]:
    """Return a Node as the API server gives it, with what is looked at."""
    return {
        "metadata": {"name": name}, "spec": {"providerID": f"aws:///us-east-1a/{instance}"},
        "status": {"addresses": [{"type": "InternalIP", "address": address}], "conditions": [
            {"type": "Ready", "status": ready, "message": message, "lastTransitionTime": "2026-11-24T10:00:00Z"}]},
    }


def request(**changes: Any) -> Request:
    """Return a request for the one node."""
    return replace(Request(
        host=HOST, address="10.0.1.2", namespace="kube-system", image="vllm/vllm-openai:v0.32.0", program="print({})",
        start_seconds=60, deadline_seconds=900, run="feedface" * 4, by="ann@desk"), **changes)


RUNNING = {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}
PENDING = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}
NO_IMAGE = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {
    "reason": "ImagePullBackOff", "message": 'Back-off pulling image "vllm/vllm-openai:v0.32.0"'}}}]}


def ended(code: int = 0) -> dict[str, Any]:
    """Return the status of a pod whose container has ended."""
    return {"phase": "Succeeded" if code == 0 else "Failed",
            "containerStatuses": [{"state": {"terminated": {"exitCode": code}}}]}


@dataclass
class FakeCluster:
    """An API server with one namespace. `statuses` are what our pod goes through, one a look; the last one stays."""

    known: list[Mapping[str, Any]] = field(default_factory=lambda: [node()])
    statuses: list[Mapping[str, Any]] = field(default_factory=lambda: [PENDING, RUNNING, ended()])
    printed: str = json.dumps(TOLD) + "\n"
    there: dict[str, Any] | None = None
    config_maps: list[str] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    looks: int = 0
    broken_delete: bool = False

    def nodes(self) -> list[Mapping[str, Any]]:
        return self.known

    def create_pod(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.there is not None:
            raise AlreadyThere
        self.there = {**manifest, "metadata": {**manifest["metadata"], "uid": f"uid-{len(self.created)}"}}
        self.created.append(self.there)
        return self.there

    def create_config_map(self, manifest: Mapping[str, Any]) -> None:
        self.config_maps.append(manifest["metadata"]["name"])

    def pod(self, name: str) -> Mapping[str, Any] | None:
        if self.there is None or self.there["metadata"]["name"] != name:
            return None
        if "status" in self.there:
            return self.there
        status = self.statuses[min(self.looks, len(self.statuses) - 1)]
        self.looks += 1
        return {**self.there, "status": status}

    def delete_pod(self, name: str, uid: str) -> None:
        if self.broken_delete:
            raise BootstrapError("the API server does not answer")
        assert self.there is not None and self.there["metadata"]["uid"] == uid, "only the pod that was seen may go"
        self.deleted.append(uid)
        self.there = None

    def delete_config_map(self, name: str) -> None:
        self.config_maps = [other for other in self.config_maps if other != name]

    def last_warning(self, name: str) -> str | None:
        return "FailedMount: configmap not found"

    def log(self, name: str) -> str:
        return self.printed


@dataclass
class Clock:
    """Time that passes by sleeping only; `at` is called once, when that many seconds are over."""

    now: float = 0.0
    at: float = float("inf")
    then: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.at:
            self.at = float("inf")
            self.then()


def run(cluster: FakeCluster, wanted: Request | None = None, clock: Clock | None = None,
        warn: Callable[[str], None] = lambda text: None) -> node_pod.Ended:
    clock = clock or Clock()
    return node_pod.run(cluster, wanted or request(), warn=warn, clock=clock, sleep=clock.sleep)


def failing(cluster: FakeCluster, wanted: Request | None = None, clock: Clock | None = None) -> BootstrapError:
    with pytest.raises(BootstrapError) as caught:
        run(cluster, wanted, clock)
    return caught.value


def somebody_elses(status: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return the pod of another run, with a status that does not change."""
    made = node_pod.pod_manifest(request(run="another", by="bob@laptop"), "ip-10-0-1-2.ec2.internal")
    return {**made, "status": status,
            "metadata": {**made["metadata"], "uid": "theirs", "creationTimestamp": "2026-11-24T10:00:00Z", **metadata}}


# --- which node -------------------------------------------------------------------------------------------------------

def test_the_node_is_the_one_whose_provider_id_ends_in_the_instance_id() -> None:
    other = node("other", "i-0000", "10.0.1.2")
    assert node_pod.find_node([other, node(address="10.9.9.9")], HOST, "10.0.1.2")["metadata"]["name"] == (
        "ip-10-0-1-2.ec2.internal")


def test_without_a_provider_id_the_address_finds_the_node() -> None:
    plain = node("bare-metal")
    del plain["spec"]["providerID"]
    assert node_pod.find_node([node("other", "i-0000", "10.0.9.9"), plain], HOST, "10.0.1.2") is plain


@pytest.mark.parametrize("known", [
    [], [node("other", "i-0000", "10.0.9.9")], [node("a", "i-1"), node("b", "i-2")],
], ids=["no nodes", "another node", "two nodes of one address"])
def test_a_host_that_is_no_node_is_refused_before_anything_is_created(known: list[Mapping[str, Any]]) -> None:
    cluster = FakeCluster(known=known)
    error = failing(cluster)
    assert (error.reason, cluster.created) == ("NODE_NOT_JOINED", [])
    assert HOST in error.message and "kubectl get nodes" in str(error.hint)


@pytest.mark.parametrize(("ready", "message"), [
    ("Unknown", "Kubelet stopped posting node status."),
    ("False", "[container runtime is down, PLEG is not healthy]"),
])
def test_a_node_whose_kubelet_runs_no_pods_is_refused(ready: str, message: str) -> None:
    cluster = FakeCluster(known=[node(ready=ready, message=message)])
    error = failing(cluster)
    assert (error.reason, cluster.created) == ("NODE_UNREACHABLE", [])
    assert f"Ready is {ready} since 2026-11-24T10:00:00Z ({message})" in error.message


def test_a_node_that_waits_for_its_cni_plugin_is_good_enough() -> None:
    message = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni"
    assert run(FakeCluster(known=[node(ready="False", message=message)])).status == 0


# --- the objects ------------------------------------------------------------------------------------------------------

def objects() -> tuple[dict[str, Any], dict[str, Any]]:
    return (node_pod.pod_manifest(request(), "ip-10-0-1-2.ec2.internal"), node_pod.config_map(request(), POD, "uid-0"))


def test_both_objects_are_valid_kubernetes_objects() -> None:
    assert problems(list(objects())) == []


def test_the_pod_is_bound_to_the_node_and_no_taint_keeps_it_away() -> None:
    spec = objects()[0]["spec"]
    assert (spec["nodeName"], spec["tolerations"]) == ("ip-10-0-1-2.ec2.internal", [{"operator": "Exists"}])


def test_the_pod_is_given_no_token_and_ends_by_itself() -> None:
    spec = objects()[0]["spec"]
    assert (spec["automountServiceAccountToken"], spec["restartPolicy"]) == (False, "Never")
    assert spec["activeDeadlineSeconds"] == 60 + 900, "kubelet counts from before the image's pull"


def test_a_full_node_takes_the_pod_because_it_asks_for_nothing() -> None:
    assert "resources" not in objects()[0]["spec"]["containers"][0]


def test_the_config_map_goes_with_the_pod_whoever_removes_that() -> None:
    assert objects()[1]["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": POD, "uid": "uid-0"}]


def test_the_pod_mounts_the_config_map_of_its_own_run() -> None:
    pod, config_map = objects()
    assert pod["spec"]["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]
    assert config_map["metadata"]["name"] != node_pod.config_map_name(request(run="0123456789"), POD)


def test_the_real_program_fits_into_a_config_map(action: ModuleType) -> None:
    made = node_pod.config_map(request(program=program(action)), POD, "uid-0")
    assert base64.b64encode(zlib.compress(for_nodes(build_pyz()), 9)).decode() in made["data"]["program.py"]
    assert len(json.dumps(made)) < 1024 * 1024 // 2, "the API server takes 1 MiB"


@pytest.mark.parametrize("name", ["ip-10-0-1-2.ec2.internal", "UPPER.example", "n" * 253, "a.b", "a-b"])
def test_every_node_name_makes_a_pod_name_that_is_a_dns_label(name: str) -> None:
    assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", object_name(name))


def test_two_nodes_never_share_a_pod_name() -> None:
    assert object_name("a.b") != object_name("a-b")


# --- its life ---------------------------------------------------------------------------------------------------------

def test_the_programs_status_and_output_come_back() -> None:
    done = run(FakeCluster(statuses=[RUNNING, ended(1)]))
    assert (done.status, node_pod.answers(done.output)) == (1, [TOLD])


def test_pod_and_config_map_are_gone_after_a_good_run() -> None:
    cluster = FakeCluster()
    run(cluster)
    assert (cluster.there, cluster.config_maps, len(cluster.created)) == (None, [], 1)


def test_pod_and_config_map_are_gone_after_a_failure() -> None:
    cluster = FakeCluster(statuses=[NO_IMAGE])
    failing(cluster)
    assert (cluster.there, cluster.config_maps, len(cluster.created)) == (None, [], 1)


def test_pod_and_config_map_are_gone_after_ctrl_c() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    cluster = FakeCluster(statuses=[RUNNING])
    with pytest.raises(KeyboardInterrupt):
        run(cluster, clock=Clock(at=2.0, then=interrupt))
    assert (cluster.there, cluster.config_maps, len(cluster.created)) == (None, [], 1)


def test_a_ctrl_c_that_comes_before_the_api_server_has_answered_leaves_no_pod_either() -> None:
    class Interrupted(FakeCluster):
        def create_pod(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
            super().create_pod(manifest)
            raise KeyboardInterrupt

    cluster = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        run(cluster)
    assert (cluster.there, len(cluster.created)) == (None, 1)


def test_a_pod_that_cannot_be_removed_is_named_and_the_answer_still_counts() -> None:
    said: list[str] = []
    assert run(FakeCluster(broken_delete=True), warn=said.append).status == 0
    assert f"kubectl -n kube-system delete pod {POD}" in said[0]


@pytest.mark.parametrize("status", [PENDING, RUNNING])
def test_another_runs_pod_is_refused_and_left_alone(status: Mapping[str, Any]) -> None:
    theirs = somebody_elses(status)
    cluster = FakeCluster(there=theirs)
    error = failing(cluster)
    assert (error.reason, error.exit_code, cluster.there, cluster.deleted) == ("LOCKED", 3, theirs, [])
    assert "bob@laptop" in error.message and "2026-11-24T10:00:00Z" in error.message


def test_a_finished_pod_that_nobody_collects_is_removed_after_a_while_and_the_run_goes_on() -> None:
    cluster, clock = FakeCluster(there=somebody_elses(ended())), Clock()
    assert run(cluster, clock=clock).status == 0
    assert cluster.deleted == ["theirs", "uid-0"]
    assert clock.now >= node_pod.LEFTOVER_SECONDS, "its own run may be about to read its log"


def test_a_finished_pod_whose_run_collects_it_is_waited_for() -> None:
    cluster = FakeCluster(there=somebody_elses(ended()))

    def collected() -> None:
        cluster.there = None

    assert run(cluster, clock=Clock(at=3.0, then=collected)).status == 0
    assert cluster.deleted == ["uid-0"]


def test_a_pod_that_is_not_ours_is_never_removed_though_it_has_our_name() -> None:
    theirs = somebody_elses(ended(), labels={"app": "theirs"})
    cluster = FakeCluster(there=theirs)
    assert (failing(cluster).reason, cluster.there) == ("LOCKED", theirs)


def test_a_pod_that_somebody_removes_under_way_is_a_failure_and_no_endless_wait() -> None:
    cluster = FakeCluster(statuses=[RUNNING])

    def removed() -> None:
        cluster.there = None

    assert "removed by somebody else" in failing(cluster, clock=Clock(at=2.0, then=removed)).message


# --- what it says -----------------------------------------------------------------------------------------------------

def test_an_image_that_cannot_be_pulled_is_said_at_once_with_the_variable_that_names_another() -> None:
    clock = Clock()
    error = failing(FakeCluster(statuses=[PENDING, NO_IMAGE]), clock=clock)
    assert error.reason == "POD_PENDING" and clock.now < 5
    assert 'ImagePullBackOff: Back-off pulling image "vllm/vllm-openai:v0.32.0"' in error.message
    assert "nvme_pod_image=" in str(error.hint)


def test_a_pod_that_does_not_start_in_time_is_explained_by_its_last_event() -> None:
    error = failing(FakeCluster(statuses=[PENDING]))
    assert error.reason == "POD_PENDING"
    assert "has not started after 60 s: ContainerCreating: FailedMount: configmap not found" in error.message


def test_a_pod_that_kubelet_turns_away_is_explained_by_kubelet() -> None:
    turned_away = {"phase": "Failed", "reason": "OutOfpods", "message": "Node didn't have enough resource: pods"}
    error = failing(FakeCluster(statuses=[turned_away]))
    assert (error.reason, "OutOfpods: Node didn't have enough resource: pods" in error.message) == ("POD_PENDING", True)


def test_an_image_without_a_shell_is_said_with_the_variable_that_names_another() -> None:
    no_shell = {"reason": "StartError", "exitCode": 128, "message": 'exec: "/bin/sh": no such file or directory'}
    error = failing(FakeCluster(statuses=[{"phase": "Failed", "containerStatuses": [
        {"state": {"terminated": no_shell}}]}]))
    assert (error.reason, 'StartError: exec: "/bin/sh"' in error.message) == ("POD_PENDING", True)
    assert "nvme_pod_image=" in str(error.hint)


def test_a_program_that_takes_too_long_is_stopped_and_the_variable_is_named() -> None:
    error = failing(FakeCluster(statuses=[RUNNING, {**ended(130), "reason": "DeadlineExceeded"}]))
    assert "was stopped after 960 s" in error.message and "nvme_pod_deadline_seconds" in str(error.hint)


def test_a_kubelet_that_is_lost_under_way_does_not_hold_the_run_for_ever() -> None:
    assert failing(FakeCluster(statuses=[RUNNING])).reason == "NODE_UNREACHABLE"


@pytest.mark.parametrize(("printed", "found"), [
    ("/bin/sh: 1: exec: nsenter: not found\n", "image vllm/vllm-openai:v0.32.0 cannot enter the host"),
    ("env: 'python3': No such file or directory\n", "node ip-10-0-1-2.ec2.internal has no python3"),
])
def test_a_missing_tool_is_named_with_the_machine_that_lacks_it(printed: str, found: str) -> None:
    error = failing(FakeCluster(statuses=[ended(127)], printed=printed))
    assert (error.reason, found in error.message) == ("TOOL_MISSING", True)


def test_a_log_that_lacks_its_last_line_is_read_again() -> None:
    class Late(FakeCluster):
        reads = 0

        def log(self, name: str) -> str:
            self.reads += 1
            return self.printed if self.reads > 2 else ""

    assert node_pod.answers(run(Late()).output) == [TOLD]


def test_what_the_program_writes_to_stderr_does_not_hide_its_answer() -> None:
    noise = "mkfs.xfs: warning {not json}\n[1, 2]\n"
    assert node_pod.answers(noise + json.dumps(TOLD) + "\n" + noise) == [TOLD]


# The messages are those of kube-apiserver 1.36.
@pytest.mark.parametrize(("status", "said", "hint"), [
    (403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true, '
          'hostPID=true), privileged (container "judge-node" must not set securityContext.privileged=true)',
     "pod-security.kubernetes.io/enforce=privileged"),
    (404, 'namespaces "x" not found', "kubectl create namespace x"),
    (403, 'pods is forbidden: User "ann" cannot create resource "pods" in API group ""', "auth can-i"),
])
def test_a_pod_that_is_turned_down_says_what_the_server_said_and_what_to_type(
        status: int, said: str, hint: str) -> None:
    error = node_pod.refused("create the pod", "x", status, said)
    assert (error.reason, hint in str(error.hint), said[:60] in error.message) == ("POD_PENDING", True, True)


def test_the_servers_own_message_is_taken_from_its_status_object() -> None:
    class Error(Exception):
        status, reason = 403, "Forbidden"
        body = json.dumps({"kind": "Status", "message": "pods is forbidden"})

    assert node_pod.server_message(Error()) == "pods is forbidden"


def test_an_answer_without_a_status_object_gives_the_http_reason() -> None:
    class Error(Exception):
        status, reason, body = 502, "Bad Gateway", "<html>"

    assert node_pod.server_message(Error()) == "Bad Gateway"


# --- the same as over ssh ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def action() -> ModuleType:
    return load("roles/nvme_pod/action_plugins/judge_node_pod.py")


def program(action: ModuleType, *, check: bool = False) -> str:
    """Return what runs on the host for `disks ensure`."""
    params = {"command": "disks ensure", "mount_path": "/mnt/nvme", "device": '/dev/"""quoted\\'}
    return str(action.program_for(action.over_ssh().build_call(params, check)))


def task_of(role: str, module: str) -> dict[str, Any]:
    tasks = yaml.safe_load((ROOT / "roles" / role / "tasks/configure.yml").read_text())
    (found,) = [task[module] for task in tasks if module in task]
    return dict(found)


def test_the_program_is_asked_for_the_same_as_over_ssh(action: ModuleType) -> None:
    ours = {name: value for name, value in task_of("nvme_pod", "judge_node_pod").items()
            if name not in action.POD_OPTIONS}
    assert ours == task_of("nvme", "judge_node")


def test_the_script_for_the_host_carries_the_call_whatever_is_in_it(action: ModuleType) -> None:
    call = action.over_ssh().build_call({"command": "disks ensure", "mount_path": '/m"""\\n'}, False)
    (carried,) = [ast.literal_eval(statement.value) for statement in ast.parse(action.program_for(call)).body
                  if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "CALL"]
    assert json.loads(carried) == call


def test_the_script_runs_on_stdin_and_leaves_nothing_in_check_mode(action: ModuleType, tmp_path: Path) -> None:
    script = program(action, check=True).replace("/usr/local/", f"{tmp_path}/")
    done = subprocess.run([sys.executable, "-I", "-"], input=script, capture_output=True, text=True, check=False)
    (told,) = node_pod.answers(done.stdout)
    assert (told["program_changed"], json.loads(told["stdout"])["command"]) == (True, "disks ensure"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_the_pod_printed_is_handed_on_as_ssh_would(
        run_module: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_in(run_module, monkeypatch, FakeCluster()) == {
        **TOLD, "node": "ip-10-0-1-2.ec2.internal", "invocation": ANY}


def test_a_failure_of_the_pod_has_a_reason_and_a_repair(
        run_module: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_in(run_module, monkeypatch, FakeCluster(statuses=[NO_IMAGE]))
    assert (result["failed"], result["reason"]) == (True, "POD_PENDING")
    assert result["msg"].endswith(f"(repair: {result['repair']})")


def test_a_program_without_an_answer_is_quoted(
        run_module: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_in(run_module, monkeypatch, FakeCluster(statuses=[ended(1)], printed="Traceback: oh\n"))
    assert (result["failed"], result["msg"]) == (
        True, "the program on ip-10-0-1-2.ec2.internal ended with status 1 and no answer: Traceback: oh")


def test_the_host_half_that_fails_by_itself_fails_the_task(
        run_module: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    printed = json.dumps({"failed": True, "msg": "cannot run judge-node on this host: read-only file system"})
    result = run_in(run_module, monkeypatch, FakeCluster(statuses=[ended(1)], printed=printed))
    assert (result["failed"], result["msg"]) == (True, "cannot run judge-node on this host: read-only file system")


def run_in(run_module: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
           cluster: FakeCluster) -> dict[str, Any]:
    """Run the module against a fake cluster."""
    from judge_bootstrap.adapters import kube

    monkeypatch.setattr(kube, "connect", lambda kubeconfig, context: None)
    monkeypatch.setattr(node_pod, "KubernetesCluster", lambda api_client, namespace: cluster)
    monkeypatch.setattr(node_pod, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    return run_module(load("roles/nvme_pod/library/judge_node_pod.py"),
                      {"host": HOST, "image": "vllm/vllm-openai:v0.32.0", "program": "print({})"})


# --- the role ---------------------------------------------------------------------------------------------------------

def defaults() -> dict[str, Any]:
    return dict(yaml.safe_load((ROLE / "defaults/main.yml").read_text()))


def test_every_entry_point_declares_exactly_the_defaults_values_included() -> None:
    for entry, spec in yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"].items():
        assert {name: option["default"] for name, option in spec["options"].items()} == defaults(), entry
        assert (ROLE / f"tasks/{entry}.yml").is_file()


def test_the_readme_names_every_variable() -> None:
    assert [name for name in defaults() if f"`{name}`" not in (ROLE / "README.md").read_text()] == []


def test_the_site_does_not_run_it() -> None:
    assert "nvme_pod" not in (ROOT / "playbooks/site.yml").read_text()


@pytest.mark.parametrize("limit", [None, "all", "i-*", "i-1,gpu_nodes"])
def test_plain_ansible_refuses_it_too_without_the_names_of_the_hosts(limit: str | None, tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("gpu_nodes: {hosts: {i-2: {}}}\n")
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", tmp_path / "hosts.yml",
               ROOT / "playbooks/nvme_pod.yml", *(["--limit", limit] if limit else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")})
    assert done.returncode == 2
    assert "Next: judge-bootstrap --env ENV run nvme_pod --limit i-2" in " ".join(done.stdout.split())
