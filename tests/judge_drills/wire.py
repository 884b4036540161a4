"""As much of HTTP/1.1 as the stand-in and the proxy need: messages of a known length, connections that stay open."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_LIMIT_BYTES = 1 << 20
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error",
            503: "Service Unavailable"}


@dataclass
class Message:
    """A request or an answer: its first line in three words, its headers by lower-case name, its body."""

    start: tuple[str, str, str]
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path of a request, without its query."""
        return self.start[1].partition("?")[0]

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.start[1])

    def bytes(self) -> bytes:
        """Return it as it goes over the wire; the length said is the body's, unless the headers say another."""
        headers = {"content-length": str(len(self.body)), **self.headers}
        lines = [" ".join(self.start), *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """Return the next message; None when the other side has closed, be it within one."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        words = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = headers.get("content-length")
        if length is not None:
            body = await reader.readexactly(int(length))
        elif "chunked" in headers.get("transfer-encoding", ""):
            body = await _chunks(reader)
            del headers["transfer-encoding"]
        else:
            body = b""
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Message((words[0], words[1], words[2] if len(words) > 2 else ""), headers, body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


def answer(status: int, document: Any, headers: Mapping[str, str] | None = None) -> Message:
    """Return an answer with a JSON body, or with these bytes."""
    body = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
    return Message(("HTTP/1.1", str(status), _REASONS[status]), {"content-type": "application/json", **(headers or {})},
                   body)


@dataclass(frozen=True)
class Connection:
    """A client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, message: Message) -> None:
        self.writer.write(message.bytes())

    def reset(self) -> None:
        """Close it so that the client sees it reset."""
        found = self.writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def serve(handle: Callable[[Message, Connection], Awaitable[bool]]) -> int:
    """Serve on a free port of 127.0.0.1 and return it. `handle` tells whether the connection stays open."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Connection(reader, writer)
        try:
            while (request := await read_message(reader)) is not None:
                if not await handle(request, client):
                    break
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the server ends
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=_LIMIT_BYTES, backlog=512)
    return int(server.sockets[0].getsockname()[1])


def run(start: Callable[[], Awaitable[int]]) -> None:
    """Run a server until whoever started this process closes its standard input, or ends; its port is told first."""

    async def main() -> None:
        print(await start(), flush=True)
        await asyncio.to_thread(_wait_for_end)

    asyncio.run(main())


def _wait_for_end() -> None:
    sys.stdin.buffer.read()
