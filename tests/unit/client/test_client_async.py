"""AsyncJudgeClient against a real server: the same verdicts as JudgeClient's, many at a time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from threading import Barrier
from typing import Any, TypeVar

import pytest
from judge_answers import COMMIT, REPLY, SCORES, Server
from judge_client import AsyncJudgeClient, JudgeClient, Reason, Status, Verdict
from judge_client.exchange import Observation, Policy
from judge_client.judging import Judging
from judge_client.transport import AsyncTransport

Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(coroutine)


def test_a_verdict_is_that_of_the_client_for_threads(server: Server) -> None:
    async def ask() -> Verdict:
        async with AsyncJudgeClient(server.url, "judge") as judge:
            return await judge.judge("q", "a", fence="0" * 16)

    with JudgeClient(server.url, "judge") as judge:
        other = judge.judge("q", "a", fence="0" * 16)
    verdict = run(ask())
    assert (verdict.status, verdict.categories, verdict.weighted_score) == (Status.SCORED, SCORES, 8.3)
    assert verdict.provenance is not None
    assert other.provenance is not None
    same = {**verdict.provenance.to_dict(), "time": other.provenance.time}
    assert same == other.provenance.to_dict()
    assert verdict.provenance.model_commit == COMMIT
    assert server.completions[0] == server.completions[1]


def test_many_are_asked_at_a_time(server: Server) -> None:
    server.gate = Barrier(20, timeout=30)  # opens for 20 requests that are there at once, and for nothing else

    async def ask() -> list[Verdict]:
        async with AsyncJudgeClient(server.url, "judge") as judge:
            return list(await asyncio.gather(*(judge.judge("q", str(number)) for number in range(20))))

    assert {verdict.status for verdict in run(ask())} == {Status.SCORED}
    assert len(server.completions) == 20


def test_a_failure_is_a_verdict(server: Server) -> None:
    async def ask(**options: Any) -> Verdict:
        async with AsyncJudgeClient(server.url, "judge", max_retries=0, **options) as judge:
            await judge.is_healthy()
            return await judge.judge("q", "a")

    server.status = 429
    assert run(ask()).reason is Reason.SERVER_RATE_LIMITED
    server.status, server.finish_reason = 200, "length"
    assert run(ask()).reason is Reason.REPLY_TRUNCATED
    server.delay_seconds = 1
    verdict = run(ask(timeout_seconds=0.2))
    assert verdict.reason is Reason.SERVER_TIMEOUT
    assert "did not answer within 0.2 s" in (verdict.message or "")


def test_a_server_that_nobody_listens_at_is_unreachable(server: Server) -> None:
    async def ask() -> Verdict:
        async with AsyncJudgeClient("http://127.0.0.1:1", max_retries=0) as judge:
            assert not await judge.is_healthy()
            return await judge.judge("q", "a")

    verdict = run(ask())
    assert (verdict.reason, verdict.message) == (Reason.SERVER_UNREACHABLE,
                                                 "http://127.0.0.1:1/v1/models: Connection refused")


def test_a_connection_that_breaks_is_no_timeout() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def ask() -> Verdict:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with AsyncJudgeClient(f"http://127.0.0.1:{port}", max_retries=0) as judge:
                return await judge.judge("q", "a")

    verdict = run(ask())
    assert verdict.reason is Reason.SERVER_UNREACHABLE
    assert "Server disconnected" in (verdict.message or "")


def test_each_request_is_seen(server: Server) -> None:
    seen: list[Observation] = []

    async def ask() -> None:
        async with AsyncJudgeClient(server.url, "judge", max_retries=0) as judge:
            await judge.judge("q", "a", watch=seen.append)
            server.status = 503
            await judge.judge("q", "a", watch=seen.append)

    run(ask())
    assert [one.reason for one in seen] == [None, Reason.SERVER_FAILED]
    assert all(one.seconds > 0 for one in seen)


def test_a_call_that_is_given_up_ends_at_once_and_leaves_a_client_that_works(server: Server) -> None:
    async def ask() -> Verdict:
        async with AsyncJudgeClient(server.url, "judge") as judge:
            await judge.judge("q", "a")
            server.delay_seconds = 5
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await judge.judge("q", "a")
            server.delay_seconds = 0
            return await judge.judge("q", "a")

    assert run(ask()).status is Status.SCORED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
def test_a_client_serves_one_event_loop_after_another(server: Server) -> None:
    judge = AsyncJudgeClient(server.url, "judge", max_retries=0)
    for _ in range(3):
        assert run(judge.judge("q", "a")).status is Status.SCORED
    del judge
    gc.collect()  # here and in no later test: the connections of a loop that has ended cannot be closed


def test_only_text_can_be_judged_and_votes_are_odd(server: Server) -> None:
    judge = AsyncJudgeClient(server.url)
    with pytest.raises(TypeError, match="original_prompt is int, wanted str"):
        run(judge.judge(5, "a"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="response_b is NoneType, wanted str"):
        run(judge.compare("q", "a", None))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="votes is 2, wanted an odd number from 1 to 15"):
        run(judge.judge("q", "a", votes=2))


def test_conversations_and_transport_can_be_brought_along(server: Server) -> None:
    judging = Judging(server.url, policy=Policy(max_retries=0))

    async def ask() -> Verdict:
        async with AsyncJudgeClient.of(judging, AsyncTransport(judging.root_url, "key", 5)) as judge:
            served = await judge.hold(judge.judging.served_model())
            assert served.commit == COMMIT
            return await judge.judge("q", "a", votes=3)

    verdict = run(ask())
    assert (verdict.status, verdict.votes) == (Status.SCORED, (SCORES,) * 3)
    assert verdict.reasoning == REPLY["reasoning"]
