"""A lab of virtual machines: when there is one, what it never has, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes_cli import Desk, FakeLab
from judge_lab import (
    LabError,
    binaries,
    clearing,
    network,
    prerequisites,
    process,
    runtime,
    site,
    state,
    verbs,
    vm_node,
)
from judge_lab.layout import Layout
from judge_lab.process import Process
from judge_lab.state import NodeState, State, load
from judge_lab.vm import EBS


class Built:
    """In the Builder's place: nothing is built."""

    def __init__(self, made: State, found: dict[str, Path] | None, report: Any) -> None:
        assert found is None
        self.state = made

    def build(self) -> None:
        self.state.save()

    def boot(self, node: NodeState) -> None:
        pass

    def wait_ready(self, node: NodeState) -> None:
        pass


@pytest.fixture(autouse=True)
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A lab directory and lock of the test's own, on a machine that has everything but Kubernetes and vLLM."""

    def unasked(*_: object) -> Any:
        pytest.fail("a lab of virtual machines asked for Kubernetes or vLLM")

    monkeypatch.setenv("JUDGE_LAB_DIR", str(tmp_path / "lab"))
    monkeypatch.setattr(state, "LOCK_FILE", tmp_path / "lab.lock")
    monkeypatch.setattr(network, "bridge_owner", lambda: None)
    monkeypatch.setattr(prerequisites, "check_vm", lambda: None)
    monkeypatch.setattr(prerequisites, "check", lambda: None)
    monkeypatch.setattr(clearing, "found", lambda: [])
    monkeypatch.setattr(binaries, "find", unasked)
    monkeypatch.setattr(runtime, "ensure", unasked)
    monkeypatch.setattr(site, "Builder", Built)
    monkeypatch.setattr(verbs, "Builder", Built)
    return Layout(tmp_path / "lab")


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    started = process.spawn(["sleep", "60"], log=tmp_path / "sleep.log", mark=tmp_path)
    yield started
    process.end([started])


@pytest.fixture
def running(layout: Layout, sleeper: Process) -> State:
    """A lab of one virtual machine, as far as its record goes."""
    parts = dict.fromkeys(("aws", "appconfig", "hub"), sleeper)
    made = State(layout, processes=parts, nodes={"node-1": NodeState(1, "vm", process=sleeper)}, kubernetes=False,
                 kind="vm")  # fmt: skip
    made.save()
    return made


def recorded(layout: Layout) -> State:
    found = load(layout)
    assert found is not None
    return found


def test_a_lab_of_virtual_machines_has_one_node_and_no_kubernetes(layout: Layout) -> None:
    site.up(vm=True)
    made = recorded(layout)
    assert (made.kind, made.kubernetes, made.vm_disks) == ("vm", False, 2)
    assert [(node.name, node.kind) for node in made.nodes.values()] == [("node-1", "vm")]


def test_the_number_of_machines_and_of_their_disks_can_be_asked_for(layout: Layout) -> None:
    site.up(3, vm=True, vm_disks=4)
    assert (len(recorded(layout).nodes), recorded(layout).vm_disks) == (3, 4)


@pytest.mark.parametrize("disks", [0, 9])
def test_a_number_of_disks_that_no_machine_has_is_refused(disks: int) -> None:
    with pytest.raises(LabError, match=f"{disks} instance-store disks asked for, wanted 1 to 8"):
        site.up(vm=True, vm_disks=disks)


def test_a_plain_up_keeps_the_kind_of_the_lab_that_runs(layout: Layout, running: State) -> None:
    site.up()
    assert recorded(layout).kind == "vm"
    assert list(recorded(layout).nodes) == ["node-1"]


def test_a_lab_of_the_other_kind_is_refused_with_the_way_out(layout: Layout, running: State) -> None:
    with pytest.raises(LabError, match="the lab that runs has virtual machines, wanted nodes of namespaces") as caught:
        site.up(vm=False)
    assert caught.value.hint == "judge-bootstrap lab down"
    State(layout, processes=running.processes).save()
    with pytest.raises(LabError, match="the lab that runs has nodes of namespaces, wanted virtual machines"):
        site.up(vm=True)


def test_what_a_virtual_machine_needs_is_asked_for_and_not_what_a_namespace_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prerequisites, "check", lambda: pytest.fail("asked for containerd"))
    monkeypatch.setattr(prerequisites, "check_vm", lambda: (_ for _ in ()).throw(LabError("no qemu")))
    with pytest.raises(LabError, match="no qemu"):
        site.up(vm=True)


def test_a_node_that_is_added_is_a_virtual_machine_too(layout: Layout, running: State) -> None:
    site.node("add", "node-2")
    assert recorded(layout).nodes["node-2"].kind == "vm"


def test_it_counts_as_running_by_its_own_parts(running: State) -> None:
    found = site.status()
    assert (found["running"], found["kind"], found["nodes"]["node-1"]["ready"]) == (True, "vm", True)
    del running.processes["hub"]
    running.save()
    assert site.status()["running"] is False


def test_the_status_names_the_instance_stores_and_not_the_volumes(layout: Layout, running: State) -> None:
    machine = vm_node.machine(layout, running.nodes["node-1"])
    store = machine.new_disk()
    machine.disks = [machine.root, machine.new_disk(model=EBS), store]
    machine._save()
    assert site.status()["nodes"]["node-1"]["disk"] == store.serial


