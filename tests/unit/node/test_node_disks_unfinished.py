"""What our own mkfs leaves when it is cut off is told from somebody's data, by the UUID that was noted."""

from __future__ import annotations

import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_node.disks.apply import mkfs_command
from judge_node.disks.facts import Record
from judge_node.disks.probe import read_blocks
from judge_node.disks.unfinished import left_by_mkfs
from unit.node.sparse import GIB, MIB, extents

UUID = "0d1e2f30-4152-4637-8849-5a6b7c8d9eaf"
OTHER = "ffffffff-4152-4637-8849-5a6b7c8d9eaf"
SIZE = 6 * GIB
XFS, EXT4 = (Record(fs_uuid=UUID, fstype=fstype, serials=("S",), disks=1) for fstype in ("xfs", "ext4"))


def written(record: Record, folder: Path, size: int = SIZE) -> dict[int, bytes]:
    """Return {place: block} of all 4 KiB blocks that are not zero after a whole mkfs of ours."""
    image = folder / "made"
    with image.open("wb") as file:
        file.truncate(size)
    assert record.fstype is not None
    argv = mkfs_command(record.fstype, str(image), UUID)
    subprocess.run(argv, check=True, capture_output=True,
                   env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})  # fmt: skip
    found = {}
    with image.open("rb") as file:
        for offset, length in extents(file.fileno()):
            for place in range(offset // 4096 * 4096, offset + length, 4096):
                block = os.pread(file.fileno(), 4096, place)
                if block.strip(b"\0"):
                    found[place] = block
    return found


@pytest.fixture(scope="module", params=[XFS, EXT4], ids=["xfs", "ext4"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, dict[int, bytes]]:
    return request.param, written(request.param, tmp_path_factory.mktemp("made"))


def disk_of(blocks: dict[int, bytes], path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(SIZE)
        for place, block in blocks.items():
            os.pwrite(file.fileno(), block, place)
    return path


def unfinished(image: Path, record: Record | None) -> bool:
    with image.open("rb") as file:
        found = read_blocks(file.fileno(), SIZE, complete=False, record=record)
    assert found.nonzero_at is not None
    return found.unfinished


def cut(blocks: dict[int, bytes], share: float, seed: int) -> dict[int, bytes]:
    """Return some of the blocks: any of them may have got to the disk before the power went, the superblock last."""
    chance = random.Random(seed)
    return {place: block for place, block in blocks.items() if place >= 4096 and chance.random() < share}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_any_part_of_what_mkfs_writes_is_known_as_unfinished(
    made: tuple[Record, dict[int, bytes]], tmp_path: Path, share: float, seed: int
) -> None:
    record, blocks = made
    with disk_of(cut(blocks, share, seed), tmp_path / "disk").open("rb") as file:
        found = read_blocks(file.fileno(), SIZE, complete=False, record=record)
    assert found.unfinished == (found.nonzero_at is not None) and (found.unfinished or share < 0.5)


@pytest.mark.parametrize("place", [0, 512, 2048])
def test_data_where_the_superblock_would_be_is_somebody_elses(
    made: tuple[Record, dict[int, bytes]], tmp_path: Path, place: int
) -> None:
    record, blocks = made
    image = disk_of(cut(blocks, 1.0, 0), tmp_path / "disk")
    with image.open("r+b") as file:
        os.pwrite(file.fileno(), b"header", place)
    assert not unfinished(image, record)


@pytest.mark.parametrize("place", [9 * MIB, 15 * MIB, 17 * MIB, SIZE - MIB, SIZE - 4096, 513 * MIB])
def test_one_block_of_somebody_else_among_ours_counts(
    made: tuple[Record, dict[int, bytes]], tmp_path: Path, place: int
) -> None:
    record, blocks = made
    assert not unfinished(disk_of({**cut(blocks, 1.0, 0), place: b"x" * 4096}, tmp_path / "disk"), record)


def test_xfs_leaves_nothing_without_its_uuid(tmp_path: Path) -> None:
    assert not unfinished(disk_of({4096: b"x" * 4096}, tmp_path / "disk"), XFS)
    blocks = written(XFS, tmp_path)
    assert len(blocks) > 20 and all(left_by_mkfs(XFS, SIZE, place, block) for place, block in blocks.items())


def test_another_uuid_than_the_noted_one_proves_nothing(
    made: tuple[Record, dict[int, bytes]], tmp_path: Path
) -> None:
    record, blocks = made
    image = disk_of(cut(blocks, 1.0, 0), tmp_path / "disk")
    assert not unfinished(image, replace(record, fs_uuid=OTHER))
    assert not unfinished(image, replace(record, fs_uuid=None))
    assert not unfinished(image, None)


def test_nothing_that_is_not_zero_is_not_unfinished_either(tmp_path: Path) -> None:
    with disk_of({}, tmp_path / "disk").open("rb") as file:
        found = read_blocks(file.fileno(), SIZE, complete=False, record=XFS)
    assert (found.nonzero_at, found.unfinished) == (None, False)


@pytest.mark.parametrize("fs_uuid", [None, "", "zz", "0d1e2f30", "00", "é" * 32, f"{UUID}00"])
def test_note_without_a_whole_uuid_explains_no_block(fs_uuid: str | None) -> None:
    for fstype in ("xfs", "ext4", None):
        record = Record(fs_uuid=fs_uuid, fstype=fstype)
        assert not left_by_mkfs(record, SIZE, 4096, b"\0" * 16 + b"x" + b"\0" * 4079)


EXT4_PLACES = [4096, 8 * MIB - 4096, 2 * GIB, 4 * GIB + 7 * MIB, 128 * MIB + 4096, 3 * 128 * MIB + 7 * MIB]
OTHER_PLACES = [0, 8 * MIB, 128 * MIB, 5 * 128 * MIB,
                2 * GIB - 4096, 2 * GIB + 8 * MIB, 128 * MIB - 4096, 136 * MIB, 256 * MIB, 512 * MIB]


@pytest.mark.parametrize(("place", "known"), [(p, True) for p in EXT4_PLACES] + [(p, False) for p in OTHER_PLACES])
def test_ext4_is_known_by_the_places_of_its_group_descriptors_bitmaps_and_inodes(place: int, known: bool) -> None:
    assert left_by_mkfs(EXT4, SIZE, place, b"x" * 4096) == known
    assert not left_by_mkfs(XFS, SIZE, place, b"x" * 4096)


@settings(deadline=None)
@given(st.integers(0, 255), st.integers(0, 255))
def test_every_block_of_what_was_read_is_looked_at(first: int, second: int) -> None:
    data = bytearray(MIB)
    uuid = bytes.fromhex(UUID.replace("-", ""))
    for number in {first, second}:
        data[number * 4096 + 100 : number * 4096 + 116] = uuid
    assert left_by_mkfs(XFS, SIZE, 0, bytes(data))
    data[first * 4096 + 100] ^= 1
    assert not left_by_mkfs(XFS, SIZE, 0, bytes(data))
