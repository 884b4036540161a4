"""Where a disk is read to prove that it is blank.

Three kinds of places. The edges, where nearly every signature and table lies. The places at which a filesystem survives
after the start of its disk was wiped. And samples, one at a random place in each of 4,096 equal parts of the disk: if
all of them are zero, then with a confidence of 99.9 % less than 0.17 % of the disk's 4 KiB blocks hold anything
(0.9983 ** 4096 < 0.001), and no stretch of data longer than two parts (122 MiB of 250 GB) exists at all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

MIB = 1 << 20
BLOCK_BYTES = 4096
EDGE_BYTES = 16 * MIB  # both ends: ZFS and md labels, GPT copies, a ZFS partition's end before its 8 MiB reserve
COMPLETE_BYTES = 512 * MIB  # a disk up to this size is read from end to end
SAMPLE_BYTES = 64 << 10
SAMPLE_COUNT = 4096
SLICE_BYTES = MIB

# Where partitions start behind the first 16 MiB: after a boot partition of the usual sizes (fdisk, Windows, EFI).
_PARTITION_MIB = (16, 17, 32, 33, 64, 65, 100, 101, 128, 129, 200, 201, 256, 257, 500, 501, 512, 513, 514, 551, 600,
                  601, 1000, 1001, 1024, 1025, 2048, 2049)  # fmt: skip
_BTRFS_MIRRORS = (64 * MIB, 256 << 30)
_XFS_GROUPS = 32  # mkfs.xfs makes 4 groups, or 16 or 32 on an array; every quarter is a multiple of a 32nd
_XFS_LARGEST_GROUP = (1 << 40) - BLOCK_BYTES  # and groups of this size on a disk of 4 TiB and more


def ext_backups(size_bytes: int, block_sizes: tuple[int, ...] = (1024, 2048, 4096)) -> Iterator[int]:
    """Yield the offsets of ext2/3/4 backup superblocks (sparse_super) for each block size in bytes."""
    groups = {1} | {base**power for base in (3, 5, 7) for power in range(1, 21)}
    for block_bytes in block_sizes:
        group_bytes = 8 * block_bytes * block_bytes
        for group in sorted(groups):
            if group * group_bytes >= size_bytes:
                break
            yield group * group_bytes


def survivors(size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the places at which a filesystem survives a wiped start of disk or partition."""
    for start in _PARTITION_MIB:
        yield start * MIB, 128 << 10  # btrfs begins 64 KiB into its partition
    for base in (0, MIB):  # on the whole disk, and in a partition that starts at 1 MiB
        for offset in ext_backups(size_bytes):
            yield base + offset, 2 * BLOCK_BYTES
        for mirror in _BTRFS_MIRRORS:
            yield base + mirror, BLOCK_BYTES
    for group in range(1, _XFS_GROUPS):
        # A group's size is rounded to blocks or, on an array, to stripe units, which add up from group to group; and a
        # filesystem in a partition has it up to 1 MiB off. Where the second of 4, 16 or 32 groups begins is read wide.
        spread = MIB if group in (1, 2) or group % (_XFS_GROUPS // 4) == 0 else 64 << 10
        yield size_bytes * group // _XFS_GROUPS // BLOCK_BYTES * BLOCK_BYTES - spread, 2 * spread
    for start in range(_XFS_LARGEST_GROUP, size_bytes, _XFS_LARGEST_GROUP):
        yield start, MIB + BLOCK_BYTES  # in a partition that starts at 1 MiB, too


def ranges(size_bytes: int, *, complete: bool = False) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of all that is read, within the disk, in slices of at most 1 MiB."""
    if complete or size_bytes <= COMPLETE_BYTES:
        yield from _sliced(0, size_bytes)
        return
    yield from _sliced(0, EDGE_BYTES)
    yield from _sliced(size_bytes - EDGE_BYTES, EDGE_BYTES)
    for offset, length in survivors(size_bytes):
        start = max(0, offset)
        yield from _sliced(start, min(offset + length, size_bytes) - start)
    part = (size_bytes - 2 * EDGE_BYTES) // SAMPLE_COUNT
    for index in range(SAMPLE_COUNT):
        start = EDGE_BYTES // BLOCK_BYTES + index * part // BLOCK_BYTES
        spare = max(0, part - SAMPLE_BYTES) // BLOCK_BYTES
        yield (start + random.randint(0, spare)) * BLOCK_BYTES, SAMPLE_BYTES


def _sliced(offset: int, length: int) -> Iterator[tuple[int, int]]:
    while length > 0:
        yield offset, min(SLICE_BYTES, length)
        offset, length = offset + SLICE_BYTES, length - SLICE_BYTES
