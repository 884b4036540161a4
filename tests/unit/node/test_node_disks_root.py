"""`disks ensure` and `disks status` on real loop devices. What they did is looked at with other tools than they use."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_node.disks.facts import Wanted
from judge_node.disks.unit import BOOT_UNIT, boot_arguments, unit_name
from unit.node.loop_disks import PYTOOL, SIZE, Disk, node, sh

pytestmark = pytest.mark.root


@pytest.mark.parametrize("fstype", ["xfs", "ext4"])
def test_blank_disk_is_formatted_and_mounted_and_the_second_run_changes_nothing(disk: Disk, fstype: str) -> None:
    code, result = disk.ensure("--fstype", fstype)
    assert (code, result["ok"], result["changed"], result["state"]) == (0, True, True, "ours"), result
    pairs = sh("findmnt", "-P", "-o", "SOURCE,FSTYPE,OPTIONS", disk.mount_path).replace('"', "").split(" ")
    found = dict(pair.split("=", 1) for pair in pairs)
    assert (found["SOURCE"], found["FSTYPE"]) == (disk.loop, fstype)
    assert {"noatime", "nodev", "nosuid"} <= set(found["OPTIONS"].split(","))
    marker = json.loads((disk.mount_path / ".judge-bootstrap.json").read_text())
    assert marker["fs_uuid"] == sh("blkid", "-s", "UUID", "-o", "value", disk.loop) == result["facts"]["fs_uuid"]
    assert sh("blkid", "-s", "LABEL", "-o", "value", disk.loop) == "judge-nvme"
    assert sh("stat", "-c", "%a %u %g", disk.mount_path) == "755 0 0"
    before = disk.traces()
    code, again = disk.ensure("--fstype", fstype)
    assert (code, again["changed"], again["diff"]["before"]) == (0, False, again["diff"]["after"])
    code, status = disk.status() if fstype == "xfs" else node("disks", "status", *disk.selection, "--fstype", fstype)
    assert (code, status["ok"], status["state"]) == (0, True, "ours")
    assert disk.traces() == before


def test_check_says_what_a_run_would_do_and_writes_nothing(disk: Disk) -> None:
    before = disk.digest()
    code, result = disk.ensure("--check")
    assert (code, result["changed"], result["state"]) == (0, True, "blank")
    assert f"step: make xfs with label judge-nvme on {disk.loop}" in result["diff"]["after"]
    assert not disk.mount_path.exists() and disk.digest() == before


def test_result_says_that_without_systemd_there_is_no_unit(disk: Disk) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("systemd runs here; its unit is covered in virtual machines")
    assert "no mount unit: mounted until the next boot only" in disk.ensure()[1]["message"]


def gpt(disk: Disk) -> None:
    """Write a GPT by hand: protective MBR, header with its checksums, one partition entry."""
    name = "data".encode("utf-16-le").ljust(72, b"\0")
    entry = os.urandom(32) + struct.pack("<QQQ", 2048, 100_000, 0) + name
    entries = entry.ljust(128 * 128, b"\0")
    last = SIZE // 512 - 1
    fields = [b"EFI PART", 0x10000, 92, 0, 0, 1, last, 34, last - 33, os.urandom(16), 2, 128, 128, zlib.crc32(entries)]
    header = struct.pack("<8sIIIIQQQQ16sQIII", *fields)
    fields[3] = zlib.crc32(header)
    mbr = bytes(446) + struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, last) + bytes(48) + b"\x55\xaa"
    disk.write(mbr + struct.pack("<8sIIIIQQQQ16sQIII", *fields).ljust(512, b"\0") + entries, 0)


def our_label_and_files(disk: Disk) -> None:
    sh("mkfs.xfs", "-q", "-L", "judge-nvme", disk.loop)
    elsewhere = disk.mount_path.with_suffix(".x")
    elsewhere.mkdir()
    sh("mount", disk.loop, elsewhere)
    (elsewhere / "precious").touch()
    sh("umount", elsewhere)


CONTENTS: dict[str, tuple[Callable[[Disk], object], str]] = {
    "ext4": (lambda d: sh("mkfs.ext4", "-q", d.loop), "it carries ext4"),
    "xfs of somebody else": (lambda d: sh("mkfs.xfs", "-q", "-L", "data", d.loop), "it carries xfs"),
    "swap": (lambda d: sh("mkswap", d.loop), "it carries swap"),
    "gpt": (gpt, "gpt"),
    "mbr": (lambda d: d.write(bytes(446) + struct.pack("<BBBBBBBBII", 0, 1, 1, 0, 0x83, 9, 9, 9, 2048, 9999) + bytes(48)
                              + b"\x55\xaa", 0), "dos"),
    "lvm": (lambda d: d.write(b"LABELONE" + struct.pack("<QII8s", 1, 0, 32, b"LVM2 001") + b"x" * 32, 512),
            "it carries LVM2_member"),
    "raw data in the middle": (lambda d: d.write(os.urandom(512), 7 << 20), "data without a signature at byte"),
    "one byte at the very end": (lambda d: d.write(bytes(511) + b"\1", SIZE - 512), f"at byte {SIZE - (1 << 20)}"),
    "our label and files, no marker": (our_label_and_files, "its marker file is missing"),
}  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS)
def test_disk_with_data_is_refused_and_stays_byte_for_byte(disk: Disk, content: str) -> None:
    write, text = CONTENTS[content]
    write(disk)
    before = disk.digest()
    for more in ((), ("--check",), ("--fstype", "ext4")):
        code, result = disk.ensure(*more)
        assert (code, result["ok"], result["changed"], result["state"]) == (3, False, False, "foreign"), result
        assert result["reason"] == "DISK_FOREIGN_DATA"
        assert text in result["message"]
    assert disk.digest() == before
    assert not disk.mounted() and not disk.mount_path.exists()


def test_disk_with_a_partition_that_the_kernel_knows_is_busy(disk: Disk) -> None:
    gpt(disk)
    sh("losetup", "--detach", disk.loop)
    disk.loop = sh("losetup", "--find", "--show", "--partscan", disk.image)
    disk.link.unlink()
    disk.link.symlink_to(disk.loop)
    code, result = disk.ensure()
    if not list(Path(f"/sys/block/{Path(disk.loop).name}").glob("loop*p1")):
        assert result["reason"] == "DISK_FOREIGN_DATA"  # this kernel reads no GPT
        return
    assert (code, result["reason"]) == (3, "DISK_BUSY")


def test_disk_mounted_elsewhere_is_refused(disk: Disk) -> None:
    sh("mkfs.ext4", "-q", disk.loop)
    elsewhere = disk.mount_path.with_suffix(".elsewhere")
    elsewhere.mkdir()
    sh("mount", disk.loop, elsewhere)
    try:
        code, result = disk.ensure()
    finally:
        sh("umount", elsewhere)
    assert (code, result["reason"]) == (3, "DISK_BUSY")
    assert f"it is mounted at {elsewhere}" in result["message"]


def test_disk_mounted_in_another_namespace_is_refused(disk: Disk) -> None:
    sh("mkfs.ext4", "-q", disk.loop)
    script = f"mount {disk.loop} {disk.image.parent}/by-id && echo ready && read -r _"
    other = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert other.stdin is not None and other.stdout is not None
    try:
        assert other.stdout.readline() == "ready\n"
        code, result = disk.ensure()
    finally:
        other.stdin.close()
        other.wait()
        other.stdout.close()
    assert (code, result["reason"]) == (3, "DISK_BUSY")
    assert "a mount in another namespace, holds it exclusively" in result["message"]


@pytest.mark.parametrize("state", ["blank", "ours"])
def test_disk_that_another_has_for_a_moment_is_waited_for(disk: Disk, state: str) -> None:
    if state == "ours":
        disk.ensure()
        sh("umount", disk.mount_path)
    script = ("import os, sys, time; os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL); print('held', flush=True); "
              "time.sleep(1)")  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", script, disk.loop], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        code, result = disk.ensure()
    assert (code, result["changed"], disk.mounted()) == (0, True, True), result


def test_status_leaves_a_disk_alone_that_another_is_about_to_change(disk: Disk) -> None:
    with open(disk.loop, "rb") as device:  # noqa: PTH123
        fcntl.flock(device, fcntl.LOCK_EX)
        assert disk.status()[1]["reason"] == "DISK_BUSY"
    assert disk.status()[1]["reason"] == "MOUNT_MISSING"


def test_blank_disk_that_another_program_holds_is_refused(disk: Disk) -> None:
    holder = os.open(disk.loop, os.O_RDONLY | os.O_EXCL)
    try:
        code, result = disk.ensure()
    finally:
        os.close(holder)
    assert (code, result["reason"], result["state"]) == (3, "DISK_BUSY", "foreign")
    assert disk.ensure()[0] == 0


def test_read_error_is_not_taken_for_zeros(disk: Disk) -> None:
    os.truncate(disk.image, SIZE // 2)  # the loop device keeps its size, and reads behind the end fail
    code, result = disk.ensure()
    assert (code, result["reason"], result["state"]) == (3, "DISK_UNKNOWN", "degraded")
    assert "it cannot be read: Input/output error" in result["message"]


def test_disk_under_the_running_system_is_refused(disk: Disk) -> None:
    source = sh("findmnt", "-n", "-o", "SOURCE", "/")
    if not Path(source).is_block_device():
        pytest.skip(f"the root filesystem is {source}, which is on no block device here")
    code, result = node("disks", "ensure", "--mount-path", disk.mount_path, "--device", source)
    assert code in (2, 3) and not result["ok"]
    assert "the running system is on it" in result["message"] or "wanted a whole disk" in result["message"]


def test_read_only_disk_is_refused(disk: Disk) -> None:
    sh("blockdev", "--setro", disk.loop)
    try:
        code, result = disk.ensure()
    finally:
        sh("blockdev", "--setrw", disk.loop)  # the flag outlives the detached loop device: whose is it next?
    assert (code, result["reason"]) == (3, "DISK_UNKNOWN")


def test_unmounted_disk_of_ours_is_mounted_again_with_its_files(disk: Disk) -> None:
    disk.ensure()
    (disk.mount_path / "kept").write_text("kept")
    sh("umount", disk.mount_path)
    code, status = disk.status()
    assert (code, status["reason"], status["state"]) == (1, "MOUNT_MISSING", "ours")
    assert status["repair"] == f"judge-node disks ensure --mount-path {disk.mount_path} --device {disk.link}"
    code, result = disk.ensure()
    assert (code, result["changed"], result["facts"]["steps"]) == (
        0,
        True,
        [f"mount it at {disk.mount_path} with noatime"],
    )
    assert (disk.mount_path / "kept").read_text() == "kept"


def test_nothing_can_be_written_below_the_mount_path_while_it_is_not_mounted(disk: Disk) -> None:
    disk.ensure()
    sh("umount", disk.mount_path)
    if "i" not in sh("lsattr", "-d", disk.mount_path).split(" ")[0]:
        pytest.skip("the filesystem of the mount point has no attributes")
    with pytest.raises(PermissionError):
        (disk.mount_path / "hub").mkdir()


def test_disk_that_came_back_blank_is_prepared_again(disk: Disk) -> None:
    disk.ensure()
    first = sh("blkid", "-s", "UUID", "-o", "value", disk.loop)
    sh("umount", disk.mount_path)
    sh("losetup", "--detach", disk.loop)
    os.truncate(disk.image, 0)
    os.truncate(disk.image, SIZE)
    disk.loop = sh("losetup", "--find", "--show", disk.image)
    disk.link.unlink()
    disk.link.symlink_to(disk.loop)
    assert disk.ensure()[0] == 0
    assert sh("blkid", "-s", "UUID", "-o", "value", disk.loop) != first


def test_what_the_blkid_cache_remembers_of_a_device_name_does_not_count(disk: Disk) -> None:
    sh("mkfs.xfs", "-q", disk.loop)
    assert 'TYPE="xfs"' in sh("blkid", disk.loop), "without -p it fills its cache"
    sh("fallocate", "--punch-hole", "--offset", "0", "--length", str(SIZE), disk.loop)
    code, result = disk.ensure("--fstype", "ext4")
    assert (code, result["state"]) == (0, "ours"), result


def test_filesystem_left_without_marker_by_a_cut_run_is_finished(disk: Disk) -> None:
    sh("mkfs.xfs", "-q", "-L", "judge-nvme", disk.loop)
    made = sh("blkid", "-s", "UUID", "-o", "value", disk.loop)
    code, result = disk.ensure()
    assert (code, result["changed"], result["facts"]["fs_uuid"]) == (0, True, made)
    assert (disk.mount_path / ".judge-bootstrap.json").exists()


def test_marker_of_another_filesystem_proves_nothing(disk: Disk) -> None:
    disk.ensure()
    sh("umount", disk.mount_path)
    sh("xfs_admin", "-U", "generate", disk.loop)
    code, result = disk.ensure()
    assert (code, result["reason"]) == (3, "DISK_FOREIGN_DATA")
    assert "its marker file is mismatch" in result["message"]


def test_other_filesystem_at_the_mount_path_is_refused(disk: Disk) -> None:
    disk.mount_path.mkdir()
    sh("mount", "-t", "tmpfs", "tmpfs", disk.mount_path)
    before = disk.digest()
    code, result = disk.ensure()
    assert (code, result["reason"]) == (3, "MOUNT_WRONG_DEVICE")
    assert disk.digest() == before


def test_files_below_the_unmounted_path_are_not_hidden(disk: Disk) -> None:
    disk.mount_path.mkdir()
    (disk.mount_path / "precious").touch()
    before = disk.digest()
    code, result = disk.ensure()
    assert (code, result["reason"]) == (3, "MOUNT_POINT_IN_USE")
    assert disk.digest() == before


def test_ext4_is_not_made_over_a_filesystem_that_appeared_in_the_last_moment(disk: Disk) -> None:
    """The gap of the hand-over: what apply() starts refuses by itself, also where mkfs.ext4 would not on a pipe."""
    program = (
        "import sys; from judge_node.disks import apply, probe, facts; from judge_node.result import NodeError\n"
        "hold = probe.Hold(sys.argv[1]); hold.acquire(); real = apply.mkfs_command\n"
        "def late(*args):\n"
        "    import subprocess; hold.release_exclusive()\n"
        "    subprocess.run(['mkfs.ext4', '-q', '-L', 'precious', sys.argv[1]], check=True)\n"
        "    return real(*args)\n"
        "apply.mkfs_command = late\n"
        "lock = open('/dev/null')\n"
        "disk = facts.Disk('d', '7:0', sys.argv[1], 1)\n"
        "try: apply._format(hold, disk, sys.argv[2], '7c8b1d8e-0000-4000-8000-000000000001', lock.fileno())\n"
        "except NodeError as error: print(error.reason)\n"
    )
    for fstype in ("ext4", "xfs"):
        done = subprocess.run([sys.executable, "-c", program, disk.loop, fstype], capture_output=True, text=True,
                              env={"PYTHONPATH": str(PYTOOL), "PATH": os.environ["PATH"]})  # fmt: skip
        assert done.stdout == "FS_CREATE_FAILED\n", done.stderr
        assert sh("blkid", "-p", "-s", "LABEL", "-o", "value", disk.loop) == "precious"
        sh("wipefs", "-a", disk.loop)


@pytest.mark.parametrize("mounted", [True, False])
def test_a_marker_whose_writing_was_killed_does_not_make_the_disk_foreign(disk: Disk, mounted: bool) -> None:
    assert disk.ensure()[0] == 0
    marker = disk.mount_path / ".judge-bootstrap.json"
    marker.rename(disk.mount_path / "..judge-bootstrap.json.tmp")
    if not mounted:
        sh("umount", disk.mount_path)
    code, result = disk.ensure()
    assert (code, result["state"]) == (0, "ours"), result
    assert marker.exists()


def test_killed_at_any_moment_the_next_run_finishes(disk: Disk) -> None:
    # It says when it runs: before that Python itself ends with 1 at a Ctrl-C.
    code = "print(flush=True); import runpy; runpy.run_module('judge_node', run_name='__main__', alter_sys=True)"
    argv = [sys.executable, "-c", code, "disks", "ensure", *map(str, disk.selection)]
    chance = random.Random(11)
    for kind in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            argv,
            env={"PYTHONPATH": str(PYTOOL), "PATH": os.environ["PATH"]},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0.03, 0.4))
        os.killpg(process.pid, kind)
        process.communicate()
        assert process.returncode in (0, 130, -signal.SIGTERM, -signal.SIGKILL, -signal.SIGINT)
        code, result = disk.ensure()
        assert (code, result["state"]) == (0, "ours"), result
        sh("umount", disk.mount_path)
        sh("wipefs", "-a", disk.loop)
        sh("fallocate", "--punch-hole", "--offset", "0", "--length", str(SIZE), disk.loop)


# What a lab node is: a /dev of its own with one disk in it, while /sys shows every device of the kernel.
_PRIVATE_DEV = """
mount -t tmpfs tmpfs /dev && mkdir -p /dev/pts /dev/disk/by-id
mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && ln -s pts/ptmx /dev/ptmx
mknod "/dev/$1" b "$2" "$3" && ln -s "../../$1" /dev/disk/by-id/lab-instance-store-1
for run in 1 2; do
  "$4" -m judge_node disks ensure --mount-path "$5" --device /dev/disk/by-id/lab-instance-store-1 --json
