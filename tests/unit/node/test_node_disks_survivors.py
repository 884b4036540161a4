"""A filesystem whose start was wiped is still found, by the places that are read and without the random samples."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from judge_node.disks import places, probe
from unit.node.sparse import GIB, MIB, extents

MKFS = {
    "ext4 1k": ["mkfs.ext4", "-q", "-F", "-b", "1024"],
    "ext4 2k": ["mkfs.ext4", "-q", "-F", "-b", "2048"],
    "ext4 4k": ["mkfs.ext4", "-q", "-F", "-b", "4096"],
    "xfs": ["mkfs.xfs", "-q", "-K"],
    "xfs on an array of two": ["mkfs.xfs", "-q", "-K", "-d", "su=512k,sw=2"],
    "xfs on an array of four": ["mkfs.xfs", "-q", "-K", "-d", "su=512k,sw=4"],
    "xfs on an array of eight": ["mkfs.xfs", "-q", "-K", "-d", "su=64k,sw=8"],
}


def mkfs(kind: str, image: Path, size: int) -> None:
    """Make a filesystem in a sparse file. mkfs.ext4 leaves out what costs time, and which no place looks at."""
    tool = MKFS[kind][0]
    if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip(f"{tool} is not installed")
    with image.open("wb") as file:
        file.truncate(size)
    more = ["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"] if tool == "mkfs.ext4" else []
    subprocess.run([*MKFS[kind], *more, str(image)], check=True, capture_output=True,
                   env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})  # fmt: skip


def in_partition(image: Path, size: int, start: int, filesystem: Path) -> None:
    """Put a filesystem at an offset of a disk, as a partition would have it."""
    with image.open("wb") as disk, filesystem.open("rb") as source:
        disk.truncate(size)
        for offset, length in extents(source.fileno()):
            for step in range(0, length, MIB):
                data = os.pread(source.fileno(), min(MIB, length - step), offset + step)
                os.pwrite(disk.fileno(), data, start + offset + step)


def wipe(image: Path, first: int, last: int) -> None:
    size = image.stat().st_size
    for offset, length in ((0, first), (size - last, last)):
        subprocess.run(["fallocate", "--punch-hole", "--offset", str(offset), "--length", str(length), str(image)],
                       check=True)  # fmt: skip


def found_at(image: Path, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Return where reading finds data, without the samples."""
    def without_samples(size: int, *, complete: bool) -> list[tuple[int, int]]:
        return list(places.ranges(size, complete=complete))[: -places.SAMPLE_COUNT]

    monkeypatch.setattr(probe, "ranges", without_samples)
    with image.open("rb") as file:
        size = image.stat().st_size
        return probe.read_blocks(file.fileno(), size, complete=False).nonzero_at


SIZES = {"ext4 1k": 8 * GIB, "xfs on an array of four": 600 * GIB, "xfs on an array of eight": 7000 * GIB}


@pytest.mark.parametrize("kind", MKFS)
def test_filesystem_on_the_whole_disk_is_found_after_both_ends_were_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    image = tmp_path / "disk"
    mkfs(kind, image, SIZES.get(kind, 24 * GIB))
    wipe(image, 16 * MIB, 16 * MIB)
    at = found_at(image, monkeypatch)
    assert at is not None and at >= 16 * MIB - 4096


@pytest.mark.parametrize("size", [2 * GIB + 4096, 9 * GIB + 12_288, 250_000_000_000 // 4096 * 4096, 7 << 40])
def test_xfs_is_found_on_disks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    image = tmp_path / "disk"
    try:
        mkfs("xfs", image, size)
    except OSError as error:
        pytest.xfail(f"the filesystem of {tmp_path} has no files of {size} bytes: {error}")
    wipe(image, 16 * MIB, 16 * MIB)
    assert found_at(image, monkeypatch) is not None


@pytest.mark.parametrize("kind", ["ext4 1k", "ext4 2k", "ext4 4k", "xfs"])
def test_filesystem_in_the_usual_first_partition_is_found_after_both_ends_were_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    size = 8 * GIB
    mkfs(kind, tmp_path / "filesystem", size - 2 * MIB)
    in_partition(tmp_path / "disk", size, MIB, tmp_path / "filesystem")
    wipe(tmp_path / "disk", 16 * MIB, 16 * MIB)
    assert found_at(tmp_path / "disk", monkeypatch) is not None


@pytest.mark.parametrize("kind", ["ext4 4k", "xfs"])
@pytest.mark.parametrize("start_mib", [12, 16, 17, 100, 129, 201, 257, 501, 513, 551, 601, 1001, 1025, 2049])
def test_filesystem_in_a_later_partition_is_found_by_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, start_mib: int
) -> None:
    mkfs(kind, tmp_path / "filesystem", 400 * MIB)  # too small for a backup at any other place that is read
    in_partition(tmp_path / "disk", 8 * GIB, start_mib * MIB, tmp_path / "filesystem")
    wipe(tmp_path / "disk", MIB if start_mib < 16 else 16 * MIB, 16 * MIB)
    at = found_at(tmp_path / "disk", monkeypatch)
    assert at is not None and start_mib * MIB <= at < start_mib * MIB + 128 * 1024


@pytest.mark.parametrize("start_mib", [0, 1])
@pytest.mark.parametrize("mirror", [64 * MIB, 256 * GIB])
def test_superblock_mirror_of_btrfs_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_mib: int, mirror: int
) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(300 * GIB)
        # Its magic number lies 64 bytes into the superblock of 4 KiB (btrfs on-disk format).
        os.pwrite(file.fileno(), b"_BHRfS_M", start_mib * MIB + mirror + 64)
    assert found_at(image, monkeypatch) == start_mib * MIB + mirror


def test_btrfs_in_a_partition_behind_the_first_16_mib_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(8 * GIB)
        os.pwrite(file.fileno(), b"_BHRfS_M", 513 * MIB + 64 * 1024 + 64)
    assert found_at(image, monkeypatch) == 513 * MIB


@pytest.mark.parametrize("from_end", [1, 4096, 64 * 1024, 256 * 1024, 8 * MIB + 256 * 1024])
def test_labels_at_the_end_of_the_disk_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_end: int
) -> None:
    """md 0.90 and 1.0, the copy of a GPT, and ZFS, also before the 8 MiB that it reserves."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(8 * GIB)
        os.pwrite(file.fileno(), b"\1", 8 * GIB - from_end)
    assert found_at(image, monkeypatch) == (8 * GIB - from_end) // MIB * MIB


def test_without_data_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(8 * GIB)
    assert found_at(image, monkeypatch) is None
