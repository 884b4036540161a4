"""The disk of a node that ssh does not reach: the same program in a privileged pod, on real kubelets."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.local_site import Answer, Cli, finish, on_node, run_processes
from judge_lab import kube, layout, site

pytestmark = pytest.mark.lab
DISK = "/dev/disk/by-id/lab-instance-store-1"
TASK = "Prepare the instance store through Kubernetes"
# Nothing listens there, so whoever tries ssh fails; the tests look at the nodes by ssh connections of their own.
NO_SSH = ("-e", "ansible_port=1")
OURS = "labelSelector=app.kubernetes.io/name%3Djudge-node"


def left_behind(namespace: str = "kube-system") -> list[str]:
    """Return the names of the pods and ConfigMaps of ours that are in the namespace and not on their way out."""
    api = kube.Api(layout.current())
    found = [item["metadata"] for kind in ("pods", "configmaps")
             for item in api.call("GET", f"/api/v1/namespaces/{namespace}/{kind}?{OURS}")["items"]]
    return [metadata["name"] for metadata in found if not metadata.get("deletionTimestamp")]


def phase_of_ours(namespace: str = "kube-system") -> str | None:
    """Return the phase of the one pod of ours in the namespace."""
    pods = kube.Api(layout.current()).call("GET", f"/api/v1/namespaces/{namespace}/pods?{OURS}")["items"]
    return str(pods[0]["status"]["phase"]) if len(pods) == 1 else None


def soon(holds: Callable[[], bool], seconds: float = 600) -> bool:
    """Tell whether it comes to hold within this time."""
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.2)
    return True


def node(name: str) -> dict[str, Any]:
    found: dict[str, Any] = site.status()["nodes"][name]
    return found


def blank_again(name: str) -> None:
    """Stop and start the node, as on EC2: its disk comes back blank."""
    site.node("stop", name)
    site.node("start", name)


def digest(address: str) -> str:
    """Return the hash of the whole disk of a node."""
    device = on_node(address, f"readlink -f {DISK}").strip()
    with Path(device).open("rb", buffering=0) as disk:
        return hashlib.file_digest(disk, "sha256").hexdigest()


@dataclass(frozen=True)
class Story:
    """A plan and two runs on node-1, whose disk was blank; what was on the node after the plan."""

    host: str
    address: str
    plan: Answer
    after_plan: str
    left_by_plan: list[str]
    first: Answer
    second: Answer
    left: list[str]


@pytest.fixture(scope="module")
def cli(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    site.up()
    return Cli(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def story(cli: Cli) -> Story:
    blank_again("node-1")
    host, address = node("node-1")["instance_id"], node("node-1")["address"]
    on_node(address, "rm -rf /usr/local/lib/judge-bootstrap /usr/local/bin/judge-node")
    words = ("nvme_pod", "--limit", host, *NO_SSH)
    planned = cli("plan", *words)
    look = f"blkid -p {DISK}; findmnt -n /mnt/nvme; ls /usr/local/lib/judge-bootstrap 2>&1; true"
    after_plan = on_node(address, look)
    left_by_plan = left_behind()
    first, second = cli("run", *words), cli("run", *words)
    return Story(host, address, planned, after_plan, left_by_plan, first, second, left_behind())


@pytest.fixture
def foreign(cli: Cli) -> Iterator[tuple[str, str]]:
    """The id and the address of node-2, whose disk holds somebody else's filesystem."""
    blank_again("node-2")
    host, address = node("node-2")["instance_id"], node("node-2")["address"]
    on_node(address, f"mkfs.ext4 -q {DISK}")
    yield host, address
    blank_again("node-2")


