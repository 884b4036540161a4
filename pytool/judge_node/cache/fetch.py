"""Fetch one blob: hashed while it streams, resumed where an earlier attempt or process stopped, retried by kind."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import ipaddress
import os
import random
import re
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from .. import __version__
from ..result import NodeError, foreign
from .manifest import File, Manifest

_CHUNK_BYTES = 1 << 20  # also the most that a kill -9 loses: readinto() returns when the buffer is full
_SOCKET_TIMEOUT_SECONDS = 30
_PROGRESS_BYTES = 64 << 10  # less than this is no progress, or a source that drips could hold a run for ever
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Stopped(Exception):
    """Another file failed or the process was told to stop; what is fetched so far stays for the next run."""


class _Transient(Exception):
    """Worth another attempt. `wait_seconds` is what the source asked for, if it did; `limited` marks a 429."""

    def __init__(self, message: str, *, wait_seconds: float | None = None, limited: bool = False) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds
        self.limited = limited


class _StartOver(Exception):
    """The kept bytes cannot be continued; fetch from the first byte."""


@dataclass
class Retry:
    """How often and how long. An attempt that brought bytes starts the count again."""

    attempts: int = 6
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    stop: threading.Event = field(default_factory=threading.Event)
    random: Callable[[], float] = random.random

    def wait(self, attempt: int, asked_seconds: float | None) -> None:
        """Sleep before the next attempt; raises Stopped when told to stop meanwhile."""
        backoff = min(self.first_wait_seconds * 2**attempt, self.longest_wait_seconds)
        # Jitter: the nodes of a fleet start together and would otherwise come back together.
        seconds = (
            backoff * (0.5 + self.random() / 2)
            if asked_seconds is None
            else asked_seconds + self.random() * 0.1 * asked_seconds
        )
        if self.stop.wait(seconds):
            raise Stopped


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects without ever taking the token to another origin, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
            raise NodeError(
                f"{_shown(req.full_url)} redirects to {_shown(newurl)}, wanted https", reason="SOURCE_DENIED"
            )
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            token = req.unredirected_hdrs.get("Authorization")
            if token is not None and (before.scheme, before.netloc) == (after.scheme, after.netloc):
                new.add_unredirected_header("Authorization", token)
        return new


class Source:
    """A Hub, or a mirror with its resolve endpoint. The token stays in memory and goes to that origin only."""

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        self.endpoint = check_endpoint(endpoint, with_token=token is not None)
        self._token = token
        self._opener = urllib.request.build_opener(_Redirects())

    def url(self, manifest: Manifest, file: File) -> str:
        """Return the documented address of the file at the commit."""
        return f"{self.endpoint}/{manifest.repo_id}/resolve/{manifest.commit}/{urllib.parse.quote(file.path)}"

    @contextlib.contextmanager
    def open(self, url: str, offset: int) -> Iterator[http.client.HTTPResponse]:
        """Open `url` from byte `offset`. Raises _Transient, or NodeError when another attempt would change nothing."""
        # identity: a compressed answer has other bytes than the ones that were hashed.
        request = urllib.request.Request(
            url, headers={"Accept-Encoding": "identity", "User-Agent": f"judge-node/{__version__}"}
        )
        if self._token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        try:
            response = self._opener.open(request, timeout=_SOCKET_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise _of_status(error, url, offset) from None
        except ssl.SSLCertVerificationError as error:
            raise NodeError(
                f"{_shown(url)}: its certificate is not trusted ({error.verify_message})", reason="SOURCE_DENIED"
            ) from None
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", None)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise NodeError(
                    f"{_shown(url)}: its certificate is not trusted ({cause.verify_message})", reason="SOURCE_DENIED"
                ) from None
            raise _Transient(f"{_shown(url)}: {_describe(error)}") from None
        with response:
            yield response


def check_endpoint(endpoint: str, *, with_token: bool) -> str:
    """Return the endpoint without a trailing slash. Raises NodeError (wrong usage) when it cannot be one."""
    wanted = "wanted a URL such as https://huggingface.co"
    try:
        parts = urllib.parse.urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise NodeError(
            f"--endpoint is not usable ({error}), {wanted}", repair="set model_cache_hub_endpoint"
        ) from None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or set("?#") & set(endpoint)
        or any(c <= " " for c in endpoint)
    ):
        raise NodeError(f"--endpoint is {_shown(endpoint)!r}, {wanted}", repair="set model_cache_hub_endpoint")
    if parts.username is not None:
        raise NodeError("--endpoint carries a user name; secrets do not belong in arguments", repair="use --token-file")
    if with_token and parts.scheme == "http" and not _is_private(host):
        raise NodeError(f"a token would travel unencrypted to {host}", repair="use an https endpoint, or no token")
    return endpoint.rstrip("/")


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"


def _of_status(error: urllib.error.HTTPError, url: str, offset: int) -> Exception:
    """Turn an HTTP status into what it means for the run."""
    said = f"{_shown(url)} answered {error.code}"
    why = foreign(error.headers.get("X-Error-Code") or error.reason)
    if error.code == 416 and offset:
        return _StartOver()
    if error.code == 429:
        return _Transient(said, wait_seconds=_retry_after(error.headers.get("Retry-After")), limited=True)
    if error.code in (408, 425) or error.code >= 500:
        return _Transient(said, wait_seconds=_retry_after(error.headers.get("Retry-After")))
    if error.code in (401, 403):
        return NodeError(f"{said} ({why})", reason="SOURCE_DENIED")
    if error.code in (404, 410):
        return NodeError(f"{said} ({why})", reason="SOURCE_NOT_FOUND")
    return NodeError(f"{said} ({why})", reason="SOURCE_UNREACHABLE")


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header (seconds or a date) asks for, or None when it is not usable."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value) if len(value.strip()) < 10 else float("inf")
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    from datetime import datetime, timezone  # rarely needed

    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _shown(url: str) -> str:
    """Return the URL without user, query and fragment: a signed URL is a secret."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an unreadable URL"
    return foreign(f"{parts.scheme}://{host}{port}{parts.path}", 300)


