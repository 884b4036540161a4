"""What is asked for and cannot be: one line, a reason code, exit 3 or 2, and nothing touched."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_node.cli import main
from judge_node.disks.record import RESULT
from judge_node.disks.sysfs import read_text
from unit.node.loop_disks import PYTOOL, Disk, node, sh

pytestmark = pytest.mark.root


def refused(answer: tuple[int, dict[str, Any]], reason: str, code: int = 3) -> dict[str, Any]:
    exit_code, result = answer
    assert (exit_code, result["ok"], result["changed"], result["reason"]) == (code, False, False, reason), result
    assert "\n" not in result["message"] and result["repair"]
    return result


def test_mount_path_that_is_a_file_is_refused_before_the_disk_is_touched(disk: Disk) -> None:
    disk.mount_path.write_text("mine")
    before = disk.digest()
    result = refused(disk.ensure(), "MOUNT_POINT_IN_USE")
    assert result["message"] == f"{disk.mount_path} is not a directory"
    assert disk.digest() == before and disk.mount_path.read_text() == "mine"


def test_mount_path_below_a_file_is_refused_before_the_disk_is_touched(disk: Disk) -> None:
    disk.mount_path.write_text("mine")
    before = disk.digest()
    refused(node("disks", "ensure", "--mount-path", disk.mount_path / "x", "--device", disk.link), "MOUNT_POINT_IN_USE")
    assert disk.digest() == before


def test_disk_that_is_too_small_is_refused(disk: Disk) -> None:
    os.truncate(disk.image, 40 << 20)
    sh("losetup", "--set-capacity", disk.loop)
    before = disk.digest()
    result = refused(disk.ensure(), "DISK_TOO_SMALL")
    assert "is too small, wanted at least 300.0 MiB" in result["message"]
    assert disk.digest() == before and not disk.mount_path.exists()


# Imported as root: another user need not be able to read this checkout.
_AS_NOBODY = """
import grp, os, sys
from judge_node.cli import main
from judge_node.disks import commands, release
os.setresuid(65534, 65534, 65534)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "verb",
    [["plan", "--mount-path", "/mnt/x"], ["ensure", "--mount-path", "/mnt/x"], ["release", "nvme1n1", "--serial", "x"]],
)
def test_without_root_it_says_so_and_ends_with_2(no_record: None, verb: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, "disks", *verb, "--json"],
        capture_output=True, text=True, env={"PYTHONPATH": str(PYTOOL), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    result = refused((done.returncode, json.loads(done.stdout)), "NOT_ROOT", code=2)
    assert result["message"] == "this needs root to open disks, and runs as user 65534"


def wrong_usage(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["disks", "ensure", "--mount-path", "/mnt/x", *more]) == 2
    return capsys.readouterr().err


def test_unknown_group_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    said = wrong_usage(capsys, "--group", "no-such-group")
    assert said == "--group no-such-group: this node has no such group\nHint: getent group\n"


@pytest.mark.parametrize("unit", ["kubelet", "a b.service", "../x.service", "x.service;y", ""])
def test_gate_that_is_no_unit_is_wrong_usage(capsys: pytest.CaptureFixture[str], unit: str) -> None:
    assert f"--gate is {unit!r}, wanted the name of a systemd unit" in wrong_usage(capsys, "--gate", unit)


# judge-node with a PATH of our own: all the programs of this machine but one.
_WITHOUT = """
import sys
from judge_node import shell
shell._PATH = sys.argv.pop(1)
from judge_node.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    return folder


# What `ensure` may start, and what the programs that it starts do.
_TOOLS = ("blkid", "wipefs", "mkfs.xfs", "mkfs.ext4", "mdadm", "mount", "umount", "chattr", "lsattr", "unshare", "sh",
          "head", "udevadm", "systemctl")  # fmt: skip


def ensure_without(tool: str, disk: Disk, folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    for name in _TOOLS:
        program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin")
        if program is not None and name != tool:
            (folder / name).symlink_to(program)
    argv = [sys.executable, "-c", _WITHOUT, str(folder), "disks", "ensure", *map(str, disk.selection), *more, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, env={"PYTHONPATH": str(PYTOOL), "PATH": "/bin"})
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize(
    ("tool", "more"),
    [("mkfs.xfs", ()), ("mkfs.ext4", ("--fstype", "ext4")), ("blkid", ()), ("wipefs", ()), ("chattr", ())],
)
def test_tool_that_is_missing_is_named_before_anything_is_touched(
    disk: Disk, tools: Path, tool: str, more: tuple[str, ...]
) -> None:
    before = disk.digest()
    result = refused(ensure_without(tool, disk, tools, *more), "TOOL_MISSING")
    assert f"program '{tool}' is not on this node" in result["message"]
    assert disk.digest() == before and not disk.mount_path.exists()


def test_tool_that_nothing_needs_may_be_missing(disk: Disk, tools: Path) -> None:
    assert ensure_without("mdadm", disk, tools)[0] == 0


def test_one_blank_disk_is_too_few_for_raid10(disk: Disk) -> None:
    before = disk.digest()
    refused(disk.ensure("--strategy", "RAID10"), "DISK_TOO_FEW")
    assert disk.digest() == before


def test_disk_of_ours_at_another_path_is_not_moved(disk: Disk) -> None:
    disk.ensure()
    other = disk.mount_path.with_suffix(".other")
    result = refused(node("disks", "ensure", "--mount-path", other, "--device", disk.link), "MOUNT_ELSEWHERE")
    assert result["repair"].startswith(f"umount {disk.mount_path} ")
    assert disk.mounted() and not other.exists()


# --- what is told -----------------------------------------------------------------------------------------------------


def drives() -> set[tuple[str, str | None]]:
    """Return the disks of this machine: name, and the kernel's number of what is behind it now (diskseq)."""
    return {
        (path.name, read_text(path / "diskseq"))
        for path in Path("/sys/block").iterdir()
        if path.name.startswith(("loop", "nvme", "vd", "sd", "xvd")) and read_text(path / "size") not in (None, "0")
    }


def test_plan_shows_every_disk_with_its_evidence_and_changes_nothing(
    disk: Disk, make_disk: Callable[[], Disk]
) -> None:
    other = make_disk()
    sh("mkfs.ext4", "-q", other.loop)
    before = disk.digest()
    there = drives()
    code, result = node("disks", "plan", *disk.selection)
    there &= drives()  # the loop devices of others come and go meanwhile
    assert (code, result["changed"], result["state"]) == (0, True, "blank")
    lines = result["message"].splitlines()
    assert lines[0].startswith("would make xfs with label judge-nvme on ")
    assert f"  {Path(disk.loop).name} (320.0 MiB): blank" in lines
    assert f"  {Path(other.loop).name} (320.0 MiB): not selected, ext4" in lines
    shown = {line.split()[0] for line in lines[1:]}
    assert {Path(disk.loop).name, Path(other.loop).name} <= {name for name, _ in there} <= shown
    assert disk.digest() == before and not disk.mount_path.exists()


def test_plan_that_is_refused_shows_every_disk_too(disk: Disk, make_disk: Callable[[], Disk]) -> None:
    other = make_disk()
    sh("mkfs.ext4", "-q", disk.loop)
    code, result = node("disks", "plan", *disk.selection)
    assert (code, result["reason"]) == (3, "DISK_FOREIGN_DATA")
    lines = result["message"].splitlines()
    assert f"  {Path(disk.loop).name} (320.0 MiB): foreign, it carries ext4, ext4" in lines
    assert f"  {Path(other.loop).name} (320.0 MiB): not selected" in lines


def test_result_of_a_run_is_left_for_status_whether_it_succeeds_or_not(disk: Disk) -> None:
    disk.mount_path.write_text("in the way")
    disk.ensure()
    said = json.loads(RESULT.read_text())
    assert (said["ok"], said["reason"], said["command"]) == (False, "MOUNT_POINT_IN_USE", "disks ensure")
    disk.mount_path.unlink()
    disk.ensure()
    said = json.loads(RESULT.read_text())
    assert (said["ok"], said["state"], said["facts"]["mount_path"]) == (True, "ours", str(disk.mount_path))


def test_check_and_status_leave_no_result(disk: Disk) -> None:
    disk.ensure("--check")
    disk.status()
    assert not RESULT.exists()


def test_group_may_write_and_nobody_else(disk: Disk) -> None:
    code, result = disk.ensure("--group", "daemon")
    status = disk.mount_path.stat()
    assert (code, status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o775)
    assert sh("stat", "-c", "%G", disk.mount_path) == "daemon"
    assert disk.ensure("--group", "daemon")[1]["changed"] is False
    code, result = disk.ensure()
    assert (code, result["changed"], sh("stat", "-c", "%a %G", disk.mount_path)) == (0, True, "755 root")


def test_full_proof_reads_every_byte(disk: Disk) -> None:
    size, place = 700 << 20, (300 << 20) + 12_345
    os.truncate(disk.image, size)
    sh("losetup", "--set-capacity", disk.loop)
    disk.write(b"x" * 512, place // 512 * 512)
    code, result = disk.ensure("--proof", "full")
    assert (code, result["reason"]) == (3, "DISK_FOREIGN_DATA")
    assert f"data without a signature at byte {300 << 20}" in result["message"]
