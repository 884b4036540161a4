"""Reading the node: mountinfo, /sys trees, samples, signatures, markers, and the mount unit's name and text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_node.disks import probe
from judge_node.disks.discover import read_mount_point
from judge_node.disks.facts import Content, Mount
from judge_node.disks.sysfs import System, parse_mountinfo
from judge_node.disks.unit import unit_name
from judge_node.result import NodeError
from judge_node.shell import run

# From a Debian 12 node and a container on it; two lines are cut or made up to be hostile.
MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
90 22 259:1 / /mnt/nvme rw,nosuid,nodev,noatime shared:50 - xfs /dev/nvme1n1 rw,attr2
91 22 259:1 /hub /var/lib/kubelet/pods/a\\040b rw - xfs /dev/nvme1n1 rw
92 22 0:44 / /mnt/nvme rw - tmpfs tmpfs rw
93 22 bad
94 22 0:45 / /x rw shared:7
"""


def test_mountinfo_is_parsed_with_escapes_and_broken_lines_left_out() -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    assert [mount.path for mount in mounts] == ["/", "/proc", "/mnt/nvme", "/var/lib/kubelet/pods/a b", "/mnt/nvme"]
    assert mounts[2] == Mount("/mnt/nvme", "259:1", "/", "xfs", "/dev/nvme1n1", ("rw", "nosuid", "nodev", "noatime"))


@given(st.text())
def test_any_mountinfo_is_survived(text: str) -> None:
    parse_mountinfo(text)


def test_mount_point_is_what_is_mounted_there_last(tmp_path: Path) -> None:
    mounts = tuple(Mount(str(tmp_path), devno, "/", "xfs", devno) for devno in ("1:1", "2:2"))
    found = read_mount_point(str(tmp_path), mounts)
    assert found.mount is not None and found.mount.devno == "2:2"


def test_mount_point_that_is_a_link_or_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert [read_mount_point(str(tmp_path / name), ()).kind for name in ("file", "link", "file/x", "none")] == [
        "other", "other", "other", "missing"
    ]  # fmt: skip


def make_sys(root: Path) -> System:
    """A node with its root on a partition of an EBS disk and two instance stores, one in an array, as /sys shows it."""
    disks = {"nvme0n1": ("259:0", "Amazon Elastic Block Store", "vol0abc"),
             "nvme1n1": ("259:1", "Amazon EC2 NVMe Instance Storage   ", "AWS1"),
             "nvme2n1": ("259:2", "Amazon EC2 NVMe Instance Storage", "AWS2"),
             "md127": ("9:127", None, None)}  # fmt: skip
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/class/block").mkdir(parents=True)
    for name, (devno, model, serial) in disks.items():
        base = root / "sys/block" / name
        for folder in ("holders", "slaves", "device"):
            (base / folder).mkdir(parents=True)
        for file, text in (
            ("dev", devno),
            ("size", "488281250"),
            ("ro", "0"),
            ("device/model", model),
            ("device/serial", serial),
        ):
            if text is not None:
                (base / file).write_text(text + "\n")
        (root / "sys/dev/block" / devno).symlink_to(base)
        (root / "sys/class/block" / name).symlink_to(base)
    part = root / "sys/block/nvme0n1/nvme0n1p1"
    (part / "holders").mkdir(parents=True)
    (part / "partition").write_text("1\n")
    (part / "dev").write_text("259:3\n")
    (root / "sys/dev/block/259:3").symlink_to(part)
    (root / "sys/class/block/nvme0n1p1").symlink_to(part)
    (root / "sys/block/nvme2n1/holders/md127").touch()
    (root / "sys/block/md127/slaves/nvme2n1").touch()
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("22 1 259:3 / / rw - xfs /dev/nvme0n1p1 rw\n")
    (root / "proc/swaps").write_text("Filename Type Size Used Priority\n/none file 1 0 -2\n")
    return System(root / "sys", root / "proc", root / "dev")


def test_disk_facts_come_from_sys_with_model_and_serial_trimmed(tmp_path: Path) -> None:
    system = make_sys(tmp_path)
    disk = system.disk("nvme1n1", system.mounts(), {"nvme0n1"})
    assert disk is not None
    assert (disk.model, disk.serial, disk.size_bytes) == ("Amazon EC2 NVMe Instance Storage", "AWS1", 488281250 * 512)
    assert (disk.node, disk.read_only, disk.root, disk.partitions, disk.holders) == (None, False, False, (), ())


def test_root_disk_is_found_through_its_partition(tmp_path: Path) -> None:
    system = make_sys(tmp_path)
    assert system.backing("259:3") == {"nvme0n1"}
    disk = system.disk("nvme0n1", system.mounts(), system.backing("259:3"))
    assert disk is not None and disk.root and disk.partitions == ("nvme0n1p1",)
    assert [mount.path for mount in disk.mounts] == ["/"], "a mount of a partition is a mount of its disk"


