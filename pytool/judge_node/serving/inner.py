"""Asking the server that the gateway stands in front of, within its own process: no socket, no second HTTP parser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


LEAVING_SECONDS = 2.0


class Reply(NamedTuple):
    """What the server answered."""

    status: int
    body: bytes


class Inner:
    """The server behind the gateway. `know` gives it what every request of that server carries, before it is asked."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._common: dict[str, Any] = {}

    def know(self, scope: Scope) -> None:
        """Take from a real request what the framework puts into each: the application and the lifespan's state."""
        self._common = {name: scope[name] for name in ("app", "state") if name in scope}

    async def ask(self, method: str, path: str, document: object = None, *, seconds: float) -> Reply:
        """Return the answer to a request that carries nothing from outside.

        For a request that takes longer, the server is told that the caller went away, so that it stops to compute.
        Raises asyncio.TimeoutError, or whatever the server raises.
        """
        body = b"" if document is None else json.dumps(document).encode()
        headers = [(b"host", b"judge-gateway"), (b"content-length", str(len(body)).encode())]
        if document is not None:
            headers.append((b"content-type", b"application/json"))
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
            **self._common,
        }
        if "state" in scope:
            scope["state"] = dict(scope["state"])
        asked = False
        gone = asyncio.Event()
        status = 500
        parts = bytearray()

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await gone.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                parts.extend(message.get("body", b""))

        task = asyncio.ensure_future(self._app(scope, receive, send))
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
            if done:
                task.result()
                return Reply(status, bytes(parts))
            gone.set()
            await asyncio.wait({task}, timeout=LEAVING_SECONDS)
            raise asyncio.TimeoutError
        finally:
            gone.set()
            if not task.done():
                task.cancel()
            # What a request that nobody waits for ends with is nobody's business.
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
