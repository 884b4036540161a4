"""The client for asyncio; what it asks and how it reads the answers is JudgeClient's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Protocol, Self

from judge_client.cleaning import MAX_CHARACTERS
from judge_client.exchange import Answer, Failure, Pause, Policy, Request, Result, Steps, Watch
from judge_client.judging import Judging
from judge_client.pairs import Comparison, compare
from judge_client.rubric import DEFAULT_RUBRIC, Rubric
from judge_client.transport import AsyncTransport, key_of
from judge_client.verdict import Verdict
from judge_client.votes import check_votes, combine

if TYPE_CHECKING:
    from judge_client.batch import Item


class Transport(Protocol):
    """What sends a conversation's requests: AsyncTransport, or what stands before one."""

    async def send(self, request: Request) -> Answer:
        """Return the server's answer, whatever its status. Raises Failure when there is none."""

    async def close(self) -> None:
        """Close the connections."""


class AsyncJudgeClient:
    """Ask a judge for verdicts from a coroutine. Arguments and failures are those of JudgeClient."""

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        timeout_seconds: float = Policy.timeout_seconds,
        http_client: Any = None,
        *,
        rubric: Rubric = DEFAULT_RUBRIC,
        deadline_seconds: float = Policy.deadline_seconds,
        max_retries: int = Policy.max_retries,
        max_reasks: int = Policy.max_reasks,
        temperature: float = 0.0,
        seed: int = 0,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        judging = Judging(
            base_url, model, rubric=rubric, temperature=temperature, seed=seed, max_characters=max_characters,
            policy=Policy(timeout_seconds, deadline_seconds, max_retries, max_reasks))  # fmt: skip
        self._set(judging, AsyncTransport(judging.root_url, key_of(api_key), timeout_seconds, http_client))

    @classmethod
    def of(cls, judging: Judging, transport: Transport) -> Self:
        """Return a client of these conversations and this transport."""
        made = cls.__new__(cls)
        made._set(judging, transport)
        return made

    def _set(self, judging: Judging, transport: Transport) -> None:
        self.judging, self.transport = judging, transport

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless they belong to the caller's http_client. A later call opens new ones."""
        await self.transport.close()

    @property
    def rubric(self) -> Rubric:
        """What is judged."""
        return self.judging.rubric

    async def judge(self, original_prompt: str, model_response: str, *, votes: int = 1, fence: str | None = None,
                    watch: Watch | None = None) -> Verdict:
        """Return the verdict on `model_response`; see JudgeClient.judge. `watch` is told of each request for it."""
        check_votes(votes)
        if votes == 1:
            return await self.hold(self.judging.judge(original_prompt, model_response, fence=fence, watch=watch))
        return combine([
            await self.hold(self.judging.judge(original_prompt, model_response, fence=fence, vote=vote, watch=watch))
            for vote in range(votes)], self.rubric)  # fmt: skip

    async def compare(self, original_prompt: str, response_a: str, response_b: str, *, watch: Watch | None = None
                      ) -> Comparison:
        """Return which of two responses to `original_prompt` is the better one; the judge reads them in both orders."""
        return await self.hold(compare(self.judging, original_prompt, response_a, response_b, watch=watch))

    async def is_healthy(self) -> bool:
        """Return whether the server says it is well (/health) and serves the right model now."""
        return await self.hold(self.judging.health())

    def judge_batch(self, items: Iterable[Item | tuple[str, str]], **options: Any) -> AsyncIterator[Verdict]:
        """Yield the verdicts on many (original_prompt, model_response), in their order, several asked at a time."""
        from judge_client.batch import judge_all

        return judge_all(self, items, **options)

    async def hold(self, steps: Steps[Result]) -> Result:
        """Hold a conversation with the server."""
        answer: Answer | None = None
        failure: Failure | None = None
        try:
            while True:
                step: Request | Pause = steps.throw(failure) if failure else steps.send(answer)
                answer = failure = None
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    continue
                try:
                    answer = await self.transport.send(step)
                except Failure as found:
                    failure = found
        except StopIteration as ended:
            result: Result = ended.value
            return result
