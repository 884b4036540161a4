"""What blkid, wipefs, mdadm and the marker say, as it is taken; the programs' answers are recorded ones."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from judge_node.disks import probe
from judge_node.disks.facts import Content, Raid, Record
from judge_node.result import NodeError

# blkid -p -o export, wipefs --no-act --parsable and mdadm --examine --export of util-linux 2.38 and mdadm 4.2.
BLKID_XFS = """\
DEVNAME=/dev/loop3
LABEL=judge-nvme
UUID=fca51b45-5ce1-4cb8-bec1-4f4c24ba5fb9
BLOCK_SIZE=512
TYPE=xfs
USAGE=filesystem
"""
WIPEFS_XFS = """\
# offset,uuid,label,type
0x0,fca51b45-5ce1-4cb8-bec1-4f4c24ba5fb9,judge-nvme,xfs
"""
BLKID_GPT = "DEVNAME=/dev/loop3\nPTUUID=6a1f3bb4-1b0b-4a5e-93a5-8a4b7d5c1f0e\nPTTYPE=gpt\n"
WIPEFS_GPT = "# offset,uuid,label,type\n0x200,,,gpt\n0x13ffffe00,,,gpt\n0x1fe,,,PMBR\n"
BLKID_MD = """\
DEVNAME=/dev/nvme1n1
UUID=3b3ae0a5-51a4-8c1b-7f84-5a1d5d9d1a2b
UUID_SUB=9a1f3bb4-1b0b-4a5e-93a5-8a4b7d5c1f0e
LABEL=any:judge-nvme
VERSION=1.2
TYPE=linux_raid_member
USAGE=raid
"""
WIPEFS_MD = "# offset,uuid,label,type\n0x1000,3b3ae0a5-51a4-8c1b-7f84-5a1d5d9d1a2b,any:judge-nvme,linux_raid_member\n"
MDADM = """\
MD_LEVEL=raid10
MD_DEVICES=4
MD_NAME=any:judge-nvme
MD_ARRAY_SIZE=498.95GB
MD_UUID=3b3ae0a5:51a48c1b:7f845a1d:5d9d1a2b
MD_UPDATE_TIME=1795541507
MD_DEV_UUID=9a1f3bb4:1b0b4a5e:93a58a4b:7d5c1f0e
MD_EVENTS=17
"""
RAID = Raid("3b3ae0a551a48c1b7f845a1d5d9d1a2b", "judge-nvme", "raid10", 4)


class Programs:
    """Stands in for the programs of a node, each with its exit status and output."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"blkid": (2, "", ""), "wipefs": (0, "", ""), **answers}
        self.asked: list[list[str]] = []

    def run(self, argv: list[str]) -> CompletedProcess[str]:
        self.asked.append(argv)
        answer = self.answers.get(argv[0])
        if answer is None:
            raise NodeError(f"program {argv[0]!r} is not on this node", reason="TOOL_MISSING")
        return CompletedProcess(argv, *answer)


