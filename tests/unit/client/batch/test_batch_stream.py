"""Verdicts on many items without a file: in order, lazily, and from a thread that ends when nobody listens any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fakes_batch import TRUNCATED, FakeJudge, score_of, scored
from judge_client import JudgeClient, Status, Verdict
from judge_client.batch import CANARIES, BatchStopped, Item, judge_all
from judge_client.exchange import Answer
from judge_client.rubric import CRITERION_NAMES

ANSWERS = [f"Answer number {number}." for number in range(500)]


async def _all(judge: FakeJudge, items: Any, **options: Any) -> list[Verdict]:
    return [verdict async for verdict in judge_all(judge.client(), items, **options)]


def test_verdicts_come_in_the_order_of_the_items() -> None:
    judge = FakeJudge(seconds=0.001)
    items = [Item(str(number), "Q?", text) if number % 2 else ("Q?", text) for number, text in enumerate(ANSWERS)]
    verdicts = asyncio.run(_all(judge, items, window=16))
    assert [verdict.score for verdict in verdicts] == [score_of(text) for text in ANSWERS]
    assert judge.most == 16


def test_items_may_come_from_an_asynchronous_source() -> None:
    async def items() -> AsyncIterator[tuple[str, str]]:
        for text in ANSWERS[:20]:
            await asyncio.sleep(0)
            yield "Q?", text

    assert len(asyncio.run(_all(FakeJudge(), items()))) == 20


def test_items_are_read_only_so_far_ahead() -> None:
    read = 0

    def items() -> Iterator[tuple[str, str]]:
        nonlocal read
        for number in range(10**9):
            read += 1
            yield "Q?", f"Answer {number}."

    async def go() -> None:
        verdicts = judge_all(FakeJudge().client(), items(), window=4)
        async for _ in verdicts:
            await asyncio.sleep(0.1)
            break
        await verdicts.aclose()

    asyncio.run(go())
    assert read <= 4 * 32 + 4


def test_leaving_early_ends_what_is_in_flight() -> None:
    judge = FakeJudge(seconds=0.01)

    async def go() -> None:
        verdicts = judge_all(judge.client(), (("Q?", text) for text in ANSWERS), window=8)
        async for _ in verdicts:
            break
        await verdicts.aclose()
        assert judge.running == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(go())


def test_what_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="model_response is int"):
        asyncio.run(_all(FakeJudge(), [("Q?", 4)]))


def test_an_error_of_the_source_is_the_callers() -> None:
    def items() -> Iterator[tuple[str, str]]:
        yield "Q?", "A."
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        asyncio.run(_all(FakeJudge(), items()))


def test_a_server_that_stays_away_leaves_a_typed_error_for_each_item_that_is_left() -> None:
    judge = FakeJudge(seconds=0.002)

    async def go() -> list[Verdict]:
        verdicts = []
        async for verdict in judge_all(judge.client(), (("Q?", text) for text in ANSWERS), window=8,
                                       patience_seconds=0.05):
            verdicts.append(verdict)
            judge.is_down = judge.is_down or len(verdicts) == 100
        return verdicts

    verdicts = asyncio.run(go())
    assert len(verdicts) == 500
    assert all(verdict.status is Status.SCORED for verdict in verdicts[:100])
    assert {(verdict.status, verdict.reason) for verdict in verdicts[-300:]} == {("error", "SERVER_UNREACHABLE")}
    assert "has been gone for more than 0.05 s" in str(verdicts[-1].message)


def test_canaries_are_asked_before_and_after_and_are_not_among_the_verdicts() -> None:
    judge = FakeJudge()
    verdicts = asyncio.run(_all(judge, [("Q?", text) for text in ANSWERS[:20]], votes=3, canaries=CANARIES))
    assert [verdict.score for verdict in verdicts] == [score_of(text) for text in ANSWERS[:20]]
    assert [judge.asked[canary.model_response] for canary in CANARIES] == [2, 2]


@pytest.mark.parametrize(("late", "said"), [
    (scored(5), "'known good' got 5 after 20 items, wanted at least 7"), (TRUNCATED, None)])
def test_a_judge_that_no_longer_judges_is_said_after_the_last_verdict(late: Answer, said: str | None) -> None:
    judge = FakeJudge(plan=lambda text, before: late if text == CANARIES[0].model_response and before else None)
    found: list[Verdict] = []

    async def go() -> None:
        async for verdict in judge_all(judge.client(), [("Q?", text) for text in ANSWERS[:20]], canaries=CANARIES):
            found.append(verdict)

    if said is None:  # what got no verdict the second time was told apart the first time
        asyncio.run(go())
    else:
        with pytest.raises(BatchStopped, match=said) as stopped:
            asyncio.run(go())
        assert stopped.value.reason == "CANARY_DRIFT"
    assert [verdict.score for verdict in found] == [score_of(text) for text in ANSWERS[:20]]


# --- from a thread, over HTTP: the thread makes a transport of its own ---------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "judge"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(self.server.seconds)  # type: ignore[attr-defined]
        self.server.answered += 1  # type: ignore[attr-defined]
        scores = json.dumps({"reasoning": "Read.", "scores": dict.fromkeys(CRITERION_NAMES, 8)})
        message = {"role": "assistant", "content": scores}
        self._send({"model": "judge", "choices": [{"message": message, "finish_reason": "stop"}]})

    def _send(self, document: Any) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # whoever asked has left
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture
def server() -> Iterator[Any]:
    found: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    found.daemon_threads, found.seconds, found.answered = True, 0.0, 0
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


def _client(server: Any, **options: Any) -> JudgeClient:
    return JudgeClient(f"http://127.0.0.1:{server.server_address[1]}", **options)


def _batch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "judge-batch"]


def test_code_that_waits_gets_the_same_verdicts(server: Any) -> None:
    with _client(server) as client:
        verdicts = list(client.judge_batch((("Q?", text) for text in ANSWERS[:40]), window=8))
    assert [verdict.score for verdict in verdicts] == [8] * 40
    assert _batch_threads() == []


def test_code_that_waits_hears_of_the_canaries_as_well(server: Any) -> None:
    found: list[Verdict] = []
    with _client(server) as client, pytest.raises(BatchStopped, match="'known bad' got 8 after 0 items"):
        for verdict in client.judge_batch([("Q?", "A.")] * 3, canaries=CANARIES):
            found.append(verdict)
    assert [verdict.score for verdict in found] == [8] * 3
    assert _batch_threads() == []


def test_no_items_give_no_verdicts(server: Any) -> None:
    with _client(server) as client:
        assert list(client.judge_batch([])) == []
    assert _batch_threads() == []


def test_a_caller_who_stops_early_ends_the_thread_and_what_it_asked(server: Any) -> None:
    server.seconds = 0.05
    with _client(server) as client:
        verdicts = client.judge_batch((("Q?", text) for text in ANSWERS), window=4)
        for _ in range(12):
            next(verdicts)
        verdicts.close()  # type: ignore[attr-defined]
    assert _batch_threads() == []
    answered = server.answered
    time.sleep(0.3)
    assert server.answered <= answered + 4


def test_verdicts_that_are_forgotten_end_the_thread(server: Any) -> None:
    with _client(server) as client:
        for number, _ in enumerate(client.judge_batch((("Q?", text) for text in ANSWERS), window=4)):
            if number == 12:
                break
        gc.collect()
        assert _batch_threads() == []


def test_a_caller_who_takes_long_costs_no_request_its_time(server: Any) -> None:
    server.seconds = 0.2
    with _client(server, timeout_seconds=2.5, max_retries=0) as client:
        found = []
        for verdict in client.judge_batch((("Q?", text) for text in ANSWERS[:12]), window=4):
            if not found:
                time.sleep(3)
            found.append(verdict.message)
    assert found == [None] * 12


def test_a_source_that_takes_long_holds_no_verdict_back(server: Any) -> None:
    def items() -> Iterator[tuple[str, str]]:
        yield "Q?", "A."
        while not server.answered:
            time.sleep(0.01)
        time.sleep(2)
        yield "Q?", "B."
        raise AssertionError("the first verdict was there before this was read")

    with _client(server) as client:
        verdicts = client.judge_batch(items())
        assert next(verdicts).score == 8
        verdicts.close()  # type: ignore[attr-defined]


def test_errors_of_the_source_and_of_the_items_are_raised_where_they_are_waited_for(server: Any) -> None:
    def items() -> Iterator[tuple[str, str]]:
        yield "Q?", "A."
        raise RuntimeError("the source broke")

    with _client(server) as client:
        with pytest.raises(RuntimeError, match="the source broke"):
            list(client.judge_batch(items()))
        with pytest.raises(TypeError, match="model_response is int"):
            list(client.judge_batch([("Q?", 3)]))  # type: ignore[list-item]
        with pytest.raises(ValueError, match="wanted an odd number"):
            list(client.judge_batch([("Q?", "A.")], votes=2))
        with pytest.raises(ValueError, match="window is 0"):
            list(client.judge_batch([("Q?", "A.")], window=0))
    assert _batch_threads() == []
