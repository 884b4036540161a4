"""The user data that Terraform renders, run for real: cloud-init, systemd and NVMe disks in virtual machines.

Each life of an instance is played once, two at a time; the tests say what was seen at its boots. nodeadm, containerd
and kubelet are stand-ins that say so (guest/nodeadm.py, first_boot.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from judge_lab import LabError, prerequisites
from judge_lab.vm import digest
from terraform.first_boot import DISK_BYTES, Instance, ProgramServer, Seen, new_instance
from terraform.tool import Terraform

BOOT_UNIT = "judge-node-disks"
OTHER = b"#!/bin/sh\ntouch /run/was-run\n"
OURS = "/judge-bootstrap"  # our folder in what nodeadm built


@dataclass
class Life:
    """What was seen of an instance, by boot; `disks` are its instance stores' serials or digests."""

    seen: dict[str, Seen] = field(default_factory=dict)
    disks: dict[str, Any] = field(default_factory=dict)
    fetched: int = 0
    program: str = ""  # its hash, as the user data has it

    def __getitem__(self, boot: str) -> Seen:
        return self.seen[boot]


def sha256(program: bytes) -> str:
    return hashlib.sha256(program).hexdigest()


# --- the lives -------------------------------------------------------------------------------------------------------


def judge_mode(instance: Instance, server: ProgramServer) -> Life:
    """First boot; a reboot; stopped and started with blank disks while nobody has the program any more."""
    life, machine = Life(program=sha256(server.program)), instance.machine
    with server.up():
        life.seen["first"] = instance.launch([machine.new_disk(size_bytes=DISK_BYTES) for _ in "AB"])
        life.disks["first"] = instance.serials
        machine.run("head -c 100000 /dev/urandom >/mnt/nvme/survivor && sync")
        life.disks["survivor"] = machine.run("sha256sum </mnt/nvme/survivor").stdout
        life.seen["reboot"] = instance.reboot()
        life.disks["survivor after"] = machine.run("sha256sum </mnt/nvme/survivor", check=False).stdout
        life.fetched = len(server.requests)
    life.seen["start"] = instance.stop_and_start()
    life.disks["start"] = instance.serials
    return life


def failures(instance: Instance, server: ProgramServer) -> Life:
    """No server; another program; the server is back, and a reboot; and another instance, with somebody's data."""
    life, machine = Life(program=sha256(server.program)), instance.machine
    blank = machine.new_disk(size_bytes=DISK_BYTES)
    life.disks["blank"] = digest(blank.image)
    life.seen["down"] = instance.launch([blank])
    server.body = OTHER
    with server.up():
        machine.run(f"systemctl restart {BOOT_UNIT}", check=False, timeout=1800)
    life.fetched = len(server.requests)
    life.seen["other"] = instance.look()
    life.disks["after failures"] = digest(blank.image)
    server.body = server.program
    with server.up():
        life.seen["back"] = instance.reboot()
        machine.poweroff()
        foreign = machine.new_disk(size_bytes=DISK_BYTES)
        with foreign.image.open("r+b") as image:
            image.write(b"somebody's data, without any signature")
        life.disks["foreign"] = digest(foreign.image)
        life.seen["foreign"] = instance.launch([foreign])
    machine.poweroff()
    life.disks["foreign after"] = digest(foreign.image)
    return life


def nodeadm_mode(instance: Instance, server: ProgramServer) -> Life:
    """First boot; stopped and started with blank disks, while nobody has the program any more."""
    life, machine = Life(), instance.machine
    with server.up():
        life.seen["first"] = instance.launch([machine.new_disk(size_bytes=DISK_BYTES) for _ in "AB"])
    life.disks["first"] = instance.serials
    life.seen["start"] = instance.stop_and_start()
    life.disks["start"] = instance.serials
    return life


def nodeadm_alone(instance: Instance, server: ProgramServer) -> Life:
    """First boot without judge-node, and what the playbooks do then."""
    life, machine = Life(), instance.machine
    life.seen["first"] = instance.launch([machine.new_disk(size_bytes=DISK_BYTES) for _ in "AB"])
    life.disks["first"] = instance.serials
    machine.put(server.program, "/usr/local/bin/judge-node")
    machine.run("judge-node disks ensure --mount-path /mnt/nvme --gate kubelet.service", timeout=1800)
    life.seen["adopted"] = instance.look()
    return life


Play = Callable[[Instance, ProgramServer], Life]
# Two are played at a time, and the longest begins first.
LIVES: dict[str, tuple[Play, dict[str, Any]]] = {
    "failures": (failures, {"nvme_owner": "judge"}),
    "judge": (judge_mode, {"nvme_owner": "judge"}),
    "nodeadm": (nodeadm_mode, {"nvme_owner": "nodeadm"}),
    "alone": (nodeadm_alone, {"nvme_owner": "nodeadm", "judge_node": None}),
}
TAINT = {"key": "judge-bootstrap.io/model-not-ready", "value": "", "effect": "NoSchedule"}


