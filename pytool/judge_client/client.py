"""The client for code that waits: one answer in, one verdict out, against any server that speaks the OpenAI API."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from judge_client.cleaning import MAX_CHARACTERS
from judge_client.exchange import Answer, Failure, Pause, Policy, Request, Result, Steps
from judge_client.judging import Judging
from judge_client.pairs import Comparison, compare
from judge_client.rubric import DEFAULT_RUBRIC, Rubric
from judge_client.transport import SyncTransport, key_of
from judge_client.verdict import Verdict
from judge_client.votes import check_votes, combine

if TYPE_CHECKING:
    from judge_client.batch import Item


class JudgeClient:
    """Ask a judge for verdicts.

    `base_url` is the server's root or its /v1. Without `model` the server must serve exactly one. `api_key` is else the
    environment's JUDGE_API_KEY. `timeout_seconds` bounds connecting and each wait for the server, `deadline_seconds`
    one call with all that is sent for it. Only what is transient is sent again (`max_retries` times at most; see
    judging.py), and a reply that is no verdict is asked for again `max_reasks` times. Proxies are those of the
    environment. Texts longer than `max_characters` are cut in the middle, and their verdict's provenance says so.

    Failures are verdicts too (status `unscored` or `error`, score None): `judge` raises TypeError for arguments that
    are not text, ValueError for votes or a fence that cannot be, and nothing else. One client may be used by several
    threads.

    Raises ValueError for a base_url that is not http(s), a key that no header can carry, and limits that cannot be.
    """

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
        self._judging = Judging(
            base_url, model, rubric=rubric, temperature=temperature, seed=seed, max_characters=max_characters,
            policy=Policy(timeout_seconds, deadline_seconds, max_retries, max_reasks))  # fmt: skip
        self._api_key = key_of(api_key)
        self._transport = SyncTransport(self.root_url, self._api_key, timeout_seconds, http_client)

    @property
    def root_url(self) -> str:
        """The server's address, without /v1."""
        return self._judging.root_url

    @property
    def model(self) -> str | None:
        """The model that is wanted; None for the only one that is served."""
        return self._judging.model

    @property
    def rubric(self) -> Rubric:
        """What is judged."""
        return self._judging.rubric

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they belong to the caller's http_client. A later call opens new ones."""
        self._transport.close()

    def judge(self, original_prompt: str, model_response: str, *, votes: int = 1, fence: str | None = None) -> Verdict:
        """Return the verdict on `model_response` as an answer to `original_prompt`.

        With several `votes` (an odd number) it is their median. `fence` repeats an earlier request exactly: the one
        that its provenance names.
        """
        check_votes(votes)
        if votes == 1:
            return self._run(self._judging.judge(original_prompt, model_response, fence=fence))
        return combine([self._run(self._judging.judge(original_prompt, model_response, fence=fence, vote=vote))
                        for vote in range(votes)], self.rubric)

    def compare(self, original_prompt: str, response_a: str, response_b: str) -> Comparison:
        """Return which of two responses to `original_prompt` is the better one; the judge reads them in both orders."""
        return self._run(compare(self._judging, original_prompt, response_a, response_b))

    def is_healthy(self) -> bool:
        """Return whether the server says it is well (/health) and serves the right model now."""
        return self._run(self._judging.health())

    def judge_batch(self, items: Iterable[Item | tuple[str, str]], **options: Any) -> Iterator[Verdict]:
        """Yield the verdicts on many (original_prompt, model_response), in their order, several asked at a time.

        `options` are those of AsyncJudgeClient.judge_batch. Items are read as they are needed. Raises ValueError for a
        client with an http_client of the caller's: it waits, and what is asked at a time would have to go around it.
        """
        from judge_client.batch import judge_in_thread

        if self._transport.is_callers:
            raise ValueError("judge_batch cannot send through an http_client that waits, wanted "
                             "AsyncJudgeClient(..., http_client=an asynchronous one)")
        yield from judge_in_thread(self._judging, self._api_key, items, **options)

    def _run(self, steps: Steps[Result]) -> Result:
        """Hold a conversation with the server."""
        answer: Answer | None = None
        failure: Failure | None = None
        try:
            while True:
                step: Request | Pause = steps.throw(failure) if failure else steps.send(answer)
                answer = failure = None
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    continue
                try:
                    answer = self._transport.send(step)
                except Failure as found:
                    failure = found
        except StopIteration as ended:
            result: Result = ended.value
            return result
