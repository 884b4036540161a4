"""When the gateway calls its server ready: the right model, at the right commit, with golden answers that hold."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from judge_node.serving import readiness as module
from judge_node.serving.config import GatewayConfig, parse
from judge_node.serving.gateway import Gateway
from judge_node.serving.inner import Inner
from judge_node.serving.keys import Keys
from judge_node.serving.readiness import Readiness, wrong_model
from unit.node.gateway_app import COMMIT, ROOT, FakeServer, ask, completion, document, item, make, until_asked

CHAT = ("POST", "/v1/chat/completions")


def golden(*items: dict[str, Any], tolerance: float = 1.0) -> dict[str, Any]:
    return {"tolerance": tolerance, "items": list(items)}


class Clock:
    """Waits are remembered and over at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def __call__(self) -> float:
        return self.now


def readiness(server: FakeServer, clock: Clock, **changes: Any) -> Readiness:
    config: GatewayConfig = parse(document(**changes))
    return Readiness(config, Inner(server), Keys(None), sleep=clock.sleep, clock=clock)


def after_the_check(server: FakeServer, clock: Clock | None = None, **changes: Any) -> dict[str, Any]:
    """Return the report once the check has come to its end."""
    async def run() -> dict[str, Any]:
        ready = readiness(server, clock or Clock(), **changes)
        ready.start({"type": "http"})
        assert ready._task is not None
        await ready._task
        return await ready.report()

    return asyncio.run(run())


def test_it_becomes_ready_by_itself_with_the_first_request_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                       ) -> None:
    server = FakeServer()
    gateway = make(server, tmp_path, monkeypatch)

    async def run() -> Any:
        assert (await ask(gateway, "GET", "/nowhere", key=None)).status == 401
        return await until_asked(gateway, lambda report: report["ready"])

    report = asyncio.run(run())
    assert {key: report[key] for key in ("reason", "served_name", "commit", "golden")} == {
        "reason": None, "served_name": "judge", "commit": COMMIT,
        "golden": {"items": 1, "drift": None, "worst": None}}
    assert report["started_at"] <= report["ready_at"]
    assert server.own.count(CHAT) == 1


def test_it_is_not_ready_while_the_golden_answers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(verdicts=[60.0])

    async def run() -> Any:
        gateway = make(server, tmp_path, monkeypatch, golden=golden(item("a"), item("b")))
        got = await ask(gateway, "GET", "/health/ready", key=None)
        report = await until_asked(gateway, lambda report: "asking" in report["message"])
        return got.status, report

    status, report = asyncio.run(run())
    assert (status, report["ready"], report["reason"], report["ready_at"]) == (503, False, None, None)
    assert report["message"] == "asking golden answer 1 of 2"


def test_all_answers_as_accepted_is_no_drift() -> None:
    report = after_the_check(FakeServer(), golden=golden(item("a", {"accuracy": 8, "overall": 7})))
    assert (report["ready"], report["golden"]) == (True, {"items": 1, "drift": 0.0, "worst": "a"})


def test_a_drift_within_tolerance_is_told_and_is_ready() -> None:
    report = after_the_check(FakeServer(), golden=golden(
        item("a", {"accuracy": 8, "overall": 7}), item("b", {"accuracy": 10, "overall": 5}), item("c")))
    assert (report["ready"], report["golden"]) == (True, {"items": 3, "drift": 1.0, "worst": "b"})


def test_a_drift_beyond_tolerance_is_never_ready_and_never_asked_again() -> None:
    server = FakeServer()
    report = after_the_check(server, golden=golden(
        item("a", {"accuracy": 8, "overall": 7}), item("b", {"accuracy": 10, "overall": 4})))
    assert (report["ready"], report["reason"], report["golden"]["drift"]) == (False, "GOLDEN_DRIFT", 1.25)
    assert report["message"] == ("the golden answers are 1.25 points from what was accepted, wanted at most 1; "
                                 "the furthest is b")
    assert server.own.count(CHAT) == 2


@pytest.mark.parametrize("failure", [
    RuntimeError("CUDA out of memory"), completion("no JSON"), completion({"scores": {"accuracy": 8}}), b"", b"[]",
    completion({"scores": {"accuracy": 8, "overall": 11}}), completion({"scores": {"accuracy": 8, "overall": True}}),
    completion({"scores": {"accuracy": 8, "overall": 7}}, "length"), completion({"scores": [8, 7]}), completion("null"),
    completion('{"scores": {"accuracy": 8, "overall": 7, "overall": 7}}'), b'{"choices": [null]}',
])
def test_an_answer_that_is_no_verdict_is_asked_again_later(failure: bytes | Exception) -> None:
    server, clock = FakeServer(verdicts=[failure, failure, failure]), Clock()
    report = after_the_check(server, clock)
    assert report["ready"]
    assert clock.waits == [1.0, 2.0, 4.0]
    assert server.own.count(CHAT) == 4


def test_only_the_item_that_failed_is_asked_again() -> None:
    server = FakeServer(verdicts=[completion({"scores": {"accuracy": 1, "overall": 1}}), RuntimeError("once")])
    report = after_the_check(server, golden=golden(item("a", {"overall": 1}), item("b", {"overall": 7})))
    assert (report["golden"]["drift"], server.own.count(CHAT)) == (0.0, 3)


def test_what_fails_is_told_with_its_item_while_it_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                  ) -> None:
    server = FakeServer(verdict=completion("I would rather not."))

    async def run() -> Any:
        gateway = make(server, tmp_path, monkeypatch, golden=golden(item("capital")))
        return await until_asked(gateway, lambda report: report["reason"])

    report = asyncio.run(run())
    assert (report["ready"], report["reason"]) == (False, "VERDICT_INVALID")
    assert report["message"].startswith("golden answer capital: no JSON with scores: 'I would rather not.'")


