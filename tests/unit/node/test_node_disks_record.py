"""The note of what is being made: written before the first byte, believed only when it can be read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_node.disks import apply, record
from judge_node.disks.discover import Found
from judge_node.disks.facts import Host, Record
from judge_node.disks.plan import plan_layout
from judge_node.disks.record import read_record, read_result, write_record, write_result
from judge_node.result import NodeError
from unit.node.disk_facts import BLANK_DISK, UNITS, UNMOUNTED, WANTED, blanks

FULL = Record(array_uuid="a" * 32, fs_uuid="1-2", fstype="xfs", serials=("A", "B"), disks=2)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "RECORD", tmp_path / "lib/disks.json")
    monkeypatch.setattr(record, "RESULT", tmp_path / "run/disks-result.json")
    return tmp_path


@pytest.mark.parametrize("noted", [FULL, Record(), Record(serials=("A",), disks=1)])
def test_note_is_read_as_it_was_written(noted: Record) -> None:
    write_record(noted)
    assert read_record() == noted


def test_note_is_readable_and_has_a_schema(files: Path) -> None:
    write_record(FULL)
    said = json.loads((files / "lib/disks.json").read_text())
    assert said == {**vars(FULL), "serials": ["A", "B"], "schema": 1}


def test_no_note_is_an_empty_one() -> None:
    assert read_record() == Record()


WHOLE = {"serials": ["A"], "disks": 1, "fs_uuid": "1-2", "fstype": "xfs", "array_uuid": None}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"5",
        b"[" * 50_000,
        json.dumps({**WHOLE, "serials": None}).encode(),
        json.dumps({**WHOLE, "serials": 5}).encode(),
        json.dumps({**WHOLE, "disks": None}).encode(),
        json.dumps({**WHOLE, "disks": "many"}).encode(),
        json.dumps({"fs_uuid": "1-2"}).encode(),
        json.dumps({**WHOLE, "x": "y" * 65_536}).encode(),
    ],
)
def test_note_that_cannot_be_read_proves_nothing(files: Path, text: bytes) -> None:
    (files / "lib").mkdir()
    (files / "lib/disks.json").write_bytes(text)
    assert read_record() == Record()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(
    lambda value: json.dumps({"serials": value, "disks": 1, "fs_uuid": value}).encode()))  # fmt: skip
def test_any_note_is_survived(text: bytes) -> None:
    record.RECORD.parent.mkdir(exist_ok=True)
    record.RECORD.write_bytes(text)
    found = read_record()
    assert found.fs_uuid is None or isinstance(found.fs_uuid, str)
    assert all(isinstance(serial, str) and serial for serial in found.serials)


@pytest.mark.parametrize("value", [5, [], {}, "", None, True])
def test_uuid_that_is_no_text_is_none(files: Path, value: Any) -> None:
    (files / "lib").mkdir()
    (files / "lib/disks.json").write_text(json.dumps({**WHOLE, "fs_uuid": value, "array_uuid": value, "fstype": value}))
    assert read_record() == Record(serials=("A",), disks=1)


def test_note_behind_a_link_proves_nothing(files: Path) -> None:
    (files / "other.json").write_text(json.dumps(WHOLE))
    (files / "lib").mkdir()
    (files / "lib/disks.json").symlink_to(files / "other.json")
    assert read_record() == Record()


def test_note_that_is_a_pipe_holds_nobody_up(files: Path) -> None:
    (files / "lib").mkdir()
    os.mkfifo(files / "lib/disks.json")
    assert read_record() == Record()


def test_result_of_this_boot_says_when_and_who(files: Path) -> None:
    write_result({"ok": True})
    found = read_result()
    assert found is not None and found["ok"] is True and found["pid"] == os.getpid() and found["at"] > 1_700_000_000


@pytest.mark.parametrize("text", [None, b"", b"[]", b"\xff", b"[" * 50_000])
def test_result_that_cannot_be_read_is_none(files: Path, text: bytes | None) -> None:
    if text is not None:
        (files / "run").mkdir()
        (files / "run/disks-result.json").write_bytes(text)
    assert read_result() is None


# --- when it is written -----------------------------------------------------------------------------------------------


class Doing:
    """Stands in for all that apply() does to the node, and notes what the record was at each step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: str = "") -> None:
        self.seen: list[tuple[str, Record]] = []
        self.fail_at = fail_at
        for name in ("_format", "_seal", "_install", "_write_units", "_mount", "_check_mounted", "_mark"):
            monkeypatch.setattr(apply, name, self._step(name))
        monkeypatch.setattr(apply.raid, "create", self._step("create"))
        monkeypatch.setattr(apply.os, "chown", lambda *_: None)
        monkeypatch.setattr(apply.Path, "chmod", lambda *_: None)

    def _step(self, name: str) -> Any:
        def step(*_: Any) -> None:
            self.seen.append((name, read_record()))
            if name == self.fail_at:
                raise NodeError("cut", reason="FS_CREATE_FAILED")

        return step

    def run(self, *disks: Any, record_before: Record | None = None) -> None:
        host = Host(disks=disks, mount_point=UNMOUNTED, units=replace(UNITS, mount_text=None),
                    record=record_before or Record())  # fmt: skip
        found = Found(host)
        apply.apply(plan_layout(host, WANTED), found, WANTED, 0)


