"""A cheap server that speaks the OpenAI API as a judge does: python -m judge_drills.standin [--seconds S] [--slots N]

Built from the documented protocol (models, chat completions, response_format json_schema). Its verdict follows from the
judged texts alone, so that a result can be held against its item: `scores_of` and `reasoning_of` say which one. A text
of --score TEXT=SCORE gets that score for each criterion.

`GET /-/counted` tells how many completions each pair of texts got, and the most that were asked at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .processes import Running, started
from .wire import Connection, Message, answer, run, serve

MODEL = "judge"
_TEXTS = re.compile(r"\[(USER PROMPT|RESPONSE|FIRST RESPONSE|SECOND RESPONSE) ([0-9a-f]{16})\]\n(.*?)\n"
                    r"\[END OF \1 \2\]", re.DOTALL)


def digest_of(*texts: str) -> str:
    """Return what stands for these texts in replies and counts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def scores_of(names: Sequence[str], prompt: str, response: str) -> dict[str, int]:
    """Return the scores that the stand-in gives."""
    drawn = hashlib.sha256(f"{prompt}\0{response}".encode()).digest()
    return {name: 1 + byte % 10 for name, byte in zip(names, drawn, strict=False)}


def reasoning_of(*texts: str) -> str:
    """Return the reasoning that the stand-in gives."""
    return f"The texts {digest_of(*texts)} were read."


def winner_of(first: str, second: str) -> str:
    """Return the place of the better response: the same text wins in both orders."""
    if first == second:
        return "tie"
    return "first" if digest_of(first) > digest_of(second) else "second"


class StandIn:
    """The server's state. `seconds` is what a completion takes, `slots` how many are made at a time (0: any)."""

    def __init__(self, seconds: float, slots: int, fixed: Mapping[str, int]) -> None:
        self._seconds, self._fixed = seconds, fixed
        self._slots = asyncio.Semaphore(slots) if slots else None
        self._completions: Counter[str] = Counter()
        self._running = self._most = 0

    async def handle(self, request: Message, client: Connection) -> bool:
        """Answer one request."""
        method, path = request.start[0], request.path
        if (method, path) == ("GET", "/health"):
            found = answer(200, b"")
        elif (method, path) == ("GET", "/v1/models"):
            found = answer(200, {"object": "list", "data": [
                {"id": MODEL, "object": "model", "created": 0, "owned_by": "stand-in", "root": "/models/stand-in"}]})
        elif (method, path) == ("POST", "/v1/chat/completions"):
            found = await self._complete(request)
        elif (method, path) == ("GET", "/-/counted"):
            found = answer(200, {"completions": self._completions, "most_at_a_time": self._most})
        else:
            found = _refused(404, f"no {method} {path} here")
        client.send(found)
        return True

    async def _complete(self, request: Message) -> Message:
        try:
            asked = json.loads(request.body)
            texts = [found[3] for found in _TEXTS.finditer(asked["messages"][-1]["content"])]
            schema = asked["response_format"]["json_schema"]["schema"]
            properties = schema["properties"]
        except (ValueError, LookupError, TypeError):
            return _refused(400, "wanted a judge's request: model, messages, response_format")
        if asked.get("model") != MODEL:
            return _refused(404, f"The model `{asked.get('model')}` does not exist.")
        wanted = 3 if "winner" in properties else 2
        if len(texts) != wanted:
            return _refused(400, f"found {len(texts)} fenced texts, wanted {wanted}")
        self._running += 1
        self._most = max(self._most, self._running)
        try:
            await self._work()
        finally:
            self._running -= 1
        self._completions[digest_of(*texts)] += 1
        reply: dict[str, Any] = {"reasoning": reasoning_of(*texts)}
        if wanted == 3:
            reply["winner"] = winner_of(*texts[1:])
        elif texts[1] in self._fixed:
            reply["scores"] = dict.fromkeys(properties["scores"]["required"], self._fixed[texts[1]])
        else:
            reply["scores"] = scores_of(properties["scores"]["required"], *texts)
        return answer(200, completion(asked["model"], json.dumps(reply, separators=(",", ":"))))

    async def _work(self) -> None:
        if self._slots is None:
            await asyncio.sleep(self._seconds)
            return
        async with self._slots:
            await asyncio.sleep(self._seconds)


def completion(model: str, content: str, finish_reason: str = "stop") -> dict[str, Any]:
    """Return a chat completion as the API documents it."""
    return {"id": "chatcmpl-0", "object": "chat.completion", "created": int(time.time()), "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content},
                         "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


def _refused(status: int, message: str) -> Message:
    return answer(status, {"error": {"message": message, "type": "NotFoundError", "param": None, "code": status}})


def standing_in(*, seconds: float = 0.0, slots: int = 0, fixed: Mapping[str, int] | None = None) -> Any:
    """Have a stand-in: a context manager that gives a Running."""
    scores = [f"--score={text}={score}" for text, score in (fixed or {}).items()]
    return started("standin", f"--seconds={seconds}", f"--slots={slots}", *scores)


def completions(server: Running) -> dict[str, int]:
    """Return how many completions each digest of texts got."""
    found: dict[str, int] = server.ask("/-/counted")["completions"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.0, help="what a completion takes")
    parser.add_argument("--slots", type=int, default=0, help="how many are made at a time; 0: any number")
    parser.add_argument("--score", action="append", default=[], metavar="TEXT=SCORE")
    options = parser.parse_args()
    fixed = {text: int(score) for text, _, score in (one.rpartition("=") for one in options.score)}

    async def start() -> int:
        return await serve(StandIn(options.seconds, options.slots, fixed).handle)

    run(start)


if __name__ == "__main__":
    main()
