"""The lab itself: what its nodes are, what its verbs do, how it comes back after a crash, and what its end leaves.

The tests run in their order on one lab, which begins from nothing; the last one ends it.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from integration.local_site import CHECKOUT, on_node
from judge_lab import LabError, kube, layout, prerequisites, process, services, site
from judge_lab import state as lab_state

pytestmark = pytest.mark.lab
DISK = "/dev/disk/by-id/lab-instance-store-1"


@pytest.fixture(scope="module", autouse=True)
def lab() -> Iterator[None]:
    """Two commands bring the lab up at the same time, as two impatient users would."""
    try:
        prerequisites.check()
    except LabError as error:
        pytest.skip(f"the lab cannot run here: {error}")
    site.down()
    program = "from judge_lab import site; site.up()"
    both = [subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [one.communicate(timeout=3600)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], errors
    yield
    site.down()


def recorded() -> lab_state.State:
    found = lab_state.load(layout.current())
    assert found is not None
    return found


def address(name: str) -> str:
    return str(site.status()["nodes"][name]["address"])


def write_to_disk(name: str, text: str) -> None:
    script = f"mkfs.xfs -q {DISK} && mkdir -p /mnt/nvme && mount {DISK} /mnt/nvme && echo {text} >/mnt/nvme/note"
    on_node(address(name), script)


def pod(name: str, path: str = "") -> str:
    return f"/api/v1/namespaces/default/pods/{name}{path}"


def start_pod(name: str, node: str, script: str) -> None:
    """Start a shell script in a pod that asks for a GPU and sees the node's /mnt, and wait until it runs or has run."""
    api = kube.Api(layout.current())
    api.call("POST", pod(""), {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": node, "restartPolicy": "Never", "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "it", "image": "vllm/vllm-openai:v0.32.0", "command": ["sh", "-c", script],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
                "volumeMounts": [{"name": "mnt", "mountPath": "/mnt", "mountPropagation": "HostToContainer"}],
            }],
            "volumes": [{"name": "mnt", "hostPath": {"path": "/mnt"}}],
        },
    })  # fmt: skip
    kube.wait_until(f"pod {name} runs", lambda: api.call("GET", pod(name))["status"]["phase"] != "Pending",
                    seconds=600, hint=f"kubectl describe pod {name}")  # fmt: skip


def finish_pod(name: str) -> str:
    """Wait for the pod's end, remove it, and return what it printed."""
    api = kube.Api(layout.current())
    over = ("Succeeded", "Failed")
    kube.wait_until(f"pod {name} ended", lambda: api.call("GET", pod(name))["status"]["phase"] in over,
                    seconds=600, hint=f"kubectl logs {name}")  # fmt: skip
    ended = api.call("GET", pod(name))
    printed = api.call("GET", pod(name, "/log")).get("text", "")
    api.call("DELETE", pod(name))
    assert ended["status"]["phase"] == "Succeeded", (printed, ended["status"])
    return str(printed)