done
"$4" -m judge_node disks status --mount-path "$5" --json
umount "$5"
"""


def test_private_dev_of_a_lab_node_is_enough(disk: Disk, make_disk: Callable[[], Disk]) -> None:
    other = make_disk()
    sh("mkfs.ext4", "-q", other.loop)
    name = Path(disk.loop).name
    major, minor = Path(f"/sys/block/{name}/dev").read_text().strip().split(":")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-e", "-c", _PRIVATE_DEV, "sh", name, major, minor,
         sys.executable, str(disk.mount_path)],
        capture_output=True, text=True, env={"PYTHONPATH": str(PYTOOL), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["changed"], r["state"]) for r in results[:2]] == [(True, "ours"), (False, "ours")], done.stderr
    assert results[2]["reason"] == "DISK_NONE", "no disk of this machine is instance store by its model"
    assert other.digest()
    assert not disk.mounted(), "the mount was made in the caller's mount namespace"


# What stands in for systemd: `restart` of the mount unit mounts what the unit says, `reenable` makes the links of its
# [Install], `show` says whether the boot unit was started.
_SYSTEMCTL = """#!/bin/sh -e
echo "$*" >> "$LOG"
state=$UNITS/state
case "$1 $2" in
"show --property=ActiveState") if [ -e "$state" ]; then cat "$state"; else echo inactive; fi ;;
"reenable judge-node-disks.service")
  rm -rf "$UNITS"/*.wants "$UNITS"/*.requires
  sed -n 's/^WantedBy=\\(.*\\)/\\1.wants/p; s/^RequiredBy=\\(.*\\)/\\1.requires/p' "$UNITS/$2" |
  while read -r folder; do
    mkdir -p "$UNITS/$folder"; ln -s "$UNITS/$2" "$UNITS/$folder/$2"
  done ;;
"restart "*.mount)
  [ -z "$BROKEN" ] || { echo "Unit is masked" >&2; exit 1; }
  unit=$UNITS/$2
  where=$(sed -n 's/^Where=//p' "$unit"); uuid=$(sed -n 's,^What=/dev/disk/by-uuid/,,p' "$unit")
  [ "$(blkid -p -s UUID -o value "$DEVICE")" = "$uuid" ]
  mountpoint -q "$where" || mount -o "$(sed -n 's/^Options=//p' "$unit")" "$DEVICE" "$where" ;;
"start judge-node-disks.service") echo active > "$state" ;;
"start --no-block") ;;
daemon-reload*) ;;
*) echo "not expected: $*" >&2; exit 1 ;;
esac
"""
_WITH_SYSTEMD = """
import os, pathlib, sys
from judge_node.disks import apply, discover
apply.UNIT_FOLDER = discover.UNIT_FOLDER = pathlib.Path(os.environ["UNITS"])
discover.SYSTEMD_RUNS = discover.UNIT_FOLDER
apply.INSTALL_PATH = discover.INSTALL_PATH = os.environ["PROGRAM"]
from judge_node import shell
environment = shell.environment
shell.environment = lambda: {**os.environ, **environment()}
from judge_node.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


class Systemd:
    """Runs `disks ensure` where systemctl is the one above."""

    def __init__(self, disk: Disk) -> None:
        folder = disk.image.parent
        self.disk = disk
        self.units, self.log, self.tools = folder / "units", folder / "log", folder / "tools"
        self.program = folder / "lib/judge-node.pyz"
        self.mount_unit = unit_name(str(disk.mount_path))
        self.units.mkdir()
        self.tools.mkdir()
        (self.tools / "systemctl").write_text(_SYSTEMCTL)
        (self.tools / "udevadm").write_text("#!/bin/sh\n")
        for tool in self.tools.iterdir():
            tool.chmod(0o755)

    def ensure(self, *more: str, **environment: str) -> tuple[int, dict[str, Any], list[str]]:
        """Return the exit code, the result, and what systemctl was told to change."""
        self.log.write_text("")
        env = {"PYTHONPATH": str(PYTOOL), "PATH": f"{self.tools}:{os.environ['PATH']}", "UNITS": str(self.units),
               "LOG": str(self.log), "DEVICE": self.disk.loop, "PROGRAM": str(self.program)}  # fmt: skip
        argv = [sys.executable, "-c", _WITH_SYSTEMD, "disks", "ensure", *map(str, self.disk.selection), *more, "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, env={**env, **environment})
        calls = [line for line in self.log.read_text().splitlines() if not line.startswith("show ")]
        return done.returncode, json.loads(done.stdout), calls


@pytest.fixture
def systemd(disk: Disk) -> Systemd:
    return Systemd(disk)


WRITTEN = ["daemon-reload", f"reenable {BOOT_UNIT}"]
STARTED = [f"start {BOOT_UNIT}"]


def test_where_systemd_runs_a_unit_mounts_the_disk_and_a_second_run_changes_nothing(systemd: Systemd) -> None:
    code, result, calls = systemd.ensure()
    mounted = [*WRITTEN, f"restart {systemd.mount_unit}", *STARTED]
    assert (code, result["changed"], calls) == (0, True, mounted), result
    assert systemd.disk.mounted()
    assert f"What=/dev/disk/by-uuid/{result['facts']['fs_uuid']}\n" in (systemd.units / systemd.mount_unit).read_text()
    assert "no mount unit" not in result["message"]
    code, result, calls = systemd.ensure()
    assert (code, result["changed"], calls) == (0, False, [])


def test_boot_unit_runs_the_installed_program_with_the_same_selection(systemd: Systemd, disk: Disk) -> None:
    assert systemd.ensure("--gate", "kubelet.service")[0] == 0
    text = (systemd.units / BOOT_UNIT).read_text()
    wanted = Wanted(str(disk.mount_path), device=str(disk.link), gates=("kubelet.service",))
    arguments = " ".join(boot_arguments(wanted, "judge"))
    assert text.split("ExecStart=")[1].splitlines()[0].endswith(f"judge-node.pyz {arguments}")
    said = json.loads(sh(sys.executable, systemd.program, *boot_arguments(wanted, "judge"), "--check", "--json"))
    assert (said["ok"], said["state"]) == (True, "ours")
    assert (systemd.units / "kubelet.service.requires" / BOOT_UNIT).is_symlink()


def test_mount_unit_that_fails_is_a_failure_and_the_next_run_goes_on(systemd: Systemd) -> None:
    code, result, calls = systemd.ensure(BROKEN="1")
    assert (code, result["reason"]) == (1, "FS_CREATE_FAILED") and "Unit is masked" in result["message"]
    assert STARTED[0] not in calls
    made = sh("blkid", "-p", "-s", "UUID", "-o", "value", systemd.disk.loop)
    code, result, calls = systemd.ensure()
    assert (code, result["state"], result["facts"]["fs_uuid"]) == (0, "ours", made)


def test_boot_unit_that_is_not_enabled_any_more_is_enabled_again(systemd: Systemd) -> None:
    systemd.ensure()
    (systemd.units / "multi-user.target.wants" / BOOT_UNIT).unlink()
    code, result, calls = systemd.ensure()
    assert (code, result["changed"], calls) == (0, True, WRITTEN)


def test_another_gate_is_written_into_the_boot_unit(systemd: Systemd) -> None:
    systemd.ensure()
    assert systemd.ensure("--gate", "a.service")[2] == WRITTEN
    assert [path.name for path in systemd.units.glob("*.requires")] == ["a.service.requires"]


def test_disk_of_ours_that_is_not_mounted_is_mounted_by_its_unit(systemd: Systemd) -> None:
    systemd.ensure()
    sh("umount", systemd.disk.mount_path)
    code, result, calls = systemd.ensure()
    assert (code, result["changed"], calls) == (0, True, [f"restart {systemd.mount_unit}"])
    assert systemd.disk.mounted()


def test_after_a_boot_that_failed_what_the_boot_unit_held_back_is_started(systemd: Systemd) -> None:
    systemd.ensure("--gate", "kubelet.service")
    (systemd.units / "state").write_text("failed\n")
    code, result, calls = systemd.ensure("--gate", "kubelet.service")
    assert (code, result["changed"], calls) == (0, True, [*STARTED, "start --no-block kubelet.service"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mount-path", "relative"), "wanted an absolute path such as /mnt/nvme"),
        (("--mount-path", "/mnt/../etc"), "wanted an absolute path"),
        (("--mount-path", "/"), "wanted an absolute path"),
        (("--mount-path", "/usr/local"), "which the system lives in"),
        (("--mount-path", "/var/lib"), "which the system lives in"),
        (("--mount-path", "/mnt/a b"), "wanted an absolute path"),
        (("--mount-path", "/mnt/x\n"), "wanted an absolute path"),
        (("--mount-path", "/mnt/x", "--device", "/etc/hostname"), "--device /etc/hostname is not a block device"),
        (("--mount-path", "/mnt/x", "--fstype", "btrfs"), "invalid choice: 'btrfs'"),
        (("--mount-path", "/mnt/x", "--force"), "unrecognized arguments: --force"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(make_disk: object, arguments: tuple[str, ...], message: str) -> None:
    code, result = node("disks", "ensure", *arguments)
    assert (code, result["ok"], result["reason"]) == (2, False, None)
    assert message in result["message"] and result["repair"]


def test_device_that_is_not_there_is_none(make_disk: object) -> None:
    code, result = node("disks", "ensure", "--mount-path", "/mnt/x", "--device", "/dev/disk/by-id/gone")
    assert (code, result["reason"], result["state"]) == (3, "DISK_NONE", "absent")
    assert "no disk matches device /dev/disk/by-id/gone" in result["message"]
