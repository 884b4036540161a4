"""Tell what our own mkfs, cut off by a power loss before its superblock was written, has left from somebody's data.

mkfs.xfs writes the filesystem's UUID into every block, and the UUID was random and noted beforehand. Of what mkfs.ext4
writes only superblocks and journal bear it: the rest is known by its place, which is as narrow as 300 MiB to 7.5 TB
disks allow. With no signature on the disk its first 4 KiB, where the superblock would be, hold nothing.
"""

from __future__ import annotations

import binascii

from .facts import Record
from .places import BLOCK_BYTES, MIB, ext_backups

_FLEX_GROUP_BYTES = 2 << 30  # 16 block groups, whose bitmaps and inode tables mkfs.ext4 puts together at the start
_EXT_AREA_BYTES = 8 * MIB  # 7.7 MiB on 7.5 TB; behind a backup superblock are the group descriptors, 3.4 MiB there
_ZERO = bytes(BLOCK_BYTES)


def left_by_mkfs(record: Record, size_bytes: int, offset: int, data: bytes) -> bool:
    """Return whether each block of `data`, read at `offset`, is zero or one that the noted mkfs can have written."""
    try:
        uuid = binascii.unhexlify((record.fs_uuid or "").replace("-", ""))
    except ValueError:
        return False
    if len(uuid) != 16:
        return False
    for start in range(0, len(data), BLOCK_BYTES):
        block = data[start : start + BLOCK_BYTES]
        if block == _ZERO[: len(block)] or uuid in block:
            continue
        if record.fstype != "ext4" or not _is_of_ext4(size_bytes, offset + start):
            return False
    return True


def _is_of_ext4(size_bytes: int, place: int) -> bool:
    """Return whether a block without the UUID belongs there; a superblock's copy always has it."""
    backups = tuple(ext_backups(size_bytes, (BLOCK_BYTES,)))
    if place < BLOCK_BYTES or place in backups:
        return False
    if place % _FLEX_GROUP_BYTES < _EXT_AREA_BYTES:
        return True
    return any(backup < place < backup + _EXT_AREA_BYTES for backup in backups)