def test_a_disk_of_a_virtual_machine_is_not_named_but_found_by_its_model(layout: Layout, running: State) -> None:
    assert site.environment()["JUDGE_LAB_NVME_DEVICE"] == ""
    running.kind = "namespace"
    running.save()
    assert site.environment()["JUDGE_LAB_NVME_DEVICE"] == "/dev/disk/by-id/lab-instance-store-1"


def test_its_stand_ins_say_that_there_is_no_kubernetes(running: State) -> None:
    text = "\n".join(site.stand_ins())
    for words in ("virtual machine on an emulated CPU", "no Kubernetes and no GPU", "bears EC2's model"):
        assert words in text
    assert "loop device" not in text


class Calls(list[str]):
    """What the verbs had done to the machine, the network and AWS, in order."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made = Calls()

    def halt(_layout: Layout, node: NodeState) -> None:
        made.append("halt")
        node.process = None

    monkeypatch.setattr(verbs.services, "set_instance_state", lambda node, verb: made.append(f"aws {verb}"))
    monkeypatch.setattr(vm_node, "halt", halt)
    monkeypatch.setattr(vm_node, "reboot", lambda layout, node: made.append("reboot"))
    monkeypatch.setattr(vm_node, "shut_down", lambda layout, node: made.append("shut down"))
    monkeypatch.setattr(vm_node, "replace_disks", lambda layout, node: made.append("replace disks"))
    monkeypatch.setattr(network, "unplug", lambda name: made.append("unplug"))
    return made


def test_a_stop_shuts_the_machine_down_before_its_disks_are_replaced(running: State, calls: Calls) -> None:
    site.node("stop", "node-1")
    assert calls == ["aws stop", "shut down", "halt", "replace disks"]


def test_a_stop_of_a_machine_that_is_cut_off_does_not_wait_for_its_answer(running: State, calls: Calls) -> None:
    site.node("cut", "node-1")
    site.node("stop", "node-1")
    assert calls == ["unplug", "aws stop", "halt", "replace disks"]


def test_a_kill_leaves_the_disks(layout: Layout, running: State, calls: Calls) -> None:
    site.node("kill", "node-1")
    assert calls == ["halt"]
    assert recorded(layout).nodes["node-1"].wanted == "killed"


def test_a_reboot_is_the_guests_own(layout: Layout, running: State, calls: Calls) -> None:
    site.node("reboot", "node-1")
    assert calls == ["reboot"]
    assert recorded(layout).nodes["node-1"].booted > 0


@pytest.mark.parametrize("before", ["cut", "kill"])
def test_a_machine_that_cannot_be_asked_is_not_rebooted(running: State, calls: Calls, before: str) -> None:
    site.node(before, "node-1")
    with pytest.raises(LabError, match="wanted it (running|reachable)") as caught:
        site.node("reboot", "node-1")
    assert caught.value.hint == "judge-bootstrap lab node start node-1"


def test_a_reboot_of_namespaces_is_their_end_and_a_start_with_the_same_disk(
    layout: Layout, running: State, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.kind = running.nodes["node-1"].kind = "namespace"
    running.save()

    def halt(_layout: Layout, node: NodeState) -> None:
        calls.append("halt namespaces")
        node.process = None

    monkeypatch.setattr(verbs.nodes, "halt", halt)
    monkeypatch.setattr(verbs.disks, "replace_by_blank", lambda image: pytest.fail("the disk was replaced"))
    monkeypatch.setattr(Built, "boot", lambda built, node: calls.append(f"boot {node.name}"))
    site.node("reboot", "node-1")
    assert calls == ["halt namespaces", "boot node-1"]
    assert recorded(layout).nodes["node-1"].wanted == "running"


def test_everything_a_virtual_machine_needs_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(prerequisites.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(prerequisites.shutil, "which", lambda tool, path: None)
    with pytest.raises(LabError, match="virtual machines cannot run here: .*not root.*not installed: ") as caught:
        prerequisites.check_vm()
    assert caught.value.hint is not None
    assert {"qemu-system-x86", "qemu-utils", "mmdebstrap", "lz4"} <= set(caught.value.hint.split())
    assert "containerd" not in caught.value.hint


# --- the command -----------------------------------------------------------------------------------------------------


class VmLab(FakeLab):
    given: dict[str, Any]

    def up(self, report: Any = print, **given: Any) -> None:  # type: ignore[override]
        self.given = given

    def status(self) -> dict[str, Any]:
        return {"kind": "vm"}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "content/inventory/local").mkdir(parents=True)
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CONTENT_ROOT", str(tmp_path / "content"))
    monkeypatch.setenv("JUDGE_BOOTSTRAP_STATE", str(tmp_path / "state"))
    return Desk(tmp_path / "content", lab=VmLab())


def test_the_command_hands_on_what_was_asked_for_and_names_a_step_that_works(desk: Desk) -> None:
    result = desk.invoke("lab", "up", "--vm", "--vm-disks", "1")
    assert result.exit_code == 0, result.output
    assert desk.lab.given == {"vm": True, "vm_disks": 1}
    assert result.stdout == "The local environment is up. Next: judge-bootstrap --env local run nvme\n"


def test_a_plain_up_leaves_the_kind_to_the_lab(desk: Desk) -> None:
    assert desk.invoke("lab", "up", "--nodes", "2").exit_code == 0
    assert desk.lab.given == {"nodes": 2}


def test_disks_of_virtual_machines_are_refused_without_them(desk: Desk) -> None:
    result = desk.invoke("lab", "up", "--vm-disks", "3")
    assert result.exit_code == 2
    assert "found --vm-disks 3 without --vm" in result.stderr
