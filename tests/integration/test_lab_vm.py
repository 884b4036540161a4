"""Virtual machines as they boot: one alone, as the disk drills use it, and the lab's nodes made of them.

The tests run in their order, each half on one machine or lab.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.local_site import Cli, on_node
from judge_lab import LabError, layout, prerequisites, process, site, vm_image
from judge_lab.vm import EBS, INSTANCE_STORE, Disk, Machine, digest

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", autouse=True)
def possible() -> None:
    try:
        prerequisites.check_vm()
    except LabError as error:
        pytest.skip(f"no virtual machine can run here: {error}")


# --- one alone -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine whose volume comes before its root disk, and whose instance stores come last."""
    with Machine(tmp_path_factory.mktemp("machine")) as made:
        made.start([made.new_disk(model=EBS), made.root, made.new_disk(), made.new_disk(sector_bytes=4096)])
        yield made


def stores(machine: Machine) -> list[Disk]:
    return [disk for disk in machine.disks if disk.model == INSTANCE_STORE]


def test_the_disks_have_the_order_that_was_asked_for(machine: Machine) -> None:
    assert machine.kernel_names() == {
        disk.serial: f"/dev/nvme{number}n1" for number, disk in enumerate(machine.disks)
    }
    assert machine.run("findmnt -no SOURCE /").stdout.strip() == "/dev/nvme1n1p1"


def test_every_tool_in_the_guest_sees_ec2s_names(machine: Machine) -> None:
    listed = {line for line in machine.run("lsblk -dno MODEL,SERIAL").stdout.splitlines() if line.strip()}
    assert {" ".join(line.split()) for line in listed} == {f"{disk.model} {disk.serial}" for disk in machine.disks}
    said = machine.run("nvme id-ctrl /dev/nvme2").stdout
    assert f"mn        : {INSTANCE_STORE}" in said
    assert "vid       : 0x1d0f" in said
    for disk in machine.disks:
        assert machine.run(["readlink", "-f", disk.by_id()]).stdout.strip() == machine.kernel_names()[disk.serial]


def test_a_sector_may_have_4096_bytes(machine: Machine) -> None:
    names = machine.kernel_names()
    sizes = [machine.run(f"blockdev --getss {names[disk.serial]}").stdout.strip() for disk in stores(machine)]
    assert sizes == ["512", "4096"]


def test_systemd_has_started_everything_and_nothing_failed(machine: Machine) -> None:
    assert machine.run("systemctl is-system-running --wait", check=False).stdout.strip() == "running"


def test_a_command_that_fails_is_told_with_its_words(machine: Machine) -> None:
    with pytest.raises(LabError, match=r"on vm, `ls /nowhere` ended with 2: .*No such file"):
        machine.run(["ls", "/nowhere"])
    assert machine.run("exit 7", check=False).returncode == 7


def test_a_file_goes_in_and_comes_out(machine: Machine) -> None:
    content = bytes(range(256)) * 1000
    machine.put(content, "/opt/it is/here", mode=0o640)
    assert machine.get("/opt/it is/here") == content
    assert machine.run(["stat", "-c", "%a", "/opt/it is/here"]).stdout.strip() == "640"


def test_a_boot_writes_nothing_to_blank_disks(machine: Machine, tmp_path: Path) -> None:
    blank = Disk("AWS0", tmp_path / "blank.raw")
    blank.make_blank()
    assert {digest(disk.image) for disk in stores(machine)} == {digest(blank.image)}


def test_a_disk_can_come_while_the_machine_runs(machine: Machine) -> None:
    late = machine.new_disk()
    machine.plug(late)
    machine.check_disks()
    assert machine.run(f"blockdev --getsize64 {late.by_id()}").stdout.strip() == str(late.size_bytes)


def test_a_reboot_is_another_boot_of_the_same_disks(machine: Machine) -> None:
    before, store = machine.boot_id(), stores(machine)[0]
    machine.run(f"mkfs.xfs -q {store.by_id()} && mount {store.by_id()} /mnt && echo kept >/mnt/note")
    machine.reboot()
    assert machine.boot_id() != before
    machine.check_disks()
    assert machine.run(f"mount {store.by_id()} /mnt && cat /mnt/note").stdout == "kept\n"


def test_a_kill_keeps_what_was_flushed_and_loses_what_was_not(machine: Machine) -> None:
    store = stores(machine)[0]
    machine.run("echo flushed >/mnt/flushed && sync && echo 30000 >/proc/sys/vm/dirty_writeback_centisecs && "
                "echo lost >/mnt/lost")  # fmt: skip
    machine.kill()
    assert not machine.running()
    before = digest(store.image)
    machine.start()
    assert machine.run(f"mount {store.by_id()} /mnt && cat /mnt/flushed").stdout == "flushed\n"
    assert machine.run("cat /mnt/lost", check=False).stdout == ""
    assert digest(store.image) != before, "a mount replays the log: a digest that saw nothing would prove nothing"