def signatures(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> Content:
    programs = Programs(**answers)
    monkeypatch.setattr(probe, "run", programs.run)
    found = probe.read_signatures("/dev/x")
    assert all(argv[-1] == "/dev/x" for argv in programs.asked)
    assert programs.asked[0] == ["blkid", "-p", "-o", "export", "/dev/x"], "-p: its cache may be of yesterday's disk"
    assert all(argv == ["wipefs", "--no-act", "--parsable", "/dev/x"] for argv in programs.asked if argv[0] == "wipefs")
    assert all(argv == ["mdadm", "--examine", "--export", "/dev/x"] for argv in programs.asked if argv[0] == "mdadm")
    return found


def test_blank_disk_has_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signatures(monkeypatch) == Content()


def test_filesystem_has_type_label_and_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    found = signatures(monkeypatch, blkid=(0, BLKID_XFS, ""), wipefs=(0, WIPEFS_XFS, ""))
    assert found == Content(("xfs",), "xfs", "judge-nvme", "fca51b45-5ce1-4cb8-bec1-4f4c24ba5fb9")


def test_partition_table_is_a_signature_although_it_has_no_type(monkeypatch: pytest.MonkeyPatch) -> None:
    found = signatures(monkeypatch, blkid=(0, BLKID_GPT, ""), wipefs=(0, WIPEFS_GPT, ""))
    assert found == Content(("PMBR", "gpt"))


def test_what_only_wipefs_knows_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signatures(monkeypatch, wipefs=(0, WIPEFS_GPT, "")).signatures == ("PMBR", "gpt")


def test_what_only_blkid_knows_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signatures(monkeypatch, blkid=(0, BLKID_GPT, "")).signatures == ("gpt",)
    assert signatures(monkeypatch, blkid=(0, BLKID_XFS, "")).signatures == ("xfs",)


def test_conflicting_signatures_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signatures(monkeypatch, blkid=(8, "", "ambivalent result")).signatures == ("several conflicting signatures",)


def test_what_blkid_knows_without_a_type_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = signatures(monkeypatch, blkid=(0, "DEVNAME=/dev/x\nUSAGE=crypto\nhello\n", ""))
    assert found.signatures == ("something that blkid knows (DEVNAME, USAGE)",)


def test_value_with_an_equals_sign_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signatures(monkeypatch, blkid=(0, "TYPE=xfs\nLABEL=a=b\n", "")).label == "a=b"


@pytest.mark.parametrize("code", [1, 3, 4, 7, 9, -9])
def test_blkid_that_fails_proves_nothing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    found = signatures(monkeypatch, blkid=(code, "", f" I/O error {'x' * 300}\n"))
    assert found == Content(error=f"blkid -p /dev/x ended with {code}: I/O error {'x' * 190}")


@pytest.mark.parametrize("code", [1, 2, -9])
def test_wipefs_that_fails_proves_nothing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    found = signatures(monkeypatch, wipefs=(code, "", f" probing failed {'x' * 300}\n"))
    assert found == Content(error=f"wipefs -n /dev/x ended with {code}: probing failed {'x' * 185}")


def test_member_of_an_array_says_of_which(monkeypatch: pytest.MonkeyPatch) -> None:
    found = signatures(monkeypatch, blkid=(0, BLKID_MD, ""), wipefs=(0, WIPEFS_MD, ""), mdadm=(0, MDADM, ""))
    assert (found.signatures, found.raid) == (("linux_raid_member",), RAID)


def test_mdadm_is_asked_only_about_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signatures(monkeypatch, blkid=(0, BLKID_XFS, ""), mdadm=(0, MDADM, "")).raid is None


def test_name_of_an_array_that_no_home_host_precedes_is_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    said = MDADM.replace("any:judge-nvme", "judge-nvme")
    assert signatures(monkeypatch, blkid=(0, BLKID_MD, ""), mdadm=(0, said, "")).raid == RAID


def test_name_of_an_array_with_an_equals_sign_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    said = MDADM.replace("any:judge-nvme", "any:a=b=c")
    found = signatures(monkeypatch, blkid=(0, BLKID_MD, ""), mdadm=(0, said, "")).raid
    assert found is not None and found.name == "a=b=c"


def test_only_the_last_part_of_an_arrays_name_is_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    said = MDADM.replace("any:judge-nvme", "a:b:judge-nvme")
    assert signatures(monkeypatch, blkid=(0, BLKID_MD, ""), mdadm=(0, said, "")).raid == RAID


@pytest.mark.parametrize(
    "mdadm",
    [
        None,
        (1, MDADM, ""),
        (0, "", ""),
        (0, MDADM.replace("MD_UUID", "MD_X"), ""),
        (0, MDADM.replace("3b3ae0a5:", ""), ""),
        (0, MDADM.replace("MD_DEVICES=4", "MD_DEVICES=-4"), ""),
        (0, MDADM.replace("MD_DEVICES", "MD_X"), ""),
    ],
)
def test_member_whose_array_mdadm_does_not_tell_is_nobodys_that_we_know(
    monkeypatch: pytest.MonkeyPatch, mdadm: tuple[int, str, str] | None
) -> None:
    found = signatures(monkeypatch, blkid=(0, BLKID_MD, ""), wipefs=(0, WIPEFS_MD, ""), mdadm=mdadm)
    assert (found.signatures, found.raid) == (("linux_raid_member",), None)


def test_member_without_level_or_name_is_told_without(monkeypatch: pytest.MonkeyPatch) -> None:
    said = MDADM.replace("MD_LEVEL", "MD_X").replace("MD_NAME", "MD_Y").replace("hello", "")
    found = signatures(monkeypatch, blkid=(0, BLKID_MD, ""), mdadm=(0, said + "hello\n", ""))
    assert found.raid == Raid(RAID.uuid, "", "", 4)


MARKER = {"fs_uuid": "u", "serial": "s", "mount_path": "/mnt/nvme"}


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, ("valid", "/mnt/nvme")),
        ({"serial": None}, ("valid", "/mnt/nvme")),
        ({"mount_path": 5}, ("valid", None)),
        ({"mount_path": None}, ("valid", None)),
        ({"serial": "t"}, ("mismatch", None)),
        ({"serial": 5}, ("mismatch", None)),
        ({"fs_uuid": "v"}, ("mismatch", None)),
        ({"fs_uuid": None}, ("mismatch", None)),
    ],
)
def test_marker_says_whose_filesystem_it_is_in(change: dict[str, Any], state: tuple[str, str | None]) -> None:
    assert probe.judge_marker(json.dumps({**MARKER, **change}).encode(), "u", "s") == state


