"""A virtual machine's parts that need no QEMU: its files, its refusals, a disk's digest, the names of its devices."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_lab import LabError, process, qemu, vm, vm_image
from judge_lab.process import Process
from judge_lab.vm import EBS, INSTANCE_STORE, Disk, Machine, digest

MIB = 1024**2


def sparse(path: Path, size: int, *writes: tuple[int, bytes]) -> Path:
    """Make a file of that many bytes of which only the writes take space."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in writes:
            file.seek(offset)
            file.write(content)
    return path


# --- digest ----------------------------------------------------------------------------------------------------------


def test_a_hole_and_written_zeros_have_one_digest(tmp_path: Path) -> None:
    hole = sparse(tmp_path / "hole", 8 * MIB, (5 * MIB, b"data"))
    zeros = tmp_path / "zeros"
    zeros.write_bytes(hole.read_bytes())
    assert zeros.stat().st_blocks > hole.stat().st_blocks
    assert digest(zeros) == digest(hole)


@pytest.mark.parametrize("offset", [0, 1, 65535, 65536, 4 * MIB - 1, 8 * MIB - 1])
def test_one_byte_anywhere_changes_the_digest(tmp_path: Path, offset: int) -> None:
    blank = sparse(tmp_path / "blank", 8 * MIB)
    assert digest(sparse(tmp_path / "one", 8 * MIB, (offset, b"\1"))) != digest(blank)


def test_the_same_bytes_at_another_place_have_another_digest(tmp_path: Path) -> None:
    first = sparse(tmp_path / "first", 8 * MIB, (1 * MIB, b"data"))
    assert digest(sparse(tmp_path / "second", 8 * MIB, (2 * MIB, b"data"))) != digest(first)


def test_a_longer_blank_disk_has_another_digest(tmp_path: Path) -> None:
    assert digest(sparse(tmp_path / "a", 8 * MIB)) != digest(sparse(tmp_path / "b", 9 * MIB))


def test_a_digest_does_not_depend_on_where_the_filesystem_put_its_holes(tmp_path: Path) -> None:
    content = (3 * MIB + 5000, b"x" * 200_000)
    dense = tmp_path / "dense"
    dense.write_bytes(sparse(tmp_path / "thin", 8 * MIB, content).read_bytes())
    copied = tmp_path / "copied"
    subprocess.run(["cp", "--sparse=always", dense, copied], check=True)
    assert {digest(dense), digest(copied)} == {digest(tmp_path / "thin")}


# --- disks -----------------------------------------------------------------------------------------------------------


