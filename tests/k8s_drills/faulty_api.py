"""A TLS proxy before an API server that answers one request in ten wrongly, or not at all.

Plain requests are struck, dry runs and discovery included; watches, followed logs and upgrades (exec, port-forward)
pass. Two of the faults are dangerous: with `reset_after` and `held` the API server did what was asked, and the client
never hears of it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import secrets
import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
import yaml

# What strikes: the first three are answers of the proxy's own, and the API server hears nothing of the request. The
# last two are forwarded, and the answer is thrown away: at once, or after HELD_SECONDS unless the client leaves first.
KINDS = ("429", "500", "503", "reset_before", "reset_after", "held")
HELD_SECONDS = 60.0
_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "authorization", "host"})


@dataclass
class Plan:
    """Which requests are struck, and with what: the same for the same seed and order of requests.

    The kinds come from a shuffled bag that is refilled when it is empty, so that few faults are of every kind.
    """

    seed: int = 0
    rate: float = 0.1
    kinds: tuple[str, ...] = KINDS
    requests: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    passed: int = 0  # watches, logs and upgrades, which are never struck
    left: int = 0  # held answers for which the client did not wait to the end
    hasty: list[str] = field(default_factory=list)  # asked again before Retry-After was over

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._bag: list[str] = []
        self._mutex = threading.Lock()
        self._not_before: dict[tuple[str, str], float] = {}

    def next(self, method: str, path: str) -> tuple[str, int]:
        """Return what strikes this request ("" for nothing), and the seconds for a Retry-After."""
        with self._mutex:
            self.requests += 1
            if time.monotonic() < self._not_before.pop((method, path), 0.0):
                self.hasty.append(f"{method} {path}")
            if self._random.random() >= self.rate:
                return "", 0
            if not self._bag:
                self._bag = self._random.sample(self.kinds, len(self.kinds))
            kind, seconds = self._bag.pop(), self._random.randrange(2)
            self.struck[kind] += 1
            if kind == "429" and seconds:
                self._not_before[method, path] = time.monotonic() + seconds
            return kind, seconds


@dataclass
class FaultyApi:
    """The proxy as it runs: `kubeconfig` leads to it; `plan` may be replaced at any time."""

    kubeconfig: Path
    plan: Plan


@contextmanager
def faulty_api(upstream: Path, folder: Path, plan: Plan) -> Iterator[FaultyApi]:
    """Run the proxy before the API server that the kubeconfig `upstream` names, until the block ends.

    `folder` gets a kubeconfig with a CA and a token of its own, which is worth nothing to the API server.
    """
    host, port, context = _upstream(upstream, folder)
    authority, token = trustme.CA(), secrets.token_urlsafe(16)
    server = _Server(("127.0.0.1", 0), _Handler)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    server.ours, server.theirs, server.upstream, server.token = ours, context, (host, port), token
    kubeconfig = folder / "faulty.kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(json.dumps(_kubeconfig(server.server_address[1], authority.cert_pem.bytes(), token)))
    server.api = FaultyApi(kubeconfig, plan)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.api
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def _upstream(kubeconfig: Path, folder: Path) -> tuple[str, int, ssl.SSLContext]:
    """Return address and TLS context of a kubeconfig's current cluster; its client certificate is used."""
    from base64 import b64decode

    found = yaml.safe_load(kubeconfig.read_text())
    cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
    context = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
    pair = folder / "upstream.pem"
    pair.touch(mode=0o600)
    pair.write_bytes(b64decode(user["client-key-data"]) + b"\n" + b64decode(user["client-certificate-data"]))
    context.load_cert_chain(pair)
    address = urlsplit(cluster["server"])
    return str(address.hostname), int(address.port or 443), context


