"""What one disk is: blank, ours, somebody's; and what of ours is half-made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from judge_node.disks.facts import Content, Disk, Mount, Record
from judge_node.disks.judge import BLANK, DEGRADED, FOREIGN, OURS, Judgement, judge
from unit.node.disk_facts import ARRAY_UUID, BLANK_DISK, OUR_CONTENT, OUR_DISK, ZERO, member, noted

EBS = "Amazon Elastic Block Store"
HALF_MADE = replace(BLANK_DISK, content=replace(OUR_CONTENT, marker="unreadable"))
TRACES = replace(BLANK_DISK, content=replace(ZERO, nonzero_at=4096, unfinished=True))
NOTE = noted(BLANK_DISK, fs_uuid="1-2-3", fstype="xfs")


@pytest.mark.parametrize(
    "change",
    [{"model": EBS}, {"serial": "vol0123"}, {"model": EBS, "serial": None}, {"model": EBS, "content": OUR_CONTENT}],
)
def test_ebs_is_no_local_disk_by_its_model_or_its_serial(change: dict[str, Any]) -> None:
    found = judge(replace(BLANK_DISK, **change))
    assert found == Judgement(FOREIGN, "DISK_NOT_LOCAL", "it is an EBS volume, not a local disk")


@pytest.mark.parametrize("serial", ["AWSvol1", "Vol1", None, ""])
def test_serial_that_does_not_begin_like_a_volume_id_is_no_ebs(serial: str | None) -> None:
    assert judge(replace(BLANK_DISK, serial=serial)).state == BLANK


@pytest.mark.parametrize(
    ("change", "reason", "why"),
    [
        ({"root": True, "model": EBS}, "DISK_BUSY", "the running system is on it"),
        ({"members": ("sda", "sdb")}, "DISK_BUSY", "it is composed of sda, sdb"),
        ({"swap": ("/dev/a", "/dev/b")}, "DISK_BUSY", "it is swap space (/dev/a, /dev/b)"),
        ({"partitions": ("p1", "p2")}, "DISK_BUSY", "it has partitions or holders (p1, p2)"),
        (
            {"partitions": ("p1",), "holders": ("md1",), "membership": ("md1 (raid0)",)},
            "DISK_BUSY",
            "it has partitions or holders (p1, md1 (raid0))",
        ),
        ({"node": None}, "DISK_UNKNOWN", "it has no device node here (device number 259:1)"),
        ({"read_only": True}, "DISK_UNKNOWN", "the kernel has it read-only"),
        (
            {"mounts": (Mount("/a", "1:1", "/", "xfs", "x"), Mount("/b", "1:1", "/", "xfs", "x")), "held": True},
            "DISK_BUSY",
            "it is mounted at /a, /b",
        ),
        (
            {"held": True},
            "DISK_BUSY",
            "another program, or a mount in another namespace, holds it exclusively",
        ),
        ({"content": None}, "DISK_UNKNOWN", "it was not examined"),
        ({"content": Content(error="oh")}, "DISK_UNKNOWN", "oh"),
        ({"content": Content(("a", "b"))}, "DISK_FOREIGN_DATA", "it carries a, b"),
        (
            {"content": replace(ZERO, nonzero_at=0)},
            "DISK_FOREIGN_DATA",
            "it is not blank: data without a signature at byte 0",
        ),
        ({"content": Content()}, "DISK_UNKNOWN", "its blocks were not read while it was held"),
        ({"held": None}, "DISK_UNKNOWN", "its blocks were not read while it was held"),
        ({"size_bytes": 0}, "DISK_UNKNOWN", "its blocks were not read while it was held"),
    ],
)
def test_what_is_not_blank_has_its_reason_in_words(change: dict[str, Any], reason: str, why: str) -> None:
    state = FOREIGN if reason in ("DISK_BUSY", "DISK_FOREIGN_DATA") else DEGRADED
    assert judge(replace(BLANK_DISK, **change)) == Judgement(state, reason, why)


def test_one_byte_read_is_enough_to_be_no_unread_disk() -> None:
    assert judge(replace(BLANK_DISK, size_bytes=1, content=Content(sampled_bytes=1))).state == BLANK


def test_blank_and_ours_have_no_reason() -> None:
    assert judge(BLANK_DISK) == Judgement(BLANK)
    assert judge(OUR_DISK) == Judgement(OURS)


@pytest.mark.parametrize("marker", ["valid", "empty"])
def test_our_filesystem_is_ours_whatever_the_note_says(marker: str) -> None:
    disk = replace(OUR_DISK, content=replace(OUR_CONTENT, marker=marker))
    for record in (None, Record(), NOTE, noted(fs_uuid="9-9-9")):
        assert judge(disk, record) == Judgement(OURS)


@pytest.mark.parametrize(
    ("marker", "said"),
    [("missing", "missing"), ("mismatch", "mismatch"), ("unreadable", "unreadable"), (None, "not read")],
)
def test_our_label_proves_nothing_without_the_marker(marker: str | None, said: str) -> None:
    found = judge(replace(BLANK_DISK, content=replace(OUR_CONTENT, marker=marker)))
    assert found == Judgement(
        FOREIGN, "DISK_FOREIGN_DATA", f"its filesystem has our label 'judge-nvme', but its marker file is {said}"
    )


def test_our_label_beside_another_signature_is_no_filesystem_of_ours() -> None:
    disk = replace(BLANK_DISK, content=replace(OUR_CONTENT, signatures=("gpt", "xfs")))
    assert judge(disk) == Judgement(FOREIGN, "DISK_FOREIGN_DATA", "it carries gpt, xfs")


def test_our_filesystem_without_a_uuid_is_none() -> None:
    assert judge(replace(BLANK_DISK, content=replace(OUR_CONTENT, fs_uuid=None))).why == "it carries xfs"


def test_our_filesystem_that_could_not_be_read_is_unknown() -> None:
    assert judge(replace(BLANK_DISK, content=replace(OUR_CONTENT, error="oh"))) == Judgement(
        DEGRADED, "DISK_UNKNOWN", "oh"
    )


def test_our_filesystem_in_another_namespace_is_busy() -> None:
    disk = replace(BLANK_DISK, held=True, content=replace(OUR_CONTENT, marker=None))
    assert judge(disk).reason == "DISK_BUSY" and "another namespace" in judge(disk).why


def test_our_filesystem_that_is_held_and_whose_marker_is_wrong_is_somebodys() -> None:
    disk = replace(BLANK_DISK, held=True, content=replace(OUR_CONTENT, marker="missing"))
    assert judge(disk).reason == "DISK_FOREIGN_DATA"


# --- half-made --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fstype", ["xfs", "ext4"])
def test_filesystem_that_the_note_names_and_that_cannot_be_mounted_is_erased(fstype: str) -> None:
    content = replace(HALF_MADE.content or ZERO, fstype=fstype, signatures=(fstype,))
    assert judge(replace(HALF_MADE, content=content), NOTE) == Judgement(BLANK, erase=True)


@pytest.mark.parametrize(
    "record",
    [
        None,
        Record(),
        noted(BLANK_DISK),
        noted(BLANK_DISK, fs_uuid="1-2-4"),
        noted(BLANK_DISK, array_uuid="1-2-3"),
        noted(replace(BLANK_DISK, serial="AWS9"), fs_uuid="1-2-3"),
        noted(fs_uuid="1-2-3"),
    ],
)
def test_half_made_filesystem_is_somebodys_unless_uuid_and_serial_are_noted(record: Record | None) -> None:
    found = judge(HALF_MADE, record)
    assert (found.state, found.reason, found.erase) == (FOREIGN, "DISK_FOREIGN_DATA", False)


@pytest.mark.parametrize(
    "change",
    [
        {"label": "data"},
        {"label": None},
        {"fstype": "btrfs", "signatures": ("btrfs",)},
        {"signatures": ("gpt", "xfs")},
        {"marker": "missing"},
        {"marker": "mismatch"},
    ],
)
def test_noted_uuid_alone_does_not_make_a_filesystem_half_made(change: dict[str, Any]) -> None:
    found = judge(replace(HALF_MADE, content=replace(HALF_MADE.content or ZERO, **change)), NOTE)
    assert (found.state, found.erase) == (FOREIGN, False)


@pytest.mark.parametrize(
    "change",
    [
        {"held": True},
        {"mounts": (Mount("/x", "259:1", "/", "xfs", "x"),)},
        {"partitions": ("p1",)},
        {"holders": ("dm-0",)},
        {"read_only": True},
        {"model": EBS},
        {"serial": None},
    ],
)
def test_half_made_filesystem_that_is_in_use_or_cannot_be_written_is_left(change: dict[str, Any]) -> None:
    assert judge(replace(HALF_MADE, **change), NOTE).state in (FOREIGN, DEGRADED)


def test_disk_without_a_serial_is_in_no_note() -> None:
    disk = replace(HALF_MADE, serial=None)
    assert judge(disk, Record(fs_uuid="1-2-3", serials=("None", ""))).state == FOREIGN


def test_traces_of_our_mkfs_count_as_blank() -> None:
    assert judge(TRACES, NOTE) == Judgement(BLANK)


@pytest.mark.parametrize(
    ("disk", "record"),
    [
        (replace(TRACES, content=replace(ZERO, nonzero_at=4096)), NOTE),
        (TRACES, noted(BLANK_DISK)),
        (TRACES, noted(BLANK_DISK, array_uuid="1-2-3")),
        (replace(TRACES, serial="AWS9"), NOTE),
        (replace(TRACES, serial=None), NOTE),
    ],
)
def test_data_without_a_signature_is_somebodys_unless_all_of_it_is_noted(disk: Disk, record: Record) -> None:
    assert judge(disk, record).reason == "DISK_FOREIGN_DATA"


@pytest.mark.parametrize("change", [{"held": True}, {"held": None}, {"content": replace(ZERO, sampled_bytes=0)}])
def test_disk_that_was_not_read_while_held_is_never_blank(change: dict[str, Any]) -> None:
    assert judge(replace(TRACES, **change), NOTE).state != BLANK
    assert judge(replace(BLANK_DISK, **change), NOTE).state != BLANK


# --- arrays -----------------------------------------------------------------------------------------------------------

ARRAY = Disk("md127", "9:127", "/dev/md127", 500 << 30, members=("nvme1n1", "nvme2n1"), held=False, content=ZERO)


def test_array_is_judged_by_its_content_when_it_is_looked_at_as_one() -> None:
    assert judge(ARRAY, serials=("A", "B")) == Judgement(BLANK)
    assert judge(replace(ARRAY, content=OUR_CONTENT), serials=()) == Judgement(OURS)
    assert judge(ARRAY).why == "it is composed of nvme1n1, nvme2n1"


@pytest.mark.parametrize(
    ("serials", "state"), [(("A", "B"), BLANK), (("A",), BLANK), (("A", "C"), FOREIGN), ((), FOREIGN)]
)
def test_half_made_filesystem_on_an_array_wants_all_serials_noted(serials: tuple[str, ...], state: str) -> None:
    record = Record(fs_uuid="1-2-3", fstype="xfs", serials=("A", "B", "D"))
    for content in (HALF_MADE.content, TRACES.content):
        assert judge(replace(ARRAY, content=content), record, serials=serials).state == state


def test_serial_of_the_array_itself_is_none_of_its_disks() -> None:
    record = Record(fs_uuid="1-2-3", fstype="xfs", serials=("A",))
    assert judge(replace(ARRAY, serial="A", content=HALF_MADE.content), record, serials=("B",)).state == FOREIGN


def test_member_of_an_array_that_is_noted_as_being_made_is_erased() -> None:
    disk = member(BLANK_DISK, holder="")
    assert judge(disk, noted(BLANK_DISK, array_uuid=ARRAY_UUID)) == Judgement(BLANK, erase=True)
    assert judge(disk, noted(BLANK_DISK, array_uuid="f" * 32)).state == FOREIGN
    assert judge(disk, noted(BLANK_DISK, fs_uuid="0-1")).state == FOREIGN
    assert judge(disk, noted(array_uuid=ARRAY_UUID)).state == FOREIGN
    more = replace(disk, content=replace(disk.content or ZERO, signatures=("ext4", "linux_raid_member")))
    assert judge(more, noted(BLANK_DISK, array_uuid=ARRAY_UUID)).state == FOREIGN
