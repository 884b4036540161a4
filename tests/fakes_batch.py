"""A judge for tests of batches, in this process: what it answers follows from the judged text, or from a plan."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_client import AsyncJudgeClient
from judge_client.batch import CANARIES
from judge_client.exchange import Answer, Failure, Policy, Request
from judge_client.judging import Judging
from judge_client.rubric import CRITERION_NAMES
from judge_client.verdict import Reason

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_TEXTS = re.compile(r"\[(?:FIRST |SECOND )?RESPONSE ([0-9a-f]{16})\]\n(.*?)\n\[END OF (?:FIRST |SECOND )?RESPONSE \1\]",
                    re.DOTALL)
# Nothing is waited for between two tries.
HASTY = Policy(timeout_seconds=5, deadline_seconds=30, first_pause_seconds=0.0, longest_pause_seconds=0.0)
DOWN = Failure(Reason.SERVER_UNREACHABLE, "connection refused")


def score_of(response: str) -> int:
    """Return the score that the fake judge gives a response: canaries get what they should."""
    known = {CANARIES[0].model_response: 9, CANARIES[1].model_response: 2}
    return known.get(response, 1 + sum(response.encode("utf-8", "replace")) % 10)


def completion(content: str, *, finish_reason: str = "stop", commit: str | None = None) -> Answer:
    """Return the answer of a server that ended a reply."""
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    headers = {"x-judge-provenance": json.dumps({"commit": commit})} if commit else {}
    return Answer(200, json.dumps({"model": "judge", "choices": [choice]}), headers)


def scored(score: int, **more: Any) -> Answer:
    """Return the answer that gives each criterion this score."""
    return completion(json.dumps({"reasoning": "Read.", "scores": dict.fromkeys(CRITERION_NAMES, score)}), **more)


TRUNCATED = completion('{"reasoning": "R', finish_reason="length")


@dataclass
class FakeJudge:
    """Answers each request as `plan` says for the response and how often it was asked before; None: a score.

    `seconds` is what an answer takes; after `answers_left` of them, none comes any more. `is_down` refuses every
    connection, `health` is the status of /health.
    """

    plan: Callable[[str, int], Answer | Failure | None] = lambda _response, _before: None
    seconds: float = 0.0
    answers_left: int | None = None
    is_down: bool = False
    health: int = 200
    root: str = f"/models/models--org--judge/snapshots/{COMMIT}"
    asked: Counter[str] = field(default_factory=Counter)
    running: int = 0
    most: int = 0
    probes: int = 0

    async def send(self, request: Request) -> Answer:
        """Return what a server would answer."""
        if request.path == "/health":
            self.probes += 1
        if self.is_down:
            await asyncio.sleep(0)
            raise DOWN
        if request.method == "GET":
            models = {"object": "list", "data": [{"id": "judge", "root": self.root}]}
            return Answer(self.health, "") if request.path == "/health" else Answer(200, json.dumps(models))
        assert request.body is not None
        texts = [found[2] for found in _TEXTS.finditer(request.body["messages"][-1]["content"])]
        before = self.asked[texts[0]]
        self.asked[texts[0]] += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds)
            if self.answers_left is not None:
                self.answers_left -= 1
                if self.answers_left < 0:
                    await asyncio.Event().wait()
        finally:
            self.running -= 1
        answer = self.plan(texts[0], before)
        if isinstance(answer, Failure):
            raise Failure(answer.reason, answer.message)
        if answer is None and len(texts) == 2:
            first = "tie" if texts[0] == texts[1] else "first" if score_of(texts[0]) >= score_of(texts[1]) else "second"
            return completion(json.dumps({"reasoning": "Read.", "winner": first}))
        return answer or scored(score_of(texts[0]))

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    def client(self, policy: Policy = HASTY, **options: Any) -> AsyncJudgeClient:
        """Return a client of this judge."""
        return AsyncJudgeClient.of(Judging("http://judge:8000", policy=policy, **options), self)

    @property
    def items_asked(self) -> Counter[str]:
        """How often each response was asked about, the canaries left out."""
        canaries = {one.model_response for one in CANARIES}
        return Counter({text: count for text, count in self.asked.items() if text not in canaries})


def write_items(path: Path, count: int, **more: Any) -> list[str]:
    """Write that many items as JSONL and return their responses."""
    responses = [f"Answer number {number}." for number in range(count)]
    path.write_text("".join(json.dumps({"id": f"q{number}", "prompt": f"Question {number}?", "response": text, **more})
                            + "\n" for number, text in enumerate(responses)))
    return responses


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an output."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_whole(path: Path, responses: Sequence[str]) -> None:
    """Assert that an output holds each item once, in order, each with its own score."""
    lines = read_lines(path)
    assert [(line["index"], line["id"], line["model_response"]) for line in lines] == [
        (number, f"q{number}", text) for number, text in enumerate(responses)]
    assert [line["verdict"]["score"] for line in lines] == [score_of(text) for text in responses]