def test_filesystem_is_noted_before_it_is_made_and_no_more_when_the_marker_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doing = Doing(monkeypatch)
    doing.run(BLANK_DISK)
    steps = dict(doing.seen)
    assert list(steps) == ["_format", "_seal", "_write_units", "_mount", "_check_mounted", "_mark"]
    noted = steps["_format"]
    assert noted.fs_uuid and (noted.fstype, noted.serials, noted.disks) == ("xfs", ("AWS1111",), 1)
    assert steps["_check_mounted"] == noted
    assert steps["_mark"] == Record(serials=("AWS1111",), disks=1), (
        "a note that outlives the marker would let a full disk be taken for half-made"
    )
    assert read_record() == steps["_mark"]


def test_note_stays_when_the_mount_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    doing = Doing(monkeypatch, fail_at="_mount")
    with pytest.raises(NodeError):
        doing.run(BLANK_DISK)
    assert read_record().fs_uuid == dict(doing.seen)["_format"].fs_uuid is not None


def test_each_filesystem_has_a_uuid_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = set()
    for _ in range(2):
        doing = Doing(monkeypatch)
        doing.run(BLANK_DISK)
        noted.add(dict(doing.seen)["_format"].fs_uuid)
    assert len(noted) == 2


def test_array_is_noted_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    doing = Doing(monkeypatch)
    doing.run(*blanks(2))
    ((step, noted),) = doing.seen
    assert (step, noted.serials, noted.disks, noted.fs_uuid) == ("create", ("AWS1111", "AWS2111"), 2, None)
    assert noted.array_uuid is not None and len(noted.array_uuid) == 32


def test_note_that_cannot_be_written_stops_the_run_before_the_first_byte(
    monkeypatch: pytest.MonkeyPatch, files: Path
) -> None:
    (files / "lib").write_text("in the way")
    doing = Doing(monkeypatch)
    with pytest.raises(OSError, match="lib"):
        doing.run(BLANK_DISK)
    assert doing.seen == []


def test_tools_are_looked_for_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(apply, "find", asked.append)
    for disks, fstype in ((blanks(1), "xfs"), (blanks(1), "ext4"), (blanks(2), "xfs")):
        asked.clear()
        wanted = replace(WANTED, fstype=fstype)
        apply.need_tools(plan_layout(Host(disks=disks, mount_point=UNMOUNTED), wanted), wanted)
        assert asked == [f"mkfs.{fstype}", *(["mdadm"] if len(disks) > 1 else []), "chattr"]


def test_nothing_to_do_needs_no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(apply, "find", find)
    apply.need_tools(SimpleNamespace(steps=()), WANTED)  # type: ignore[arg-type]
