"""Knock at every door of a vLLM server: all routes that it has, with every method, and paths written in odd ways.

`routes(log)` reads the routes out of the server's own log, which lists them when it starts (a pod's log, too);
`requests_of(routes)` makes the requests; `probe(base_url, requests)` sends them and tells the statuses.
"""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
# What the gateway answers without a key.
OPEN = {("GET", "/health"), ("GET", "/health/ready")}
# What it answers with one.
KEYED = {("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/judge/provenance")}
TIMEOUT_SECONDS = 120

_ROUTE = re.compile(r"Route: (/\S*), (?:Methods: ([A-Z, ]+)|Endpoint: (\w+))")
# What a log does not list: mounted applications, the root, and the development routes that are off.
_UNLISTED = {"/": ("GET",), "/static/x": ("GET",), "/metrics/x": ("GET",), "/server_info": ("GET",),
             "/sleep": ("POST",), "/collective_rpc": ("POST",), "/reset_prefix_cache": ("POST",),
             "/v1/load_lora_adapter": ("POST",)}
# What vLLM 0.32.0 (CPU build, a text model) logged when it was started with the role's arguments.
RECORDED: dict[str, tuple[str, ...]] = {
    "/openapi.json": ("GET", "HEAD"),
    "/docs": ("GET", "HEAD"),
    "/docs/oauth2-redirect": ("GET", "HEAD"),
    "/redoc": ("GET", "HEAD"),
    "/load": ("GET",),
    "/version": ("GET",),
    "/kv_event_sources": ("GET",),
    "/health": ("GET",),
    "/metrics": ("GET",),
    "/tokenize": ("POST",),
    "/detokenize": ("POST",),
    "/v1/models": ("GET",),
    "/v1/systemone": ("POST",),
    "/ping": ("GET", "POST"),
    "/invocations": ("POST",),
    "/v1/chat/completions": ("POST",),
    "/v1/chat/completions/batch": ("POST",),
    "/v1/responses": ("POST",),
    "/v1/responses/x": ("GET",),
    "/v1/responses/x/cancel": ("POST",),
    "/v1/completions": ("POST",),
    "/v1/messages": ("POST",),
    "/v1/messages/count_tokens": ("POST",),
    "/generative_scoring": ("POST",),
    "/scale_elastic_ep": ("POST",),
    "/is_scaling_elastic_ep": ("POST",),
    "/v1/chat/completions/render": ("POST",),
    "/v1/messages/render": ("POST",),
    "/v1/completions/render": ("POST",),
    "/v1/responses/render": ("POST",),
    "/v1/chat/completions/derender": ("POST",),
    "/v1/completions/derender": ("POST",),
    "/inference/v1/generate": ("POST",),
    "/inference/v1/abort_requests": ("POST",),
}


@dataclass(frozen=True)
class Answer:
    """One request and the status that came back; 0: the connection was closed without an answer."""

    method: str
    path: str
    status: int


def routes(log: str | None = None) -> dict[str, tuple[str, ...]]:
    """Return {path: methods} of the server whose log this is; of vLLM 0.32.0 without one. Path parameters are "x".

    A websocket has the method WEBSOCKET. Raises ValueError for a log without routes.
    """
    if log is None:
        return {**RECORDED, **_UNLISTED}
    found: dict[str, tuple[str, ...]] = {}
    for path, methods, _endpoint in _ROUTE.findall(log):
        name = re.sub(r"\{[^}]*\}", "x", path)
        new = tuple(methods.replace(" ", "").split(",")) if methods else ("WEBSOCKET",)
        found[name] = tuple(sorted({*found.get(name, ()), *new}))
    if not found:
        raise ValueError("the log names no route, wanted the lines 'Route: PATH, Methods: ...' of vLLM's start")
    return {**found, **_UNLISTED}


def spellings(path: str) -> list[str]:
    """Return `path` as it is, and in ways that a careless server takes for the same, or for an open one."""
    last = path.rsplit("/", 1)[-1]
    return [path, f"/{path}", f"{path}/", f"{path}//", f"{path}?key=x", f"{path}%20", f"{path}%00", f"{path};x",
            path.upper(), "/" + path[1:].replace("/", "%2f"), f"/%2f{path[1:]}", f"/.{path}", f"/health/..{path}",
            f"/health/ready/..{path}", f"/health/%2e%2e{path}", f"/health%2f..{path}", f"/x/..{path}", f"/health{path}",
            f"{path[: -len(last)]}%{ord(last[0]):02x}{last[1:]}" if last else "/%2f",
            f"/health?{path}", f"/health#{path}", f"http://127.0.0.1{path}", f"http://127.0.0.1/health@x{path}"]


def requests_of(found: Mapping[str, tuple[str, ...]], *, odd: bool = True) -> list[tuple[str, str]]:
    """Return each route with every method, and with `odd` its other spellings by the route's own methods."""
    wanted: dict[tuple[str, str], None] = {}
    for path, methods in found.items():
        wanted.update(dict.fromkeys((method, path) for method in METHODS))
        if odd:
            own = [method for method in methods if method != "WEBSOCKET"] or ["GET"]
            wanted.update(dict.fromkeys((method, text) for text in spellings(path) for method in own))
    return list(wanted)


def is_open(method: str, path: str) -> bool:
    """Tell whether the gateway may answer this without a key: what reaches a server as one of the open routes."""
    target = urlsplit(path) if path.startswith("http://") else urlsplit(f"http://x{path}")
    return (method, target.path) in OPEN


def probe(base_url: str, requests: Iterable[tuple[str, str]], headers: Mapping[str, str] | None = None
          ) -> Iterator[Answer]:
    """Send each request as it is written, and tell what came back; POST and the like carry a small body."""
    address = urlsplit(base_url)
    for method, path in requests:
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=TIMEOUT_SECONDS)
        body = b"{}" if method in ("POST", "PUT", "PATCH") else None
        given = {"Content-Type": "application/json"} if body else {}
        try:
            connection.request(method, path, body, {**given, **(headers or {})})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (ConnectionError, http.client.BadStatusLine):
            status = 0
        finally:
            connection.close()
        yield Answer(method, path, status)


def raw(base_url: str, data: bytes, *, seconds: float = TIMEOUT_SECONDS) -> bytes:
    """Send bytes as they are; return what comes back until the server closes, or a whole answer is there."""
    address = urlsplit(base_url)
    with socket.create_connection((str(address.hostname), int(address.port or 80)), seconds) as connection:
        connection.sendall(data)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> bytes:
    """Return one answer: head, and as many bytes of the body as its Content-Length names."""
    answer = b""
    while True:
        head, found, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if found and length and len(body) >= int(length[1]):
            return answer
        try:
            data = connection.recv(65536)
        except ConnectionError:
            return answer
        if not data:
            return answer
        answer += data


def status_of(answer: bytes) -> int:
    """Return the status of a raw answer; 0 for none."""
    found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    return int(found[1]) if found else 0


def websocket(base_url: str, path: str, headers: Mapping[str, str] | None = None) -> int:
    """Ask for a websocket at `path`; return the status of the answer (101 would be an open door)."""
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket",
             "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
             *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return status_of(raw(base_url, ("\r\n".join(lines) + "\r\n\r\n").encode()))
