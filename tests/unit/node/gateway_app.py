"""A server for the gateway to stand in front of, in memory, and a caller who speaks ASGI to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from judge_node.serving.gateway import Gateway

COMMIT = "0123456789abcdef0123456789abcdef01234567"
KEY = "key-of-the-judge"
ROOT = f"/models/models--org--judge/snapshots/{COMMIT}"
SCORES = {"accuracy": 8, "overall": 7}
Headers = list[tuple[bytes, bytes]]


def completion(content: object, finish_reason: str = "stop") -> bytes:
    """Return a chat completion as vLLM gives it; a content that is no text is put into JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish_reason}]}).encode()


def item(name: str = "one", accepted: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return one of gateway.json's golden items."""
    criteria = {criterion: {"type": "integer", "minimum": 1, "maximum": 10} for criterion in SCORES}
    schema = {"properties": {"scores": {"properties": criteria}}}
    return {"id": name, "accepted": accepted, "request": {
        "model": "judge", "messages": [{"role": "user", "content": name}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}}


def document(**changes: Any) -> dict[str, Any]:
    """Return a good gateway.json, but for `changes`."""
    return {"schema": 1, "served_name": "judge", "commit": COMMIT, "repo_id": "org/judge", "image": "vllm:1",
            "manifest_digest": "sha256:d", "api_key_file": None, "max_body_bytes": 1000,
            "golden": {"tolerance": 1.0, "items": [item()]}, **changes}


@dataclass
class FakeServer:
    """An ASGI application like vLLM's; remembers which requests reached it, but for those that the gateway makes."""

    root: str = ROOT
    healthy: bool = True
    # What is answered for a chat completion; one that is an exception is raised, a float is slept through.
    verdicts: list[bytes | Exception | float] = field(default_factory=list)
    verdict: bytes = field(default_factory=lambda: completion({"scores": SCORES}))
    reached: list[tuple[str, str]] = field(default_factory=list)
    own: list[tuple[str, str]] = field(default_factory=list)
    headers: Headers = field(default_factory=list)
    # How a chat completion is answered.
    status: int = 200
    answer_headers: Headers = field(default_factory=lambda: [(b"x-of", b"vllm")])
    body: bytes = b""
    disconnected: bool = False
    other_scopes: list[str] = field(default_factory=list)
    # Whether a chat completion waits until the caller has gone.
    endless: bool = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            self.other_scopes.append(scope["type"])
            return
        name = (scope["method"], scope["path"])
        ours = (b"host", b"judge-gateway") in scope["headers"]
        (self.own if ours else self.reached).append(name)
        if name == ("GET", "/health"):
            await answer(send, 200 if self.healthy else 503, b"")
        elif name == ("GET", "/v1/models"):
            await answer(send, 200, json.dumps({"data": [{"id": "judge", "root": self.root}]}).encode())
        elif name == ("POST", "/v1/chat/completions"):
            await self._judge(scope, receive, send, ours=ours)
        else:
            await answer(send, 200, b"inside")

    async def _judge(self, scope: Any, receive: Any, send: Any, *, ours: bool) -> None:
        message = await receive()
        if not ours:
            self.headers, self.body = scope["headers"], message["body"]
        if self.endless and not ours:
            self.disconnected = (await receive())["type"] == "http.disconnect"
            return
        verdict = self.verdicts.pop(0) if self.verdicts else self.verdict
        if isinstance(verdict, Exception):
            raise verdict
        if isinstance(verdict, float):
            await asyncio.sleep(verdict)
            return
        await send({"type": "http.response.start", "status": self.status, "headers": self.answer_headers})
        # In pieces, as a streamed answer comes.
        await send({"type": "http.response.body", "body": verdict[:5], "more_body": True})
        await send({"type": "http.response.body", "body": verdict[5:], "more_body": False})


async def answer(send: Any, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass
class Got:
    """What came back. `messages` are the ASGI messages as they were sent."""

    messages: list[Any]

    @property
    def status(self) -> int | None:
        """The status; None when nothing was answered."""
        return next((m["status"] for m in self.messages if m["type"] == "http.response.start"), None)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages if m["type"] == "http.response.body")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(gateway: Gateway, method: str, path: str, *, key: str | None = KEY, headers: Headers | None = None,
              body: Iterable[bytes] = (b"",), receive: Callable[[], Awaitable[Any]] | None = None,
              **scope: Any) -> Got:
    """Send one request to the gateway: its body in pieces, then the caller is gone; or `receive` says what comes."""
    sent: list[Any] = []
    pieces = list(body)
    shown: Headers = [(b"authorization", f"Bearer {key}".encode())] if key is not None else []

    async def receive_pieces() -> Any:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway({"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
                   "query_string": b"", "headers": [*shown, *(headers or [])], **scope},
                  receive or receive_pieces, send)
    return Got(sent)


def knock(gateway: Gateway, method: str, path: str, **options: Any) -> Got:
    """Send one request, in an event loop of its own."""
    return asyncio.run(ask(gateway, method, path, **options))


def knock_at(gateway: Gateway, requests: Iterable[tuple[str, str]], **options: Any
             ) -> dict[tuple[str, str], int | None]:
    """Send many requests; return the status of each."""
    async def all_of_them() -> dict[tuple[str, str], int | None]:
        return {one: (await ask(gateway, *one, **options)).status for one in requests}

    return asyncio.run(all_of_them())


def make(server: FakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Gateway:
    """Return a gateway in front of `server`, with a key file in `folder` unless `changes` say otherwise."""
    key_file = folder / "api-key"
    if not key_file.exists():
        key_file.write_text(f"{KEY}\n")
    path = folder / "gateway.json"
    path.write_text(json.dumps(document(**{"api_key_file": str(key_file), **changes})))
    monkeypatch.setenv("JUDGE_GATEWAY_CONFIG", str(path))
    return Gateway(server)


async def until_asked(gateway: Gateway, want: Callable[[Any], bool]) -> Any:
    """Ask for readiness until `want` of the report is true, with no wait but the event loop's; return that report."""
    for _ in range(2000):
        report = (await ask(gateway, "GET", "/health/ready", key=None)).json
        if want(report):
            return report
        await asyncio.sleep(0.002)
    raise AssertionError(f"not so after many tries: {report}")