def test_a_new_disk_is_blank_takes_no_space_and_is_named_as_on_ec2(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store, volume = machine.new_disk(size_bytes=64 * MIB), machine.new_disk(model=EBS)
    assert (store.image.stat().st_size, store.image.stat().st_blocks) == (64 * MIB, 0)
    assert (store.model, store.serial[:3], len(store.serial)) == (INSTANCE_STORE, "AWS", 20)
    assert (volume.serial[:3], len(volume.serial)) == ("vol", 20)
    assert store.by_id() == f"/dev/disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage_{store.serial}"


def test_the_disk_after_a_stop_is_blank_and_another_device_of_the_same_kind(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    old = machine.new_disk(size_bytes=64 * MIB, sector_bytes=4096)
    old.image.write_bytes(b"data")
    new = machine.replace_by_blank(old)
    assert not old.image.exists()
    assert new.serial != old.serial
    assert (new.size_bytes, new.sector_bytes, new.model) == (64 * MIB, 4096, INSTANCE_STORE)
    assert (new.image.stat().st_size, new.image.stat().st_blocks) == (64 * MIB, 0)


def test_a_stop_replaces_the_instance_stores_and_keeps_the_volumes(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store, volume = machine.new_disk(size_bytes=MIB), machine.new_disk(model=EBS, size_bytes=MIB)
    volume.image.write_bytes(b"kept")
    machine.disks = [machine.root, volume, store]
    machine.stop()
    assert machine.disks[:2] == [machine.root, volume]
    assert machine.disks[2].serial != store.serial
    assert volume.image.read_bytes() == b"kept"


@pytest.mark.parametrize("serial", ["AWS1", "", "a,b", "AWS" + "1" * 18])
def test_a_serial_that_could_not_be_told_or_is_there_twice_is_refused(tmp_path: Path, serial: str) -> None:
    machine = Machine(tmp_path)
    first = machine.new_disk(serial="AWS1")
    with pytest.raises(LabError, match="wanted 1 to 20 letters or digits, each once"):
        machine.start([first, Disk(serial, tmp_path / "x.raw")])
    assert machine.process is None


# --- one machine, found again -----------------------------------------------------------------------------------------


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    started = process.spawn(["sleep", "60"], log=tmp_path / "sleep.log", mark=tmp_path)
    yield started
    process.end([started])


def test_another_process_finds_a_machine_again_by_its_folder(tmp_path: Path, sleeper: Process) -> None:
    machine = Machine(tmp_path / "m")
    store = machine.new_disk()
    machine.disks, machine.process, machine.port = [machine.root, store], sleeper, 2222
    machine._save()
    found = Machine(tmp_path / "m")
    assert found.running()
    assert (found.disks, found.port) == ([machine.root, store], 2222)


def test_a_machine_that_runs_is_not_started_nor_are_its_disks_replaced(tmp_path: Path, sleeper: Process) -> None:
    machine = Machine(tmp_path / "m")
    store = machine.new_disk()
    machine.process = sleeper
    for change in (machine.start, machine.forget_root, lambda: machine.replace_by_blank(store)):
        with pytest.raises(LabError, match="vm runs, wanted it switched off"):
            change()
    assert store.image.exists()


def test_a_kill_ends_the_process_and_is_remembered(tmp_path: Path, sleeper: Process) -> None:
    machine = Machine(tmp_path / "m")
    machine.new_disk()
    machine.process = sleeper
    machine.kill()
    assert not sleeper.alive()
    assert Machine(tmp_path / "m").process is None


def test_a_machine_that_ends_while_it_is_waited_for_is_told_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_text("Kernel panic - not syncing\n")
    with pytest.raises(LabError, match="vm ended before ssh answered: Kernel panic"):
        Machine(tmp_path).wait_ssh(5)


def test_missing_tools_are_told_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm.shutil, "which", lambda tool, path: None)
    with pytest.raises(LabError, match="not installed: .*mmdebstrap.*qemu-system-x86") as caught:
        vm.require_tools()
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("make vm-packages, or apt-get install -y --no-install-recommends ")


def test_the_port_is_read_from_what_qemu_says() -> None:
    said = "\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n" \
           "  TCP[HOST_FORWARD]  12       127.0.0.1 41234       10.0.2.15    22     0     0\n"  # fmt: skip
    assert vm._forwarded_port(said) == 41234
    with pytest.raises(LabError, match="forwards no port"):
        vm._forwarded_port("Hub 0")


# --- the names of NVMe devices ---------------------------------------------------------------------------------------

# A program that holds Identify answers as QEMU does, and prints them after a line on its input. The model is put
# together when it runs, so that the source text does not count as an answer.
_HOLDER = """
import sys
answers = bytearray(512 * (len(sys.argv) - 1))
for number, serial in enumerate(sys.argv[1:]):  # piece by piece: no copy of a whole answer is left behind
    at = 512 * number
    answers[at : at + 4] = bytes.fromhex("f41af41a")
    answers[at + 4 : at + 24] = serial.ljust(20).encode()
    answers[at + 24 : at + 64] = ("QEMU" + " NVMe Ctrl").ljust(40).encode()
    answers[at + 256 : at + 258] = bytes.fromhex("0a01")
print("ready", flush=True)
sys.stdin.readline()
sys.stdout.buffer.write(answers)
"""


class Holder:
    def __init__(self, *serials: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, *serials], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.child.stdout is not None
        assert self.child.stdout.readline() == b"ready\n"
        self.process = Process(self.child.pid, process._started(self.child.pid) or 0)

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.communicate()

    def answers(self) -> bytes:
        return self.child.communicate(b"\n")[0]


def test_a_paused_qemu_is_given_the_models_and_amazons_vendor_id_by_serial() -> None:
    with Holder("vol1", "AWS2") as holder:
        qemu.name_disks(holder.process, {"vol1": EBS, "AWS2": INSTANCE_STORE})
        answers = holder.answers()
    assert answers[:64] == b"\x0f\x1d\x0f\x1d" + b"vol1".ljust(20) + EBS.encode().ljust(40)
    assert answers[512:576] == b"\x0f\x1d\x0f\x1d" + b"AWS2".ljust(20) + INSTANCE_STORE.encode().ljust(40)


def test_the_doorbell_buffer_in_which_qemu_overlooks_commands_is_not_offered() -> None:
    with Holder("vol1") as holder:
        qemu.name_disks(holder.process, {"vol1": EBS})
        answers = holder.answers()
    assert answers[256:258] == bytes.fromhex("0a00")
    assert not any(answers[64:256] + answers[258:])


def test_a_device_whose_answer_is_not_there_is_an_error() -> None:
    with Holder("vol1") as holder, pytest.raises(LabError, match=r"\{'vol1': 1\}.*wanted one for each of vol1, AWS2"):
        qemu.name_disks(holder.process, {"vol1": EBS, "AWS2": INSTANCE_STORE})


def test_an_answer_that_is_there_twice_is_an_error() -> None:
    with Holder("vol1", "vol1") as holder, pytest.raises(LabError, match="this QEMU keeps them in another way"):
        qemu.name_disks(holder.process, {"vol1": EBS})


@pytest.fixture
def answered() -> Iterator[Callable[..., qemu.Control]]:
    """Return a maker of a control connection whose other side says these messages and ends."""
    made: list[socket.socket] = []

    def make(*messages: dict[str, Any]) -> qemu.Control:
        ours, theirs = socket.socketpair()
        made.append(ours)
        text = "".join(json.dumps(message) + "\r\n" for message in messages).encode()

        def speak() -> None:
            with theirs:
                theirs.recv(1000)
                for at in range(0, len(text), 7):  # in pieces, as a socket may
                    theirs.sendall(text[at : at + 7])

        threading.Thread(target=speak, daemon=True).start()
        return qemu.Control(ours)

    yield make
    for one in made:
        one.close()


def test_an_answer_is_told_from_the_events_before_it(answered: Callable[..., qemu.Control]) -> None:
    assert answered({"event": "RESET"}, {"return": {"status": "paused"}})("query-status") == {"status": "paused"}


def test_a_refusal_of_qemu_is_told_in_its_words(answered: Callable[..., qemu.Control]) -> None:
    with pytest.raises(LabError, match="QEMU refused cont: no such thing"):
        answered({"error": {"class": "GenericError", "desc": "no such thing"}})("cont")


def test_an_end_of_qemu_is_told(answered: Callable[..., qemu.Control]) -> None:
    with pytest.raises(LabError, match="QEMU ended while it was asked"):
        answered()("cont")


def test_a_socket_is_reached_in_a_folder_of_any_depth(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 40)
    folder.mkdir()
    done = subprocess.Popen(
        [sys.executable, "-c", "import socket; s = socket.socket(socket.AF_UNIX); s.bind('qmp'); s.listen(); "
         "print('ready', flush=True); c, _ = s.accept(); c.send(b'{}\\n'); c.recv(99); c.send(b'{\"return\": 1}\\n'); "
         "c.recv(99); c.send(b'{\"return\": 7}\\n')"],
        cwd=folder, stdout=subprocess.PIPE,
    )  # fmt: skip
    with done:
        assert done.stdout is not None
        done.stdout.readline()
        with qemu.control(folder) as control:
            assert control("query-status") == 7


# --- the image -------------------------------------------------------------------------------------------------------


def test_a_system_that_is_no_debian_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tmp_path / "os-release"
    release.write_text('PRETTY_NAME="Ubuntu 24.04"\nID=ubuntu\nVERSION_CODENAME=noble\n')
    monkeypatch.setattr(vm_image, "_OS_RELEASE", release)
    with pytest.raises(LabError, match='this is "Ubuntu 24.04", wanted Debian'):
        vm_image.debian_suite()


def test_only_sources_of_the_hosts_own_release_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_image, "_APT", tmp_path)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://mirror/debian bookworm main\n")
    (tmp_path / "sources.list.d/debian.sources").write_text("Types: deb\nSuites: bookworm bookworm-updates\n")
    (tmp_path / "sources.list.d/node.sources").write_text("Types: deb\nSuites: nodistro\n")
    (tmp_path / "sources.list.d/old.list.disabled").write_text("deb http://mirror/debian bookworm main\n")
    assert [path.name for path in vm_image.apt_sources("bookworm")] == ["sources.list", "debian.sources"]


def test_a_host_without_sources_of_its_release_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_image, "_APT", tmp_path)
    with pytest.raises(LabError, match="names bookworm as a source of packages"):
        vm_image.apt_sources("bookworm")


def test_a_kernel_that_is_packed_in_another_way_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"MZ" + b"\x1f\x8b gzip")
    vm_image.unpack_kernel(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == b"MZ\x1f\x8b gzip"
