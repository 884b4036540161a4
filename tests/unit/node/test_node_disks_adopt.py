"""What nodeadm or cloud-init built is found and used, and not fought over."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from judge_node.disks import adopt
from judge_node.disks.facts import Mount, MountPoint, Volume, Wanted
from judge_node.disks.judge import ADOPTED, FOREIGN
from judge_node.disks.plan import FORMAT, MARK, MOUNT, PERSIST, RESTRICT, SEAL, START
from judge_node.disks.sysfs import System
from judge_node.disks.unit import bind_text, boot_text
from unit.node.disk_facts import (
    BLANK_DISK,
    MOUNTED,
    OUR_DISK,
    PATH,
    UNITS,
    VOLUME,
    WANTED,
    blanks,
    member,
    names,
    plan,
    refusal,
)

NODEADM = replace(WANTED, owner="nodeadm")
JUDGE = replace(WANTED, owner="judge")
ONE, TWO, THREE = blanks(3)
BUILT = (member(ONE, name="0"), member(TWO, name="0"))
VALID = replace(VOLUME, folder="valid")
BOUND = Mount(PATH, VOLUME.devno, "/judge-bootstrap", "xfs", "/dev/md127")
HERE = MountPoint(PATH, mount=BOUND)

# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [WANTED, NODEADM])
def test_what_nodeadm_built_is_bound_and_nothing_is_made(wanted: Wanted) -> None:
    found = plan(*BUILT, wanted=wanted, volumes=(VOLUME,))
    assert (names(found), found.state, found.owner) == ([SEAL, MOUNT, MARK], ADOPTED, "nodeadm")
    assert (found.volume, found.target, found.members) == (VOLUME, None, BUILT)
    assert found.summary == "/mnt/k8s-disks/0/judge-bootstrap (on /dev/md127, made by nodeadm)"
    assert [step.text for step in found.steps][1:] == [
        "show it at /mnt/nvme with noatime", "write the marker file that proves it is ours"
    ]  # fmt: skip


def test_plan_of_an_adoption_says_from_whom() -> None:
    pair = tuple(replace(disk, membership=("md127 (raid0)",)) for disk in BUILT)
    found = plan(*pair, volumes=(VOLUME,))
    assert found.before == (
        f"{ONE.summary()}: in use (md127 (raid0))\n{TWO.summary()}: in use (md127 (raid0))\n/mnt/nvme: not mounted\n"
    )
    assert found.after == (
        f"{ONE.summary()}: adopted from nodeadm\n{TWO.summary()}: adopted from nodeadm\n/mnt/nvme: mounted\n"
    )


def test_all_that_has_a_disk_is_told() -> None:
    disk = replace(BUILT[0], membership=("md127 (raid0)", "dm-0 (LVM)"))
    mounts = (Mount("/a", "1:1", "/", "xfs", "x"), Mount("/b", "1:1", "/", "xfs", "x"))
    lines = plan(disk, replace(TWO, mounts=mounts, held=True), volumes=(VOLUME,)).before.splitlines()
    assert lines[0].endswith(": in use (md127 (raid0), dm-0 (LVM))") and lines[1].endswith(": in use (/a, /b)")


def test_disk_that_cloud_init_mounted_is_in_use_where_it_is() -> None:
    there = Mount("/data", ONE.devno, "/", "ext4", "/dev/nvme1n1")
    disk = replace(ONE, mounts=(there,), held=True)
    volume = Volume("/data", ONE.devno, "nvme1n1", "ext4", "cloud-init")
    found = plan(disk, volumes=(volume,))
    assert found.before.splitlines()[0] == f"{ONE.summary()}: in use (/data)"
    assert (found.owner, found.members) == ("cloud-init", (disk,))


def test_adopted_filesystem_that_is_bound_needs_nothing() -> None:
    found = plan(*BUILT, volumes=(VALID,), point=HERE)
    assert (found.steps, found.before) == ((), found.after)


def test_bound_folder_is_given_back_to_root() -> None:
    assert names(plan(*BUILT, volumes=(VALID,), point=replace(HERE, mode=0o777))) == [RESTRICT]


def test_whole_filesystem_at_the_path_is_not_our_folder() -> None:
    here = replace(HERE, mount=replace(BOUND, root="/"))
    assert refusal(*BUILT, volumes=(VALID,), point=here).reason == "MOUNT_WRONG_DEVICE"


def test_adoption_comes_before_blank_disks() -> None:
    found = plan(*BUILT, THREE, volumes=(VOLUME,))
    assert FORMAT not in names(found) and found.members == BUILT


def test_ours_comes_before_adoption() -> None:
    assert plan(OUR_DISK, volumes=(VOLUME,), point=MOUNTED).target == OUR_DISK


def test_nodeadm_as_owner_comes_before_ours() -> None:
    disk = replace(OUR_DISK, mounts=(), held=False)
    assert plan(disk, wanted=NODEADM, volumes=(VOLUME,)).volume == VOLUME


def test_judge_as_owner_adopts_nothing() -> None:
    assert plan(THREE, wanted=JUDGE, volumes=(VOLUME,), nodeadm_busy=True).target == THREE


def test_nodeadm_as_owner_that_has_built_nothing_is_waited_for() -> None:
    error = refusal(BLANK_DISK, wanted=NODEADM)
    assert (error.reason, error.state, error.exit_code) == ("OWNER_NOT_READY", "absent", 3)
    assert error.message == "nothing is mounted below /mnt/k8s-disks, and nodeadm is to build on the local disks"


def test_while_nodeadm_is_at_work_nothing_is_made() -> None:
    error = refusal(BLANK_DISK, nodeadm_busy=True)
    assert error.reason == "OWNER_NOT_READY"
    assert error.message == (
        "nothing is mounted below /mnt/k8s-disks, and nodeadm is at work and may be about to take the local disks"
    )


def test_folder_of_somebody_else_is_left() -> None:
    error = refusal(*BUILT, THREE, volumes=(replace(VOLUME, folder="other"),))
    assert (error.reason, error.state) == ("MOUNT_POINT_IN_USE", FOREIGN)
    assert error.message == "/mnt/k8s-disks/0/judge-bootstrap exists and is not ours"
    assert error.repair == "ls -la /mnt/k8s-disks/0/judge-bootstrap   # move it away, then run again"


def test_first_of_several_is_adopted() -> None:
    second = replace(VOLUME, path="/mnt/k8s-disks/1", devno="259:2")
    assert plan(*BUILT, volumes=(VOLUME, second)).volume == VOLUME
    assert plan(*BUILT, volumes=(replace(VOLUME, folder="other"), second)).volume == second


def test_the_one_that_is_bound_already_is_kept() -> None:
    first = replace(VOLUME, path="/mnt/k8s-disks/1", devno="259:2")
    assert plan(*BUILT, volumes=(first, VALID), point=HERE).volume == VALID


def test_something_else_at_the_path_stops_an_adoption() -> None:
    tmpfs = MountPoint(PATH, mount=Mount(PATH, "0:4", "/", "tmpfs", "tmpfs"))
    error = refusal(*BUILT, volumes=(VOLUME,), point=tmpfs)
    assert error.message == "/mnt/nvme has tmpfs (tmpfs) mounted, wanted /mnt/k8s-disks/0"


def test_kubelets_eviction_is_warned_of_when_it_shares_the_filesystem() -> None:
    shared = replace(
        VOLUME, shares=("/var/lib/kubelet", "/var/lib/containerd"), free_bytes=400 << 30, evicts_below_bytes=75 << 30
    )
    assert plan(*BUILT, volumes=(shared,)).notes == (
        "on the same filesystem as /var/lib/kubelet and /var/lib/containerd: kubelet evicts pods when less than "
        "75.0 GiB of it is free; 400.0 GiB is free now",
    )
    assert plan(*BUILT, volumes=(VOLUME,)).notes == ()


@pytest.mark.parametrize(("made_by", "owner"), [("nodeadm", "nodeadm"), ("cloud-init", "auto")])
def test_boot_unit_of_an_adoption_looks_for_the_same_again(made_by: str, owner: str) -> None:
    volume = replace(VALID, made_by=made_by)
    units = replace(UNITS, mount_text=bind_text(PATH, volume), boot_text=boot_text(WANTED, owner))
    assert plan(*BUILT, volumes=(volume,), point=HERE, units=units).steps == ()
    wrong = replace(units, boot_text=boot_text(WANTED, "judge"))
    assert names(plan(*BUILT, volumes=(volume,), point=HERE, units=wrong)) == [PERSIST]
    assert names(plan(*BUILT, volumes=(volume,), point=HERE, units=replace(units, boot_state="failed"))) == [START]


# --- how it is found --------------------------------------------------------------------------------------------------


class Nodes(System):
    """A node where 259:1 lies on nvme1n1, 9:127 on an array of two, 253:0 on EBS."""

    BACKING = {"259:1": {"nvme1n1"}, "9:127": {"md127", "nvme1n1", "nvme2n1"}, "253:0": {"nvme0n1"}, "253:1": set()}
    NAMES = {"259:1": "nvme1n1", "9:127": "md127", "253:0": "nvme0n1"}

    def backing(self, devno: str) -> set[str]:
        return set(self.BACKING[devno])

    def name_of(self, devno: str) -> str | None:
        return self.NAMES.get(devno)

    def level_of(self, name: str) -> str | None:
        return "raid0" if name == "md127" else None


LOCAL = {"nvme1n1", "nvme2n1"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(adopt, "FSTAB", tmp_path / "fstab")
    monkeypatch.setattr(adopt, "KUBELET_CONFIGS", (tmp_path / "kubelet.json",))
    monkeypatch.setattr(adopt, "_SYSTEM_FOLDERS", ())
    for name in ("k8s-disks/0", "k8s-disks/1", "data"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def volumes(folder: Path, *mounts: Mount, **wanted: Any) -> list[Volume]:
    asked = Wanted(PATH, nodeadm_path=str(folder / "k8s-disks"), **wanted)
    return list(adopt.find_volumes(asked, Nodes(), mounts, LOCAL))


def mount(folder: Path, at: str, devno: str = "9:127", **more: Any) -> Mount:
    return replace(Mount(str(folder / at), devno, "/", "xfs", "/dev/x", ("rw",)), **more)


def test_filesystem_below_nodeadms_path_on_local_disks_is_found(folder: Path) -> None:
    (found,) = volumes(folder, mount(folder, "k8s-disks/0"))
    assert (found.path, found.devno, found.device, found.fstype, found.made_by, found.folder) == (
        str(folder / "k8s-disks/0"), "9:127", "md127", "xfs", "nodeadm", "missing"
    )  # fmt: skip
    space = os.statvfs(folder)
    assert found.free_bytes <= space.f_frsize * space.f_blocks and found.free_bytes > 0
    assert (found.shares, found.evicts_below_bytes) == ((), 0)


@pytest.mark.parametrize(
    ("at", "change"),
    [
        ("k8s-disks/0", {"devno": "253:0"}),
        ("k8s-disks/0", {"devno": "253:1"}),
        ("k8s-disks/0", {"root": "/sub"}),
        ("k8s-disks/0", {"fstype": "btrfs"}),
        ("k8s-disks/0", {"options": ("ro", "noatime")}),
        ("data", {}),
        ("k8s-disks", {}),
    ],
)
def test_other_filesystems_are_not_adopted(folder: Path, at: str, change: dict[str, Any]) -> None:
    assert volumes(folder, mount(folder, at, **change)) == []


def test_slash_at_the_end_of_nodeadms_path_does_not_matter(folder: Path) -> None:
    asked = Wanted(PATH, nodeadm_path=f"{folder}/k8s-disks/")
    assert len(adopt.find_volumes(asked, Nodes(), (mount(folder, "k8s-disks/0"),), LOCAL)) == 1


@pytest.mark.parametrize(
    ("line", "maker"),
    [
        ("/dev/nvme1n1 {at} auto defaults,nofail,comment=cloudconfig 0 2", "cloud-init"),
        ("UUID=1 {at} ext4 comment=cloudconfig", "cloud-init"),
        ("/dev/nvme1n1 {at} auto defaults,nofail 0 2", None),
        ("/dev/nvme1n1 {at} auto defaults,comment=cloudconfigs 0 2", None),
        ("/dev/nvme1n1 {at}/x auto comment=cloudconfig 0 2", None),
        ("# {at}", None),
        ("", None),
    ],
)
def test_filesystem_that_cloud_init_put_into_fstab_is_found(folder: Path, line: str, maker: str | None) -> None:
    (folder / "fstab").write_text("proc /proc proc\n" + line.format(at=folder / "data") + "\n")
    found = volumes(folder, mount(folder, "data", "259:1"))
    assert [volume.made_by for volume in found] == ([maker] if maker else [])


def test_several_are_in_the_order_of_their_paths(folder: Path) -> None:
    found = volumes(folder, mount(folder, "k8s-disks/1", "259:1"), mount(folder, "k8s-disks/0"))
    assert [volume.path[-1] for volume in found] == ["0", "1"]


def folder_state(folder: Path) -> str:
    (found,) = volumes(folder, mount(folder, "k8s-disks/0"))
    return found.folder


def test_our_folder_is_missing_empty_valid_or_somebody_elses(folder: Path) -> None:
    ours = folder / "k8s-disks/0/judge-bootstrap"
    assert folder_state(folder) == "missing"
    ours.mkdir()
    assert folder_state(folder) == "empty"
    (ours / "x").touch()
    assert folder_state(folder) == "other"
    (ours / ".judge-bootstrap.json").touch()
    assert folder_state(folder) == "valid"


def test_link_or_file_in_the_place_of_our_folder_is_somebody_elses(folder: Path) -> None:
    ours = folder / "k8s-disks/0/judge-bootstrap"
    ours.symlink_to("/nowhere")
    assert folder_state(folder) == "other"
    ours.unlink()
    ours.touch()
    assert folder_state(folder) == "other"


GIB = 1 << 30


@pytest.mark.parametrize(
    ("config", "below"),
    [
        (None, 15 * GIB),
        ({}, 15 * GIB),
        ({"evictionHard": {"nodefs.available": "20%"}}, 20 * GIB),
        ({"evictionHard": {"nodefs.available": "5%", "imagefs.available": "5%"}}, 5 * GIB),
        ({"evictionHard": {"nodefs.available": "30Gi"}}, 30 * GIB),
        ({"evictionHard": {"nodefs.available": "1Ti"}}, 1024 * GIB),
        ({"evictionHard": {"nodefs.available": str(40 * GIB)}}, 40 * GIB),
        ({"evictionHard": {"nodefs.available": "lots"}}, 15 * GIB),
        ({"evictionHard": {"memory.available": "99Gi"}}, 15 * GIB),
        ({"evictionHard": None}, 15 * GIB),
        ([], 15 * GIB),
    ],
)
def test_eviction_threshold_is_kubelets_own_or_its_default(folder: Path, config: object, below: int) -> None:
    if config is not None:
        (folder / "kubelet.json").write_text(json.dumps(config))
    assert adopt._evicts_below(100 * GIB) == below


def test_shared_directories_and_the_threshold_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "_SYSTEM_FOLDERS", (str(folder), "/nowhere/at/all", "/proc"))
    device = folder.stat().st_dev
    devno = f"{os.major(device)}:{os.minor(device)}"
    monkeypatch.setitem(Nodes.BACKING, devno, {"nvme1n1"})
    (found,) = volumes(folder, mount(folder, "k8s-disks/0", devno))
    assert found.shares == (str(folder),) and found.evicts_below_bytes > 0


@pytest.mark.parametrize(("state", "busy"), [("activating", True), ("active", False), ("inactive", False), ("", False)])
def test_nodeadm_is_busy_while_its_unit_is_activating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, busy: bool
) -> None:
    monkeypatch.setattr(adopt, "NODEADM", tmp_path)
    monkeypatch.setattr(adopt, "run", lambda argv: SimpleNamespace(stdout=state + "\n"))
    assert adopt.nodeadm_is_busy() == busy
    monkeypatch.setattr(adopt, "NODEADM", tmp_path / "none")
    assert not adopt.nodeadm_is_busy()


def test_our_folder_belongs_to_root_and_the_group(tmp_path: Path) -> None:
    gid = os.getgid() if os.geteuid() else 12
    if os.geteuid():
        pytest.skip("needs root to give a directory to root")
    adopt.make_folder(replace(VOLUME, path=str(tmp_path)), 0o775, gid)
    status = (tmp_path / "judge-bootstrap").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, gid, 0o775)
