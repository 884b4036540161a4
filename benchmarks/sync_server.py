"""The Hub of the sync benchmarks, in a process of its own: judge_lab's catalogue behind sendfile, every byte counted.

    python benchmarks/sync_server.py --root DIR [--host ADDRESS] [--files]

It answers what a download needs as the Hub documents it (model info, tree, resolve with X-Repo-Commit, ETag and
X-Linked-*; large files redirect to a second port, as to the Hub's CDN), knows Range, and keeps connections open. Hashes
are computed before it is ready. With --files it is a plain server of the files below DIR: a mirror.

The benchmark reads `GET /-/counters` and says `GET /-/reload` when it has changed a repository; neither is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

from judge_lab.hub_catalog import Catalog, HubFile, Repository, info, tree
from judge_lab.stand_in import Handler, StandIn, wait_for_end

# What one sendfile() is asked for: much, since each return costs a turn at the interpreter's lock; little enough that
# what a killed client never got is not counted.
_SEND_BYTES = 8 << 20
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.+))?)?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_SIGNED = re.compile(r"/signed/([0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class _State:
    """What all requests share."""

    root: Path
    files: bool
    catalog: Catalog
    repositories: dict[str, Repository] = field(default_factory=dict)
    by_sha256: dict[str, HubFile] = field(default_factory=dict)
    cdn: str = ""
    connections: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> None:
        """Read the repositories below the root anew."""
        found = {}
        for path in sorted(self.root.glob("*/*")):
            repository = self.catalog.repository(path.relative_to(self.root).as_posix())
            if repository is not None:
                found[repository.repo_id] = repository
        self.by_sha256 = {file.sha256: file for repository in found.values() for file in repository.files.values()}
        self.repositories = found

    def count(self, path: str, sent: int) -> None:
        with self.lock:
            self.sent[path] += sent


class _Handler(Handler):
    """One connection. `main` makes a subclass with the state."""

    state: _State
    disable_nagle_algorithm = True
    _counted = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/-/"):
            self._control(path)
            return
        with self.state.lock:
            self.state.requests[self.command] += 1
            self.state.connections += not self._counted
        self._counted = True
        if self.state.files:
            self._file(path)
        elif match := _SIGNED.fullmatch(path):
            self._content(self.state.by_sha256.get(match[1]), {})
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(*match.groups())
        elif match := _API.fullmatch(path):
            self._api(*match.groups())
        else:
            self._refuse(404, "EntryNotFound")

    def _control(self, path: str) -> None:
        if path == "/-/reload":
            self.state.load()
        with self.state.lock:
            self.answer_json(200, {"bytes": sum(self.state.sent.values()), "by_path": dict(self.state.sent),
                                   "requests": dict(self.state.requests), "connections": self.state.connections})

    def _refuse(self, status: int, code: str) -> None:
        self.answer_json(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _repository(self, repo_id: str, revision: str) -> Repository | None:
        found = self.state.repositories.get(repo_id)
        if found is None:
            self._refuse(401, "RepoNotFound")
        elif revision not in ("main", found.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            return found
        return None

    def _api(self, repo_id: str, kind: str | None, revision: str | None, under: str | None) -> None:
        repository = self._repository(repo_id, revision or "main")
        if repository is None:
            return
        if kind == "tree":
            document: object = tree(repository, under or "", recursive="recursive=true" in self.path.lower())
        else:
            document = info(repository, blobs="blobs=true" in self.path.lower(), gated=False)
        self.answer_json(200, document)
        self.state.count("api", len(json.dumps(document)))

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository = self._repository(repo_id, revision)
        if repository is None:
            return
        file = repository.files.get(path)
        if file is None:
            self._refuse(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": repository.commit, "X-Linked-Etag": f'"{file.etag}"',
                   "X-Linked-Size": str(file.size_bytes)}
        if file.lfs:
            target = f"{self.state.cdn}/signed/{file.sha256}?Expires=4102444800&Signature={file.git_sha1}"
            self.answer(302, b"", {**headers, "ETag": f'"{file.etag}"', "Location": target})
        else:
            self._content(file, headers)

    def _file(self, path: str) -> None:
        found = (self.state.root / path.lstrip("/")).resolve()
        if found.is_relative_to(self.state.root) and found.is_file():
            size = found.stat().st_size
            self._content(HubFile(path, found, size, quote(found.name), quote(found.name), lfs=True), {})
        else:
            self._refuse(404, "EntryNotFound")

    def _content(self, file: HubFile | None, headers: dict[str, str]) -> None:
        if file is None:
            self._refuse(404, "EntryNotFound")
            return
        first, last = 0, file.size_bytes - 1
        asked = _RANGE.fullmatch(self.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
            if first > last:
                self.answer(416, b"", {"Content-Range": f"bytes */{file.size_bytes}"})
                return
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{file.size_bytes}"}
        self.send_response(206 if asked else 200)
        for name, value in {**headers, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes",
                            "Content-Type": "application/octet-stream",
                            "Content-Length": str(last - first + 1)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send(file, first, last + 1)

    def _send(self, file: HubFile, offset: int, end: int) -> None:
        with file.source.open("rb", buffering=0) as stream:
            while offset < end:
                sent = os.sendfile(self.connection.fileno(), stream.fileno(), offset, min(_SEND_BYTES, end - offset))
                if not sent:
                    raise RuntimeError(f"{file.source} became shorter while it was sent")
                self.state.count(file.path, sent)
                offset += sent


def ask(url: str) -> dict[str, Any]:
    """Return the JSON object at `url`, asked for without any proxy that this machine may use."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
        found = json.load(answer)
    assert isinstance(found, dict)
    return found


@dataclass(frozen=True)
class Server:
    """The server as the benchmark sees it."""

    url: str
    process: subprocess.Popen[str]

    def counters(self) -> dict[str, Any]:
        """Return what was sent so far: bytes (by path too), requests and connections."""
        return self._ask("counters")

    def reload(self) -> None:
        """Have the server read its repositories anew."""
        self._ask("reload")

    def _ask(self, what: str) -> dict[str, Any]:
        return ask(f"{self.url}/-/{what}")


@contextlib.contextmanager
def serving(root: Path, *, host: str = "127.0.0.1", files: bool = False, via: tuple[str, ...] = ()) -> Iterator[Server]:
    """Have a server of the repositories (or files) below `root`; `via` is a command prefix, such as nsenter.

    Raises RuntimeError when it does not start.
    """
    command = [*via, sys.executable, __file__, "--root", str(root), "--host", host, *(["--files"] if files else [])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        if not line.startswith("ready at "):
            raise RuntimeError(f"the server did not start: {line}{process.stderr.read()[-1000:]}")
        yield Server(line.removeprefix("ready at ").strip(), process)
    finally:
        process.terminate()
        process.communicate()


def main() -> int:
    """Serve until TERM."""
    parser = argparse.ArgumentParser(description="The Hub of the sync benchmarks.")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--files", action="store_true")
    options = parser.parse_args()
    state = _State(options.root.resolve(), options.files, Catalog(options.root.resolve()))
    if not options.files:
        state.load()
    handler = type("BenchHandler", (_Handler,), {"state": state})
    with StandIn(handler, options.host) as hub, StandIn(handler, options.host) as cdn:
        state.cdn = cdn.url
        wait_for_end(f"ready at {hub.url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