@pytest.fixture(scope="module")
def possible() -> None:
    try:
        prerequisites.check_vm()
    except LabError as error:
        pytest.skip(f"no virtual machine can run here: {error}")


@pytest.fixture(scope="module")
def lives(
    possible: None, terraform: Terraform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Life]]]:
    """Play all lives, each with what the submodule renders for it."""
    module, folder = terraform.tree / "modules" / "user-data", tmp_path_factory.mktemp("first-boot")

    def play(name: str, server: ProgramServer, user_data: str) -> Life:
        instance = new_instance(folder / name, user_data, name=name)
        with instance.machine:
            return LIVES[name][0](instance, server)

    with ExitStack() as held, ThreadPoolExecutor(max_workers=2) as pool:
        started = {}
        for name, (_, inputs) in LIVES.items():
            server = held.enter_context(closing(ProgramServer()))
            program = {"url": server.url, "sha256": sha256(server.program)}
            terraform.apply(module, {"judge_node": program, "taints": [TAINT], **inputs}).must()
            started[name] = pool.submit(play, name, server, terraform.output(module)["user_data"]["value"])
        yield started
        for future in started.values():
            future.cancel()


@pytest.fixture(scope="module")
def judge(lives: dict[str, Future[Life]]) -> Life:
    return lives["judge"].result()


@pytest.fixture(scope="module")
def failed(lives: dict[str, Future[Life]]) -> Life:
    return lives["failures"].result()


@pytest.fixture(scope="module")
def nodeadm(lives: dict[str, Future[Life]]) -> Life:
    return lives["nodeadm"].result()


@pytest.fixture(scope="module")
def alone(lives: dict[str, Future[Life]]) -> Life:
    return lives["alone"].result()


def assert_ready(seen: Seen) -> None:
    """Everything is active, kubelet has seen the filesystem that is mounted, and no job is left over."""
    assert seen.mount, seen.journal
    states = {unit: seen.state(unit) for unit in (BOOT_UNIT, "kubelet", "containerd")}
    assert states == dict.fromkeys(states, "active"), seen.journal
    assert seen.kubelet_saw() == f"{seen.mount['uuid']} {seen.mount['fsroot']}"
    assert (seen.jobs, seen.failed, seen.running, seen.cycles) == ([], [], "running", [])


def assert_held_back(seen: Seen) -> None:
    """The boot unit has failed, kubelet was never started, and nothing is mounted."""
    assert (seen.state(BOOT_UNIT), seen.state("kubelet"), seen.kubelet_saw()) == ("failed", "inactive", "")
    assert seen.mount is None


# --- nvme_owner = "judge" --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boot", ["first", "reboot", "start"])
def test_judge_mode_has_its_disk_before_kubelet_starts_at_every_boot(judge: Life, boot: str) -> None:
    assert_ready(judge[boot])
    assert judge[boot].at(BOOT_UNIT, "ActiveEnter") < judge[boot].at("kubelet", "InactiveExit")


@pytest.mark.parametrize("boot", ["first", "start"])
def test_judge_mode_makes_one_raid0_of_both_instance_stores(judge: Life, boot: str) -> None:
    assert judge[boot].arrays == {"judge-nvme": ["raid0", judge.disks[boot]]}
    assert (judge[boot].mount["fstype"], judge[boot].mount["label"]) == ("xfs", "judge-nvme")
    assert "noatime" in judge[boot].mount["options"].split(",")


def test_kubelet_requires_the_boot_unit(judge: Life) -> None:
    assert f"{BOOT_UNIT}.service" in judge["first"].units["kubelet"]["Requires"].split()
    assert judge["first"].units[BOOT_UNIT]["UnitFileState"] == "enabled"


def test_cloud_init_ends_without_an_error(judge: Life, nodeadm: Life) -> None:
    assert judge["first"].cloud_init_errors == nodeadm["first"].cloud_init_errors == []


def test_the_program_is_the_one_that_the_user_data_names_by_its_hash(judge: Life) -> None:
    assert judge["first"].program == judge.program


def test_a_reboot_makes_nothing_anew(judge: Life) -> None:
    assert judge["reboot"].boot != judge["first"].boot
    assert judge["reboot"].mount["uuid"] == judge["first"].mount["uuid"]
    assert judge.disks["survivor after"] == judge.disks["survivor"]


def test_the_program_is_fetched_once_although_the_server_is_there_at_the_reboot(judge: Life) -> None:
    assert judge.fetched == 1


def test_a_stop_and_start_makes_blank_disks_ready_with_the_program_from_the_root_disk(judge: Life) -> None:
    assert set(judge.disks["start"]).isdisjoint(judge.disks["first"])
    assert judge["start"].mount["uuid"] != judge["first"].mount["uuid"]
    assert judge["start"].result["changed"] is True
    assert judge["start"].program == judge["first"].program


