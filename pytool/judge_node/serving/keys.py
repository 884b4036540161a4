"""The API keys that callers may show: one a line in a file, read again whenever the file is another one.

kubelet replaces a Secret's files by swapping a link, so the inode tells. Two lines during a rotation let the old key
and the new one in.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import stat
from collections.abc import Iterable
from enum import Enum

_LARGEST_BYTES = 64 << 10
_SCHEME = b"bearer "


class Access(Enum):
    """What a request's Authorization headers are worth."""

    GRANTED = "granted"
    DENIED = "denied"
    NO_KEYS = "no keys"  # there is nothing to compare with, so nobody may in


class KeyFile:
    """The keys in a file. Without a path (None) no key is wanted."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._digests: tuple[bytes, ...] = ()
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Return why nobody can be let in, in one line without any key; None when somebody can."""
        if self._path is not None:
            self._refresh(self._path)
        return self._problem

    def check(self, authorizations: Iterable[bytes]) -> Access:
        """Return whether the values of all Authorization headers of a request are one `Bearer KEY` with a good key."""
        if self._path is None:
            return Access.GRANTED
        if self.problem() is not None:
            return Access.NO_KEYS
        values = list(authorizations)
        # Two headers are two opinions: whoever stands between might have checked the other one.
        if len(values) != 1 or values[0][: len(_SCHEME)].lower() != _SCHEME:
            return Access.DENIED
        shown = hashlib.sha256(values[0][len(_SCHEME) :].strip(b" ")).digest()
        good = False
        for digest in self._digests:  # all of them, whichever fits: the time tells nothing
            good |= hmac.compare_digest(shown, digest)
        return Access.GRANTED if good else Access.DENIED

    def _refresh(self, path: str) -> None:
        try:
            status = os.stat(path)  # noqa: PTH116 - each request pays for this
            found = _mark(status)
            if found == self._seen:
                return
            if not stat.S_ISREG(status.st_mode):  # to open a pipe would stop the whole server
                raise OSError(errno.EINVAL, "it is no file")
            with open(path, "rb") as file:  # noqa: PTH123
                found = _mark(os.fstat(file.fileno()))
                content = file.read(_LARGEST_BYTES + 1)
        except OSError as error:
            self._forget(f"the API key file {path} cannot be read: {error.strerror}")
            return
        keys = {line.strip() for line in content.splitlines()} - {b""}
        if len(content) > _LARGEST_BYTES or not keys:
            self._forget(f"the API key file {path} has {len(content)} bytes, wanted a key a line")
        else:
            self._digests, self._problem = tuple(hashlib.sha256(key).digest() for key in sorted(keys)), None
        self._seen = found

    def _forget(self, problem: str) -> None:
        self._digests, self._problem, self._seen = (), problem, None


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
