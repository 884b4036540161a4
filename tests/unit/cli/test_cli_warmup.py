"""`warmup`: until latency settles, with figures for each pod, and never longer than it may take."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cluster_desks import shipped_variables
from fakes_cli import Desk
from fakes_kube import FakeKube
from judge_bootstrap.adapters.judge_pods import ReadyPod
from judge_bootstrap.adapters.judge_requests import Answered, judge_timed, pairs, request_body
from judge_bootstrap.adapters.parallel import each
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.main import cli
from judge_bootstrap.cli.warmup import ClusterSite
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.settling import WINDOW
from pod_servers import PodServer, served, serving

COMMIT = "a" * 40


@dataclass
class FakeSite:
    """Pods that take as long as they are told; the last latency goes on for ever. An error stands for itself."""

    pods: dict[str, list[float | Exception]]
    asked: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, _settings: Any) -> FakeSite:
        return self

    def servers(self) -> list[ReadyPod]:
        return [ReadyPod(pod, "org/judge") for pod in self.pods]

    @contextmanager
    def forward(self, pod: str) -> Iterator[str]:
        yield pod

    def ask(self, base_url: str, model: str, number: int, seconds: float) -> Answered:
        self.asked.append((base_url, number))
        planned = self.pods[base_url]
        found = planned[min(number, len(planned) - 1)]
        if isinstance(found, Exception):
            raise found
        return Answered(found, 20)


def run(desk: Desk, site: Any, *words: str) -> Result:
    desk.role_variables = shipped_variables()
    app = AppContext(services=desk.services(), extra={"warmup": site})
    return CliRunner().invoke(cli, ["--env", "prod", "warmup", *words], obj=app)


def test_a_pod_is_asked_until_its_latency_has_settled_and_no_longer(desk: Desk) -> None:
    site = FakeSite({"p-1": [9.0, 5.0, 3.0, 2.0, 1.5, 1.0]})
    done = run(desk, site, "--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["ok"]) == (0, True)
    found = answer["pods"]["p-1"]
    assert (found["ok"], found["state"], found["reason"]) == (True, "settled", None)
    # 9 5 3 2 1.5 1 1 1 1 1 | 1 1 1: two windows whose medians are 1
    assert found["figures"]["requests"] == 13 == len(site.asked)
    assert (found["figures"]["first_seconds"], found["figures"]["last_seconds"]) == (9.0, 1.0)
    assert (found["figures"]["median_seconds"], found["figures"]["p95_seconds"]) == (1.0, 9.0)


def test_figures_are_a_table_with_tabs_for_pipes_and_progress_goes_to_stderr(desk: Desk) -> None:
    done = run(desk, FakeSite({"p-1": [0.5], "p-2": [0.25]}))
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["pod", "settled", "first", "median", "p95", "last", "tokens/s"]
    assert [row[0] for row in rows[1:]] == ["p-1", "p-2"]
    assert rows[1][1].startswith("after 10 requests, ") and rows[1][2:] == ["0.50 s"] * 4 + ["40.0"]
    assert "p-1: request 1, 0.50 s" in done.stderr
    assert done.exit_code == 0


def test_a_latency_that_never_settles_ends_with_1_and_says_how_to_go_on(desk: Desk) -> None:
    growing: list[float | Exception] = [1.3 ** number for number in range(40)]
    done = run(desk, FakeSite({"p-1": growing}), "--requests", "20")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-2:] == [
        "Error: p-1: LATENCY_UNSETTLED: its latency had not settled when the requests ran out, after 20 requests",
        "Hint: judge-bootstrap --env prod warmup --requests 40"]


def test_time_that_runs_out_ends_it_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 0.3
        return now[0]

    monkeypatch.setattr("judge_bootstrap.cli.warmup.time.monotonic", tick)
    growing: list[float | Exception] = [1.3 ** number for number in range(40)]
    done = run(desk, FakeSite({"p-1": growing}), "--wait", "2", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["reason"]) == (1, "LATENCY_UNSETTLED")
    assert "when the time ran out" in found["message"]
    # Twice what it was given, not twice the default.
    assert found["hint"] == "judge-bootstrap --env prod warmup --wait 4"


def test_a_pod_that_gives_an_error_does_not_keep_the_others_from_settling(desk: Desk) -> None:
    error = BootstrapError("answered 500: engine died", reason="PROBE_FAILING")
    done = run(desk, FakeSite({"p-1": [1.0, error], "p-2": [1.0]}), "--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["reason"], answer["message"]) == (
        1, "PROBE_FAILING", "p-1: after 1 requests it answered 500: engine died")
    assert answer["hint"] == "judge-bootstrap --env prod logs --pod p-1"
    assert answer["pods"]["p-1"]["figures"]["requests"] == 1
    assert answer["pods"]["p-2"]["ok"] is True


def test_an_odd_failure_of_one_pod_is_that_pods_alone(desk: Desk) -> None:
    done = run(desk, FakeSite({"p-1": [RuntimeError("odd")], "p-2": [1.0]}), "--json")
    pods = json.loads(done.stdout)["pods"]
    assert (pods["p-1"]["reason"], pods["p-1"]["message"]) == ("PROBE_FAILING", "could not be asked: odd")
    assert pods["p-1"]["figures"] is None and pods["p-2"]["ok"]


def test_without_a_ready_pod_there_is_nothing_to_warm_up(desk: Desk) -> None:
    done = run(desk, FakeSite({}))
    assert (done.exit_code, done.stderr) == (
        1, "Error: POD_PENDING: no pod of llm-judge/judge-inference-service is ready, so there is nothing to warm up\n"
           "Hint: judge-bootstrap --env prod health\n")


def test_fewer_requests_than_two_windows_are_refused(desk: Desk) -> None:
    done = run(desk, FakeSite({"p-1": [1.0]}), "--requests", "9")
    assert done.exit_code == 2
    assert "requests" in done.stderr


def test_many_calls_answer_in_the_order_of_their_items_and_never_more_at_once_than_allowed() -> None:
    lock, running, most = threading.Lock(), [0], [0]

    def call(number: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.002 * (5 - number % 5))
        with lock:
            running[0] -= 1
        return number * 2

    assert each(call, range(40), 4) == [number * 2 for number in range(40)]
    assert most[0] <= 4
    assert each(call, [], 4) == []


def test_what_a_call_raises_is_raised_when_all_have_ended() -> None:
    done = []

    def call(number: int) -> None:
        if number == 1:
            raise ValueError("one")
        done.append(number)

    with pytest.raises(ValueError, match="one"):
        each(call, range(5), 2)
    assert sorted(done) == [0, 2, 3, 4]


# --- one request ------------------------------------------------------------------------------------------------------


def test_the_requests_are_of_several_lengths_as_many_as_a_window_holds() -> None:
    lengths = [len(answer) for _, answer in pairs()]
    assert len(lengths) == WINDOW
    assert lengths == sorted(set(lengths)) and lengths[-1] > 20 * lengths[0]
    assert request_body("m", 0) == request_body("m", WINDOW) != request_body("m", 1)


def test_a_request_is_what_the_client_would_send() -> None:
    from judge_client import RESPONSE_SCHEMA, build_judge_prompt

    body = request_body("org/judge", 2)
    assert body["messages"] == build_judge_prompt(*pairs()[2])
    assert body["response_format"] == {"type": "json_schema", "json_schema": {
        "name": "verdict", "schema": RESPONSE_SCHEMA, "strict": True}}
    assert (body["model"], body["temperature"]) == ("org/judge", 0.0)


def test_a_verdict_is_timed_and_its_tokens_are_counted() -> None:
    pod = serving("org/judge", COMMIT, key="k" * 32)
    clock = iter([10.0, 12.5])
    with served(pod) as url:
        assert judge_timed(url, "org/judge", 0, "k" * 32, clock=lambda: next(clock)) == Answered(2.5, 40)
    assert pod.bodies[0]["model"] == "org/judge"


def completion(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": "stop", "message": {"content": "{}"}, **choice}]}


@pytest.mark.parametrize(("status", "body", "reason", "said"), [
    (500, "engine died", "PROBE_FAILING", "answered 500: engine died"),
    (200, "<html>", "VERDICT_INVALID", "no chat completion"),
    (200, completion(finish_reason="length"), "VERDICT_INVALID", "'length'"),
    (200, completion(message={"content": ""}), "VERDICT_INVALID", "no verdict"),
    (401, {}, "API_KEY_WRONG", "does not take the key"),
])
def test_what_is_no_verdict_has_a_reason_code(status: int, body: Any, reason: str, said: str) -> None:
    pod = PodServer({"/v1/chat/completions": (status, body)})
    with served(pod) as url, pytest.raises(BootstrapError) as error:
        judge_timed(url, "org/judge", 0, None)
    assert error.value.reason == reason
    assert said in error.value.message


def test_a_server_that_does_not_answer_in_time_is_left() -> None:
    pod = serving("org/judge", COMMIT)
    pod.slow_seconds = 2.0
    with served(pod) as url, pytest.raises(BootstrapError) as error:
        judge_timed(url, "org/judge", 0, None, seconds=0.1)
    assert "timed out" in error.value.message


def test_usage_that_is_not_told_is_no_token_count() -> None:
    pod = PodServer({"/v1/chat/completions": (200, completion())})
    with served(pod) as url:
        assert judge_timed(url, "org/judge", 0, None).tokens is None


# --- which pods -------------------------------------------------------------------------------------------------------


def test_only_ready_pods_that_stay_are_warmed_up() -> None:
    from types import SimpleNamespace

    kube = FakeKube()
    labels = {"app.kubernetes.io/name": "judge-inference"}

    def put(name: str, ready: str, **metadata: Any) -> None:
        kube.put(f"/api/v1/namespaces/llm-judge/pods/{name}", {
            "metadata": {"name": name, "labels": labels, **metadata}, "status": {
                "conditions": [{"type": "Ready", "status": ready}]},
            "spec": {"containers": [{"name": "vllm", "args": ["--served-model-name", "org/judge", "judge"]}]}})

    put("ready", "True")
    put("loading", "False")
    put("going", "True", deletionTimestamp="2026-11-28T11:00:00Z")
    settings: Any = SimpleNamespace(connect=lambda: kube, namespace="llm-judge", api_key_secret_name=None, port=8000,
                                    serving_pods="app.kubernetes.io/name=judge-inference")
    assert ClusterSite(settings).servers() == [ReadyPod("ready", "org/judge")]