@pytest.fixture
def restricted() -> Iterator[str]:
    """A namespace that turns privileged pods away."""
    api, name = kube.Api(layout.current()), "nvme-pod-restricted"
    api.call("POST", "/api/v1/namespaces", {
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    yield name
    api.call("DELETE", f"/api/v1/namespaces/{name}")


def test_a_plan_says_what_a_run_does_and_does_nothing(story: Story) -> None:
    assert (story.plan.code, story.plan.changed_tasks()) == (0, {(story.host, TASK)}), story.plan.stderr
    assert story.plan.changed_tasks() == story.first.changed_tasks()
    assert story.after_plan.startswith("ls: cannot access"), "neither a filesystem, nor a mount, nor the program"
    assert story.left_by_plan == []


def test_the_first_run_makes_the_disk_ours_without_ssh(story: Story) -> None:
    assert story.first.code == 0, story.first.stderr
    outcome = story.first.json["hosts"][story.host]
    assert (outcome["ok"], outcome["changed"], outcome["state"]) == (True, True, "ours")


def test_the_disk_is_mounted_in_the_nodes_own_namespace(story: Story) -> None:
    disk = on_node(story.address, f"readlink -f {DISK}").strip()
    assert on_node(story.address, "findmnt -no SOURCE,FSTYPE /mnt/nvme").split() == [disk, "xfs"]


def test_the_program_is_installed_as_over_ssh(story: Story) -> None:
    found = on_node(story.address, f"judge-node disks status --mount-path /mnt/nvme --device {DISK}")
    assert "ours" in found


def test_the_second_run_changes_nothing(story: Story) -> None:
    assert (story.second.code, story.second.json["changed"], story.second.json["changes"]) == (0, 0, [])
    assert story.second.json["hosts"][story.host]["tasks"].get("changed", 0) == 0


def test_ssh_finds_nothing_to_do_after_it(story: Story, cli: Cli) -> None:
    answer = cli("run", "nvme", "--limit", story.host)
    assert (answer.code, answer.json["changed"]) == (0, 0), answer.stderr


def test_neither_a_pod_nor_a_config_map_is_left(story: Story) -> None:
    assert story.left == []


def test_a_disk_with_foreign_data_is_refused_on_its_host_and_not_touched(
        story: Story, cli: Cli, foreign: tuple[str, str]) -> None:
    host, address = foreign
    before = digest(address)
    answer = cli("run", "nvme_pod", "--limit", f"{story.host},{host}", *NO_SSH)
    hosts = answer.json["hosts"]
    assert (answer.code, hosts[host]["reason"], hosts[host]["state"]) == (3, "DISK_FOREIGN_DATA", "foreign")
    assert (hosts[story.host]["ok"], hosts[story.host]["state"]) == (True, "ours")
    assert digest(address) == before
    assert left_behind() == []


def test_a_namespace_that_forbids_privileged_pods_is_named_with_the_way_out(
        story: Story, cli: Cli, restricted: str) -> None:
    answer = cli("run", "nvme_pod", "--limit", story.host, *NO_SSH, "-e", f"nvme_pod_namespace={restricted}")
    outcome = answer.json["hosts"][story.host]
    assert (answer.code, outcome["reason"]) == (1, "POD_PENDING")
    assert "violates PodSecurity" in outcome["message"] and "nvme_pod_namespace=" in outcome["repair"]


def test_an_image_that_cannot_be_pulled_is_said_and_leaves_nothing(story: Story, cli: Cli) -> None:
    answer = cli("run", "nvme_pod", "--limit", story.host, *NO_SSH, "-e", "nvme_pod_image=10.77.0.1:1/none:1")
    outcome = answer.json["hosts"][story.host]
    assert (answer.code, outcome["reason"]) == (1, "POD_PENDING")
    assert "10.77.0.1:1/none:1" in outcome["message"] and "nvme_pod_image=" in outcome["repair"]
    assert left_behind() == []


def test_a_second_run_at_the_same_time_is_refused_and_ctrl_c_on_the_first_leaves_nothing(
        story: Story, cli: Cli, tmp_path: Path) -> None:
    words = ("run", "nvme_pod", "--limit", story.host, *NO_SSH)
    # Its pod runs until it is stopped, however slow the second run is: it waits for a disk that never comes.
    first = cli.start(*words, "-e", f"nvme_device={DISK}-never", "-e", "nvme_wait_seconds=800")
    assert soon(lambda: phase_of_ours() == "Running"), "the first run's pod does not run"
    second = Cli(tmp_path)(*words)
    still_there = phase_of_ours()
    first.send_signal(2)
    interrupted = finish(first)
    outcome = second.json["hosts"][story.host]
    assert (second.code, outcome["reason"], still_there) == (3, "LOCKED", "Running"), second.stderr
    assert "kubectl -n kube-system" in outcome["repair"]
    assert (interrupted.code, interrupted.json["interrupted"]) == (130, True)
    assert run_processes() == []
    assert soon(lambda: left_behind() == [])
    third = cli(*words)
    assert (third.code, third.json["changed"]) == (0, 0), third.stderr
