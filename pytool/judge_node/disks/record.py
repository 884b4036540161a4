"""What outlives a run: a note of what is being made (on the root disk), and the result of this boot (in /run).

The note is what tells a filesystem that our own mkfs left half-made, when the power went, from somebody's data: it
is written before the first byte, names random UUIDs and serial numbers, and goes when the marker is in place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import make_directory, read_file, write_file
from ..last import read_last, write_last
from .facts import Record

RECORD = Path("/var/lib/judge-node/disks.json")
RESULT = Path("/run/judge-bootstrap/disks-result.json")


def read_record() -> Record:
    """Return the note of the last run; one that is missing or cannot be read proves nothing, and is an empty one."""
    try:
        said = json.loads(read_file(RECORD, 65_536))
        serials = tuple(str(serial) for serial in said["serials"] if serial)
        disks = int(said["disks"])
        names = [said.get(key) for key in ("array_uuid", "fs_uuid", "fstype")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Record()
    array_uuid, fs_uuid, fstype = (name if isinstance(name, str) and name else None for name in names)
    return Record(array_uuid=array_uuid, fs_uuid=fs_uuid, fstype=fstype, serials=serials, disks=disks)


def write_record(record: Record) -> None:
    """Note durably what is being made."""
    make_directory(RECORD.parent)
    write_file(RECORD, (json.dumps(dict(vars(record), schema=1), sort_keys=True) + "\n").encode())


def write_result(result: dict[str, Any]) -> None:
    """Leave the result of this run for `judge-node status`; it ends with the boot."""
    write_last(RESULT, result)


def read_result() -> dict[str, Any] | None:
    """Return the result of the last run of this boot, or None when there was none."""
    return read_last(RESULT)
