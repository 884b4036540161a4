"""A small server of the Hub's resolve endpoint, with faults on demand and a log of what was asked."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPO, COMMIT = "judge-lab/tiny", "a" * 40


@dataclass(frozen=True)
class Fault:
    """One answer that differs: a `status` instead of the file, or a `body` that after `at` bytes goes
    truncate, reset, wrong, hang or drip."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    at: int = 0


@dataclass
class Asked:
    """One request as it came in, and how many bytes of body went out for it so far."""

    path: str
    headers: dict[str, str]
    sent_bytes: int = 0
    at: float = field(default_factory=time.monotonic)


class FakeHub:
    """The server. `faults[path]` holds the faults of the next requests for that file, first to last."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.faults: dict[str, list[Fault]] = {}
        self.asked: list[Asked] = []
        self.knows_range = True
        # It says that it keeps connections open, and closes them.
        self.closes = False
        self.clients: set[tuple[str, int]] = set()
        self.go_on = threading.Event()
        self.url = ""

    def sent_bytes(self, path: str) -> int:
        return sum(asked.sent_bytes for asked in self.asked if asked.path == path)

    def ranges(self, path: str) -> list[str | None]:
        return [asked.headers.get("range") for asked in self.asked if asked.path == path]


def etag(data: bytes, path: str) -> str:
    if path.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def manifest_of(files: dict[str, bytes], revision: str = "main") -> dict[str, Any]:
    """Return the manifest as the controller makes it: sha256 for files in LFS, git's blob hash for the others."""
    entries = []
    for path, data in files.items():
        lfs = path.endswith(".safetensors")
        entries.append(
            {
                "path": path,
                "size": len(data),
                "sha256": etag(data, path) if lfs else None,
                "blob_sha1": None if lfs else etag(data, path),
            }
        )
    return {"schema": 1, "repo_id": REPO, "revision": revision, "commit": COMMIT, "files": entries}


@contextlib.contextmanager
def serve(files: dict[str, bytes], *, context: ssl.SSLContext | None = None) -> Iterator[FakeHub]:
    """Serve the files; with `context` over TLS, as localhost."""
    hub = FakeHub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            matched = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(urlsplit(self.path).path))
            path = matched[3] if matched else self.path
            self.asked = Asked(path, {k.lower(): v for k, v in self.headers.items()})
            hub.asked.append(self.asked)
            hub.clients.add(self.client_address)
            try:
                self._answer(path, hub.files.get(path))
            except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
                self.close_connection = True
            self.close_connection |= hub.closes

        def _answer(self, path: str, data: bytes | None) -> None:
            queue = hub.faults.get(path)
            fault = queue.pop(0) if queue else Fault()
            if fault.status is not None or data is None:
                self.send_response(fault.status or 404)
                for name, value in fault.headers.items():
                    self.send_header(name, value)
                if data is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, end = 0, len(data)
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked and hub.knows_range:
                start, end = int(asked[1]), int(asked[2]) + 1 if asked[2] else len(data)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("ETag", f'"{etag(data, path)}"')
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            body = bytearray(data[start:end])
            if fault.body == "wrong":
                body[fault.at] ^= 255
            if fault.body == "drip":
                self._send(body[: fault.at])
                for offset in range(fault.at, len(body)):
                    if hub.go_on.wait(0.02):
                        break
                    self._send(body[offset : offset + 1])
                self.close_connection = True
                return
            if fault.body in ("truncate", "reset", "hang"):
                self._send(body[: fault.at])
                if fault.body == "hang":
                    hub.go_on.wait(60)
                if fault.body == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close() if fault.body == "reset" else None
                return
            self._send(body)

        def _send(self, body: bytes | bytearray) -> None:
            for offset in range(0, len(body), 1 << 16):
                self.asked.sent_bytes += self.wfile.write(body[offset : offset + (1 << 16)])

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients are killed on purpose

    server = Server(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        hub.url = f"https://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
