"""`disks release`: a disk is wiped on purpose, by its serial number, and nothing else than blank comes of it."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_node.disks import release
from judge_node.disks.discover import Found
from judge_node.disks.facts import Disk as Facts
from judge_node.disks.facts import Host, Mount
from judge_node.result import NodeError
from unit.node.disk_facts import BLANK_DISK, OUR_DISK, UNMOUNTED, array_of, member
from unit.node.loop_disks import PYTOOL, SIZE, Disk, node, sh

ROOT = pytest.mark.root


# --- what may be released ---------------------------------------------------------------------------------------------


def releasable(disk: Facts, *arrays: Facts) -> Facts:
    return release._releasable(Found(Host(disks=(disk,), mount_point=UNMOUNTED, arrays=arrays)), "/dev/nvme1n1")


@pytest.mark.parametrize(
    ("change", "reason", "why"),
    [
        ({"root": True}, "DISK_BUSY", "the running system is on it"),
        ({"model": "Amazon Elastic Block Store"}, "DISK_NOT_LOCAL", "it is an EBS volume"),
        ({"serial": "vol01"}, "DISK_NOT_LOCAL", "it is an EBS volume"),
        ({"mounts": (Mount("/data", "1:1", "/", "xfs", "x"),)}, "DISK_BUSY", "it is mounted at /data"),
        ({"swap": ("/dev/nvme1n1",)}, "DISK_BUSY", "it is swap space"),
        ({"holders": ("dm-0",)}, "DISK_BUSY", "partitions or holders (dm-0)"),
        ({"holders": ("md127",)}, "DISK_BUSY", "partitions or holders (md127)"),
        ({"members": ("sda",)}, "DISK_BUSY", "it is composed of sda"),
    ],
)
def test_disk_that_is_in_use_or_no_local_one_is_not_released(change: dict[str, Any], reason: str, why: str) -> None:
    with pytest.raises(NodeError, match="is not released: ") as caught:
        releasable(replace(BLANK_DISK, **change))
    assert (caught.value.reason, caught.value.exit_code) == (reason, 3)
    assert why in caught.value.message and caught.value.repair is not None and " DISK" not in caught.value.repair


def test_mounted_disk_of_ours_is_not_released() -> None:
    with pytest.raises(NodeError, match="it is mounted at /mnt/nvme") as caught:
        releasable(OUR_DISK)
    assert caught.value.reason == "DISK_BUSY"


def test_member_of_an_array_that_only_it_is_left_of_is_released() -> None:
    disk = member(BLANK_DISK)
    assert releasable(disk, array_of((disk,), active=False, content=None)) == disk


@pytest.mark.parametrize(
    "change",
    [{"mounts": (Mount("/x", "9:127", "/", "xfs", "x"),)}, {"holders": ("dm-0",)}, {"swap": ("/dev/md127",)}],
)
def test_member_of_an_array_in_use_is_not_released(change: dict[str, Any]) -> None:
    disk = member(BLANK_DISK)
    with pytest.raises(NodeError, match=r"holders \(md127\)"):
        releasable(disk, array_of((disk,), **change))


def test_disk_with_a_partition_table_is_released() -> None:
    disk = replace(BLANK_DISK, partitions=("nvme1n1p1",))
    assert releasable(disk) == disk


@pytest.mark.parametrize("serial", ["AWS9999", "", "aws1111", "nvme1n1", None])
def test_wrong_serial_is_refused_and_the_right_one_told(monkeypatch: pytest.MonkeyPatch, serial: str | None) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(NodeError, match="is not released: found ") as caught:
        release._check_serial(BLANK_DISK, serial)
    assert (caught.value.reason, caught.value.exit_code) == ("SERIAL_MISMATCH", 3)
    assert caught.value.repair == (
        "judge-node disks release /dev/nvme1n1 --serial AWS1111   # this loses all that is on it"
    )


def test_disk_without_a_serial_wants_its_name() -> None:
    release._check_serial(replace(BLANK_DISK, serial=None), "nvme1n1")
    release._check_serial(BLANK_DISK, "AWS1111")


class Terminal:
    def __init__(self, typed: str) -> None:
        self.typed = typed

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.typed


@pytest.mark.parametrize(
    ("typed", "released"), [("AWS1111\n", True), (" AWS1111 \n", True), ("yes\n", False), ("", False)]
)
def test_a_person_at_a_terminal_types_the_serial(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, released: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    if released:
        release._check_serial(BLANK_DISK, None)
    else:
        with pytest.raises(NodeError):
            release._check_serial(BLANK_DISK, None)
    asked = f"All data on {BLANK_DISK.summary()} will be lost. Type its serial number to go on: "
    assert capsys.readouterr().err == asked


@pytest.mark.parametrize(("name", "path"), [("nvme1n1", "/dev/nvme1n1"), ("/dev/x", "/dev/x"), ("./x", "./x")])
def test_disk_is_named_by_its_path_or_its_kernel_name(name: str, path: str) -> None:
    assert release.by_name(name) == path


# --- on a real disk ---------------------------------------------------------------------------------------------------


def release_disk(disk: Disk, *more: str) -> tuple[int, dict[str, Any]]:
    return node("disks", "release", disk.link, *more)


def serial_of(disk: Disk) -> str:
    return Path(disk.loop).name  # a loop device has none, so its name stands for it


FILLINGS: dict[str, Callable[[Disk], object]] = {
    "ext4": lambda d: sh("mkfs.ext4", "-q", d.loop),
    "our own": lambda d: (d.ensure(), sh("umount", d.mount_path)),
    "raw data in the middle": lambda d: d.write(os.urandom(8192), 111 << 20),
}


@ROOT
@pytest.mark.parametrize("filling", FILLINGS)
def test_released_disk_is_blank_to_its_last_byte_and_can_be_used(disk: Disk, filling: str) -> None:
    blank = disk.digest()
    FILLINGS[filling](disk)
    code, result = release_disk(disk, "--serial", serial_of(disk))
    assert (code, result["ok"], result["changed"], result["state"]) == (0, True, True, "blank"), result
    assert disk.digest() == blank and sh("wipefs", "-n", disk.loop) == ""
    assert result["message"] == f"{disk.loop} (320.0 MiB) is blank"
    code, result = disk.ensure()
    assert (code, result["state"]) == (0, "ours"), result


@ROOT
def test_without_the_right_serial_the_disk_stays_byte_for_byte(disk: Disk) -> None:
    sh("mkfs.ext4", "-q", disk.loop)
    before = disk.digest()
    for more in ((), ("--serial", "AWS1")):
        code, result = release_disk(disk, *more)
        assert (code, result["reason"], result["changed"]) == (3, "SERIAL_MISMATCH", False)
    assert disk.digest() == before


@ROOT
def test_check_says_what_would_be_lost_and_loses_nothing(disk: Disk) -> None:
    sh("mkfs.ext4", "-q", disk.loop)
    before = disk.digest()
    code, result = release_disk(disk, "--serial", serial_of(disk), "--check")
    assert (code, result["changed"], result["state"]) == (0, True, "foreign")
    assert result["message"].endswith("would be blank, and all that is on it lost")
    assert result["diff"]["before"] == f"{disk.loop} (320.0 MiB): carries ext4\n"
    assert result["diff"]["after"] == f"{disk.loop} (320.0 MiB): blank\n"
    assert disk.digest() == before


@ROOT
def test_mounted_disk_is_not_released(disk: Disk) -> None:
    disk.ensure()
    before = disk.traces()
    code, result = release_disk(disk, "--serial", serial_of(disk))
    assert (code, result["reason"]) == (3, "DISK_BUSY")
    assert f"it is mounted at {disk.mount_path}" in result["message"]
    assert disk.traces() == before


@ROOT
def test_disk_that_another_program_holds_is_not_released(disk: Disk) -> None:
    sh("mkfs.ext4", "-q", disk.loop)
    before = disk.digest()
    holder = os.open(disk.loop, os.O_RDONLY | os.O_EXCL)
    try:
        code, result = release_disk(disk, "--serial", serial_of(disk))
    finally:
        os.close(holder)
    assert (code, result["reason"]) == (3, "DISK_BUSY")
    assert disk.digest() == before


@ROOT
def test_disk_that_is_not_there_is_not_released(no_record: None) -> None:
    code, result = node("disks", "release", "/dev/disk/by-id/gone", "--serial", "x")
    assert (code, result["reason"]) == (3, "DISK_NONE")


@ROOT
def test_disk_of_the_running_system_is_not_released(no_record: None) -> None:
    source = sh("findmnt", "-n", "-o", "SOURCE", "/")
    if not Path(source).is_block_device():
        pytest.skip(f"the root filesystem is {source}, which is on no block device here")
    code, result = node("disks", "release", source, "--serial", "x", "--check")
    assert code in (2, 3) and not result["ok"]
    assert "the running system is on it" in result["message"] or "wanted a whole disk" in result["message"]


@ROOT
def test_killed_while_it_wipes_the_disk_is_blank_or_foreign_but_never_half_ours(disk: Disk) -> None:
    argv = [sys.executable, "-m", "judge_node", "disks", "release", str(disk.link), "--serial", serial_of(disk)]
    chance = random.Random(5)
    states = []
    for _ in range(2):
        assert disk.ensure()[0] == 0
        (disk.mount_path / "model").write_bytes(os.urandom(4 << 20))
        sh("umount", disk.mount_path)
        before = disk.digest()
        process = subprocess.Popen(
            argv,
            env={"PYTHONPATH": str(PYTOOL), "PATH": os.environ["PATH"]},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.15, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        code, result = disk.ensure("--check")
        states.append(result["state"])
        assert (code, result["state"]) in ((0, "ours"), (3, "foreign"), (0, "blank")), result
        assert result["state"] != "ours" or disk.digest() == before
        assert release_disk(disk, "--serial", serial_of(disk))[0] == 0
    assert len(states) == 2


@ROOT
def test_half_wiped_disk_of_ours_is_foreign_and_can_be_released_again(disk: Disk) -> None:
    assert disk.ensure()[0] == 0
    (disk.mount_path / "model").write_bytes(os.urandom(4 << 20))
    sh("umount", disk.mount_path)
    disk.write(bytes(1 << 20), 0)  # as far as a release got that was cut off at once
    disk.write(bytes(1 << 20), SIZE - (1 << 20))
    code, result = disk.ensure()
    assert (code, result["reason"]) == (3, "DISK_FOREIGN_DATA")
    assert release_disk(disk, "--serial", serial_of(disk))[0] == 0
    assert disk.ensure()[0] == 0


@ROOT
def test_disk_with_partitions_that_the_kernel_knows_can_be_used_after_its_release(disk: Disk) -> None:
    script = "label: gpt\nstart=2048, size=100000\n"
    subprocess.run(["sfdisk", "-q", str(disk.image)], input=script, text=True, check=True)
    sh("losetup", "--detach", disk.loop)
    disk.loop = sh("losetup", "--find", "--show", "--partscan", disk.image)
    disk.link.unlink()
    disk.link.symlink_to(disk.loop)
    if not list(Path(f"/sys/block/{Path(disk.loop).name}").glob("loop*p1")):
        pytest.xfail("this kernel reads no GPT")
    assert release_disk(disk, "--serial", serial_of(disk))[0] == 0
    code, result = disk.ensure()
    assert (code, result["state"]) == (0, "ours"), result
