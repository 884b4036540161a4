"""The API keys that callers may show, read again whenever their file is another one.

The key of before the last rotation lies beside the key, in `previous-api-key`, and is good as well, so that clients may
change over one by one. kubelet replaces a Secret's files by swapping a link, so the inode tells.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import stat
from collections.abc import Iterable
from enum import Enum
from pathlib import PurePosixPath

PREVIOUS = "previous-api-key"
_LARGEST_BYTES = 64 << 10
_SCHEME = b"bearer "


class Access(Enum):
    """What a request's Authorization headers are worth."""

    GRANTED = "granted"
    DENIED = "denied"
    NO_KEYS = "no keys"  # there is nothing to compare with, so nobody may in


class Keys:
    """The keys that are good now. Without a path (None) none is wanted."""

    def __init__(self, path: str | None) -> None:
        self._now = None if path is None else _File(path)
        self._before = None if path is None else _File(str(PurePosixPath(path).with_name(PREVIOUS)))

    def problem(self) -> str | None:
        """Return why nobody can be let in, in one line without any key; None when somebody can."""
        return None if self._now is None else self._now.read()[1]

    def check(self, authorizations: Iterable[bytes]) -> Access:
        """Return whether the values of all Authorization headers of a request are one `Bearer KEY` with a good key."""
        if self._now is None or self._before is None:
            return Access.GRANTED
        digests, problem = self._now.read()
        if problem is not None:
            return Access.NO_KEYS
        values = list(authorizations)
        # Two headers are two opinions: whoever stands between might have checked the other one.
        if len(values) != 1 or values[0][: len(_SCHEME)].lower() != _SCHEME:
            return Access.DENIED
        shown = hashlib.sha256(values[0][len(_SCHEME) :].strip(b" ")).digest()
        good = False
        for digest in digests + self._before.read()[0]:  # all of them, whichever fits: the time tells nothing
            good |= hmac.compare_digest(shown, digest)
        return Access.GRANTED if good else Access.DENIED


class _File:
    """A file with a key a line; usually one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._digests: tuple[bytes, ...] = ()
        self._problem: str | None = None

    def read(self) -> tuple[tuple[bytes, ...], str | None]:
        """Return the sha256 of each key, and why there is none. A look at the file's status, where it is the same."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - each request pays for this
            if _mark(status) == self._seen:
                return self._digests, self._problem
            if not stat.S_ISREG(status.st_mode):  # to open a pipe would stop the whole server
                raise OSError(errno.EINVAL, "it is no file")
            with open(self._path, "rb") as file:  # noqa: PTH123
                self._seen = _mark(os.fstat(file.fileno()))
                content = file.read(_LARGEST_BYTES + 1)
        except OSError as error:
            self._seen, self._digests = None, ()
            self._problem = f"the API key file {self._path} cannot be read: {error.strerror}"
            return self._digests, self._problem
        keys = {line.strip() for line in content.splitlines()} - {b""}
        if len(content) > _LARGEST_BYTES or not keys:
            self._digests = ()
            self._problem = f"the API key file {self._path} has {len(content)} bytes, wanted a key a line"
        else:
            self._digests, self._problem = tuple(hashlib.sha256(key).digest() for key in sorted(keys)), None
        return self._digests, self._problem


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
