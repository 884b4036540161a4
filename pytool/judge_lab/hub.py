"""A stand-in for the Hugging Face Hub: the documented endpoints that a model download needs, over a folder.

    python -m judge_lab.hub --host 127.0.0.1 --port 8080 --root DIR        # DIR/<org>/<name>/<files>

What it does as the real Hub does, because clients depend on it:
- a commit is named by 40 hex digits and never changes meaning: here it follows from the repository's contents;
- *.safetensors and other weights are kept in LFS whatever their size, and anything else from 1 MiB on;
- an LFS file answers 302 to a signed URL on another origin, which refuses a request that carries credentials;
- any other file answers 307 with a relative Location;
- errors are told by X-Error-Code, and files of a gated repository need a bearer token while its listing does not.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from judge_lab.hub_catalog import Catalog, HubFile, Repository, info, tree
from judge_lab.stand_in import Handler, StandIn, wait_for_end

DEFAULT_ROOT = Path(__file__).parent / "model"
TINY_JUDGE = "judge-lab/tiny-judge"

_SIGNED_SECONDS = 3600
_CHUNK_BYTES = 1 << 20
_API = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<kind>revision|tree)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_CACHED = re.compile(r"/api/resolve-cache/models/(?P<repo>[^/]+/[^/]+)/(?P<revision>[0-9a-f]{40})/(?P<path>.+)")
_SIGNED = re.compile(r"/signed/(?P<repo>[^/]+/[^/]+)/(?P<sha256>[0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_FAULT_KINDS = ("corrupt", "short", "429", "503", "slow", "expired", "no-etag", "no-range")


@dataclass
class Fault:
    """A fault of the Hub, for the requests it matches.

    `kind`: corrupt (one byte flipped, size kept), short (half of the bytes, then the connection closes), 429, 503, slow
    (`value` bytes a second), expired (the signed URL is refused), no-etag, no-range (answers 200 and the whole file).
    `pattern` is matched against the file's path, or `api` for the listing endpoints. It strikes
    `times` times (None: always).
    """

    kind: str
    pattern: str = "*"
    times: int | None = None
    value: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in _FAULT_KINDS:
            raise ValueError(f"unknown fault {self.kind!r}: one of {', '.join(_FAULT_KINDS)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read KIND[=VALUE][:PATTERN[:TIMES]], as in `slow=65536:*.safetensors:2`; raises ValueError."""
        head, _, rest = text.partition(":")
        kind, _, value = head.partition("=")
        pattern, _, times = rest.partition(":")
        return cls(kind, pattern or "*", int(times) if times else None, float(value) if value else 1.0)


@dataclass(frozen=True)
class Request:
    """One request that the Hub (or its download host) got; `authorized` says whether credentials came with it."""

    method: str
    path: str
    range: str | None
    authorized: bool
    download_host: bool


@dataclass
class _State:
    """What all requests share."""

    catalog: Catalog
    tokens: Mapping[str, str]
    faults: list[Fault]
    download_port: int | None = None
    key: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def strike(self, kinds: Iterable[str], path: str) -> Fault | None:
        """Return the first fault of these kinds that this request meets, and count it."""
        with self.lock:
            for fault in self.faults:
                if fault.kind in kinds and fault.times != 0 and fnmatch.fnmatch(path, fault.pattern):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def sign(self, repo_id: str, sha256: str, expires: int) -> str:
        return hmac.new(self.key, f"{repo_id} {sha256} {expires}".encode(), hashlib.sha256).hexdigest()