def _describe(error: BaseException) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, (TimeoutError, socket.timeout)):
        return f"no answer in {_SOCKET_TIMEOUT_SECONDS} seconds"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return foreign(cause) or type(cause).__name__


class Hasher:
    """All hashes that a manifest gives for one file, in one pass over its bytes."""

    def __init__(self, file: File) -> None:
        self._file = file
        # usedforsecurity: a FIPS system refuses SHA-1 otherwise, and git's blob hash is what the Hub gives.
        self._sha1 = (
            None if file.blob_sha1 is None else hashlib.new("sha1", b"blob %d\0" % file.size, usedforsecurity=False)
        )
        self._sha256 = None if file.sha256 is None else hashlib.sha256()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        if self._sha1 is not None:
            self._sha1.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)

    def agrees(self) -> bool:
        """Return whether every hash that the manifest gives is the one of the bytes so far."""
        return (self._sha1 is None or self._sha1.hexdigest() == self._file.blob_sha1) and (
            self._sha256 is None or self._sha256.hexdigest() == self._file.sha256
        )


def file_agrees(path: Path, file: File, stop: threading.Event | None = None) -> bool:
    """Return whether the bytes at `path` are those of the manifest, without keeping them in the page cache."""
    hasher = Hasher(file)
    total = 0
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while True:
            chunk = os.read(fd, _CHUNK_BYTES)
            if not chunk:
                break
            if stop is not None and stop.is_set():
                raise Stopped
            hasher.update(chunk)
            # Verifying must not push the weights of a serving pod out of memory.
            os.posix_fadvise(fd, total, len(chunk), os.POSIX_FADV_DONTNEED)
            total += len(chunk)
    finally:
        os.close(fd)
    return total == file.size and hasher.agrees()


