"""A proxy that answers some judgements badly: python -m judge_drills.faults UPSTREAM

Which requests are struck, and by what, follows from a seed and the number of the request. Only POST is struck. The plan
is `{"rate": 0.05, "seed": 1, "kinds": [...], "retry_after_seconds": 1, "slow_seconds": 0.5}`, sent to `POST /-/plan`;
until then nothing is struck. Since the plan, `GET /-/counted` tells {"requests": N, "passed": N, "struck": {kind: N}},
and `GET /-/passed` when each good answer had gone out, in seconds since the first request after the plan.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from .processes import Running, started
from .wire import Connection, Message, answer, read_message, run, serve

# What passes: the next try is answered.
TRANSIENT = ("429", "429_retry_after", "500", "503", "timeout", "reset_before", "reset_within", "truncated_json",
             "truncated_body", "slow", "empty", "login_page")
# What is no verdict: the reply that breaks the schema is asked for again, the one that was cut is not.
REPLIES = ("invalid_reply", "cut_reply")
KINDS = (*TRANSIENT, *REPLIES)
_LOGIN = b"<!doctype html><html><title>Sign in</title><body>Your session has ended. Please sign in.</body></html>\n"
_ERRORS = {"429": 429, "429_retry_after": 429, "500": 500, "503": 503}


class Proxy:
    """The proxy's state: the plan, the counts, and connections to the server behind it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._set({})

    def _set(self, plan: dict[str, Any]) -> None:
        self._rate, self._kinds = plan.get("rate", 0.0), plan.get("kinds", KINDS)
        self._retry_after = plan.get("retry_after_seconds", 1)
        self._slow_seconds = plan.get("slow_seconds", 0.5)
        self._chance = random.Random(plan.get("seed", 0))
        self._requests = 0
        self._begun = 0.0
        self._passed: list[float] = []
        self._struck: Counter[str] = Counter()

    async def handle(self, request: Message, client: Connection) -> bool:
        """Answer one request; False ends the connection."""
        if request.path == "/-/plan":
            self._set(json.loads(request.body))
            client.send(answer(200, {}))
            return True
        if request.path == "/-/counted":
            client.send(answer(200, {"requests": self._requests, "passed": len(self._passed),
                                     "struck": self._struck}))
            return True
        if request.path == "/-/passed":
            client.send(answer(200, [round(at, 4) for at in self._passed]))
            return True
        kind = self._draw() if request.start[0] == "POST" else None
        if kind is None:
            client.send(await self._forward(request))
            await client.writer.drain()
            if request.start[0] == "POST":
                self._passed.append(time.monotonic() - self._begun)
            return True
        self._struck[kind] += 1
        return await self._strike(kind, request, client)

    def _draw(self) -> str | None:
        self._requests += 1
        if self._requests == 1:
            self._begun = time.monotonic()
        if self._chance.random() >= self._rate:
            return None
        kind: str = self._chance.choice(self._kinds)
        return kind

    async def _strike(self, kind: str, request: Message, client: Connection) -> bool:
        if kind in _ERRORS:
            headers = {"retry-after": str(self._retry_after)} if kind.endswith("_retry_after") else {}
            client.send(answer(_ERRORS[kind], {"error": {"message": f"the drill says {kind}"}}, headers))
            return True
        if kind == "reset_before":
            client.reset()
            return False
        if kind == "timeout":
            await client.reader.read()  # until the client has gone
            return False
        good = await self._forward(request)
        if kind == "slow":
            await asyncio.sleep(self._slow_seconds)
            self._passed.append(time.monotonic() - self._begun)
        elif kind in ("truncated_json", "reset_within", "truncated_body"):
            whole = good.bytes()
            cut = len(whole) - len(good.body) + self._chance.randrange(1, len(good.body))
            if kind != "truncated_json":
                client.writer.write(whole[:cut])
                await client.writer.drain()
                if kind == "reset_within":
                    await asyncio.sleep(0.01)  # else the kernel drops what was not sent yet
                    client.reset()
                return False
            good.body = good.body[:cut - len(whole)]
        elif kind == "empty":
            good.body = b""
        elif kind == "login_page":
            good.headers["content-type"] = "text/html"
            good.body = _LOGIN
        elif kind == "invalid_reply":
            self._change(good, lambda choice: choice["message"].update(content='{"reasoning":"Good.","scores":{}}'))
        elif kind == "cut_reply":
            self._change(good, lambda choice: choice.update(finish_reason="length"))
        good.headers["content-length"] = str(len(good.body))
        client.send(good)
        return True

    @staticmethod
    def _change(good: Message, change: Any) -> None:
        document = json.loads(good.body)
        change(document["choices"][0])
        good.body = json.dumps(document).encode()

    async def _forward(self, request: Message) -> Message:
        """Return what the server behind answers. Raises ConnectionError when it gives none."""
        while True:
            fresh = not self._idle
            reader, writer = await asyncio.open_connection(self._host, self._port) if fresh else self._idle.pop()
            writer.write(request.bytes())
            found = await read_message(reader)
            if found is not None:
                break
            writer.close()
            if fresh:
                raise ConnectionResetError(f"{self._host}:{self._port} gave no answer")
        if found.headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return found


def faulty(upstream: str) -> Any:
    """Have a proxy before a server: a context manager that gives a Running."""
    return started("faults", upstream)


def plan(proxy: Running, rate: float, *, seed: int = 1, kinds: Sequence[str] = KINDS, **more: float) -> None:
    """Let the proxy strike so many requests from now on; its counts begin anew."""
    proxy.ask("/-/plan", {"rate": rate, "seed": seed, "kinds": list(kinds), **more})


def counted(proxy: Running) -> dict[str, Any]:
    """Return what has happened since the plan."""
    found: dict[str, Any] = proxy.ask("/-/counted")
    return found


def passed_at(proxy: Running) -> list[float]:
    """Return when each good answer went out, in seconds since the first request after the plan."""
    return sorted(proxy.ask("/-/passed"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("upstream", metavar="UPSTREAM", help="http://HOST:PORT")
    parts = urlsplit(parser.parse_args().upstream)

    async def start() -> int:
        return await serve(Proxy(parts.hostname or "", parts.port or 80).handle)

    run(start)


if __name__ == "__main__":
    main()