def running(one: process.Process) -> str:
    """Return the name of a process that runs; empty when it has ended, also where init has not collected it yet.

    What other suites start meanwhile may have its pid by now: that is another process, which started later.
    """
    try:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{one.pid}/status").read_text().splitlines())
        started = int(Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if started != one.started or status["State"].startswith(("Z", "X")) else status["Name"]


def test_two_commands_at_once_make_one_lab() -> None:
    state = recorded()
    assert sorted(state.nodes) == ["node-1", "node-2"]
    servers = [one for one in process.marked(layout.lab_dir()) if "kube-apiserver" in process.command(one)]
    assert servers == [state.processes["kube-apiserver"]]


def test_the_host_that_ssh_reaches_is_the_node_of_kubernetes_and_the_instance_of_ec2() -> None:
    ec2 = boto3.client("ec2", endpoint_url=services.AWS_URL, region_name="us-east-1", aws_access_key_id="x",
                       aws_secret_access_key="x")  # fmt: skip
    for name in ("node-1", "node-2"):
        assert on_node(address(name), "hostname").strip() == name
        node = kube.Api(layout.current()).call("GET", f"/api/v1/nodes/{name}")
        instance_id = node["metadata"]["labels"]["judge-bootstrap.io/instance-id"]
        instance = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
        assert instance["PrivateIpAddress"] == address(name)
        assert node["spec"]["providerID"] == f"aws:///us-east-1a/{instance_id}"


def test_a_node_can_open_its_own_disk_only_and_it_is_blank() -> None:
    for name in ("node-1", "node-2"):
        assert on_node(address(name), "ls /dev/loop* | wc -l").strip() == "1"
        assert on_node(address(name), f"cmp -n 67108864 {DISK} /dev/zero && echo blank").strip() == "blank"
    assert len({on_node(address(name), f"readlink -f {DISK}") for name in ("node-1", "node-2")}) == 2


def test_what_a_node_writes_in_its_own_directories_is_not_on_the_host_nor_on_another_node() -> None:
    on_node(address("node-1"), "touch /usr/local/bin/lab-test /root/lab-test /mnt/lab-test /tmp/lab-test")
    for path in ("/usr/local/bin/lab-test", "/root/lab-test", "/mnt/lab-test", "/tmp/lab-test"):
        assert not Path(path).exists()
        assert on_node(address("node-2"), f"ls {path} 2>&1 || true").startswith("ls: cannot access")


def test_a_disk_mounted_over_ssh_reaches_a_pod_that_runs_already() -> None:
    start_pod("sees-it", "node-1", "until [ -e /mnt/nvme/note ]; do sleep 0.1; done; cat /mnt/nvme/note")
    write_to_disk("node-1", "written-over-ssh")
    assert finish_pod("sees-it").strip() == "written-over-ssh"
    assert not Path("/mnt/nvme/note").exists()


def test_a_pod_with_a_gpu_has_vllm_and_resolves_the_clusters_names() -> None:
    start_pod("gpu", "node-1", "vllm --version 2>/dev/null; getent hosts kubernetes.default.svc.cluster.local")
    version, host = finish_pod("gpu").splitlines()
    assert version == "0.32.0+cpu"
    assert host.split()[0] == "10.96.0.1"


def test_a_second_up_starts_nothing() -> None:
    before = recorded()
    said: list[str] = []
    site.up(report=said.append)
    assert (recorded(), said) == (before, [])


def test_a_part_that_died_is_started_again_alone_and_instances_keep_their_ids() -> None:
    before, nodes = recorded().processes, site.status()["nodes"]
    process.end([before[part] for part in ("aws", "etcd")])
    site.up()
    after = recorded().processes
    assert {name for name in before if after[name] != before[name]} == {"aws", "etcd"}
    assert site.status()["running"]
    assert {name: node["instance_id"] for name, node in site.status()["nodes"].items()} == {
        name: node["instance_id"] for name, node in nodes.items()
    }


def test_a_killed_node_comes_back_with_its_data_and_a_stopped_one_with_a_blank_disk() -> None:
    site.node("kill", "node-1")
    assert site.status()["nodes"]["node-1"]["state"] == "killed"
    site.up()
    assert site.status()["nodes"]["node-1"]["state"] == "killed", "up must not end a drill"
    site.node("start", "node-1")
    assert on_node("10.77.0.11", f"mount {DISK} /mnt/nvme && cat /mnt/nvme/note").strip() == "written-over-ssh"

    site.node("stop", "node-1")
    site.node("start", "node-1")
    assert on_node("10.77.0.11", f"blkid -p {DISK} || echo $?").strip() == "2"
    assert on_node("10.77.0.11", "ls /mnt/nvme").strip() == ""


def test_a_node_that_was_cut_off_runs_on_and_is_reached_again_after_start() -> None:
    before = recorded().nodes["node-2"].process
    site.node("cut", "node-2")
    with pytest.raises(OSError), socket.create_connection(("10.77.0.12", 22), timeout=2):
        pass
    site.node("start", "node-2")
    assert on_node("10.77.0.12", "hostname").strip() == "node-2"
    assert recorded().nodes["node-2"].process == before


def test_a_node_that_is_added_joins_tainted() -> None:
    site.node("add", "node-3")
    node: dict[str, Any] = kube.Api(layout.current()).call("GET", "/api/v1/nodes/node-3")
    assert {"key": "sku", "value": "gpu", "effect": "NoSchedule"} in node["spec"]["taints"]
    assert {"key": "judge-bootstrap.io/model-not-ready", "effect": "NoSchedule"} in node["spec"]["taints"]
    assert on_node("10.77.0.13", "hostname").strip() == "node-3"


def test_after_everything_was_killed_up_brings_a_whole_lab_with_blank_disks() -> None:
    write_to_disk("node-2", "lost")
    # The end of one ends others, whose pids somebody else's process may have at once: no pid is killed by its number.
    process.end(process.marked(layout.lab_dir()))
    assert not site.status()["running"]
    said: list[str] = []
    site.up(report=said.append)
    assert said[0] == "Clearing away what is left of an earlier lab"
    assert site.status()["running"]
    assert all(node["ready"] for node in site.status()["nodes"].values())
    assert on_node("10.77.0.12", f"blkid -p {DISK} || echo $?").strip() == "2"


def test_down_leaves_no_process_mount_device_link_namespace_cgroup_or_file() -> None:
    write_to_disk("node-1", "in-use")
    on_node("10.77.0.11", "mkdir /mnt/immutable && chattr +i /mnt/immutable")
    start_pod("last", "node-1", "sleep 600")
    members = process.marked(layout.lab_dir())
    assert len(members) > 15
    site.down()
    assert site.remains() == []
    # The same by other ways than the lab's own.
    lab = str(layout.lab_dir())
    assert [name for one in members if (name := running(one))] == []
    assert lab not in subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout
    assert lab not in Path("/proc/mounts").read_text()
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
    assert [link["ifname"] for link in links if link["ifname"].startswith("jl")] == []
    assert "jlab" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert list(Path("/sys/fs/cgroup").glob("**/judge-lab")) == []
    assert not Path(lab).exists()
    assert not lab_state.LOCK_FILE.exists()
