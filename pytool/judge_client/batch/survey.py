"""One look at a whole file of items before the first is judged: what is wrong with the last one is known then, too."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from array import array
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from judge_client.batch.items import UNUSABLE, read_items
from judge_client.errors import InputProblem


@dataclass(frozen=True)
class Survey:
    """What a file of items is: its sha256, how many items it holds, and its size and time when it was read."""

    sha256: str
    total: int
    stamp: tuple[int, int]


async def survey(path: Path, pairs: bool) -> Survey:
    """Read all items of a file once. Raises InputProblem (ITEMS_UNUSABLE) for one that cannot be judged as a whole.

    Ids must not repeat: an answer that is lost or doubled could not be told from them. Eight bytes are held for each.
    """
    stamp = stamp_of(path)
    hashes = array("Q")
    for item in read_items(path, pairs):
        hashes.append(_hash(item.id))
        if not len(hashes) % 1024:
            await asyncio.sleep(0)  # Ctrl-C is heard here only
    if not hashes:
        raise InputProblem(f"{path} holds no items", reason=UNUSABLE, hint=f"ls -l {path}")
    _check_ids(path, pairs, hashes)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    found = Survey(digest, len(hashes), stamp)
    check_unchanged(path, found)
    return found


def stamp_of(path: Path) -> tuple[int, int]:
    """Return size and time of change of a regular file: anything else cannot be read twice. Raises InputProblem."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputProblem(f"{path} cannot be read: {error.strerror}", reason=UNUSABLE, hint=f"ls -l {path}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputProblem(f"{path} is no regular file, and a batch reads its items twice", reason=UNUSABLE,
                           hint=f"write them into a file first: cat {path} > items.jsonl")
    return found.st_size, found.st_mtime_ns


def check_unchanged(path: Path, before: Survey) -> None:
    """Raise InputProblem if the file was written to since it was surveyed."""
    if stamp_of(path) != before.stamp:
        raise InputProblem(f"{path} was changed while it was read", reason=UNUSABLE,
                           hint="wait until it is written, then run the same command again")


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _check_ids(path: Path, pairs: bool, hashes: array[int]) -> None:
    in_order = sorted(hashes)
    twice = {one for one, other in zip(in_order, in_order[1:], strict=False) if one == other}
    if not twice:
        return
    counted: Counter[str] = Counter()
    first: dict[str, int] = {}
    for index, item in enumerate(read_items(path, pairs), 1):
        if hashes[index - 1] not in twice:
            continue
        counted[item.id] += 1
        if counted[item.id] > 1:
            raise InputProblem(f"{path}: items {first[item.id]} and {index} have the same id {item.id[:60]!r}, wanted "
                               "each id once", reason=UNUSABLE,
                               hint="correct the ids, or leave the column out: items are numbered then")
        first[item.id] = index