def test_array_is_followed_down_to_its_disks_and_its_member_has_a_holder(tmp_path: Path) -> None:
    system = make_sys(tmp_path)
    assert system.backing("9:127") == {"md127", "nvme2n1"}
    member, array = system.disk("nvme2n1", (), set()), system.disk("md127", (), set())
    assert member is not None and member.holders == ("md127",)
    assert array is not None and array.members == ("nvme2n1",)


def test_disk_that_vanished_is_none(tmp_path: Path) -> None:
    assert make_sys(tmp_path).disk("nvme9n1", (), set()) is None


@pytest.mark.parametrize("place", [0, 1, 4096, 700_000, (3 << 20) - 1])
def test_one_byte_anywhere_on_a_small_disk_is_found(tmp_path: Path, place: int) -> None:
    image = tmp_path / "image"
    data = bytearray(3 << 20)
    image.write_bytes(data)
    fd = os.open(image, os.O_RDWR)

    def read(size: int) -> Content:
        return probe.read_blocks(fd, size, complete=False)

    try:
        assert read(len(data)) == Content(sampled_bytes=len(data))
        os.pwrite(fd, b"\1", place)
        assert read(len(data)).nonzero_at == place // (1 << 20) * (1 << 20)
        with pytest.raises(OSError, match="short read at byte"):
            os.pwrite(fd, b"\0", place)
            read(len(data) + 1)
    finally:
        os.close(fd)


@given(st.integers(0, 255), st.text(max_size=40), st.integers(0, 2), st.text(max_size=40))
def test_disk_counts_as_free_of_signatures_only_when_both_tools_said_so(
    blkid_code: int, blkid_out: str, wipefs_code: int, wipefs_out: str
) -> None:
    def answer(argv: list[str]) -> subprocess.CompletedProcess[str]:
        code, out = (blkid_code, blkid_out) if argv[0] == "blkid" else (wipefs_code, wipefs_out)
        return subprocess.CompletedProcess(argv, code, out, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "run", answer)
        found = probe.read_signatures("/dev/x")
    if not found.signatures and found.error is None:
        assert blkid_code == 2 and wipefs_code == 0
        assert not any(line and not line.startswith("#") for line in wipefs_out.splitlines())


@pytest.mark.parametrize(
    ("marker", "state"),
    [
        ({"fs_uuid": "u", "serial": "s", "mount_path": "/mnt/nvme"}, "valid"),
        ({"fs_uuid": "u"}, "valid"),
        ({"fs_uuid": "other", "serial": "s"}, "mismatch"),
        ({"fs_uuid": "u", "serial": "another disk"}, "mismatch"),
        ({}, "mismatch"),
        ([], "unreadable"),
    ],
)
def test_marker_is_valid_only_for_this_filesystem_and_disk(marker: object, state: str) -> None:
    assert probe.judge_marker(json.dumps(marker).encode(), "u", "s")[0] == state


@given(st.binary())
def test_any_marker_is_survived(data: bytes) -> None:
    assert probe.judge_marker(data, "u", "s")[0] in ("unreadable", "mismatch")


def test_deeply_nested_marker_is_unreadable() -> None:
    assert probe.judge_marker(b"[" * 100_000, "u", "s") == ("unreadable", None)


def test_missing_program_is_named() -> None:
    with pytest.raises(NodeError, match="program 'no-such-program' is not on this node") as caught:
        run(["no-such-program"])
    assert caught.value.reason == "TOOL_MISSING"


def test_program_that_hangs_is_unknown_and_killed() -> None:
    with pytest.raises(NodeError, match="`sleep 60` gave no answer in 0 seconds") as caught:
        run(["sleep", "60"], timeout_seconds=0.05)
    assert caught.value.reason == "DISK_UNKNOWN"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/mnt/nvme", "mnt-nvme.mount"),
        ("/mnt/k8s-disks/0", "mnt-k8s\\x2ddisks-0.mount"),
        ("//mnt//nvme/", "mnt-nvme.mount"),
        ("/.hidden/a.b", "\\x2ehidden-a.b.mount"),
        ("/a@b+c:d_e", "a\\x40b\\x2bc:d_e.mount"),
        ("/", "-.mount"),
        ("/données", "donn\\xc3\\xa9es.mount"),
    ],
)
def test_unit_name_follows_the_rules_of_systemd(path: str, name: str) -> None:
    assert unit_name(path) == name
    if shutil.which("systemd-escape"):
        said = subprocess.run(
            ["systemd-escape", "--path", "--suffix=mount", path], capture_output=True, text=True, check=True
        )
        assert said.stdout == name + "\n"
