"""What a batch has found out so far, in one file that is only ever appended to.

A killed batch goes on from it: an answer is in it whole, or is asked for again. The first line is a JSON object that
says what the batch is of; each other line is a record:

    INDEX STATUS REASON SUSPECT REQUESTS CRC32 LINE

where LINE is the line of the output, REASON is `-` for none, and the checksum is over all the rest. The INDEX of a
canary is `canary`. A later record of an item replaces an earlier one. What follows the first record that does not read
(a torn one is the last) is dropped. In memory, an item takes 13 bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Self
from zlib import crc32

from judge_client.batch.problems import append, unwritable
from judge_client.errors import InputProblem
from judge_client.verdict import Status

SCHEMA: Final = 1
_SUSPECT: Final = 0x80
_CODE: Final = 0x7F


def journal_path(out_path: Path) -> Path:
    """Return where the journal of an output is."""
    return out_path.with_name(f"{out_path.name}.journal")


class Journal:
    """The journal of `total` items; open() makes one. One process at a time has it.

    `requests` counts those for the answers in it. `binding` is its first line; {} while it has none.
    """

    def __init__(self, path: Path, fd: int, total: int) -> None:
        self.path = path
        self._fd = fd
        self._end = 0
        self._offsets = array("q", [-1]) * total
        self._lengths = array("I", [0]) * total
        self._states = array("B", [0]) * total
        self._codes: list[tuple[Status, str | None]] = []
        # How many items ended how, by status and reason.
        self.tally: Counter[tuple[Status, str | None]] = Counter()
        self.suspects = 0
        self.requests = 0
        self.canaries: list[dict[str, Any]] = []
        self.binding: dict[str, Any] = {}

    @classmethod
    def open(cls, path: Path, total: int) -> Self:
        """Open or create the journal at `path`, for this process alone, and read what is in it.

        Raises InputProblem when another process has it (OUTPUT_IN_USE), BatchStopped when it cannot be written.
        """
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                raise unwritable(path, error) from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it may have removed or replaced it in between.
                if os.path.samestat(os.fstat(fd), path.stat()):
                    break
            except FileNotFoundError:
                pass
            except OSError:
                os.close(fd)
                raise InputProblem(f"another process writes {path} now", reason="OUTPUT_IN_USE",
                                   hint="wait for it, or give another --out") from None
            os.close(fd)
        journal = cls(path, fd, total)
        with os.fdopen(os.dup(fd), "rb") as file:
            journal._read(file)
        return journal

    def begin(self, binding: Mapping[str, Any]) -> None:
        """Write the first line of an empty journal."""
        self.binding = dict(binding)
        self._write(json.dumps({"schema": SCHEMA, **binding}).encode() + b"\n")

    def replace(self, binding: Mapping[str, Any], records: Iterable[tuple[int, Status, str | None, bool, int, bytes]],
                canaries: Iterable[Mapping[str, Any]] = ()) -> None:
        """Fill an empty journal with records and canaries, all or none of them: a kill leaves it empty."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        path, was = self.path, self._fd
        try:
            self._fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self.path = temporary
            self.begin(binding)
            for record in records:
                self.append(*record)
            for sighting in canaries:
                self.append_canary(Status.SCORED if sighting["score"] else Status.UNSCORED, None, 0, sighting)
            os.fsync(self._fd)
            temporary.replace(path)
        except BaseException as error:
            for left in (temporary, path):
                left.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise unwritable(temporary, error) from None
            raise
        finally:
            self.path = path
            os.close(was)

    def append(self, index: int, status: Status, reason: str | None, suspect: bool, requests: int,
               line: bytes) -> None:
        """Keep the answer to one item. `line` is the line of the output, without its end.

        Raises BatchStopped when that is not possible: the journal is as before then.
        """
        self._record(str(index), status, reason, suspect, requests, line)
        self._note(index, status, reason, suspect, requests, self._end - len(line) - 1, len(line))

    def append_canary(self, status: Status, reason: str | None, requests: int, sighting: Mapping[str, Any]) -> None:
        """Keep what the judge said to a canary."""
        self._record("canary", status, reason, False, requests, json.dumps(sighting).encode())
        self.canaries.append(dict(sighting))
        self.requests += requests

    def forget(self, statuses: Iterable[Status]) -> int:
        """Let all items that ended so be asked again, and return how many these are."""
        wanted = {code for code, (status, _) in enumerate(self._codes, 1) if status in set(statuses)}
        count = 0
        for index, state in enumerate(self._states):
            if state & _CODE in wanted:
                self._drop(index)
                count += 1
        return count

    def has(self, index: int) -> bool:
        """Tell whether there is an answer to an item."""
        return index < len(self._offsets) and self._offsets[index] >= 0

    def line(self, index: int) -> bytes:
        """Return an item's line of the output, without its end."""
        return os.pread(self._fd, self._lengths[index], self._offsets[index])

    def first(self, status: Status) -> int | None:
        """Return the first item that ended so."""
        wanted = {code for code, (one, _) in enumerate(self._codes, 1) if one is status}
        return next((index for index, state in enumerate(self._states) if state & _CODE in wanted), None)

    @property
    def done(self) -> int:
        """How many items have an answer."""
        return self.tally.total()

    def close(self) -> None:
        """Make what is in it last, and let go of it."""
        if self._fd >= 0:
            with suppress(OSError):
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Remove the file, with what is in it."""
        self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    # --- its lines ---------------------------------------------------------------------------------------------

    def _read(self, file: BinaryIO) -> None:
        first = file.readline()
        try:
            head = json.loads(first) if first.endswith(b"\n") else None
        except ValueError:
            head = None
        if isinstance(head, dict):
            self._end = len(first)
            ours = head.pop("schema", None) == SCHEMA
            if ours and head.get("items", len(self._states)) != len(self._states):
                # Of another batch: its records are more than there are places for, and none of them is torn.
                self.binding = head
                self._end = os.fstat(self._fd).st_size
            elif ours:
                self.binding = head
                for line in file:
                    if not self._take(line):
                        break
            else:
                # By another version, or no journal at all: nothing of it is touched.
                self.binding = {"schema": "another"}
                self._end = os.fstat(self._fd).st_size
        elif first.strip(b"\0\n"):
            self.binding = {"schema": "none"}
            self._end = os.fstat(self._fd).st_size
        os.ftruncate(self._fd, self._end)
        os.lseek(self._fd, self._end, os.SEEK_SET)

    def _take(self, record: bytes) -> bool:
        try:
            head, checksum, line = _split(record)
            if not record.endswith(b"\n") or int(checksum, 16) != crc32(line, crc32(head)):
                return False
            index, status, reason, suspect, requests = head.decode().split()
            if index == "canary":
                self.canaries.append(json.loads(line))
                self.requests += int(requests)
            else:
                self._note(int(index), Status(status), None if reason == "-" else reason, suspect == "1",
                           int(requests), self._end + len(record) - len(line) - 1, len(line))
        except (ValueError, LookupError, RecursionError):
            return False
        self._end += len(record)
        return True

    def _note(self, index: int, status: Status, reason: str | None, suspect: bool, requests: int, offset: int,
              length: int) -> None:
        if self._offsets[index] >= 0:
            self._drop(index)
        if (status, reason) not in self._codes:
            self._codes.append((status, reason))
        self._offsets[index], self._lengths[index] = offset, length
        self._states[index] = self._codes.index((status, reason)) + 1 | (_SUSPECT if suspect else 0)
        self.tally[status, reason] += 1
        self.suspects += suspect
        self.requests += requests

    def _drop(self, index: int) -> None:
        state = self._states[index]
        self.tally[self._codes[(state & _CODE) - 1]] -= 1
        self.suspects -= bool(state & _SUSPECT)
        self._offsets[index], self._states[index] = -1, 0

    def _record(self, index: str, status: Status, reason: str | None, suspect: bool, requests: int,
                line: bytes) -> None:
        head = f"{index} {status} {reason or '-'} {int(suspect)} {requests}".encode()
        self._write(b"%s %08x %s\n" % (head, crc32(line, crc32(head)), line))

    def _write(self, data: bytes) -> None:
        append(self.path, self._fd, data, self._end)
        self._end += len(data)


def _split(record: bytes) -> tuple[bytes, bytes, bytes]:
    index, status, reason, suspect, requests, checksum, line = record.removesuffix(b"\n").split(b" ", 6)
    return b" ".join((index, status, reason, suspect, requests)), checksum, line
