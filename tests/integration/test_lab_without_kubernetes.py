"""The whole chain where Kubernetes' binaries cannot be had: the pod's own command runs in a node's namespaces."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from integration.local_site import Answer, Cli, on_node
from judge_lab import layout, process, runtime, site

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Chain:
    """What four commands in a row answered, the first of them on a site that did not exist."""

    first: Answer
    second: Answer
    plan: Answer
    doctor: Answer
    cli: Cli


@pytest.fixture(scope="module")
def chain(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A cache that has everything but the binaries, and a network that does not have them."""
    site.down()
    runtime.ensure(lambda line: None)
    cache = tmp_path_factory.mktemp("cache")
    (cache / runtime.folder().name).symlink_to(runtime.folder())
    cli = Cli(tmp_path_factory.mktemp("state"), {
        "JUDGE_BOOTSTRAP_CACHE": str(cache), "KUBEBUILDER_ASSETS": "", "JUDGE_BOOTSTRAP_KUBE_ARCHIVE": "", "CI": "",
        # A proxy on a closed port: the downloads fail at once, on every machine.
        "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""})
    yield Chain(cli(), cli(), cli("plan"), cli("doctor"), cli)
    site.down()
    assert site.remains() == []


@pytest.fixture
def first_node(chain: Chain) -> str:
    return str(site.status()["nodes"]["node-1"]["address"])


def test_a_blank_site_comes_to_a_scored_answer(chain: Chain) -> None:
    assert (chain.first.code, chain.first.json["ok"]) == (0, True), chain.first.stderr
    assert len(chain.first.json["hosts"]) == 2
    assert chain.first.json["verdict"]["status"] == "scored"


def test_it_says_once_why_there_is_no_cluster_and_names_the_stand_in_each_time(chain: Chain) -> None:
    assert chain.first.stderr.count("Going on without a cluster. To have one: set JUDGE_BOOTSTRAP_KUBE_ARCHIVE") == 1
    assert "Going on without a cluster" not in chain.second.stderr
    for answer in (chain.first, chain.second):
        assert "no Kubernetes: the manifests are rendered and their fields checked" in answer.stderr


def test_the_second_run_and_the_plan_change_nothing(chain: Chain) -> None:
    assert (chain.second.code, chain.second.json["changed"], chain.second.json["changes"]) == (0, 0, []), \
        chain.second.stderr
    assert (chain.plan.code, chain.plan.json["changes"]) == (0, []), chain.plan.stderr


def test_doctor_warns_of_the_missing_cluster_and_fails_nothing(chain: Chain) -> None:
    checks = {check["name"]: check for check in chain.doctor.json["checks"]}
    assert chain.doctor.code == 0, chain.doctor.json
    assert checks["Kubernetes"]["status"] == "warn"


def test_no_part_of_kubernetes_runs(chain: Chain) -> None:
    # Of the lab alone: other tests may have an API server of their own at the same time.
    commands = [process.command(one) for one in process.marked(layout.lab_dir())]
    assert commands
    names = {Path(line.split(" ")[0]).name for line in commands}
    assert not {"etcd", "kube-apiserver", "kubelet", "kube-proxy"} & names


def server_pid(address: str) -> int:
    """Return the pid, as the host has it, of the process that listens on the node's port 8000."""
    inside = on_node(address, "ss -Hltnp 'sport = 8000'").partition("pid=")[2].partition(",")[0]
    namespace = on_node(address, "readlink /proc/self/ns/net").strip()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status, network = (entry / "status").read_text(), str((entry / "ns/net").readlink())
        except OSError:
            continue  # gone meanwhile
        pids = status.partition("NSpid:")[2].splitlines()[0].split()  # on the host, in the node, in the pod
        if network == namespace and pids[1:2] == [inside]:
            found.append(int(pids[0]))
    (pid,) = found
    return pid


def test_the_server_is_the_manifest_s_command_environment_user_and_volumes(chain: Chain, first_node: str) -> None:
    (file,) = layout.current().manifests.glob("*-deployment-*.yaml")
    spec = yaml.safe_load(file.read_text())["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    pid = server_pid(first_node)
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    wanted = container["command"][1:] + container["args"]
    assert words[words.index("serve"):][:len(wanted)] == wanted
    environment = dict(word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0") if word)
    assert environment.items() >= {entry["name"]: entry["value"] for entry in container["env"]}.items()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Uid"].split() == [str(spec["securityContext"]["runAsUser"])] * 4
    assert (status["NoNewPrivs"], int(status["CapEff"], 16)) == ("1", 0)
    mounts = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        mounts[line.split()[4]] = line.split()[5].split(",")[0]
    assert mounts["/"] == "ro"
    assert mounts["/models"] == "ro"
    assert {mount["mountPath"] for mount in container["volumeMounts"]} <= set(mounts)


def test_the_weights_are_read_from_the_node_s_own_disk(chain: Chain, first_node: str) -> None:
    pid = server_pid(first_node)
    device = on_node(first_node, "stat -c %d /mnt/nvme/hub").strip()
    assert str(Path(f"/proc/{pid}/root/models").stat().st_dev) == device


def asked(address: str, path: str, key: str | None) -> list[str]:
    """Return the names of the models that the server lists. Raises HTTPError."""
    request = urllib.request.Request(f"http://{address}:8000{path}")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return [model["id"] for model in json.load(answer)["data"]]


def test_without_the_lab_s_key_the_server_answers_nothing(chain: Chain, first_node: str) -> None:
    for key in (None, "wrong"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(first_node, "/v1/models", key)
        refused.value.close()
        assert refused.value.code == 401


def test_the_init_container_and_what_is_left_out_are_in_the_logs(chain: Chain) -> None:
    here = layout.current()
    said = (here.logs / "podless.log").read_text()
    assert "DaemonSet/judge-loader is left out" in said
    assert "is not looked at, there are no Nodes; the init container checks the model itself" in said
    assert here.api_key.read_text().strip() not in said


def test_the_compile_cache_is_a_folder_of_the_commit_s_own_on_the_node_s_disk(chain: Chain, first_node: str) -> None:
    pid = server_pid(first_node)
    device = on_node(first_node, "stat -c %d /mnt/nvme").strip()
    mounted = Path(f"/proc/{pid}/root/cache")
    assert str(mounted.stat().st_dev) == device
    (folder,) = on_node(first_node, "ls /mnt/nvme/vllm-cache").split()
    owner = on_node(first_node, f"stat -c '%g %a' /mnt/nvme/vllm-cache/{folder}").split()
    assert owner == ["10001", "2775"]


def test_another_manifest_replaces_the_server_and_is_verified(chain: Chain, first_node: str) -> None:
    before = server_pid(first_node)
    changed = chain.cli("run", "vllm_k8s", "verify", "-e", '{"vllm_k8s_served_model_names": ["other-name"]}')
    assert changed.code == 0, changed.stderr
    assert asked(first_node, "/v1/models", layout.current().api_key.read_text().strip()) == ["other-name"]
    assert server_pid(first_node) != before


def test_a_run_in_ci_is_refused(chain: Chain) -> None:
    refused = chain.cli("plan", CI="true")
    assert refused.code == 1
    assert "nothing may stand in for them" in refused.json["message"]


def test_a_stopped_node_leaves_the_pod_to_the_next_and_comes_back_with_a_blank_disk(chain: Chain) -> None:
    site.node("stop", "node-1")
    assert site.environment()["JUDGE_LAB_ENDPOINT_URL"] == "http://10.77.0.12"
    alone = chain.cli("run", "vllm_k8s", "verify")
    assert (alone.code, len(alone.json["hosts"])) == (0, 1), alone.stderr
    site.node("start", "node-1")
    both = chain.cli()
    assert (both.code, both.json["verdict"]["status"]) == (0, "scored"), both.stderr
    assert site.environment()["JUDGE_LAB_ENDPOINT_URL"] == "http://10.77.0.11"
