"""The pure planner over generated disks: nothing that has anything on it is ever chosen for formatting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_node.disks.facts import STRATEGIES, Content, Disk, Host, Mount, MountPoint, Raid
from judge_node.disks.plan import (
    BLANK,
    CREATE,
    DEGRADED,
    ERASE,
    FOREIGN,
    FORMAT,
    INSTALL,
    MARK,
    MOUNT,
    OURS,
    PERSIST,
    RESTRICT,
    SEAL,
    START,
    judge,
    plan_layout,
)
from judge_node.disks.unit import mount_text
from judge_node.result import NodeError
from unit.node.disk_facts import (
    BLANK_DISK,
    MOUNTED,
    OUR_CONTENT,
    OUR_DISK,
    OUR_MOUNT,
    PATH,
    UNITS,
    UNMOUNTED,
    WANTED,
    ZERO,
    names,
    plan,
    refusal,
)


def test_blank_disk_is_formatted_mounted_and_marked() -> None:
    assert names(plan(BLANK_DISK)) == [FORMAT, SEAL, MOUNT, MARK]


def test_plan_shows_the_evidence_for_blank() -> None:
    assert (
        "nvme1n1 (250.0 GiB, Amazon EC2 NVMe Instance Storage, serial AWS1111): blank (no signature"
        in plan(BLANK_DISK).before
    )


def test_plan_of_one_disk_says_what_is_done_and_what_comes_of_it() -> None:
    found = plan(BLANK_DISK)
    assert [step.text for step in found.steps] == [
        f"make xfs with label judge-nvme on {BLANK_DISK.summary()}",
        "make the empty directory /mnt/nvme unwritable, so that nothing fills the root disk",
        "mount it at /mnt/nvme with noatime",
        "write the marker file that proves it is ours",
    ]
    assert found.after == f"{BLANK_DISK.summary()}: ours, xfs with label judge-nvme\n/mnt/nvme: mounted\n"
    assert found.notes == ()


def test_our_mounted_disk_needs_nothing_and_shows_no_difference() -> None:
    found = plan(OUR_DISK, point=MOUNTED)
    assert (found.state, found.steps, found.before) == (OURS, (), found.after)


def test_our_unmounted_disk_is_mounted_and_never_formatted() -> None:
    disk = replace(OUR_DISK, mounts=(), held=False)
    assert names(plan(disk)) == [SEAL, MOUNT]
    assert names(plan(disk, point=MountPoint(PATH, sealed=True))) == [MOUNT]


def test_run_cut_between_mkfs_and_marker_is_finished_without_formatting() -> None:
    disk = replace(OUR_DISK, mounts=(), held=False, content=replace(OUR_CONTENT, marker="empty"))
    assert names(plan(disk)) == [SEAL, MOUNT, MARK]
    assert plan(disk).steps[-1].text == "write the marker file that proves it is ours"


@pytest.mark.parametrize("marker", ["missing", "mismatch", "unreadable", None])
def test_our_label_without_our_marker_is_foreign(marker: str | None) -> None:
    error = refusal(replace(BLANK_DISK, content=replace(OUR_CONTENT, marker=marker)))
    assert (error.reason, error.state) == ("DISK_FOREIGN_DATA", FOREIGN)
    assert "has our label 'judge-nvme', but its marker file is" in error.message


def test_wide_open_root_of_our_filesystem_is_restricted() -> None:
    assert names(plan(OUR_DISK, point=replace(MOUNTED, mode=0o777))) == [RESTRICT]
    assert names(plan(OUR_DISK, point=replace(MOUNTED, uid=1000))) == [RESTRICT]
    assert names(plan(OUR_DISK, point=replace(MOUNTED, gid=1000))) == [RESTRICT]


def test_where_systemd_runs_the_units_are_kept_right() -> None:
    fresh = replace(UNITS, mount_text=None, boot_text=None, boot_state="inactive", installed=False)
    assert names(plan(BLANK_DISK, units=fresh)) == [FORMAT, SEAL, INSTALL, PERSIST, MOUNT, MARK, START]
    assert names(plan(OUR_DISK, point=MOUNTED, units=UNITS)) == []


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"mount_text": mount_text(PATH, "0-0-0", "xfs")}, [PERSIST]),
        ({"mount_text": None}, [PERSIST]),
        ({"boot_text": "[Unit]"}, [PERSIST]),
        ({"boot_text": None}, [PERSIST]),
        ({"installed": False}, [INSTALL]),
        ({"boot_state": "inactive"}, [START]),
        ({"boot_state": "failed"}, [START]),
        ({"boot_state": "activating"}, []),
    ],
)
def test_what_is_wrong_with_the_units_is_mended_and_nothing_else(change: dict[str, Any], steps: list[str]) -> None:
    assert names(plan(OUR_DISK, point=MOUNTED, units=replace(UNITS, **change))) == steps


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        ({"root": True}, "DISK_BUSY", "the running system is on it"),
        ({"partitions": ("nvme1n1p1",)}, "DISK_BUSY", "partitions or holders (nvme1n1p1)"),
        ({"holders": ("md127",)}, "DISK_BUSY", "partitions or holders (md127)"),
        ({"members": ("sda", "sdb")}, "DISK_BUSY", "composed of sda, sdb"),
        ({"swap": ("/dev/nvme1n1",)}, "DISK_BUSY", "it is swap space"),
        ({"mounts": (Mount("/data", "259:1", "/", "ext4", "x"),)}, "DISK_BUSY", "it is mounted at /data"),
        ({"held": True}, "DISK_BUSY", "holds it exclusively"),
        ({"held": None}, "DISK_UNKNOWN", "not read while it was held"),
        ({"node": None}, "DISK_UNKNOWN", "no device node here (device number 259:1)"),
        ({"read_only": True}, "DISK_UNKNOWN", "read-only"),
        ({"size_bytes": 0}, "DISK_UNKNOWN", "not read while it was held"),
        ({"content": None}, "DISK_UNKNOWN", "it was not examined"),
        ({"content": Content(signatures=("ext4",))}, "DISK_FOREIGN_DATA", "it carries ext4"),
        ({"content": Content(signatures=("PMBR", "gpt"))}, "DISK_FOREIGN_DATA", "it carries PMBR, gpt"),
        ({"content": replace(ZERO, nonzero_at=4096)}, "DISK_FOREIGN_DATA", "data without a signature at byte 4096"),
        ({"content": Content(error="it cannot be read: Input/output error")}, "DISK_UNKNOWN", "Input/output error"),
        ({"content": Content()}, "DISK_UNKNOWN", "not read while it was held"),
    ],
)
def test_disk_with_anything_on_it_or_unknown_is_refused_with_the_evidence(
    change: dict[str, Any], reason: str, text: str
) -> None:
    error = refusal(replace(BLANK_DISK, **change))
    assert (error.reason, error.exit_code, error.state != BLANK) == (reason, 3, True)
    assert text in error.message
    assert error.repair and " DISK" not in error.repair


def test_no_disk_names_what_was_looked_for_and_what_is_there() -> None:
    volume = Disk("nvme0n1", "259:0", "/dev/nvme0n1", 20 << 30, "Amazon Elastic Block Store")
    error = refusal(others=(volume, replace(volume, name="loop0")))
    assert (error.reason, error.state, error.exit_code) == ("DISK_NONE", "absent", 3)
    assert error.message == (
        "no disk matches model 'Amazon EC2 NVMe Instance Storage'; "
        "this node has /dev/nvme0n1 (20.0 GiB, Amazon Elastic Block Store)"
    )
    second = replace(volume, name="nvme5n1")
    error = refusal(others=(volume, second), wanted=replace(WANTED, models=("One", "Two")))
    assert error.message == (
        f"no disk matches model 'One' or 'Two'; this node has {volume.summary()}, {second.summary()}"
    )
    assert refusal(wanted=replace(WANTED, device="/dev/x")).message == (
        "no disk matches device /dev/x; this node has no other disk"
    )


def test_other_filesystem_at_the_mount_path_is_refused() -> None:
    point = MountPoint(PATH, mount=Mount(PATH, "0:44", "/", "tmpfs", "tmpfs"))
    for disk in (BLANK_DISK, OUR_DISK):
        error = refusal(disk, point=point)
        assert error.reason == "MOUNT_WRONG_DEVICE"
        assert "has tmpfs (tmpfs) mounted, wanted /dev/nvme1n1" in error.message


def test_mount_point_with_files_is_refused_before_the_disk_is_formatted() -> None:
    error = refusal(BLANK_DISK, point=MountPoint(PATH, entries=3))
    assert error.reason == "MOUNT_POINT_IN_USE" and "holds 3 entries" in error.message
    assert refusal(BLANK_DISK, point=MountPoint(PATH, kind="other")).reason == "MOUNT_POINT_IN_USE"


def test_our_disk_with_another_filesystem_type_is_kept() -> None:
    error = refusal(OUR_DISK, point=MOUNTED, wanted=replace(WANTED, fstype="ext4"))
    assert (error.reason, error.exit_code) == ("FS_MISMATCH", 3)


def test_ours_is_preferred_to_blank_and_the_first_serial_among_blanks() -> None:
    second = replace(BLANK_DISK, name="nvme0n1", devno="259:9", serial="AWS2222")
    assert plan(second, BLANK_DISK, wanted=replace(WANTED, strategy="Mount")).target == BLANK_DISK
    third = replace(OUR_DISK, serial="AWS9999", mounts=(), held=False)
    assert plan(second, third).target == third


def test_two_disks_of_ours_are_ambiguous_unless_one_belongs_to_the_path() -> None:
    first = replace(OUR_DISK, mounts=(), held=False)
    second = replace(first, name="nvme2n1", devno="259:2", serial="AWS2222")
    assert refusal(first, second).reason == "DISK_AMBIGUOUS"
    elsewhere = replace(second, content=replace(OUR_CONTENT, marker_mount_path="/mnt/other"))
    assert plan(elsewhere, first).target == first
    assert plan(replace(first, mounts=(OUR_MOUNT,), held=True), second, point=MOUNTED).steps == ()


_CONTENTS = st.builds(
    Content,
    signatures=st.lists(
        st.sampled_from(["xfs", "ext4", "gpt", "swap", "LVM2_member", "linux_raid_member"]), max_size=2
    ).map(tuple),
    fstype=st.sampled_from([None, "xfs", "ext4"]),
    raid=st.sampled_from([None, None, Raid("f" * 32, "judge-nvme", "raid0", 2), Raid("e" * 32, "0", "raid0", 1)]),
    label=st.sampled_from([None, "judge-nvme", "data"]),
    fs_uuid=st.sampled_from([None, "1-2-3"]),
    nonzero_at=st.sampled_from([None, None, 0, 4096]),
    sampled_bytes=st.sampled_from([0, 256 << 20]),
    marker=st.sampled_from([None, "valid", "empty", "missing", "mismatch", "unreadable"]),
    error=st.sampled_from([None, None, "it cannot be read"]),
)
_DISKS = st.builds(
    Disk,
    name=st.sampled_from(["nvme0n1", "nvme1n1", "nvme2n1"]),
    devno=st.sampled_from(["259:0", "259:1", "259:2"]),
    node=st.sampled_from([None, "/dev/x", "/dev/x"]),
    size_bytes=st.sampled_from([0, 1 << 30]),
    serial=st.sampled_from([None, "A", "B"]),
    read_only=st.booleans(),
    partitions=st.sampled_from([(), (), ("p1",)]),
    holders=st.sampled_from([(), (), ("md0",)]),
    members=st.sampled_from([(), (), ("sda",)]),
    mounts=st.sampled_from([(), (), (OUR_MOUNT,), (Mount("/x", "259:1", "/", "xfs", "d"),)]),
    swap=st.sampled_from([(), (), ("/dev/x",)]),
    root=st.booleans(),
    held=st.sampled_from([None, True, False, False]),
    content=st.none() | _CONTENTS | st.just(ZERO),
)
_POINTS = st.sampled_from(
    [UNMOUNTED, MOUNTED, MountPoint(PATH), MountPoint(PATH, entries=1), MountPoint(PATH, kind="other"),
     MountPoint(PATH, mount=Mount(PATH, "0:1", "/", "tmpfs", "tmpfs")), MountPoint(PATH, sealed=True)]
)  # fmt: skip


def proven_blank(disk: Disk) -> bool:
    """The definition written a second time, from the safety rules and not from the planner."""
    free = not (disk.root or disk.partitions or disk.holders or disk.members or disk.mounts or disk.swap)
    usable = disk.node is not None and not disk.read_only and disk.size_bytes > 0 and disk.held is False
    content = disk.content
    return (
        free
        and usable
        and content is not None
        and (
            content.error is None
            and not content.signatures
            and content.nonzero_at is None
            and content.sampled_bytes > 0
        )
    )


@settings(max_examples=500)
@given(st.lists(_DISKS, max_size=3), _POINTS, st.sampled_from(STRATEGIES), st.booleans())
def test_only_a_proven_blank_disk_is_ever_formatted(
    disks: list[Disk], point: MountPoint, strategy: str, systemd: bool
) -> None:
    host = Host(disks=tuple(disks), mount_point=point, units=replace(UNITS, systemd=systemd))
    try:
        found = plan_layout(host, replace(WANTED, strategy=strategy))
    except NodeError as error:
        assert error.reason and error.repair
        return
    if {FORMAT, CREATE} & set(names(found)):
        assert found.members and all(proven_blank(disk) for disk in found.members)
        assert found.target is None or found.members == (found.target,)
    assert ERASE not in names(found), "nothing was noted as being made"
    if point.mount is not None:
        assert found.target is not None and point.mount.devno == found.target.devno and FORMAT not in names(found)
    assert point.entries == 0 and point.kind != "other"


@given(_DISKS)
def test_every_disk_has_one_state_and_only_blank_and_ours_lack_a_reason(disk: Disk) -> None:
    found = judge(disk)
    assert found.state in (BLANK, OURS, FOREIGN, DEGRADED)
    assert (found.reason is None) == (found.state in (BLANK, OURS))
    assert (found.state == BLANK) == proven_blank(disk) or found.state == OURS


@given(st.builds(Disk, **{
    "name": st.just("nvme1n1"), "devno": st.just("259:1"), "node": st.just("/dev/nvme1n1"), "held": st.just(False),
    "size_bytes": st.integers(300 << 20, 1 << 45), "content": st.just(ZERO),
    "serial": st.text(max_size=20).filter(lambda text: not text.startswith("vol")),
}))  # fmt: skip
def test_every_true_blank_is_chosen(disk: Disk) -> None:
    assert FORMAT in names(plan(disk))