def _kubeconfig(port: int, authority: bytes, token: str) -> dict[str, Any]:
    from base64 import b64encode

    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "faulty",
        "clusters": [{"name": "faulty", "cluster": {
            "server": f"https://127.0.0.1:{port}", "certificate-authority-data": b64encode(authority).decode()}}],
        "users": [{"name": "faulty", "user": {"token": token}}],
        "contexts": [{"name": "faulty", "context": {"cluster": "faulty", "user": "faulty"}}],
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    ours: ssl.SSLContext
    theirs: ssl.SSLContext
    upstream: tuple[str, int]
    token: str
    api: FaultyApi

    def __init__(self, *args: Any) -> None:
        self.closing = threading.Event()
        super().__init__(*args)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake belongs to the connection's own thread: a slow client must hold nobody else up.
        request.settimeout(30)
        with contextlib.suppress(ssl.SSLError, OSError):
            wrapped = self.ours.wrap_socket(request, server_side=True)
            wrapped.settimeout(None)
            try:
                self.RequestHandlerClass(wrapped, client_address, self)
            finally:
                with contextlib.suppress(OSError):
                    wrapped.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that break are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        host, port = self.server.upstream
        self.behind = http.client.HTTPSConnection(host, port, context=self.server.theirs, timeout=120)

    def finish(self) -> None:
        self.behind.close()
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _any(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401, b"wanted the token of the kubeconfig\n")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = parse_qs(urlsplit(self.path).query)
        upgrade = "upgrade" in (self.headers.get("Connection") or "").lower()
        plan = self.server.api.plan
        if upgrade or any(query.get(name, [""])[0] in ("true", "1") for name in ("watch", "follow")):
            plan.passed += 1
            if upgrade:
                self._tunnel()
            else:
                self._stream(body)
            return
        kind, seconds = plan.next(self.command, self.path)
        if kind == "429":  # as the API server's own flow control says it
            self._answer(429, b"Too many requests, please try again later.\n", {"Retry-After": str(seconds)})
        elif kind in ("500", "503"):
            self._answer(int(kind), _status(int(kind)), {"Content-Type": "application/json"})
        elif kind == "reset_before":
            self._reset()
        else:
            status, headers, content = self._forward(body)
            if kind == "held":
                self._hold()
            if kind:
                self._reset()
            else:
                self._answer(status, content, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _any

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _asked(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower() not in _HOP_HEADERS}

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Ask the API server; return its whole answer. A connection that it closed meanwhile is made anew."""
        if self.behind.sock is not None and select.select([self.behind.sock], [], [], 0)[0]:
            self.behind.close()
        self.behind.request(self.command, self.path, body=body or None, headers=self._asked())
        answer = self.behind.getresponse()
        content = answer.read()
        return answer.status, _kept(answer), content

    def _stream(self, body: bytes) -> None:
        self.behind.request(self.command, self.path, body=body or None, headers=self._asked())
        answer = self.behind.getresponse()
        self.send_response_only(answer.status)
        for name, value in _kept(answer).items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        while part := answer.read1(65536):
            self.wfile.write(part)
            self.wfile.flush()
        self.close_connection = True

    def _tunnel(self) -> None:
        """Hand the request on as it came, then carry bytes both ways until one side ends."""
        host, port = self.server.upstream
        with self.server.theirs.wrap_socket(socket.create_connection((host, port)), server_hostname=host) as other:
            lines = [f"{self.command} {self.path} HTTP/1.1", f"Host: {host}:{port}"]
            lines += [f"{name}: {value}" for name, value in self.headers.items()
                      if name.lower() not in ("authorization", "host")]
            other.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            back = threading.Thread(target=_pump, args=(other, self.connection), daemon=True)
            back.start()
            # What the client sent right behind its request lies in the buffer of rfile already.
            while data := self.rfile.read1(65536):  # type: ignore[attr-defined]
                other.sendall(data)
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)
            back.join(5)
        self.close_connection = True

    def _hold(self) -> None:
        """Leave the client without an answer until it goes, or for HELD_SECONDS."""
        until = time.monotonic() + HELD_SECONDS
        while time.monotonic() < until and not self.server.closing.is_set():
            # A client that waits sends nothing: anything to read here is its leaving.
            if select.select([self.connection], [], [], 0.1)[0]:
                self.server.api.plan.left += 1
                return

    def _reset(self) -> None:
        """End the connection with a TCP reset, as a balancer or a server that dies does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _kept(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_HEADERS}


def _status(code: int) -> bytes:
    words = {500: ("InternalError", "etcdserver: request timed out"),
             503: ("ServiceUnavailable", "the server is currently unable to handle the request")}[code]
    return json.dumps({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                       "reason": words[0], "message": words[1], "code": code}).encode()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for side in (source, sink):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
