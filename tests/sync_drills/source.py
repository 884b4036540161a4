"""A Hub that redirects big files to a store of blobs with signed addresses, a mirror, and what goes wrong with them.

Every answer with bytes of a file is asked of the plan first: a `Fault` there strikes it. Where in the body a fault
strikes follows from the plan's seed; how many bytes went out is counted for each blob.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ports import kept_port

from .models import Model, blob_name

TOKEN = "hf_drillXdrillXdrillXdrillXdrillX"
_WRITE_BYTES = 64 << 10
# Other connections may have asked before they heard of a 429: so long, and each once however late that comes through.
_IN_FLIGHT_SECONDS = 0.2
_LOGIN = b"<!doctype html><html><title>Sign in</title><body>Your session has ended. Please sign in.</body></html>\n"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Plan:
    """What strikes which answers. `times` None: for ever; `skip` answers pass before the first; `files` None: all."""

    kind: str = ""
    seed: int = 0
    places: frozenset[str] = frozenset({"hub", "blobs", "mirror"})
    files: frozenset[str] | None = None
    times: int | None = 0
    skip: int = 0
    struck: int = 0
    other: Model | None = None  # the commit that a stale answer is of
    rng: random.Random = field(default_factory=random.Random)
    _passed: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.kind} {self.seed}")

    def strikes(self, place: str, path: str) -> bool:
        """Say whether this answer is struck, and count it."""
        if place not in self.places or (self.files is not None and path not in self.files):
            return False
        if self._passed < self.skip:
            self._passed += 1
            return False
        if self.times is not None and self.struck >= self.times:
            return False
        self.struck += 1
        return True


class Site:
    """The servers: `hub` and `mirror` are their URLs. `sent[blob]` counts bytes of bodies that went out."""

    def __init__(self, models: list[Model], *, bytes_per_second: int = 0) -> None:
        self.models = models
        self.plan = Plan()
        self.rate = bytes_per_second
        self.sent: Counter[str] = Counter()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.leaks: list[str] = []  # a token seen where it does not belong
        self.hasty: list[str] = []  # asked again before Retry-After was over
        self.on_sent: Callable[[int], None] = lambda total: None
        self.hub = self.blobs = self.other = self.mirror = ""
        self.closing = threading.Event()
        self.mutex = threading.Lock()
        self.valid: set[str] = set()
        # Asked at, until when, and {connection: whether it is the one that was told}, for those that asked since.
        self.not_before: dict[str, tuple[float, float, dict[Any, bool]]] = {}
        self.servers: list[_Server] = []
        self._signatures = 0
        self._free_at = 0.0

    def heal(self) -> None:
        """Let nothing be wrong any more; the next run knows of no Retry-After that an earlier one was told."""
        self.plan = Plan()
        self.not_before.clear()
        for server in self.servers:
            server.refuse(0)
        for _ in range(400):
            with contextlib.suppress(OSError), contextlib.ExitStack() as open_now:
                for url in (self.hub, self.blobs, self.other, self.mirror):
                    parts = urlsplit(url)
                    open_now.enter_context(socket.create_connection((parts.hostname or "", parts.port or 0), 1))
                return
            time.sleep(0.01)
        raise TimeoutError("a server of the drill does not listen again")

    def sign(self) -> str:
        with self.mutex:
            self._signatures += 1
            signature = f"s{self._signatures}"
            self.valid.add(signature)
            return signature

    def revoke(self) -> None:
        """Let every address that was signed so far expire."""
        with self.mutex:
            self.valid.clear()

    def count(self, blob: str, size: int) -> None:
        """Note bytes that went out, and wait as long as the rate wants."""
        with self.mutex:
            self.sent[blob] += size
            total = sum(self.sent.values())
            wait = 0.0
            if self.rate:
                now = time.monotonic()
                self._free_at = max(self._free_at, now) + size / self.rate
                wait = self._free_at - now
        self.on_sent(total)
        if wait > 0:
            self.closing.wait(wait)

    def find(self, repo_id: str, commit: str, path: str) -> bytes | None:
        for model in self.models:
            if (model.repo_id, model.commit) == (repo_id, commit):
                return model.files.get(path)
        return None

    def find_blob(self, blob: str) -> tuple[str, bytes] | None:
        for model in self.models:
            for path, data in model.files.items():
                if blob_name(path, data) == blob:
                    return path, data
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._mutex = threading.Lock()
        self._refuse_until = 0.0
        super().__init__(*args)

    def refuse(self, seconds: float) -> None:
        """Have nothing listen at the address for a while; no seconds: from now on something listens again."""
        with self._mutex:
            if not self._refuse_until and seconds:
                self.socket.shutdown(socket.SHUT_RDWR)
            self._refuse_until = time.monotonic() + seconds if seconds or self._refuse_until else 0.0

    def get_request(self) -> tuple[Any, Any]:
        with self._mutex:
            refuses = bool(self._refuse_until)
            if refuses and time.monotonic() >= self._refuse_until:
                self._refuse_until = 0.0
                self.socket.listen(self.request_queue_size)
        if refuses:
            time.sleep(0.005)
            raise OSError("not listening")
        request, address = super().get_request()
        # What waits in the kernel when a client is killed was sent, but nobody got it: keep it little.
        request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 << 10)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return request, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients are killed on purpose


@dataclass
class _Answer:
    """What a right server would send; faults change it."""

    path: str
    data: bytes
    start: int
    end: int
    status: int
    headers: dict[str, str]

    @property
    def body(self) -> bytes:
        return self.data[self.start : self.end]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site
    place: str

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.place != "hub" and self.headers.get("Authorization"):
            self.site.leaks.append(f"{self.place} {self.path}")
        try:
            self._route(unquote(urlsplit(self.path).path))
        except (BrokenPipeError, ConnectionResetError, OSError):
            self.close_connection = True

    def _route(self, path: str) -> None:
        if self.place == "hub":
            matched = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", path)
            if matched is None:
                self.simple(404, {"X-Error-Code": "EntryNotFound"})
                return
            data = self.site.find(matched[1], matched[2], matched[3])
            if data is None:
                self.simple(404, {"X-Error-Code": "EntryNotFound"})
            elif matched[3].endswith(".safetensors") and not self.site.plan.kind.startswith("redirect"):
                self.redirect(self.site.blobs, matched[3], data)
            else:
                self.serve(matched[3], data)
            return
        blob = path.rpartition("/")[2]
        found = self.site.find_blob(blob)
        if found is None:
            self.simple(404, {})
            return
        if self.place == "blobs":
            signature = parse_qs(urlsplit(self.path).query).get("Signature", [""])[0]
            with self.site.mutex:
                valid = signature in self.site.valid
            if not valid:
                self.simple(403, {})
                return
        self.serve(*found)

    def redirect(self, to: str, path: str, data: bytes) -> None:
        blob = blob_name(path, data)
        place = f"{to}/xet/{blob}?Expires=1&Signature={self.site.sign()}"
        self.simple(302, {"Location": place, "X-Linked-Etag": f'"{blob}"', "X-Linked-Size": str(len(data))})

    def simple(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self, path: str, data: bytes) -> None:
        blob = blob_name(path, data)
        self.site.requests[self.place, blob] += 1
        now = time.monotonic()
        since, until, asked = self.site.not_before.get(f"{self.place} {blob}", (now, now, {}))
        if now < until:
            told = asked.get(self.client_address)
            if told or (told is False and now > since + _IN_FLIGHT_SECONDS):
                self.site.hasty.append(f"{self.place} {path}, {until - now:.2f} s too early")
            asked[self.client_address] = bool(told)
        matched = _RANGE.fullmatch(self.headers.get("Range") or "")
        start, end, status = 0, len(data), 200
        headers = {"ETag": f'"{blob}"', "Accept-Ranges": "bytes"}
        if matched:
            start, end = int(matched[1]), min(int(matched[2] or len(data) - 1) + 1, len(data))
            if start >= end:
                self.simple(416, {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        answer = _Answer(path, data, start, end, status, headers)
        plan = self.site.plan
        with self.site.mutex:
            struck = plan.strikes(self.place, path)
        if struck:
            _STRIKES[plan.kind](self, answer, plan)
        else:
            self.answer(answer)

    def answer(self, answer: _Answer, body: bytes | None = None, length: int | None = None) -> None:
        """Send headers and body; a body that is not of the promised length ends the connection."""
        body = answer.body if body is None else body
        promised = len(body) if length is None else length
        self.head(answer, promised)
        self.send(answer, body)
        if promised != len(body):
            self.close_connection = True

    def head(self, answer: _Answer, length: int | None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def send(self, answer: _Answer, body: bytes) -> None:
        blob = blob_name(answer.path, answer.data)
        for offset in range(0, len(body), _WRITE_BYTES):
            piece = body[offset : offset + _WRITE_BYTES]
            self.wfile.write(piece)
            self.site.count(blob, len(piece))

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


# --- what goes wrong: each takes the answer that would be right ------------------------------------------------------


def _cut(answer: _Answer, rng: random.Random) -> bytes:
    return answer.body[: rng.randrange(len(answer.body) + 1) if answer.body else 0]


def _flip_byte(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    body = bytearray(answer.body)
    if body:
        body[plan.rng.randrange(len(body))] ^= 1 << plan.rng.randrange(8)
    handler.answer(answer, bytes(body))


def _flip_block(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    body = bytearray(answer.body)
    start = plan.rng.randrange(max(len(body), 1)) // 512 * 512
    size = min(4096, len(body) - start)
    body[start : start + size] = plan.rng.choice((bytes(size), plan.rng.randbytes(size)))
    handler.answer(answer, bytes(body))


def _truncate(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.answer(answer, _cut(answer, plan.rng)[:-1], len(answer.body))
    handler.close_connection = True


def _length_longer(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.answer(answer, length=len(answer.body) + plan.rng.choice((1, 100, 5_000_000)))


def _length_shorter(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.answer(answer, length=plan.rng.randrange(len(answer.body)) if answer.body else 0)


def _whole_for_range(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    answer.start, answer.end, answer.status = 0, len(answer.data), 200
    answer.headers.pop("Content-Range", None)
    handler.answer(answer)


def _other_range(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    size = len(answer.data)
    answer.start = plan.rng.randrange(size) if size else 0
    answer.end, answer.status = plan.rng.randint(answer.start + 1, size) if size else 0, 206
    answer.headers["Content-Range"] = f"bytes {answer.start}-{answer.end - 1}/{size}"
    handler.answer(answer)


def _shifted(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    body = answer.data[answer.start + 1 : answer.end + 1]
    handler.answer(answer, body + b"\0" * (len(answer.body) - len(body)))


def _login(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    body = _LOGIN if plan.rng.random() < 0.5 else _LOGIN.ljust(len(answer.data))[: len(answer.data)]
    answer.status, answer.headers = 200, {"Content-Type": "text/html"}
    handler.answer(answer, body)


def _stall(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.head(answer, len(answer.body))
    handler.send(answer, _cut(answer, plan.rng)[:-1])
    handler.site.closing.wait(30)
    handler.close_connection = True


def _drip(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.head(answer, len(answer.body))
    start = plan.rng.randrange(len(answer.body)) if answer.body else 0
    handler.send(answer, answer.body[:start])
    for offset in range(start, len(answer.body)):
        handler.send(answer, answer.body[offset : offset + 1])
        if handler.site.closing.wait(0.02):
            break
    handler.close_connection = True


def _reset(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.head(answer, len(answer.body))
    handler.send(answer, _cut(answer, plan.rng)[:-1])
    handler.reset()


def _expired(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    """Let all signed addresses expire in the middle of a body, or before its first byte."""
    handler.site.revoke()
    if handler.place == "blobs" and plan.rng.random() < 0.5:
        handler.simple(403, {})
    else:
        _truncate(handler, answer, plan)


def _denied(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.simple(403, {"X-Error-Code": "GatedRepo"})


def _limited(handler: _Handler, answer: _Answer, seconds: float, retry_after: str) -> None:
    now, key = time.monotonic(), f"{handler.place} {blob_name(answer.path, answer.data)}"
    handler.site.not_before[key] = (now, now + seconds, {handler.client_address: True})
    handler.simple(429, {"Retry-After": retry_after})


def _limited_seconds(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    seconds = plan.rng.choice((0, 1))
    _limited(handler, answer, seconds, str(seconds))


def _limited_date(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    when = int(time.time() + plan.rng.choice((0, 1))) + 1
    _limited(handler, answer, when - time.time() - 0.05, formatdate(when, usegmt=True))


def _server_error(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    body = b"upstream went away\n" * plan.rng.randrange(3)
    handler.simple(plan.rng.choice((500, 502, 503, 504)), {}, body)


def _gzipped(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    answer.headers["Content-Encoding"] = "gzip"
    handler.answer(answer, gzip.compress(answer.body, 1))


def _chunked(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    answer.headers["Transfer-Encoding"] = "chunked"
    handler.head(answer, None)
    size = plan.rng.choice((1000, 65_536, 300_000))
    for offset in range(0, len(answer.body), size):
        piece = answer.body[offset : offset + size]
        handler.wfile.write(b"%x\r\n" % len(piece))
        handler.send(answer, piece)
        handler.wfile.write(b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def _no_length(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    """Neither a length nor chunks: the end of the connection is the end of the body, and here it comes too early."""
    handler.head(answer, None)
    handler.send(answer, _cut(answer, plan.rng))
    handler.close_connection = True


def _redirect_loop(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.simple(plan.rng.choice((301, 302, 307, 308)), {"Location": handler.path})


def _redirect_away(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.redirect(handler.site.other, answer.path, answer.data)


def _other_file(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    others = [
        data
        for model in handler.site.models
        for data in model.files.values()
        if len(data) == len(answer.data) and data != answer.data
    ]
    data = plan.rng.choice(others) if others else plan.rng.randbytes(len(answer.data))
    handler.answer(answer, data[answer.start : answer.end])


def _empty(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.answer(answer, b"")


def _refused(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    """Take no connection for a while, and end this one."""
    seconds = 60.0 if plan.times is None else plan.rng.uniform(0.02, 0.15)
    handler.reset()
    handler.server.refuse(seconds)  # type: ignore[attr-defined]


def _repeated(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    at = plan.rng.randrange(len(answer.body)) if answer.body else 0
    again = plan.rng.choice((1, 4096, 65_536))
    body = answer.body[:at] + answer.body[max(at - again, 0) :]
    handler.answer(answer, body[: len(answer.body)] if plan.rng.random() < 0.5 else body, len(answer.body))


def _stale(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    assert plan.other is not None
    data = plan.other.files.get(answer.path, b"")
    if data == answer.data:
        data = data[::-1]
    size = len(answer.data) if plan.rng.random() < 0.5 else len(data)
    data = data[:size].ljust(size, b"\n")
    start = min(answer.start, len(data))
    end = min(answer.end, len(data)) if answer.status == 206 else len(data)
    if answer.status == 206:
        answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
    handler.answer(answer, data[start:end])


def _not_http(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.wfile.write(plan.rng.choice((b"SSH-2.0-OpenSSH_9.2\r\n", plan.rng.randbytes(500), b"HTTP/1.1 two\r\n\r\n")))
    handler.close_connection = True


def _headers_without_end(handler: _Handler, answer: _Answer, plan: Plan) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(200):
        handler.wfile.write(b"X-Pad-%d: %s\r\n" % (number, b"x" * 1000))
    handler.close_connection = True


_STRIKES: dict[str, Callable[[_Handler, _Answer, Plan], None]] = {
    "flips a byte": _flip_byte,
    "flips a block": _flip_block,
    "truncates": _truncate,
    "says more than it has": _length_longer,
    "says less than it has": _length_shorter,
    "200 to a range": _whole_for_range,
    "206 of another range": _other_range,
    "206 shifted by a byte": _shifted,
    "login page": _login,
    "stalls": _stall,
    "drips": _drip,
    "resets": _reset,
    "signed address expires": _expired,
    "403": _denied,
    "429, seconds": _limited_seconds,
    "429, date": _limited_date,
    "5xx": _server_error,
    "gzip": _gzipped,
    "chunked": _chunked,
    "no length, cut": _no_length,
    "redirect loop": _redirect_loop,
    "redirect to another host": _redirect_away,
    "another file of the same size": _other_file,
    "empty": _empty,
    "refuses connections": _refused,
    "repeats bytes": _repeated,
    "stale commit": _stale,
    "not HTTP": _not_http,
    "headers without end": _headers_without_end,
}
KINDS = tuple(_STRIKES)


@contextlib.contextmanager
def serve(models: list[Model], *, bytes_per_second: int = 0) -> Iterator[Site]:
    """Serve the models until the end of the block."""
    site = Site(models, bytes_per_second=bytes_per_second)
    threads = []
    for place in ("hub", "blobs", "other", "mirror"):
        handler = type(f"_{place}", (_Handler,), {"site": site, "place": place})
        with kept_port() as port:
            # A port that was asked for by number stays when nothing listens.
            server = _Server(("127.0.0.1", port), handler)
        setattr(site, place, f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        site.servers.append(server)
        threads.append(thread)
    try:
        yield site
    finally:
        site.closing.set()
        for server, thread in zip(site.servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
