"""Where a file's bytes come from: mirrors by URL template, a folder, and the Hub last."""

from __future__ import annotations

import http.client
import io
import os
import re
import stat
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Union

from ..result import NodeError
from .failures import Retry, Transient
from .http import Connections, check_url, describe, is_private, of_status, origin, shown
from .manifest import File, Manifest

Token = Union[str, Callable[[], str], None]
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("repo_id", "commit", "path", "blob")
_MIRROR = "/{repo_id}/blobs/{blob}"


class Body(Protocol):
    """The bytes of a file from `start` to before `end`, on their way; `name` is the address that people are told."""

    name: str
    start: int
    end: int

    def readinto(self, buffer: memoryview) -> int:
        """Take what is there, at least one byte; 0 at the end. Raises Transient."""

    def close(self, *, whole: bool) -> None:
        """End it; `whole` says that all of what was asked for has been read."""


class Source(Protocol):
    """One place that has files."""

    name: str

    def open(self, connections: Connections, manifest: Manifest, file: File, start: int, end: int) -> Body:
        """Ask for the bytes from `start` to before `end`; the body says which ones come, those or the whole file.

        Raises Transient, or NodeError (SOURCE_*, INTEGRITY_MISMATCH) when another attempt would change nothing.
        """

    def pause(self, retry: Retry) -> None:
        """Wait while the source asked for patience."""

    def busy(self, seconds: float) -> None:
        """Keep all threads away from it for a while."""


class _Patience:
    """A 429 is meant for all connections, not only for the one that got it."""

    def __init__(self) -> None:
        self._until = 0.0

    def busy(self, seconds: float) -> None:
        self._until = max(self._until, time.monotonic() + seconds)

    def pause(self, retry: Retry) -> None:
        while (seconds := self._until - time.monotonic()) > 0:
            retry.wait(seconds)


class HttpSource(_Patience):
    """A server. `template` has fields; the token, if any, stays in memory and goes to this origin only."""

    def __init__(self, template: str, token: Token = None) -> None:
        super().__init__()
        self.name = shown(template.partition("{")[0]).rstrip("/")
        self._template, self._token = template, token
        # Where a redirect led for a blob: asked directly until the server there no longer agrees.
        self._direct: dict[str, str] = {}
        self._mutex = threading.Lock()

    def url(self, manifest: Manifest, file: File) -> str:
        """Return the file's address."""
        return _fill(self._template, manifest, file, urllib.parse.quote)

    def open(self, connections: Connections, manifest: Manifest, file: File, start: int, end: int) -> Body:
        """Ask for a range (Source.open)."""
        headers = {} if (start, end) == (0, file.size) else {"Range": f"bytes={start}-{end - 1}"}
        first, direct = self.url(manifest, file), self._direct.get(file.blob)
        if direct is not None:
            response, url = connections.follow(direct, headers, None)
            if response.status in (401, 403, 404, 410):  # a signed URL that has expired
                connections.finish(response, url)
                self._direct.pop(file.blob, None)
                direct = None
        if direct is None:
            response, url = connections.follow(first, headers, self._secret())
        redirected = origin(url) != origin(first)
        try:
            body = self._body(connections, response, url, file, start, end, redirected=redirected)
        except (Transient, NodeError):
            connections.finish(response, url)
            raise
        if redirected:
            self._direct[file.blob] = url
        return body

    def _secret(self) -> str | None:
        with self._mutex:
            if callable(self._token):
                self._token = self._token()
            return self._token

    def _body(
        self,
        connections: Connections,
        response: http.client.HTTPResponse,
        url: str,
        file: File,
        start: int,
        end: int,
        *,
        redirected: bool,
    ) -> Body:
        """Compare what the headers promise with the manifest before a byte is taken."""
        if response.status == 416:
            raise _other_size(file, url, response.headers.get("Content-Range", "").rpartition("/")[2])
        if response.status not in (200, 206):
            raise of_status(response, url, redirected=redirected)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _of_other_bytes(f"{shown(url)} answers compressed although asked not to")
        if response.status == 200:
            total, start, end = response.headers.get("Content-Length"), 0, file.size
        else:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                raise Transient(f"{shown(url)} answered with another range than bytes {start}-{end - 1}")
            total = None if found[3] == "*" else found[3]
        if total is not None and total.isdigit() and int(total) != file.size:
            raise _other_size(file, url, total)
        return _HttpBody(connections, response, url, start, end)


def _other_size(file: File, url: str, total: str) -> Transient:
    if total == str(file.size):
        return Transient(f"{shown(url)} says that a range of it is none")
    return _of_other_bytes(
        f"{file.path}: {shown(url)} has {total or 'another number of'} bytes, the manifest {file.size}"
    )


def _of_other_bytes(message: str) -> Transient:
    """Return the failure of an answer that cannot be the file. A proxy may have a page of its own, once."""
    return Transient(message, reason="INTEGRITY_MISMATCH", attempts=2)