def test_marker_of_an_array_is_valid_whatever_the_serial() -> None:
    assert probe.judge_marker(json.dumps(MARKER).encode(), "u", None) == ("valid", "/mnt/nvme")


@pytest.mark.parametrize("marker", [b"", b"{", b"[]", b"null", b'"x"', b"5", b"\xff\xfe", b"[" * 100_000])
def test_marker_that_is_no_object_is_unreadable(marker: bytes) -> None:
    assert probe.judge_marker(marker, "u", "s") == ("unreadable", None)


def test_short_read_is_an_error_and_says_where(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with image.open("rb") as file, pytest.raises(OSError, match="short read at byte 1048576: 0 of 1048576") as caught:
        probe.read_blocks(file.fileno(), 2 << 20, complete=False)
    assert caught.value.errno == errno.EIO


def test_reading_stops_at_the_first_place_with_data(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(2 << 20) + b"x" + bytes((3 << 20) - 1))
    with image.open("rb") as file:
        found = probe.read_blocks(file.fileno(), 5 << 20, complete=False)
    assert found == Content(nonzero_at=2 << 20, sampled_bytes=3 << 20)


def test_first_place_with_data_is_told_although_the_reading_goes_on(tmp_path: Path) -> None:
    image = tmp_path / "image"
    uuid = "0d1e2f30-4152-4637-8849-5a6b7c8d9eaf"
    block = bytes.fromhex(uuid.replace("-", "")).ljust(1 << 20, b"\0")
    image.write_bytes(bytes(1 << 20) + block + bytes(1 << 20) + block + bytes(1 << 20))
    with image.open("rb") as file:
        found = probe.read_blocks(file.fileno(), 5 << 20, complete=False, record=Record(fs_uuid=uuid, fstype="xfs"))
    assert found == Content(nonzero_at=1 << 20, unfinished=True, sampled_bytes=5 << 20)


def test_complete_proof_finds_what_no_place_and_perhaps_no_sample_is_at(tmp_path: Path) -> None:
    image = tmp_path / "image"
    size, place = 1 << 30, (300 << 20) + 5
    with image.open("wb") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"x", place)
    with image.open("rb") as file:
        found = probe.read_blocks(file.fileno(), size, complete=True)
    assert found.nonzero_at == 300 << 20
