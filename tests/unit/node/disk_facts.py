"""Facts of disks as the planner gets them, for its tests: one blank disk, one of ours, and how to ask for a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from judge_node.disks.facts import (
    INSTANCE_STORE_MODEL,
    Content,
    Disk,
    Host,
    Mount,
    MountPoint,
    Raid,
    Record,
    Units,
    Volume,
    Wanted,
)
from judge_node.disks.plan import Plan, plan_layout
from judge_node.disks.unit import boot_text, mount_text
from judge_node.result import NodeError

PATH = "/mnt/nvme"
WANTED = Wanted(mount_path=PATH)
ZERO = Content(nonzero_at=None, sampled_bytes=256 << 20)
BLANK_DISK = Disk(
    name="nvme1n1", devno="259:1", node="/dev/nvme1n1", size_bytes=250 << 30, model=INSTANCE_STORE_MODEL,
    serial="AWS1111", held=False, content=ZERO,
)  # fmt: skip
OUR_CONTENT = Content(
    signatures=("xfs",), fstype="xfs", label="judge-nvme", fs_uuid="1-2-3", marker="valid", marker_mount_path=PATH
)
OUR_MOUNT = Mount(PATH, "259:1", "/", "xfs", "/dev/nvme1n1")
OUR_DISK = replace(BLANK_DISK, held=True, content=OUR_CONTENT, mounts=(OUR_MOUNT,))
UNMOUNTED = MountPoint(PATH, kind="missing")
MOUNTED = MountPoint(PATH, mount=OUR_MOUNT)
ARRAY_UUID = "0123456789abcdef" * 2
VOLUME = Volume("/mnt/k8s-disks/0", "9:127", "md127", "xfs", "nodeadm")
# systemd with our units as they should be.
UNITS = Units(
    systemd=True,
    mount_name="mnt-nvme.mount",
    mount_text=mount_text(PATH, "1-2-3", "xfs"),
    boot_text=boot_text(WANTED, "judge"),
)


def plan(*disks: Disk, point: MountPoint = UNMOUNTED, wanted: Wanted = WANTED, **other: Any) -> Plan:
    return plan_layout(Host(disks=disks, mount_point=point, **other), wanted)


def names(found: Plan) -> list[str]:
    return [step.name for step in found.steps]


def refusal(*disks: Disk, **options: Any) -> NodeError:
    with pytest.raises(NodeError) as caught:
        plan(*disks, **options)
    return caught.value


def blanks(count: int) -> tuple[Disk, ...]:
    return tuple(
        replace(BLANK_DISK, name=f"nvme{n}n1", devno=f"259:{n}", node=f"/dev/nvme{n}n1", serial=f"AWS{n}111")
        for n in range(1, count + 1)
    )


def member(disk: Disk, *, level: str = "raid0", devices: int = 2, name: str = "judge-nvme", holder: str = "md127",
           uuid: str = ARRAY_UUID) -> Disk:  # fmt: skip
    """The disk as a part of an array; `holder` is what has it now, "" when the array does not run."""
    content = Content(signatures=("linux_raid_member",), fstype="linux_raid_member", label=f"any:{name}",
                      fs_uuid="0-1", raid=Raid(uuid, name, level, devices))  # fmt: skip
    holders = (holder,) if holder else ()
    return replace(disk, content=content, held=None if holder else False, holders=holders)


def array_of(members: tuple[Disk, ...], **more: Any) -> Disk:
    """The running array of these members, blank unless told otherwise."""
    made: dict[str, Any] = {
        "name": "md127", "devno": "9:127", "node": "/dev/md127", "size_bytes": sum(disk.size_bytes for disk in members),
        "members": tuple(disk.name for disk in members), "held": False, "content": ZERO, "level": "raid0",
    }  # fmt: skip
    return Disk(**{**made, **more})


def noted(*disks: Disk, **what: str) -> Record:
    """What a run notes that is about to make something on these disks."""
    return Record(serials=tuple(disk.serial or "" for disk in disks), disks=len(disks), **what)