class _HubHandler(Handler):
    """The Hub's endpoints. HubServer makes one subclass per listener and sets the two attributes."""

    state: _State
    download_host = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.state.requests.append(
            Request(
                self.command, self.path, self.headers.get("Range"), "Authorization" in self.headers, self.download_host
            )
        )
        if self.download_host:
            self._signed(path, parse_qs(url.query))
        elif match := _CACHED.fullmatch(path):
            self._resolve(match["repo"], match["revision"], match["path"], cached=True)
        elif match := _API.fullmatch(path):
            self._api(**match.groupdict(), query=parse_qs(url.query))
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match["repo"], match["revision"], match["path"])
        else:
            self.answer_json(404, {"error": "Sorry, we can't find the page you are looking for."})

    def _refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        self.answer_json(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message, **headers})

    def _find(self, repo_id: str, revision: str) -> Repository | None:
        """Return the repository at that revision, or answer as the Hub does and return None."""
        repository = self.state.catalog.repository(repo_id)
        if repository is None:
            # The Hub does not tell a missing repository from one that the caller may not see.
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository
        return None

    def _overloaded(self, path: str) -> bool:
        fault = self.state.strike(("429", "503"), path)
        if fault is None:
            return False
        self.answer_json(int(fault.kind), {"error": "Try again later"}, {"Retry-After": f"{fault.value:g}"})
        return True

    def _api(
        self, repo: str, kind: str | None, revision: str | None, path: str | None, query: Mapping[str, list[str]]
    ) -> None:
        if self._overloaded("api"):
            return
        repository = self._find(repo, unquote(revision or "main"))
        if repository is None:
            return
        if kind == "tree":
            entries = tree(repository, path or "", recursive=query.get("recursive", ["false"])[0].lower() == "true")
            if path and not entries:
                self._refuse(404, "EntryNotFound", f"{path} does not exist")
            else:
                self.answer_json(200, entries)
            return
        blobs = query.get("blobs", ["false"])[0].lower() == "true"
        self.answer_json(200, info(repository, blobs=blobs, gated=repo in self.state.tokens))

    def _resolve(self, repo: str, revision: str, path: str, cached: bool = False) -> None:
        if self._overloaded(path):
            return
        repository = self._find(repo, unquote(revision))
        if repository is None or not self._admitted(repo):
            return
        commit = {"X-Repo-Commit": repository.commit}
        file = repository.files.get(path)
        if file is None:
            self._refuse(404, "EntryNotFound", "Entry not found", **commit)
        elif cached:
            self._content(file, commit)
        else:
            self._redirect(repository, file)

    def _admitted(self, repo_id: str) -> bool:
        token = self.state.tokens.get(repo_id)
        given = self.headers.get("Authorization")
        if token is None or given == f"Bearer {token}":
            return True
        if given is None:
            self._refuse(
                401, "GatedRepo", f"Access to model {repo_id} is restricted. You must be authenticated to access it."
            )
        else:
            self.answer_json(
                401,
                {"error": "Invalid credentials"},
                {"X-Error-Message": "Invalid credentials in Authorization header"},
            )
        return False

    def _redirect(self, repository: Repository, file: HubFile) -> None:
        repo_id = repository.repo_id
        headers = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if not self.state.strike(("no-etag",), file.path):
            headers |= {
                "ETag": f'"{file.etag}"',
                "X-Linked-Etag": f'"{file.etag}"',
                "X-Linked-Size": str(file.size_bytes),
            }
        if not file.lfs:
            target = f"/api/resolve-cache/models/{repo_id}/{repository.commit}/{quote(file.path)}"
            self.answer(307, b"", {**headers, "Location": target})
            return
        if self.state.download_port is None:
            self._content(file, headers)
            return
        expires = int(time.time()) + _SIGNED_SECONDS
        if self.state.strike(("expired",), file.path):
            expires = 0
        host = (self.headers.get("Host") or "127.0.0.1").rsplit(":", 1)[0]
        signature = self.state.sign(repo_id, file.sha256, expires)
        target = (
            f"http://{host}:{self.state.download_port}/signed/{repo_id}/{file.sha256}"
            f"?Expires={expires}&Signature={signature}"
        )
        self.answer(302, b"", {**headers, "Location": target})

    def _signed(self, path: str, query: Mapping[str, list[str]]) -> None:
        match = _SIGNED.fullmatch(path)
        if "Authorization" in self.headers:
            # S3 and CloudFront do the same; it is also how a test sees that a client lets its token out of the Hub.
            self.answer(400, b"Only one auth mechanism allowed")
            return
        expires = int(query.get("Expires", ["0"])[0])
        if (
            match is None
            or expires < time.time()
            or not hmac.compare_digest(
                query.get("Signature", [""])[0], self.state.sign(match["repo"], match["sha256"], expires)
            )
        ):
            self.answer(403, b"Request has expired or its signature does not match")
            return
        repository = self.state.catalog.repository(match["repo"])
        for file in repository.files.values() if repository else ():
            if file.sha256 == match["sha256"]:
                self._content(file, {})
                return
        self.answer(404, b"No such object")

    def _content(self, file: HubFile, headers: Mapping[str, str]) -> None:
        first, last, partial = 0, file.size_bytes - 1, False
        asked = _RANGE.fullmatch(self.headers.get("Range") or "")
        if_range = self.headers.get("If-Range")
        if asked and if_range in (None, f'"{file.etag}"') and self.state.strike(("no-range",), file.path) is None:
            span = _span(asked, file.size_bytes)
            if span is None:
                self.answer(416, b"", {"Content-Range": f"bytes */{file.size_bytes}"})
                return
            first, last, partial = *span, True
        fault = self.state.strike(("corrupt", "short", "slow"), file.path) if self.command == "GET" else None
        length = last - first + 1
        self.send_response(206 if partial else 200)
        sent = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            **headers,
            "Content-Length": str(length),
        }
        if not self.state.strike(("no-etag",), file.path):
            sent["ETag"] = f'"{file.etag}"'
        if partial:
            sent["Content-Range"] = f"bytes {first}-{last}/{file.size_bytes}"
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            with file.source.open("rb") as stream:
                self._send(stream, first, length, fault)

    def _send(self, stream: BinaryIO, first: int, length: int, fault: Fault | None) -> None:
        kind = fault.kind if fault else None
        if kind == "corrupt":
            stream.seek(first)
            body = bytearray(stream.read(length))
            body[length // 2] ^= 0xFF
            self.wfile.write(body)
            return
        end = first + (length // 2 if kind == "short" else length)
        while first < end:
            # Asked anew for each piece: whoever holds the fault can end the slowness of an answer under way.
            piece_bytes = max(1, int(fault.value / 20)) if fault and kind == "slow" else _CHUNK_BYTES
            first += os.sendfile(self.connection.fileno(), stream.fileno(), first, min(piece_bytes, end - first))
            if kind == "slow":
                time.sleep(0.05)
        if kind == "short":
            self.hang_up()


def _span(asked: re.Match[str], size_bytes: int) -> tuple[int, int] | None:
    """Return the first and last byte of a Range header, or None if it cannot be satisfied."""
    start, stop = asked.groups()
    if start:
        first, last = int(start), min(int(stop) if stop else size_bytes - 1, size_bytes - 1)
    elif stop:
        first, last = max(0, size_bytes - int(stop)), size_bytes - 1
    else:
        return None
    return (first, last) if first <= last else None


class HubServer:
    """The Hub and its download host in this process; a context manager.

    `tokens` maps a gated repository to the bearer token that opens its files. Without `redirect`, LFS files are
    answered by the Hub itself. `requests` lists what was asked, in order.
    """

    def __init__(
        self,
        root: Path = DEFAULT_ROOT,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tokens: Mapping[str, str] | None = None,
        faults: Iterable[Fault] = (),
        redirect: bool = True,
        download_port: int = 0,
    ) -> None:
        self._state = _State(Catalog(root), tokens or {}, list(faults))
        self._hub = StandIn(type("HubHandler", (_HubHandler,), {"state": self._state}), host, port)
        self._download: StandIn | None = None
        if redirect:
            handler = type("DownloadHandler", (_HubHandler,), {"state": self._state, "download_host": True})
            self._download = StandIn(handler, host, download_port)
            self._state.download_port = self._download.port

    @property
    def url(self) -> str:
        """What HF_ENDPOINT wants."""
        return self._hub.url

    @property
    def requests(self) -> list[Request]:
        """The requests so far, the Hub's and the download host's together."""
        return self._state.requests

    @property
    def faults(self) -> list[Fault]:
        """The faults in force; change the list while the server runs."""
        return self._state.faults

    def commit(self, repo_id: str) -> str:
        """Return the commit that `main` names now; raises KeyError if there is no such repository."""
        repository = self._state.catalog.repository(repo_id)
        if repository is None:
            raise KeyError(repo_id)
        return repository.commit

    def start(self) -> None:
        """Serve in the background from now on."""
        for server in (self._hub, self._download):
            if server:
                server.start()

    def stop(self) -> None:
        """Stop serving and free both ports."""
        for server in (self._hub, self._download):
            if server:
                server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def main(argv: list[str] | None = None) -> int:
    """Serve until TERM or INT."""
    parser = argparse.ArgumentParser(prog="python -m judge_lab.hub", description="A stand-in for the Hugging Face Hub.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free port")
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT, metavar="DIR", help="holds DIR/<org>/<name>/<files>")
    parser.add_argument("--gated", action="append", default=[], metavar="ORG/NAME=TOKENFILE",
                        help="files of this repository need the bearer token in TOKENFILE")  # fmt: skip
    parser.add_argument("--download-port", type=int, default=0, help="port of the host that LFS files redirect to")
    parser.add_argument("--no-redirect", action="store_true", help="answer LFS files directly")
    parser.add_argument("--fault", action="append", default=[], type=Fault.parse,
                        metavar="KIND[=VALUE][:PATTERN[:TIMES]]", help="KIND: " + ", ".join(_FAULT_KINDS))  # fmt: skip
    options = parser.parse_args(argv)
    if not options.root.is_dir():
        parser.error(f"--root {options.root} is not a folder: it must hold <org>/<name>/<files>")
    tokens = {}
    for gate in options.gated:
        repo_id, _, token_file = gate.partition("=")
        tokens[repo_id] = Path(token_file).read_text().strip()
    server = HubServer(
        options.root,
        options.host,
        options.port,
        tokens=tokens,
        faults=options.fault,
        redirect=not options.no_redirect,
        download_port=options.download_port,
    )
    with server:
        wait_for_end(f"Hub stand-in ready at {server.url}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
