"""The earlier client's contract: how it is configured, and the dict that comes back."""

from __future__ import annotations

from typing import Any

import pytest
from judge_answers import SCORES, Server
from judge_client import JudgeInferenceClient

NESTED = {"services": {"judge_inference": {"host": "10.0.0.5", "port": 9000}}, "judge": {"model_name": "org/judge"}}
DOTTED = {"services.judge_inference.host": "10.0.0.5", "services.judge_inference.port": "9000",
          "judge.model_name": "org/judge"}


def of(server: Server, **options: Any) -> JudgeInferenceClient:
    host, port = server.url.removeprefix("http://").split(":")
    return JudgeInferenceClient(host, int(port), **options)


def test_by_default_it_asks_the_service_of_the_cluster() -> None:
    client = JudgeInferenceClient()
    assert (client.base_url, client.model_name) == ("http://judge-inference-service:8000/v1", None)


@pytest.mark.parametrize("settings", [NESTED, DOTTED])
def test_a_settings_document_names_host_port_and_model(settings: dict[str, Any]) -> None:
    client = JudgeInferenceClient(settings=settings)
    assert (client.base_url, client.model_name) == ("http://10.0.0.5:9000/v1", "org/judge")


def test_arguments_go_before_settings() -> None:
    client = JudgeInferenceClient("judge", 1, "mine", settings=NESTED)
    assert (client.base_url, client.model_name) == ("http://judge:1/v1", "mine")


@pytest.mark.parametrize("settings", [{}, {"services": None}, {"services": {"judge_inference": []}}, {"judge": "x"}])
def test_settings_that_say_nothing_leave_the_defaults(settings: dict[str, Any]) -> None:
    assert JudgeInferenceClient(settings=settings).base_url == "http://judge-inference-service:8000/v1"


@pytest.mark.parametrize(("host", "url"), [("::1", "http://[::1]:8000/v1"), ("[fd00::2]", "http://[fd00::2]:8000/v1")])
def test_an_ipv6_address_gets_its_brackets(host: str, url: str) -> None:
    assert JudgeInferenceClient(host).base_url == url


@pytest.mark.parametrize("host", ["", "http://judge", "judge:8000", "judge/v1", "user@judge", "ju dge", "judge\n",
                                  "[::1", "judge?", "judge#", "\u00fcber", 5, True, ["judge"]])
def test_a_host_that_cannot_be_one_is_named_by_its_key(host: Any) -> None:
    with pytest.raises(ValueError, match=r"services\.judge_inference\.host is .*, wanted a host name or address"):
        JudgeInferenceClient(settings={"services": {"judge_inference": {"host": host}}})


@pytest.mark.parametrize("port", [0, -1, 65536, "http", "", "80.5", 80.5, True, [8000], "\u0668", "9" * 5000])
def test_a_port_that_cannot_be_one_is_named_by_its_key(port: Any) -> None:
    with pytest.raises(ValueError, match=r"services\.judge_inference\.port is .*, wanted a number from 1 to 65535"):
        JudgeInferenceClient(settings={"services.judge_inference.port": port})


@pytest.mark.parametrize("name", ["", 5, ["judge"]])
def test_a_model_name_that_cannot_be_one_is_named_by_its_key(name: Any) -> None:
    with pytest.raises(ValueError, match=r"judge\.model_name is .*, wanted the name that the server serves"):
        JudgeInferenceClient(settings={"judge.model_name": name})


def test_a_score_comes_with_exactly_the_keys_of_the_contract(server: Server) -> None:
    with of(server) as client:
        told = client.judge("q", "a")
    assert list(told) == ["score", "reasoning", "categories", "model", "latency_ms"]
    assert (told["score"], told["reasoning"], told["model"]) == (8, "The facts are right.", "judge")
    assert told["categories"] == SCORES
    assert type(told["categories"]) is dict
    assert told["latency_ms"] > 0


def test_a_failure_has_no_score_and_a_reason(server: Server) -> None:
    server.finish_reason = "length"
    with of(server) as client:
        told = client.judge("q", "a")
    assert (told["score"], told["reason"], told["categories"]) == (None, "REPLY_TRUNCATED", {})
    assert type(told["reason"]) is str
    assert "did not finish within 700 tokens" in told["reasoning"]


def test_with_zero_on_failure_the_reason_stands_beside_the_zero(server: Server) -> None:
    server.status = 401
    with of(server, zero_on_failure=True) as client:
        told = client.judge("q", "a")
    assert (told["score"], told["reason"]) == (0, "SERVER_DENIED")


def test_zero_on_failure_changes_no_score(server: Server) -> None:
    with of(server, zero_on_failure=True) as client:
        assert client.judge("q", "a")["score"] == 8


def test_a_call_may_name_another_model(server: Server) -> None:
    with of(server, model_name="judge") as client:
        assert client.judge("q", "a", model="org/judge")["model"] == "org/judge"
        assert client.judge("q", "a", model="other")["reason"] == "WRONG_MODEL_SERVED"
        assert client.judge("q", "a")["model"] == "judge"


def test_the_key_is_empty_unless_the_environment_or_the_caller_says_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    for given, variable, sent in ((None, None, "EMPTY"), (None, "of-env", "of-env"), ("mine", "of-env", "mine")):
        if variable:
            monkeypatch.setenv("JUDGE_API_KEY", variable)
        with of(server, api_key=given) as client:
            client.judge("q", "a")
        assert server.asked[-1][1] == f"Bearer {sent}"


def test_health_is_asked_at_its_own_endpoint(server: Server) -> None:
    with of(server) as client:
        assert client.is_healthy()
        assert server.asked[0][0] == "/health"
        server.health_status = 503
        assert not client.is_healthy()


def test_a_client_that_was_closed_opens_again(server: Server) -> None:
    client = of(server)
    client.judge("q", "a")
    client.close()
    assert client.judge("q", "a")["score"] == 8
    client.close()