def test_nodeadm_finds_the_taints_and_no_local_storage_in_judge_mode(judge: Life) -> None:
    spec = judge["first"].nodeadm_read["spec"]
    assert spec["kubelet"]["config"]["registerWithTaints"] == [TAINT]
    assert "localStorage" not in spec.get("instance", {})


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("boot", "size_bytes"), [("down", 0), ("other", len(OTHER))])
def test_without_the_right_program_kubelet_is_held_back_and_the_journal_says_why(
    failed: Life, boot: str, size_bytes: int
) -> None:
    assert_held_back(failed[boot])
    assert f"SOURCE_UNREACHABLE: {size_bytes} bytes from http://10.0.2.2:" in failed[boot].journal
    assert f"sha256 {sha256(OTHER[:size_bytes])}, wanted {failed.program}" in failed[boot].journal


def test_a_program_with_another_hash_is_fetched_again_and_never_run(failed: Life) -> None:
    assert failed.fetched > 1
    assert (failed["other"].program, failed["other"].result) == (None, None)


def test_a_failed_fetch_leaves_the_disks_as_they_were(failed: Life) -> None:
    assert failed.disks["after failures"] == failed.disks["blank"]


def test_a_reboot_mends_it_when_the_server_is_back(failed: Life) -> None:
    assert_ready(failed["back"])


def test_somebodys_data_is_refused_and_kubelet_held_back(failed: Life) -> None:
    assert_held_back(failed["foreign"])
    assert failed["foreign"].result["reason"] == "DISK_FOREIGN_DATA"
    assert "DISK_FOREIGN_DATA" in failed["foreign"].journal


def test_somebodys_data_is_not_changed_by_one_byte(failed: Life) -> None:
    assert failed.disks["foreign after"] == failed.disks["foreign"]


# --- nvme_owner = "nodeadm" ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boot", ["first", "start"])
def test_nodeadm_mode_shows_our_folder_of_its_array_before_kubelet_starts(nodeadm: Life, boot: str) -> None:
    seen = nodeadm[boot]
    assert_ready(seen)
    assert seen.mount["fsroot"] == OURS
    assert seen.mount["uuid"] == seen.nodeadm_mount["uuid"]
    assert (seen.result["state"], seen.result["facts"]["owner"]) == ("adopted", "nodeadm")


@pytest.mark.parametrize("boot", ["first", "start"])
def test_nodeadm_mode_leaves_the_array_to_nodeadm(nodeadm: Life, boot: str) -> None:
    assert nodeadm[boot].arrays == {"kubernetes": ["raid0", nodeadm.disks[boot]]}


@pytest.mark.parametrize("boot", ["first", "start"])
def test_nobody_waits_for_the_other_in_a_circle(nodeadm: Life, boot: str) -> None:
    """cloud-final, nodeadm, its array, our folder, containerd, kubelet: each comes after the one before."""
    seen = nodeadm[boot]
    order = [
        seen.at("cloud-final", "ActiveEnter"),
        seen.at("nodeadm-run", "ExecMainStart"),
        seen.at(BOOT_UNIT, "ActiveEnter"),
        seen.at("containerd", "InactiveExit"),
        seen.at("kubelet", "InactiveExit"),
        seen.at("nodeadm-run", "ExecMainExit"),
    ]
    assert order == sorted(order)
    assert order[0] > 0


def test_the_boot_unit_begins_before_nodeadm_has_built_and_waits_for_it(nodeadm: Life) -> None:
    seen = nodeadm["start"]
    assert 0 < seen.at(BOOT_UNIT, "InactiveExit") < seen.at("nodeadm-run", "ExecMainStart")


def test_a_stop_and_start_adopts_the_array_that_nodeadm_built_anew(nodeadm: Life) -> None:
    assert set(nodeadm.disks["start"]).isdisjoint(nodeadm.disks["first"])
    assert nodeadm["start"].mount["uuid"] != nodeadm["first"].mount["uuid"]


def test_without_judge_node_nodeadm_builds_what_the_node_config_asks_for(alone: Life) -> None:
    seen = alone["first"]
    assert seen.nodeadm_read["spec"]["instance"]["localStorage"]["strategy"] == "RAID0"
    assert seen.arrays == {"kubernetes": ["raid0", alone.disks["first"]]}
    assert (seen.state(BOOT_UNIT), seen.program, seen.mount) == ("inactive", None, None)
    assert seen.state("kubelet") == "active"


def test_without_judge_node_the_playbooks_adopt_the_array(alone: Life) -> None:
    seen = alone["adopted"]
    assert (seen.mount["fsroot"], seen.mount["uuid"]) == (OURS, alone["first"].nodeadm_mount["uuid"])
    assert (seen.result["state"], seen.state(BOOT_UNIT)) == ("adopted", "active")