class Download:
    """One blob on its way into its partial file."""

    def __init__(
        self, source: Source, url: str, file: File, partial: Path, retry: Retry, on_bytes: Callable[[int], None]
    ) -> None:
        self._source, self._url, self._file, self._partial = source, url, file, partial
        self._retry, self._on_bytes = retry, on_bytes
        self._hasher = Hasher(file)
        self._offset = 0
        self.resumed_bytes = 0

    def run(self) -> None:
        """Bring the partial file to its full, verified and durable length.

        Raises NodeError (SOURCE_*, INTEGRITY_MISMATCH, SPACE_SHORT, DISK_FAILED) or Stopped; the partial file stays,
        except after a mismatch, where it is worthless.
        """
        fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            self._take_up(fd)
            for final in (False, True):
                started_with = self.resumed_bytes
                self._fetch(fd)
                if self._hasher.agrees():
                    os.fchmod(fd, 0o444)
                    os.fsync(fd)
                    return
                # Once more from the first byte: after a power cut the kept part can hold zeros, and a proxy can hiccup.
                self._start_over(fd)
                if final or (not started_with and self._retry.attempts <= 1):
                    break
            raise NodeError(
                f"{self._file.path}: the source's bytes do not have the manifest's hash, twice; nothing of it was kept",
                reason="INTEGRITY_MISMATCH",
                repair="check the mirror or proxy, or resolve the manifest again",
            )
        finally:
            os.close(fd)

    def _take_up(self, fd: int) -> None:
        """Hash again what an earlier process kept: its hash state died with it."""
        size = os.fstat(fd).st_size
        if size > self._file.size:
            os.ftruncate(fd, 0)
            return
        while self._offset < size:
            chunk = os.pread(fd, _CHUNK_BYTES, self._offset)
            if not chunk:
                break
            if self._retry.stop.is_set():
                raise Stopped
            self._hasher.update(chunk)
            self._offset += len(chunk)
        self.resumed_bytes = self._offset

    def _start_over(self, fd: int) -> None:
        os.ftruncate(fd, 0)
        self._offset, self.resumed_bytes = 0, 0
        self._hasher = Hasher(self._file)

    def _fetch(self, fd: int) -> None:
        failures = 0
        while self._offset < self._file.size:
            before = self._offset
            try:
                self._attempt(fd)
                continue
            except _StartOver:
                failures += 1
                self._start_over(fd)
                problem = _Transient(f"{_shown(self._url)} cannot continue at byte {before}")
            except _Transient as error:
                problem = error
                failures = 1 if self._offset - before >= _PROGRESS_BYTES else failures + 1
            asked = problem.wait_seconds
            if failures >= self._retry.attempts or (asked is not None and asked > self._retry.longest_wait_seconds):
                waits = f"; it asks to wait {asked:.0f} seconds" if asked is not None else ""
                raise NodeError(
                    f"{problem}, after {failures} attempts without progress{waits}",
                    reason="SOURCE_RATE_LIMITED" if problem.limited else "SOURCE_UNREACHABLE",
                )
            self._retry.wait(failures - 1, asked)

    def _attempt(self, fd: int) -> None:
        """Read from one connection until the file is complete; raises _Transient when it ends before that."""
        with self._source.open(self._url, self._offset) as response:
            self._check_answer(fd, response)
            buffer = memoryview(bytearray(min(_CHUNK_BYTES, max(1, self._file.size))))
            while self._offset < self._file.size:
                if self._retry.stop.is_set():
                    raise Stopped
                try:
                    count = response.readinto(buffer[: min(len(buffer), self._file.size - self._offset)])
                except (OSError, http.client.HTTPException) as error:
                    raise _Transient(f"{_shown(self._url)}: {_describe(error)} at byte {self._offset}") from None
                if not count:
                    raise _Transient(f"{_shown(self._url)} ended at byte {self._offset} of {self._file.size}")
                self._write(fd, buffer[:count])
                self._on_bytes(count)

    def _check_answer(self, fd: int, response: http.client.HTTPResponse) -> None:
        """Compare what the headers promise with the manifest before a byte is taken."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise NodeError(
                f"{_shown(self._url)} answers compressed although asked not to",
                reason="INTEGRITY_MISMATCH",
                repair="check the mirror or proxy",
            )
        if response.status == 200:
            if self._offset:
                self._start_over(fd)  # the source does not know Range
            total = response.headers.get("Content-Length")
        elif response.status == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self._offset:
                raise _StartOver
            total = None if found[3] == "*" else found[3]
        else:
            raise _Transient(f"{_shown(self._url)} answered {response.status}")
        if total is not None and total.isdigit() and int(total) != self._file.size:
            raise NodeError(
                f"{self._file.path}: the source has {total} bytes, the manifest {self._file.size}",
                reason="INTEGRITY_MISMATCH",
                repair="check the mirror, or resolve the manifest again",
            )

    def _write(self, fd: int, data: memoryview) -> None:
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], self._offset + done)
        except OSError as error:
            raise of_os_error(error, self._file.path) from None
        # Only what is in the file is in the hash: a resumed attempt goes on from exactly here.
        self._hasher.update(data)
        self._offset += len(data)


def of_os_error(error: OSError, what: str) -> NodeError:
    """Return the typed failure of a write or read on the local disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NodeError(f"{what}: the disk is full; what was fetched is kept", reason="SPACE_SHORT")
    if error.errno in (errno.EIO, errno.EROFS):
        return NodeError(f"{what}: {error.strerror}", reason="DISK_FAILED")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NodeError(f"{error.filename or what}: {error.strerror}", repair="run it as root")
    return NodeError(f"{error.filename or what}: {error.strerror or error}", reason="DISK_FAILED")