def test_the_waits_grow_to_half_a_minute_and_no_further() -> None:
    clock = Clock()
    after_the_check(FakeServer(verdicts=[RuntimeError()] * 8), clock)
    assert clock.waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_an_answer_that_does_not_come_is_given_up_and_the_server_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.01)
    gone: list[str] = []

    class Stuck(FakeServer):
        async def _judge(self, scope: Any, receive: Any, send: Any, *, ours: bool) -> None:
            if len(gone) < 1:
                await receive()
                gone.append((await receive())["type"])
                return
            await super()._judge(scope, receive, send, ours=ours)

    report = after_the_check(Stuck())
    assert (report["ready"], gone) == (True, ["http.disconnect"])


def test_an_engine_that_has_died_is_not_ready_and_comes_back() -> None:
    server, clock = FakeServer(), Clock()

    async def run() -> list[Any]:
        ready = readiness(server, clock)
        ready.start({"type": "http"})
        assert ready._task is not None
        await ready._task
        found = []
        for healthy in (True, False, True):
            server.healthy = healthy
            clock.now += 1
            report = await ready.report()
            found.append((report["ready"], report["reason"], report["ready_at"] is not None))
        return found

    assert asyncio.run(run()) == [(True, None, True), (False, "PROBE_FAILING", False), (True, None, True)]


def test_an_engine_that_does_not_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENGINE_SECONDS", 0.01)
    monkeypatch.setattr("judge_node.serving.inner.LEAVING_SECONDS", 0.01)

    class Hung(FakeServer):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(60)

    report = asyncio.run(readiness(Hung(), Clock()).report())
    assert (report["ready"], report["reason"]) == (False, "PROBE_FAILING")
    assert report["message"] == "the engine does not answer within 0.01 s"


def test_many_who_ask_at_once_cost_the_engine_one_question() -> None:
    server, clock = FakeServer(), Clock()

    async def run() -> None:
        ready = readiness(server, clock)
        await asyncio.gather(*(ready.report() for _ in range(200)))
        clock.now += 0.9
        await ready.report()

    asyncio.run(run())
    assert server.own == [("GET", "/health"), ("GET", "/v1/models")]


def test_a_caller_who_goes_away_takes_the_answer_from_nobody_else() -> None:
    server = FakeServer()

    async def run() -> dict[str, Any]:
        ready = readiness(server, Clock())
        first = asyncio.create_task(ready.report())
        second = asyncio.create_task(ready.report())
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(run())["message"] == "the golden answers are not asked yet"


@pytest.mark.parametrize(("root", "said"), [
    ("/models/models--org--judge/snapshots/ffffffffffffffffffffffffffffffffffffffff", f"wanted commit {COMMIT}"),
    (f"/models/{COMMIT}-not", f"wanted commit {COMMIT}"),
    ("org/judge", "judge is served from org/judge"),
])
def test_another_commit_than_wanted_is_never_ready_and_no_golden_answer_is_asked(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, said: str) -> None:
    server = FakeServer(root=root)

    async def run() -> Any:
        gateway = make(server, tmp_path, monkeypatch)
        await ask(gateway, "GET", "/health", key=None)
        await asyncio.sleep(0.01)
        return (await ask(gateway, "GET", "/health/ready", key=None)).json

    report = asyncio.run(run())
    assert (report["ready"], report["reason"]) == (False, "WRONG_MODEL_SERVED")
    assert said in report["message"]
    assert CHAT not in server.own


@pytest.mark.parametrize("models", [b"", b"[]", b"{}", b'{"data": 1}', b'{"data": [1]}', b'{"data": [{"id": "judge"}]}',
                                    b'{"data": []}', json.dumps({"data": [{"id": "other", "root": ROOT}]}).encode()])
def test_an_answer_without_the_model_is_the_wrong_model(models: bytes) -> None:
    problem = wrong_model(models, "judge", COMMIT)
    assert problem is not None
    assert problem.reason == "WRONG_MODEL_SERVED"


def test_the_state_is_logged_when_it_changes_and_only_then(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        ready = readiness(FakeServer(verdicts=[0.01]), Clock())
        ready.start({"type": "http"})
        for _ in range(3):
            await ready.report()
        assert ready._task is not None
        await ready._task
        for _ in range(3):
            await ready.report()

    asyncio.run(run())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [["judge-gateway", " not ready"], ["judge-gateway", " ready"]]


def test_a_mistake_in_the_check_does_not_make_a_server_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_answers: object) -> Any:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(module, "drift", broken)
    report = after_the_check(FakeServer())
    assert (report["ready"], report["reason"]) == (False, "VERDICT_INVALID")
    assert "a mistake" in report["message"]


def test_accepted_scores_of_a_criterion_that_nobody_asks_for_are_never_ready() -> None:
    report = after_the_check(FakeServer(), golden=golden(item("a", {"brevity": 3})))
    assert (report["ready"], report["message"]) == (False, "golden answer a has no brevity, which was accepted")


def test_golden_requests_carry_the_framework_s_state_and_nothing_from_outside(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scopes: list[Any] = []

    class Watching(FakeServer):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scopes.append(scope)
            await super().__call__(scope, receive, send)

    async def run() -> None:
        gateway: Gateway = make(Watching(), tmp_path, monkeypatch)
        state = {"engine": 1}
        await ask(gateway, "GET", "/health/ready", key="evil", app="the app", state=state, query_string=b"evil")
        await until_asked(gateway, lambda report: report["ready"])

    asyncio.run(run())
    assert {(scope["app"], scope["state"]["engine"]) for scope in scopes} == {("the app", 1)}
    assert "evil" not in repr(scopes)


