"""The output of a batch: the journal's lines in the order of the items, each as soon as all before it are there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from judge_client.batch.journal import Journal
from judge_client.batch.problems import append, unwritable
from judge_client.errors import InputProblem

# So many bytes are handed to the system at a time when there is much to write, as after going on.
_PIECE_BYTES = 2**20
# More than any line of ours: what has no end within it is somebody else's.
_LONGEST_LINE_BYTES = 2**26


class Output:
    """The file at `path`. `following` is the item whose line comes next."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self._path, self._journal = path, journal
        self.following = 0
        self._end = 0
        self._digest = hashlib.sha256()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise unwritable(path, error) from None

    def go_on(self) -> None:
        """Keep the lines that an earlier run wrote, as far as they are those of the journal.

        Raises InputProblem OUTPUT_EXISTS for a file that no batch wrote: what is not kept would be cut off.
        """
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            if not self._is_ours(file.readline(_LONGEST_LINE_BYTES)):
                raise InputProblem(
                    f"{self._path} is there, and is not what the batch of {self._journal.path} wrote: it is not "
                    "overwritten", reason="OUTPUT_EXISTS", hint="move it away, and run the same command again")
            file.seek(0)
            while self._journal.has(self.following):
                line = self._journal.line(self.following) + b"\n"
                if file.read(len(line)) != line:
                    break
                self._digest.update(line)
                self._end += len(line)
                self.following += 1
        try:
            os.ftruncate(self._fd, self._end)
            os.lseek(self._fd, self._end, os.SEEK_SET)
        except OSError as error:
            raise unwritable(self._path, error) from None

    def _is_ours(self, first: bytes) -> bool:
        """Tell whether a file that begins so is a batch's output, or one whose first line was cut as it was written."""
        if not first.endswith(b"\n"):
            whole = self._journal.line(0) if self._journal.has(0) else b""
            return not first.strip(b"\0") or whole.startswith(first)
        try:
            document = json.loads(first)
        except ValueError:
            return False
        return isinstance(document, dict) and isinstance(document.get("verdict", document.get("comparison")), dict)

    def catch_up(self) -> None:
        """Write what can be written. Raises BatchStopped: whole lines are in the file then, and no other."""
        for data, count in self._pieces():
            append(self._path, self._fd, data, self._end)
            self._digest.update(data)
            self._end += len(data)
            self.following += count

    def _pieces(self) -> Iterator[tuple[bytes, int]]:
        lines: list[bytes] = []
        size = 0
        while self._journal.has(self.following + len(lines)):
            line = self._journal.line(self.following + len(lines))
            lines.append(line)
            size += len(line) + 1
            if size >= _PIECE_BYTES:
                yield b"\n".join([*lines, b""]), len(lines)
                lines, size = [], 0
        if lines:
            yield b"\n".join([*lines, b""]), len(lines)

    def finish(self) -> str:
        """Make the output last, and return its sha256."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise unwritable(self._path, error) from None
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