def test_a_stop_brings_other_blank_instance_stores_and_the_same_volume(machine: Machine) -> None:
    volume, before = machine.disks[0], {disk.serial for disk in stores(machine)}
    machine.run(f"echo kept | dd of={volume.by_id()} conv=notrunc,fsync status=none; echo kept >/root/note")
    machine.stop()
    machine.start()
    assert before.isdisjoint(disk.serial for disk in stores(machine))
    for disk in stores(machine):
        assert machine.run(["blkid", "-p", disk.by_id()], check=False).returncode == 2
    assert machine.run(f"head -c 5 {volume.by_id()}; cat /root/note").stdout == "kept\nkept\n"


def test_a_forgotten_root_is_the_images_again(machine: Machine) -> None:
    machine.poweroff()
    assert not machine.running()
    machine.forget_root()
    machine.start()
    assert machine.run("ls /root/note", check=False).returncode == 2


def test_with_an_initrd_the_root_disk_is_mounted_by_its_own_name(machine: Machine) -> None:
    assert machine.run("findmnt -no SOURCE /; grep -c '^/dev/root / ' /proc/mounts").stdout.endswith("\n1\n")
    machine.kill()
    machine.initrd = True
    machine.start()
    assert machine.run("grep ' / ' /proc/mounts").stdout.startswith("/dev/nvme1n1p1 / ext4 ")


def test_its_ssh_is_on_the_loopback_alone(machine: Machine) -> None:
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    assert machine.process is not None
    lines = [line.split()[3] for line in listening.splitlines() if f"pid={machine.process.pid}," in line]
    assert lines == [f"127.0.0.1:{machine.port}"]


def test_the_kernel_is_not_packed_and_the_image_was_built_once(machine: Machine) -> None:
    image = vm_image.ensure(lambda line: pytest.fail(line))
    assert image.kernel.read_bytes()[:4] == b"\x7fELF"


def test_a_removed_machine_leaves_no_process_and_no_file(machine: Machine) -> None:
    members = process.marked(machine.folder)
    assert members
    machine.remove()
    assert process.marked(machine.folder) == []
    assert not machine.folder.exists()


# --- the lab's nodes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    site.down()
    site.up(vm=True)
    yield
    site.down()


@pytest.fixture
def cli(lab: None, tmp_path: Path) -> Cli:
    return Cli(tmp_path / "state")


def boot(address: str = "10.77.0.11") -> str:
    return on_node(address, "cat /proc/sys/kernel/random/boot_id")


def test_the_node_is_the_instance_that_the_inventory_plugin_finds(cli: Cli) -> None:
    assert on_node("10.77.0.11", "hostname").strip() == "node-1"
    answer = cli("run", "nvme")
    assert answer.code == 0, answer.stderr
    assert list(answer.json["hosts"]) == [site.status()["nodes"]["node-1"]["instance_id"]]
    mounted = on_node("10.77.0.11", "findmnt -no FSTYPE /mnt/nvme; ls /dev/disk/by-id | grep -c EC2_NVMe").split()
    assert mounted[0] == "xfs"


def test_a_second_run_changes_nothing_and_the_model_comes_from_the_labs_hub(cli: Cli) -> None:
    assert cli("run", "nvme").changed_tasks() == set()
    answer = cli("run", "model_cache")
    assert answer.code == 0, answer.stderr
    assert on_node("10.77.0.11", "ls /mnt/nvme/hub").strip() != ""


def test_a_second_up_starts_nothing(lab: None) -> None:
    said: list[str] = []
    before = boot()
    site.up(report=said.append)
    assert (boot(), said) == (before, [])


def test_a_reboot_keeps_the_disk_and_a_stop_replaces_it(lab: None) -> None:
    def serials() -> str:
        return str(site.status()["nodes"]["node-1"]["disk"])

    before, disks = boot(), serials()
    site.node("reboot", "node-1")
    assert boot() != before
    assert serials() == disks
    site.node("stop", "node-1")
    assert site.status()["nodes"]["node-1"]["state"] == "stopped"
    site.node("start", "node-1")
    assert serials() != disks
    assert set(on_node("10.77.0.11", "lsblk -dno SERIAL").split()) >= set(serials().split(", "))


def test_a_node_that_was_cut_off_runs_on_and_is_reached_again_after_start(lab: None) -> None:
    before = boot()
    site.node("cut", "node-1")
    with pytest.raises(OSError), socket.create_connection(("10.77.0.11", 22), timeout=2):
        pass
    site.node("start", "node-1")
    assert boot() == before


def test_a_node_that_is_added_is_a_machine_of_its_own(lab: None) -> None:
    site.node("add", "node-2")
    assert boot("10.77.0.12") != boot()
    assert on_node("10.77.0.12", "hostname").strip() == "node-2"


def test_down_leaves_no_machine_link_or_file(lab: None) -> None:
    machines = [one for one in process.marked(layout.lab_dir()) if "qemu" in process.command(one)]
    assert len(machines) == 2
    site.down()
    assert site.remains() == []
    assert not any(one.alive() for one in machines)
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in links.splitlines() if line.startswith(("jlab", "jlv-"))]
    assert not layout.lab_dir().exists()