class _HttpBody:
    def __init__(
        self, connections: Connections, response: http.client.HTTPResponse, url: str, start: int, end: int
    ) -> None:
        self.name, self.start, self.end = shown(url), start, end
        self._connections, self._response, self._url, self._left = connections, response, url, end - start
        self._length = response.length
        # Past BufferedReader, which waits until the buffer is full: a source that drips must be seen to drip. None: the
        # answer is chunked, and only http.client knows where its bytes are.
        self._raw = None if response.chunked else getattr(response.fp, "raw", None)
        self._held = -1  # bytes that came with the headers; not known yet

    def readinto(self, buffer: memoryview) -> int:
        """Take what is there (Body.readinto)."""
        if not self._left:
            return 0
        try:
            count = self._take(buffer[: self._left])
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # ValueError and AttributeError: another thread has closed the connection because the run is to stop.
            raise Transient(f"{self.name}: {describe(error, self._connections.timeout_seconds)}") from None
        self._left -= count
        return count

    def _take(self, buffer: memoryview) -> int:
        response = self._response
        if self._raw is None:
            data = response.read1(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        if self._length is not None:
            buffer = buffer[: self._length]
            if not buffer:
                return 0
        if self._held < 0:
            self._held = len(response.fp.peek(1))
        if self._held > 0:
            count = response.fp.readinto(buffer[: self._held])
            self._held -= count
        else:
            count = self._raw.readinto(buffer) or 0
        if self._length is not None:
            self._length -= count
        return count

    def close(self, *, whole: bool) -> None:
        """End it (Body.close)."""
        self._response.close()
        if not (whole and self._raw is not None and self._length == 0 and not self._held > 0):
            self._connections.drop(self._url)  # something of the answer is still on its way in it


class FolderSource(_Patience):
    """A folder of this machine: a disk that somebody brought, or a network filesystem."""

    def __init__(self, template: str) -> None:
        super().__init__()
        self.name = template.partition("{")[0].rstrip("/")
        self._template = template

    def open(self, connections: Connections, manifest: Manifest, file: File, start: int, end: int) -> Body:
        """Open the file at byte `start` (Source.open)."""
        path = Path(_fill(self._template, manifest, file, str))
        try:
            opened = path.open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError):
            raise NodeError(f"{path} is not there", reason="SOURCE_NOT_FOUND") from None
        except OSError as error:
            raise NodeError(f"{path}: {error.strerror}", reason="SOURCE_DENIED") from None
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            opened.close()
            raise NodeError(
                f"{file.path}: {path} has {status.st_size} bytes, the manifest {file.size}",
                reason="INTEGRITY_MISMATCH",
                repair=f"ls -lL {path}",
            )
        opened.seek(start)
        return _FileBody(opened, path, start, end)


class _FileBody:
    def __init__(self, opened: io.FileIO, path: Path, start: int, end: int) -> None:
        self.name, self.start, self.end = str(path), start, end
        self._opened, self._left = opened, end - start

    def readinto(self, buffer: memoryview) -> int:
        """Take what is there (Body.readinto)."""
        try:
            count = self._opened.readinto(buffer[: self._left]) or 0
        except OSError as error:
            raise Transient(f"{self.name}: {error.strerror}") from None
        self._left -= count
        return count

    def close(self, *, whole: bool) -> None:
        """End it (Body.close)."""
        self._opened.close()


def make_sources(templates: Sequence[str], endpoint: str | None, token: Token) -> list[Source]:
    """Return the sources in order: the mirrors, then the Hub unless `endpoint` is empty.

    Raises NodeError (wrong usage) for a template or an endpoint that cannot be one.
    """
    found: list[Source] = [_mirror(template) for template in templates]
    if endpoint:
        hub = check_url(endpoint, "--endpoint", "model_cache_hub_endpoint")
        if token is not None and hub.startswith("http:") and not is_private(hub):
            raise NodeError(
                f"a token would travel unencrypted to {origin(hub)[1]}", repair="use an https endpoint, or no token"
            )
        found.append(HttpSource(hub + "/{repo_id}/resolve/{commit}/{path}", token))
    if not found:
        raise NodeError("no source to fetch from", repair="give --source URL, or --endpoint https://huggingface.co")
    return found


def _mirror(template: str) -> Source:
    unknown = [field for field in _FIELD.findall(template) if field not in _FIELDS]
    if unknown or template.count("{") != len(_FIELD.findall(template)):
        raise NodeError(
            f"--source {template!r} has the field {{{unknown[0] if unknown else ''}}}, wanted some of "
            + ", ".join(f"{{{field}}}" for field in _FIELDS),
            repair="set model_cache_sources",
        )
    if "{" not in template:
        template = template.rstrip("/") + _MIRROR
    if not any(f"{{{field}}}" in template for field in ("path", "blob")):
        raise NodeError(
            f"--source {template!r} gives every file the same address, wanted {{path}} or {{blob}} in it",
            repair="set model_cache_sources",
        )
    if template.startswith("file:///"):
        template = template[len("file://") :]
    if template.startswith("/"):
        return FolderSource(template)
    check_url(_FIELD.sub("x", template), "--source", "model_cache_sources")
    return HttpSource(template)


def _fill(template: str, manifest: Manifest, file: File, quote: Callable[[str], str]) -> str:
    values = {"repo_id": manifest.repo_id, "commit": manifest.commit, "path": file.path, "blob": file.blob}
    return _FIELD.sub(lambda field: quote(values[field[1]]), template)
