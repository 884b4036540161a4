"""The gateway: the only door of the model's server, inside that server.

    vllm serve ... --middleware judge_node.serving.gateway.Gateway

vLLM adds the middlewares of --middleware last, so this one sees every request first. It is an allow-list: two routes
are open (they tell health and nothing else, and no byte of such a request reaches vLLM), four want the API key, and
everything else is refused. A request is named by its method and by its path as it came over the wire; a path that is
written in any other way is another path.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, Final

from .config import ENVIRONMENT_NAME, load
from .inner import App, Inner, Message, Receive, Scope, Send
from .keys import Access, Keys
from .readiness import Readiness

HEALTH: Final = ("GET", "/health")
READY: Final = ("GET", "/health/ready")
PROVENANCE: Final = ("GET", "/judge/provenance")
# What a verdict stands on, in one header of its answer: the JSON of PROVENANCE.
PROVENANCE_HEADER: Final = b"x-judge-provenance"
OPEN: Final = frozenset({HEALTH, READY})
CHAT: Final = ("POST", "/v1/chat/completions")
KEYED: Final = frozenset({CHAT, ("GET", "/v1/models"), ("GET", "/metrics"), PROVENANCE})

# The longest that a whole body may take to come, and that vLLM may take to say how it is.
BODY_SECONDS = 60.0
HEALTH_SECONDS = 5.0
_POLICY_VIOLATION = 1008


class _Refused(Exception):
    """A request that vLLM never sees: what to answer instead. `code` is the machine's word, `message` the person's."""

    def __init__(self, status: int, code: str, message: str, *, close: bool = False) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.close = status, code, message, close


class _Gone(Exception):
    """The caller went away before the request was whole."""


class Gateway:
    """ASGI middleware around vLLM's application. Raises ConfigError when its configuration is not a good one.

    Then vLLM does not start: a server without a working gateway would be an open one.
    """

    def __init__(self, app: App) -> None:
        self._config = load(os.environ.get(ENVIRONMENT_NAME))
        self._app = app
        self._inner = Inner(app)
        self._keys = Keys(self._config.api_key_file)
        self._readiness = Readiness(self._config, self._inner, self._keys)
        self._signature = (PROVENANCE_HEADER, json.dumps(self._config.provenance(), separators=(",", ":")).encode())
        if self._config.api_key_file is None:
            sys.stderr.write("judge-gateway: api_key_file is null: everyone who reaches the port may ask the judge\n")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, pass on, or refuse one request."""
        if scope["type"] == "lifespan":  # the server's own start and stop
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        elif scope["type"] == "http":
            self._readiness.start(scope)
            try:
                await self._answer(scope, receive, send)
            except _Refused as refused:
                await _send_refusal(send, refused)
            except _Gone:
                return
        else:
            raise ValueError(f"the gateway knows no {scope['type']!r}, wanted http, websocket or lifespan")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = _name_of(scope)
        if name == HEALTH:
            await _send(send, await self._health())
        elif name == READY:
            report = await self._readiness.report()
            await _send(send, 200 if report["ready"] else 503, report)
        else:
            self._authorize(scope)
            if name == PROVENANCE:
                await _send(send, 200, self._config.provenance())
            elif name in KEYED:
                await self._pass_on(scope, receive, self._signed(send) if name == CHAT else send)
            else:
                raise _Refused(404, "not_found", "this judge has no such route")

    async def _health(self) -> int:
        try:
            return (await self._inner.ask(*HEALTH, seconds=HEALTH_SECONDS)).status
        except Exception:  # a server that fails at it, or takes too long, is not healthy
            return 503

    def _authorize(self, scope: Scope) -> None:
        """Raise _Refused unless the request shows a key; for an unknown route, too: nobody learns which there are."""
        access = self._keys.check(value for header, value in scope["headers"] if header.lower() == b"authorization")
        if access is Access.NO_KEYS:
            raise _Refused(503, "api_key_unavailable", "this judge has no API key to compare with, and lets nobody in")
        if access is Access.DENIED:
            raise _Refused(401, "invalid_api_key", "no valid API key, wanted the header: Authorization: Bearer KEY")

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to vLLM once its body is there as a whole and is not too long."""
        try:
            body = await asyncio.wait_for(self._read(scope, receive), BODY_SECONDS)
        except asyncio.TimeoutError:
            message = f"the body took more than {BODY_SECONDS:g} s to come"
            raise _Refused(408, "request_timeout", message, close=True) from None
        # The key has done its work: it gets into no log and no plugin of the server.
        headers = [one for one in scope["headers"] if one[0].lower() != b"authorization"]
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()  # tells vLLM when the caller goes away
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app({**scope, "headers": headers}, receive_again, send)

    def _signed(self, send: Send) -> Send:
        """Return a `send` that says, with a verdict, which model gave it: a later look might find another one.

        Only we may say so: a header of that name from further in is left out.
        """
        async def send_signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [one for one in message.get("headers", ()) if one[0].lower() != PROVENANCE_HEADER]
                message = {**message, "headers": [*others, self._signature]}
            await send(message)

        return send_signed

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body. It is counted while it comes: a chunked one names no length, and a length may be a lie."""
        limit = self._config.max_body_bytes
        too_long = _Refused(413, "body_too_large", f"the body is longer than {limit} bytes")
        lengths = [value for header, value in scope["headers"] if header.lower() == b"content-length"]
        if any(value.isdigit() and int(value) > limit for value in lengths):
            raise too_long
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise _Gone
            body += message.get("body", b"")
            if len(body) > limit:
                raise too_long
            more = message.get("more_body", False)
        return bytes(body)


def _name_of(scope: Scope) -> tuple[str, str] | None:
    """Return method and path, or None for a path that came otherwise than it reads (%2f, a prefix, no raw path)."""
    path = scope["path"]
    if scope.get("root_path") or scope.get("raw_path") != path.encode("utf-8", "surrogatepass"):
        return None
    return scope["method"], path


async def _send_refusal(send: Send, refused: _Refused) -> None:
    # The form of OpenAI's errors, which its clients show.
    document = {"error": {"message": refused.message, "type": "invalid_request_error", "code": refused.code}}
    headers = [(b"www-authenticate", b"Bearer")] if refused.status == 401 else []
    if refused.close:
        headers.append((b"connection", b"close"))
    await _send(send, refused.status, document, headers)


async def _send(
    send: Send, status: int, document: Any = None, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    body = b"" if document is None else json.dumps(document).encode()
    kind = [] if document is None else [(b"content-type", b"application/json")]
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*kind, *length, *(headers or [])]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
