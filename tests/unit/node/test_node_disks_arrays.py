"""Several disks: RAID0, RAID10 and Mount from blank ones; arrays of ours, whole, broken, half-made or not running."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from judge_node.disks.facts import Disk, Host, Mount, MountPoint
from judge_node.disks.judge import DEGRADED, FOREIGN, OURS, our_sets
from judge_node.disks.plan import (
    ADD,
    ASSEMBLE,
    BLANK,
    CREATE,
    ERASE,
    FORMAT,
    MARK,
    MOUNT,
    PERSIST,
    RESTRICT,
    SEAL,
    START,
)
from unit.node.disk_facts import (
    ARRAY_UUID,
    BLANK_DISK,
    MOUNTED,
    OUR_CONTENT,
    OUR_DISK,
    PATH,
    UNITS,
    UNMOUNTED,
    WANTED,
    ZERO,
    array_of,
    blanks,
    member,
    names,
    noted,
    plan,
    refusal,
)

RAID0, RAID10, MOUNT_ONE = (replace(WANTED, strategy=strategy) for strategy in ("RAID0", "RAID10", "Mount"))
ONE, TWO, THREE, FOUR = blanks(4)
DATA = replace(TWO, content=replace(ZERO, nonzero_at=4096))
PAIR = (member(ONE), member(TWO))
OURS_ON_ARRAY = replace(OUR_CONTENT, marker_mount_path=PATH)
BROKEN10 = {"level": "raid10", "devices": 4}


def stopped(*disks: Disk, **more: Any) -> tuple[Disk, ...]:
    return tuple(member(disk, holder="", **more) for disk in disks)


def mounted_at(path: str, array: Disk) -> Disk:
    return replace(array, held=True, mounts=(Mount(path, array.devno, "/", "xfs", "/dev/md127"),))


def point_of(array: Disk) -> MountPoint:
    return MountPoint(PATH, mount=array.mounts[0])


# --- blank ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_raid0_takes_all_blank_disks(count: int) -> None:
    found = plan(*blanks(count), wanted=RAID0)
    assert names(found) == [CREATE, FORMAT, SEAL, MOUNT, MARK]
    assert (found.members, found.target, found.notes) == (blanks(count), None, ())


def test_plan_of_an_array_says_what_it_is_made_of() -> None:
    found = plan(ONE, TWO, wanted=RAID0)
    assert [step.text for step in found.steps] == [
        f"make one RAID0 array of {ONE.summary()} and {TWO.summary()}",
        "make xfs with label judge-nvme on it",
        "make the empty directory /mnt/nvme unwritable, so that nothing fills the root disk",
        "mount it at /mnt/nvme with noatime",
        "write the marker file that proves it is ours",
    ]
    assert found.before == (
        f"{ONE.summary()}: blank (no signature, no table, no holder; 256.0 MiB read, all zero)\n"
        f"{TWO.summary()}: blank (no signature, no table, no holder; 256.0 MiB read, all zero)\n"
        "/mnt/nvme: not mounted\n"
    )
    assert found.after == (
        f"{ONE.summary()}: ours, in one RAID0 array with xfs, label judge-nvme\n"
        f"{TWO.summary()}: ours, in one RAID0 array with xfs, label judge-nvme\n"
        "/mnt/nvme: mounted\n"
    )
    assert found.summary == f"{ONE.summary()} and {TWO.summary()}" and (found.state, found.owner) == (BLANK, "judge")


def test_disks_are_joined_in_the_order_of_their_serials() -> None:
    assert plan(FOUR, TWO, THREE, ONE, wanted=RAID0).members == (ONE, TWO, THREE, FOUR)


def test_disks_without_serials_are_joined_in_the_order_of_their_names() -> None:
    nameless = [replace(disk, serial=None) for disk in (THREE, ONE, TWO)]
    assert [disk.name for disk in plan(*nameless, wanted=RAID0).members] == ["nvme1n1", "nvme2n1", "nvme3n1"]


def test_disk_without_a_serial_comes_before_those_with_one() -> None:
    nameless = replace(THREE, serial=None)
    assert plan(ONE, nameless, TWO, wanted=RAID0).members == (nameless, ONE, TWO)


def test_raid0_leaves_out_what_holds_data_and_names_it() -> None:
    found = plan(ONE, DATA, THREE, wanted=RAID0)
    assert (names(found)[0], found.members) == (CREATE, (ONE, THREE))
    assert found.notes == (f"left out: {DATA.summary()}: it is not blank: data without a signature at byte 4096",)


def test_one_blank_of_two_is_used_alone() -> None:
    found = plan(DATA, ONE, wanted=RAID0)
    assert (names(found), found.target, found.members) == ([FORMAT, SEAL, MOUNT, MARK], ONE, (ONE,))
    assert found.notes == (f"left out: {DATA.summary()}: it is not blank: data without a signature at byte 4096",)


def test_mount_takes_the_first_and_names_the_others() -> None:
    found = plan(TWO, ONE, THREE, wanted=MOUNT_ONE)
    assert (names(found), found.target) == ([FORMAT, SEAL, MOUNT, MARK], ONE)
    assert found.notes == (
        f"left out: {TWO.summary()}: the strategy Mount takes one disk",
        f"left out: {THREE.summary()}: the strategy Mount takes one disk",
    )


def test_mount_names_what_holds_data_as_well() -> None:
    assert plan(ONE, DATA, THREE, wanted=MOUNT_ONE).notes == (
        f"left out: {DATA.summary()}: it is not blank: data without a signature at byte 4096",
        f"left out: {THREE.summary()}: the strategy Mount takes one disk",
    )


def test_raid10_takes_four() -> None:
    found = plan(ONE, TWO, THREE, FOUR, wanted=RAID10)
    assert (names(found), found.members) == ([CREATE, FORMAT, SEAL, MOUNT, MARK], (ONE, TWO, THREE, FOUR))
    assert found.steps[0].text.startswith("make one RAID10 array of /dev/nvme1n1")


def test_raid10_of_three_is_refused_and_the_fourth_is_named() -> None:
    error = refusal(ONE, DATA, THREE, FOUR, wanted=RAID10)
    assert (error.reason, error.state, error.exit_code) == ("DISK_TOO_FEW", BLANK, 3)
    assert error.message == (
        "RAID10 needs 4 blank disks, this node has 3; "
        f"{DATA.summary()}: it is not blank: data without a signature at byte 4096"
    )


@pytest.mark.parametrize("wanted", [RAID0, RAID10])
def test_a_disk_that_is_too_small_is_refused_before_any_is_touched(wanted: Any) -> None:
    small = replace(FOUR, size_bytes=(300 << 20) - 512)
    error = refusal(ONE, TWO, THREE, small, wanted=wanted)
    assert (error.reason, error.state, error.exit_code) == ("DISK_TOO_SMALL", BLANK, 3)
    assert error.message == f"{small.summary()} is too small, wanted at least 300.0 MiB"


def test_300_mib_are_enough() -> None:
    assert names(plan(replace(ONE, size_bytes=300 << 20)))[0] == FORMAT


def test_every_disk_that_is_not_blank_is_named() -> None:
    first, second, third = (replace(disk, held=True) for disk in (ONE, TWO, THREE))
    why = "another program, or a mount in another namespace, holds it exclusively"
    assert refusal(first, second, third).message == (
        f"{first.summary()} is not touched: {why}; {second.summary()}: {why}; {third.summary()}: {why}"
    )
    assert refusal(first, second, THREE, FOUR, wanted=RAID10).message == (
        f"RAID10 needs 4 blank disks, this node has 2; {first.summary()}: {why}; {second.summary()}: {why}"
    )


def test_no_blank_disk_names_the_first_and_the_others() -> None:
    busy = replace(ONE, held=True)
    error = refusal(DATA, busy, wanted=RAID0)
    assert (error.reason, error.state) == ("DISK_BUSY", FOREIGN)
    assert error.message == (
        f"{busy.summary()} is not touched: another program, or a mount in another namespace, holds it exclusively; "
        f"{DATA.summary()}: it is not blank: data without a signature at byte 4096"
    )
    assert error.repair is not None and "/dev/nvme1n1" in error.repair


@pytest.mark.parametrize("wanted", [RAID0, RAID10, MOUNT_ONE])
@pytest.mark.parametrize(
    ("point", "reason"),
    [
        (MountPoint(PATH, kind="other"), "MOUNT_POINT_IN_USE"),
        (MountPoint(PATH, entries=1), "MOUNT_POINT_IN_USE"),
        (MountPoint(PATH, mount=Mount(PATH, "0:4", "/", "tmpfs", "tmpfs")), "MOUNT_WRONG_DEVICE"),
    ],
)
def test_nothing_is_made_while_something_is_in_the_way(wanted: Any, point: MountPoint, reason: str) -> None:
    assert refusal(ONE, TWO, THREE, FOUR, wanted=wanted, point=point).reason == reason


# --- an array of ours -------------------------------------------------------------------------------------------------


def test_running_array_of_ours_is_mounted() -> None:
    array = array_of(PAIR, content=OURS_ON_ARRAY)
    found = plan(*PAIR, arrays=(array,))
    assert (names(found), found.target, found.members, found.state) == ([SEAL, MOUNT], array, PAIR, OURS)
    assert found.summary == "/dev/md127 (500.0 GiB, raid0)"


def test_mounted_array_of_ours_needs_nothing() -> None:
    array = mounted_at(PATH, array_of(PAIR, content=OURS_ON_ARRAY))
    found = plan(*PAIR, arrays=(array,), point=point_of(array))
    assert (found.steps, found.before, found.after) == ((), found.after, found.before)
    assert found.before == f"{PAIR[0].summary()}: ours\n{PAIR[1].summary()}: ours\n/mnt/nvme: mounted\n"


def test_array_that_a_cut_run_made_is_formatted() -> None:
    array = array_of(PAIR)
    found = plan(*PAIR, arrays=(array,), record=noted(ONE, TWO, array_uuid=ARRAY_UUID))
    assert (names(found), found.target, found.state) == ([FORMAT, SEAL, MOUNT, MARK], array, BLANK)
    assert found.steps[0].text == "make xfs with label judge-nvme on /dev/md127 (500.0 GiB, raid0)"
    assert found.notes == ()


def test_half_made_filesystem_on_our_array_is_erased_first() -> None:
    array = array_of(PAIR, content=replace(OUR_CONTENT, marker="unreadable"))
    found = plan(*PAIR, arrays=(array,), record=noted(ONE, TWO, fs_uuid="1-2-3"))
    assert (names(found), found.erase, found.members, found.notes) == ([ERASE], (array,), PAIR, ())
    assert found.steps[0].text == (
        f"remove what a run of ours, cut off, has left half-made on {array.summary()}, then begin again"
    )


@pytest.mark.parametrize("serials", [(ONE,), ()])
def test_half_made_filesystem_on_an_array_with_a_disk_that_is_not_noted_is_left(serials: tuple[Disk, ...]) -> None:
    array = array_of(PAIR, content=replace(OUR_CONTENT, marker="unreadable"))
    assert refusal(*PAIR, arrays=(array,), record=noted(*serials, fs_uuid="1-2-3")).reason == "DISK_FOREIGN_DATA"


def test_half_made_filesystem_on_an_array_with_a_disk_without_serial_is_left() -> None:
    pair = (PAIR[0], replace(PAIR[1], serial=None))
    array = array_of(pair, content=replace(OUR_CONTENT, marker="unreadable"))
    assert refusal(*pair, arrays=(array,), record=noted(ONE, fs_uuid="1-2-3")).reason == "DISK_FOREIGN_DATA"


def test_array_with_our_name_and_somebodys_data_is_refused() -> None:
    array = array_of(PAIR, content=replace(OUR_CONTENT, label="data"))
    error = refusal(*PAIR, arrays=(array,))
    assert (error.reason, error.state) == ("DISK_FOREIGN_DATA", FOREIGN)
    assert error.message == f"{PAIR[0].summary()} and {PAIR[1].summary()}: it carries xfs"
    assert error.repair is not None and "/dev/nvme1n1" in error.repair


def test_array_of_ours_that_does_not_run_is_started() -> None:
    disks = stopped(ONE, TWO)
    found = plan(*disks)
    assert (names(found), found.members, found.state) == ([ASSEMBLE, SEAL, MOUNT], disks, OURS)
    assert found.steps[0].text == f"start our array {disks[0].summary()} and {disks[1].summary()} is part of"


def test_array_of_ours_that_is_inactive_is_started() -> None:
    array = array_of(PAIR, active=False, content=None)
    assert names(plan(*PAIR, arrays=(array,))) == [ASSEMBLE, SEAL, MOUNT]


def test_starting_an_array_waits_for_a_free_mount_path() -> None:
    assert refusal(*stopped(ONE, TWO), point=MountPoint(PATH, entries=2)).reason == "MOUNT_POINT_IN_USE"


def test_raid0_of_which_a_disk_came_back_blank_is_refused_and_the_blank_one_left() -> None:
    disks = stopped(ONE)
    error = refusal(*disks, TWO)
    assert (error.reason, error.state, error.exit_code) == ("ARRAY_INCOMPLETE", DEGRADED, 3)
    assert error.message == (
        f"{disks[0].summary()}: 1 of the 2 disks of our raid0 array are here, and it cannot do without the others"
    )
    assert error.repair is not None and "--serial AWS1111" in error.repair and "/dev/nvme1n1" in error.repair


def test_inactive_rest_of_our_raid0_is_refused_too() -> None:
    disk = member(ONE)
    assert refusal(disk, TWO, arrays=(array_of((disk,), active=False, content=None),)).reason == "ARRAY_INCOMPLETE"


@pytest.mark.parametrize("record", [noted(ONE, TWO, array_uuid=ARRAY_UUID), noted(ONE, array_uuid=ARRAY_UUID)])
def test_array_that_a_cut_run_has_half_made_is_erased(record: Any) -> None:
    disks = stopped(ONE)
    found = plan(*disks, TWO, record=record)
    assert (names(found), found.erase) == ([ERASE], disks)


def test_half_made_members_are_named() -> None:
    disks = stopped(ONE, TWO, devices=3)
    found = plan(*disks, THREE, record=noted(ONE, TWO, THREE, array_uuid=ARRAY_UUID))
    assert found.steps[0].text == (
        f"remove what a run of ours, cut off, has left half-made on {ONE.summary()} and {TWO.summary()}, "
        "then begin again"
    )


def test_repair_of_a_broken_array_has_a_dash_for_a_serial_that_there_is_not() -> None:
    error = refusal(*stopped(replace(ONE, serial=None)))
    assert error.repair is not None and error.repair.startswith("judge-node disks release /dev/nvme1n1 --serial - ")


def test_whole_array_of_a_cut_run_is_started_not_erased() -> None:
    assert names(plan(*stopped(ONE, TWO), record=noted(ONE, TWO, array_uuid=ARRAY_UUID)))[0] == ASSEMBLE


@pytest.mark.parametrize(
    "record", [noted(ONE, TWO, array_uuid="f" * 32), noted(TWO, array_uuid=ARRAY_UUID), noted(ONE)]
)
def test_incomplete_array_that_is_not_noted_is_not_erased(record: Any) -> None:
    assert refusal(*stopped(ONE), TWO, record=record).reason == "ARRAY_INCOMPLETE"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_raid10_that_was_cut_off_while_it_was_made_is_erased_however_many_have_it(count: int) -> None:
    disks = stopped(*blanks(4)[:count], **BROKEN10)
    found = plan(*disks, *blanks(4)[count:], record=noted(*blanks(4), array_uuid=ARRAY_UUID))
    assert (names(found), found.erase) == ([ERASE], disks)


@pytest.mark.parametrize(("count", "reason"), [(1, "ARRAY_INCOMPLETE"), (2, None), (3, None), (4, None)])
def test_raid10_with_half_of_its_disks_is_started(count: int, reason: str | None) -> None:
    disks = stopped(*blanks(4)[:count], **BROKEN10)
    if reason:
        assert refusal(*disks).reason == reason
    else:
        assert names(plan(*disks)) == [ASSEMBLE, SEAL, MOUNT]


def test_raid10_of_five_needs_three() -> None:
    assert refusal(*stopped(ONE, TWO, level="raid10", devices=5)).reason == "ARRAY_INCOMPLETE"
    assert names(plan(*stopped(ONE, TWO, THREE, level="raid10", devices=5)))[0] == ASSEMBLE


def test_raid0_needs_all_its_disks() -> None:
    assert refusal(*stopped(ONE, TWO, THREE, devices=4)).reason == "ARRAY_INCOMPLETE"


def degraded(missing: int = 1, **more: Any) -> tuple[tuple[Disk, ...], Disk]:
    disks = tuple(member(disk, **BROKEN10) for disk in blanks(4)[: 4 - missing])
    return disks, mounted_at(PATH, array_of(disks, level="raid10", degraded=missing, content=OUR_CONTENT, **more))


def test_raid10_that_misses_a_disk_is_given_a_blank_one() -> None:
    disks, array = degraded()
    found = plan(*disks, FOUR, arrays=(array,), point=point_of(array))
    assert (names(found), found.spares, found.notes) == ([ADD], (FOUR,), ())
    assert found.steps[0].text == f"add {FOUR.summary()} to {array.summary()}, which misses a disk"


def test_raid10_is_given_only_as_many_as_it_misses_in_the_order_of_their_serials() -> None:
    disks, array = degraded()
    five, six = blanks(6)[4:]
    assert plan(*disks, six, five, arrays=(array,), point=point_of(array)).spares == (five,)


def test_raid10_without_a_blank_disk_works_on_with_a_warning() -> None:
    disks, array = degraded()
    data = replace(FOUR, content=DATA.content)
    found = plan(*disks, data, arrays=(array,), point=point_of(array))
    assert (found.steps, found.spares) == ((), ())
    assert found.notes == (f"{array.summary()} works without 1 of its disks: its data is not redundant",)


def test_raid10_that_misses_two_is_given_the_one_there_is_with_a_warning() -> None:
    disks, array = degraded(2)
    found = plan(*disks, THREE, arrays=(array,), point=point_of(array))
    assert (found.spares, found.notes) == (
        (THREE,), (f"{array.summary()} works without 1 of its disks: its data is not redundant",)
    )  # fmt: skip


def test_half_made_disk_is_no_spare() -> None:
    disks, array = degraded()
    half = replace(FOUR, content=replace(OUR_CONTENT, marker="unreadable", fs_uuid="9"))
    found = plan(*disks, half, arrays=(array,), point=point_of(array), record=noted(FOUR, fs_uuid="9"))
    assert found.spares == ()


def test_disk_with_traces_of_our_mkfs_is_a_spare() -> None:
    disks, array = degraded()
    traces = replace(FOUR, content=replace(ZERO, nonzero_at=4096, unfinished=True))
    found = plan(*disks, traces, arrays=(array,), point=point_of(array), record=noted(FOUR, fs_uuid="9"))
    assert found.spares == (traces,)


def test_whole_array_is_given_no_spare() -> None:
    array = mounted_at(PATH, array_of(PAIR, content=OURS_ON_ARRAY))
    assert plan(*PAIR, THREE, arrays=(array,), point=point_of(array)).spares == ()


# --- whose array ------------------------------------------------------------------------------------------------------


def test_array_with_another_name_is_busy() -> None:
    disks = (member(ONE, name="0"), member(TWO, name="0"))
    error = refusal(*disks, arrays=(array_of(disks, content=OUR_CONTENT),))
    assert error.reason == "DISK_BUSY" and "it has partitions or holders (md127)" in error.message


def test_stopped_array_with_another_name_is_foreign_data() -> None:
    assert refusal(*stopped(ONE, TWO, name="0")).reason == "DISK_FOREIGN_DATA"


def test_blank_disk_beside_somebodys_array_is_used_alone() -> None:
    disks = (member(ONE, name="0"), member(TWO, name="0"))
    assert plan(*disks, THREE, arrays=(array_of(disks),)).members == (THREE,)


@pytest.mark.parametrize(
    "arrays",
    [
        (),
        (array_of((PAIR[0],)),),
        (array_of((*PAIR, THREE)),),
        (array_of(PAIR, name="md0"),),
    ],
)
def test_members_that_more_than_our_array_holds_are_busy(arrays: tuple[Disk, ...]) -> None:
    error = refusal(*PAIR, arrays=arrays)
    assert (error.reason, error.state) == ("DISK_BUSY", FOREIGN)
    assert error.message.endswith("they are held by md127, which is more than our array")


def test_members_in_two_arrays_one_of_which_runs_are_busy() -> None:
    pair = (PAIR[0], member(TWO, holder="md1"))
    arrays = (array_of((pair[0],), active=False, content=None), array_of((pair[1],), name="md1", content=OUR_CONTENT))
    error = refusal(*pair, arrays=arrays)
    assert error.message.endswith("they are held by md1, md127, which is more than our array")


def test_member_that_something_else_holds_as_well_is_busy() -> None:
    pair = (replace(PAIR[0], holders=("md127", "dm-0")), PAIR[1])
    error = refusal(*pair, arrays=(array_of(pair, content=OUR_CONTENT),))
    assert error.message.endswith("they are held by dm-0, md127, which is more than our array")


@pytest.mark.parametrize(
    "change",
    [
        {"root": True},
        {"partitions": ("p1",)},
        {"read_only": True},
        {"node": None},
        {"swap": ("/dev/x",)},
        {"mounts": (Mount("/x", "1:1", "/", "xfs", "x"),)},
        {"model": "Amazon Elastic Block Store"},
        {"members": ("sda",)},
    ],
)
def test_member_that_is_anything_else_too_is_no_member_of_ours(change: dict[str, Any]) -> None:
    disk = replace(member(ONE, holder=""), **change)
    assert our_sets_of(disk) == []


def our_sets_of(*disks: Disk, **more: Any) -> list[Any]:
    return our_sets(Host(disks=disks, mount_point=UNMOUNTED, **more))


@pytest.mark.parametrize(
    "change",
    [{"error": "oh"}, {"raid": None}, {"signatures": ("linux_raid_member", "xfs")}, {"signatures": ()}],
)
def test_member_that_could_not_be_read_as_one_is_no_member(change: dict[str, Any]) -> None:
    disk = member(ONE, holder="")
    assert disk.content is not None
    assert our_sets_of(replace(disk, content=replace(disk.content, **change))) == []


def test_members_are_told_apart_by_the_uuid_of_their_array() -> None:
    other = member(TWO, holder="", uuid="f" * 32, devices=1)
    found = our_sets_of(member(ONE, holder="", devices=1), other)
    assert [(s.members, s.judgement.state, s.target, s.complete) for s in found] == [
        ((member(ONE, holder="", devices=1),), OURS, None, True), ((other,), OURS, None, True)
    ]  # fmt: skip


def test_two_arrays_of_ours_are_ambiguous_and_nothing_is_made() -> None:
    disks = (member(ONE, holder="", devices=1), member(TWO, holder="", uuid="f" * 32, devices=1))
    error = refusal(*disks, THREE)
    assert (error.reason, error.state, error.exit_code) == ("DISK_AMBIGUOUS", FOREIGN, 3)
    assert error.message == f"several disks or arrays are ours: {disks[0].summary()}; {disks[1].summary()}"


def test_arrays_of_several_disks_that_are_ambiguous_are_named_with_all_of_them() -> None:
    first, second = stopped(ONE, TWO), stopped(THREE, FOUR, uuid="f" * 32)
    assert refusal(*first, *second).message == (
        f"several disks or arrays are ours: {ONE.summary()} and {TWO.summary()}; "
        f"{THREE.summary()} and {FOUR.summary()}"
    )


def test_member_that_another_program_holds_is_a_member_all_the_same() -> None:
    disk = replace(member(ONE, holder=""), held=True)
    assert refusal(disk, TWO).reason == "ARRAY_INCOMPLETE"


def test_array_that_is_mounted_at_the_path_is_chosen_of_two() -> None:
    array = mounted_at(PATH, array_of(PAIR, content=OURS_ON_ARRAY))
    other = replace(OUR_DISK, name="nvme3n1", devno="259:3", serial="A3", mounts=(), held=False)
    assert plan(*PAIR, other, arrays=(array,), point=point_of(array)).target == array


def test_disk_whose_marker_names_the_path_is_chosen_before_a_broken_array() -> None:
    other = replace(OUR_DISK, name="nvme3n1", devno="259:3", serial="A3", mounts=(), held=False)
    assert plan(*stopped(ONE), other).target == other


def test_mounted_one_is_chosen_before_the_one_whose_marker_names_the_path() -> None:
    named = replace(OUR_DISK, name="nvme3n1", devno="259:3", serial="A3", mounts=(), held=False)
    mounted = replace(OUR_DISK, content=replace(OUR_CONTENT, marker_mount_path="/mnt/other"))
    assert plan(named, mounted, point=MOUNTED).target == mounted


# --- ours, and what is asked of it ------------------------------------------------------------------------------------


def test_array_of_ours_with_another_filesystem_type_is_kept() -> None:
    array = array_of(PAIR, content=OURS_ON_ARRAY)
    error = refusal(*PAIR, arrays=(array,), wanted=replace(WANTED, fstype="ext4"))
    assert (error.reason, error.state) == ("FS_MISMATCH", OURS)
    assert error.message == f"{array.summary()} is ours and has xfs, but ext4 was asked for"


def test_ours_that_is_mounted_elsewhere_is_not_mounted_twice() -> None:
    there = Mount("/mnt/old", "259:1", "/", "xfs", "x")
    error = refusal(replace(OUR_DISK, mounts=(there,)), BLANK_DISK)
    assert (error.reason, error.state, error.exit_code) == ("MOUNT_ELSEWHERE", OURS, 3)
    assert error.message == f"{OUR_DISK.summary()} is ours and mounted at /mnt/old, wanted at /mnt/nvme"
    assert error.repair == "umount /mnt/old   # when nothing uses it any more; then run again"


def test_bind_mount_of_a_folder_of_ours_is_no_mount_elsewhere() -> None:
    pod = Mount("/var/lib/kubelet/pods/x", "259:1", "/hub", "xfs", "x")
    assert names(plan(replace(OUR_DISK, mounts=(pod,), held=True))) == [SEAL, MOUNT]


def test_second_mount_of_ours_does_not_hurt() -> None:
    there = Mount("/mnt/old", "259:1", "/", "xfs", "x")
    assert plan(replace(OUR_DISK, mounts=(*OUR_DISK.mounts, there)), point=MOUNTED).steps == ()


def test_folder_of_ours_at_the_path_is_not_the_filesystem() -> None:
    here = Mount(PATH, "259:1", "/hub", "xfs", "/dev/nvme1n1")
    error = refusal(replace(OUR_DISK, mounts=(here,)), point=MountPoint(PATH, mount=here))
    assert error.reason == "MOUNT_WRONG_DEVICE"


def test_group_that_may_write_has_mode_0775() -> None:
    grouped = replace(WANTED, group="judges", gid=990)
    found = plan(OUR_DISK, point=MOUNTED, wanted=grouped)
    assert [step.text for step in found.steps] == [
        "give /mnt/nvme to root and group judges with mode 0775 (it has 0755)"
    ]
    assert plan(OUR_DISK, point=replace(MOUNTED, mode=0o775, gid=990), wanted=grouped).steps == ()


def test_root_of_ours_that_others_may_write_is_restricted() -> None:
    found = plan(OUR_DISK, point=replace(MOUNTED, mode=0o777))
    assert (names(found), found.steps[0].text) == (
        [RESTRICT], "give /mnt/nvme to root with mode 0755 (it has 0777)"
    )  # fmt: skip


@pytest.mark.parametrize(("owner", "decided"), [("auto", "judge"), ("judge", "judge")])
def test_who_owns_the_disks_is_decided_once(owner: str, decided: str) -> None:
    """What made the disks is not looked for anew at every boot: the boot unit has --owner judge."""
    found = plan(OUR_DISK, point=MOUNTED, wanted=replace(WANTED, owner=owner), units=UNITS)
    assert (found.steps, found.owner) == ((), decided)


def test_steps_of_the_units_say_what_they_are_for() -> None:
    fresh = replace(UNITS, mount_text=None, boot_state="failed", installed=False)
    assert [step.text for step in plan(OUR_DISK, point=MOUNTED, units=fresh).steps] == [
        "install judge-node, which the boot unit starts",
        "write and enable the units that check and mount it at every boot, by UUID",
        "start the boot unit, so that what waits for the disk may start",
    ]


def test_units_of_an_array_that_is_yet_to_be_started_are_written_when_its_uuid_is_known() -> None:
    assert PERSIST in names(plan(*stopped(ONE, TWO), units=replace(UNITS, boot_state="inactive")))
    assert START in names(plan(*stopped(ONE, TWO), units=replace(UNITS, boot_state="inactive")))


def test_path_that_is_not_free_says_what_is_there() -> None:
    tmpfs = MountPoint(PATH, mount=Mount(PATH, "0:4", "/", "tmpfs", "none"))
    error = refusal(BLANK_DISK, point=tmpfs)
    assert (error.message, error.state) == (
        f"/mnt/nvme has none (tmpfs) mounted, wanted {BLANK_DISK.summary()}", BLANK
    )  # fmt: skip
    assert error.repair == "findmnt /mnt/nvme   # unmount it, or choose another mount path"
    error = refusal(replace(OUR_DISK, mounts=()), point=tmpfs)
    assert (error.message, error.state) == (f"/mnt/nvme has none (tmpfs) mounted, wanted {OUR_DISK.summary()}", OURS)
    assert refusal(*stopped(ONE, TWO), point=tmpfs).message.endswith("wanted the local disk")
    error = refusal(BLANK_DISK, point=MountPoint(PATH, kind="other"))
    assert (error.message, error.repair) == (
        "/mnt/nvme is not a directory", "ls -la /mnt/nvme   # move it away, then run again"
    )  # fmt: skip
    error = refusal(BLANK_DISK, point=MountPoint(PATH, entries=3))
    assert error.message == "/mnt/nvme is not mounted but holds 3 entries, which a mount would hide"


# --- half-made among blank --------------------------------------------------------------------------------------------


def test_half_made_disk_is_erased_before_anything_is_made() -> None:
    half = replace(TWO, content=replace(OUR_CONTENT, marker="unreadable"))
    found = plan(ONE, half, wanted=RAID0, record=noted(TWO, fs_uuid="1-2-3"))
    assert (names(found), found.erase, found.members, found.state) == ([ERASE], (half,), (ONE, half), BLANK)
    assert found.before.splitlines()[1] == f"{half.summary()}: unfinished, of ours"


def test_half_made_disk_alone_is_erased() -> None:
    half = replace(ONE, content=replace(OUR_CONTENT, marker="unreadable"))
    found = plan(half, DATA, record=noted(ONE, fs_uuid="1-2-3"))
    assert (names(found), found.erase) == ([ERASE], (half,)) and len(found.notes) == 1


def test_half_made_disk_that_mount_does_not_take_is_left() -> None:
    half = replace(TWO, content=replace(OUR_CONTENT, marker="unreadable"))
    assert plan(ONE, half, wanted=MOUNT_ONE, record=noted(TWO, fs_uuid="1-2-3")).target == ONE


def test_traces_of_our_mkfs_are_formatted_over() -> None:
    traces = replace(ONE, content=replace(ZERO, nonzero_at=4096, unfinished=True))
    found = plan(traces, record=noted(ONE, fs_uuid="1-2-3"))
    assert names(found) == [FORMAT, SEAL, MOUNT, MARK]
    assert found.before.splitlines()[0] == f"{traces.summary()}: unfinished, of ours"
