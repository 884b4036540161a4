"""JudgeClient against a small HTTP server that answers as told: every outcome is a verdict with a typed reason."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from judge_answers import COMMIT, REPLY, ROOT, SCORES, Server
from judge_client import JudgeClient, Reason, Status, Verdict
from judge_client.rubric import CRITERION_NAMES, RESPONSE_SCHEMA


def failed(verdict: Verdict) -> tuple[Status, Reason | None]:
    """Check what holds for each verdict without a score, and return how it failed."""
    assert verdict.score is None
    assert verdict.categories == {}
    assert verdict.message
    return verdict.status, verdict.reason


def test_a_valid_reply_is_scored_with_all_six_criteria(client: JudgeClient) -> None:
    verdict = client.judge("What is 2 + 2?", "4")
    assert (verdict.status, verdict.score, verdict.reason) == (Status.SCORED, 8, None)
    assert verdict.categories == SCORES
    assert verdict.reasoning == "The facts are right."
    assert verdict.model == "judge"
    assert verdict.latency_ms > 0


def test_a_verdict_says_where_it_came_from(client: JudgeClient) -> None:
    provenance = client.judge("q", "a").provenance
    assert provenance is not None
    assert (provenance.model_commit, provenance.model_root) == (COMMIT, ROOT)
    assert provenance.sampling == {"temperature": 0.0, "max_tokens": 700, "seed": 0}
    assert len(provenance.prompt_sha256) == len(provenance.rubric_sha256) == 64
    assert (provenance.rubric, provenance.base_url) == ("answer-quality", client.root_url)
    assert provenance.time.endswith("+00:00")


def test_a_verdict_can_be_asked_for_again_to_the_byte(client: JudgeClient, server: Server) -> None:
    first = client.judge("q", "a")
    assert first.provenance is not None
    client.judge("q", "a")
    client.judge("q", "a", fence=first.provenance.fence)
    client.judge("q", "a", fence="0" * 16)
    assert server.completions[0] == server.completions[1] == server.completions[2] != server.completions[3]


def test_the_weighted_score_is_reckoned_from_the_others_by_their_weights(client: JudgeClient) -> None:
    # accuracy 9 x 3, relevance 8 x 2, helpfulness 7 x 2, safety 10 x 2, pleasing 6 x 1, over 10
    assert client.judge("q", "a").weighted_score == 8.3


def test_the_request_asks_for_the_schema_at_temperature_zero(client: JudgeClient, server: Server) -> None:
    client.judge("q", "a")
    path, authorization, body = server.asked[-1]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer EMPTY")
    assert (body["model"], body["temperature"]) == ("judge", 0.0)
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "schema": RESPONSE_SCHEMA, "strict": True},
    }
    assert list(body["response_format"]["json_schema"]["schema"]["properties"]) == ["reasoning", "scores"]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_a_verdict_can_be_written_as_json(client: JudgeClient) -> None:
    document = json.loads(json.dumps(client.judge("q", "a").to_dict(), allow_nan=False))
    assert (document["status"], document["score"], document["reason"]) == ("scored", 8, None)


def test_the_models_are_asked_for_once(client: JudgeClient, server: Server) -> None:
    client.judge("q", "a")
    client.judge("q", "b")
    assert [path for path, _, _ in server.asked].count("/v1/models") == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, Reason.REQUEST_REFUSED),
        (401, Reason.SERVER_DENIED),
        (403, Reason.SERVER_DENIED),
        (404, Reason.REQUEST_REFUSED),
        (422, Reason.REQUEST_REFUSED),
        (429, Reason.SERVER_RATE_LIMITED),
        (500, Reason.SERVER_FAILED),
        (502, Reason.SERVER_FAILED),
        (503, Reason.SERVER_FAILED),
    ],
)
def test_a_refused_request_is_an_error_with_what_the_server_said(
    client: JudgeClient, server: Server, status: int, reason: Reason
) -> None:
    server.status = status
    verdict = client.judge("q", "a")
    assert failed(verdict) == (Status.ERROR, reason)
    assert f"answered {status}: told {status}" in (verdict.message or "")


def test_a_request_that_failed_for_a_moment_is_sent_again(server: Server) -> None:
    def write(file: Any) -> None:
        file.write(b"HTTP/1.1 503 busy\r\ncontent-length: 0\r\n\r\n")
        server.write = None

    server.write = write
    with JudgeClient(server.url, "judge", max_retries=1) as judge:
        verdict = judge.judge("q", "a")
    assert (verdict.status, verdict.requests) == (Status.SCORED, 3)
    assert len(server.completions) == 2


def test_without_retries_a_failed_request_is_sent_once(client: JudgeClient, server: Server) -> None:
    server.status = 503
    client.judge("q", "a")
    assert len(server.completions) == 1


def test_a_refused_connection_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with JudgeClient(f"http://127.0.0.1:{taken.getsockname()[1]}", max_retries=0) as judge:
            verdict = judge.judge("q", "a")
            assert failed(verdict) == (Status.ERROR, Reason.SERVER_UNREACHABLE)
            assert "Connection refused" in (verdict.message or "")
            assert not judge.is_healthy()


def test_a_server_that_does_not_answer_is_a_timeout(server: Server) -> None:
    with JudgeClient(server.url, timeout_seconds=0.2, max_retries=0) as judge:
        judge.is_healthy()
        server.delay_seconds = 1
        verdict = judge.judge("q", "a")
    assert failed(verdict) == (Status.ERROR, Reason.SERVER_TIMEOUT)
    assert "did not answer within 0.2 s" in (verdict.message or "")


def test_a_truncated_reply_is_unscored_even_where_it_parses(client: JudgeClient, server: Server) -> None:
    server.finish_reason = "length"
    verdict = client.judge("q", "a")
    assert failed(verdict) == (Status.UNSCORED, Reason.REPLY_TRUNCATED)
    assert "within 700 tokens" in (verdict.message or "")


@pytest.mark.parametrize("finish_reason", ["content_filter", "abort", "tool_calls"])
def test_a_reply_that_was_ended_for_the_judge_is_unscored(
    client: JudgeClient, server: Server, finish_reason: str
) -> None:
    server.finish_reason = finish_reason
    assert failed(client.judge("q", "a")) == (Status.UNSCORED, Reason.REPLY_INVALID)


@pytest.mark.parametrize("content", [None, ""])
def test_no_reply_is_unscored(client: JudgeClient, server: Server, content: str | None) -> None:
    server.content = content
    assert failed(client.judge("q", "a")) == (Status.UNSCORED, Reason.REPLY_EMPTY)


def test_a_reply_that_breaks_the_schema_is_unscored_and_says_where(client: JudgeClient, server: Server) -> None:
    server.content = json.dumps({**REPLY, "scores": {**SCORES, "safety": 11}})
    verdict = client.judge("q", "a")
    assert failed(verdict) == (Status.UNSCORED, Reason.REPLY_INVALID)
    assert verdict.message == "scores.safety is 11, wanted an integer from 1 to 10"


@pytest.mark.parametrize(
    "raw",
    [b"", b"<html>proxy</html>", b'{"choices": [', b"null", b"[]", b"{}", b'"text"', b'{"choices": []}',
     b"\xff\xfe\x00", b'{"choices": [null], "model": "judge"}',
     b'{"choices": [{"message": null, "finish_reason": "stop"}]}', b"[" * 5000, b"9" * 5000],
)  # fmt: skip
def test_what_is_no_completion_is_a_typed_error(client: JudgeClient, server: Server, raw: bytes) -> None:
    server.raw = raw
    assert failed(client.judge("q", "a")) == (Status.ERROR, Reason.RESPONSE_INVALID)


def test_a_server_that_serves_another_model_is_refused_before_it_is_asked(server: Server) -> None:
    server.models = [{"id": "other", "root": "/other"}]
    with JudgeClient(server.url, "judge") as judge:
        verdict = judge.judge("q", "a")
    assert failed(verdict) == (Status.ERROR, Reason.WRONG_MODEL_SERVED)
    assert "serves other, wanted judge" in (verdict.message or "")
    assert "/v1/chat/completions" not in [path for path, _, _ in server.asked]


def test_an_answer_of_another_model_gives_no_score(client: JudgeClient, server: Server) -> None:
    server.answered_by = "other"
    verdict = client.judge("q", "a")
    assert failed(verdict) == (Status.ERROR, Reason.WRONG_MODEL_SERVED)
    assert verdict.model == "other"


def test_an_answer_of_another_model_that_is_served_too_gives_no_score(client: JudgeClient, server: Server) -> None:
    server.models.append({"id": "other", "root": "/other"})
    server.answered_by = "other"
    assert failed(client.judge("q", "a")) == (Status.ERROR, Reason.WRONG_MODEL_SERVED)


def test_an_answer_under_another_name_of_the_same_model_counts(server: Server) -> None:
    with JudgeClient(server.url, "org/judge") as judge:
        assert judge.judge("q", "a").status == Status.SCORED


def test_a_model_that_goes_away_between_two_judgements_is_told(client: JudgeClient, server: Server) -> None:
    client.judge("q", "a")
    server.models, server.status = [{"id": "other", "root": "/other"}], 404
    assert failed(client.judge("q", "a")) == (Status.ERROR, Reason.WRONG_MODEL_SERVED)


def test_without_a_name_the_only_model_judges(server: Server) -> None:
    with JudgeClient(server.url) as judge:
        assert judge.judge("q", "a").model == "judge"


def test_without_a_name_two_models_are_refused(server: Server) -> None:
    server.models.append({"id": "other", "root": "/other"})
    with JudgeClient(server.url) as judge:
        verdict = judge.judge("q", "a")
    assert failed(verdict) == (Status.ERROR, Reason.WRONG_MODEL_SERVED)
    assert "say which is the judge" in (verdict.message or "")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda server: setattr(server, "health_status", 503),
        lambda server: setattr(server, "models", [{"id": "other"}]),
        lambda server: setattr(server, "models", []),
        lambda server: setattr(server, "models", [{"name": "judge"}]),
        lambda server: setattr(server, "models_status", 401),
    ],
)
def test_a_server_without_the_right_model_is_not_healthy(
    client: JudgeClient, server: Server, spoil: Callable[[Server], None]
) -> None:
    assert client.is_healthy()
    spoil(server)
    assert not client.is_healthy()


def test_the_address_may_name_the_api_or_the_server(server: Server) -> None:
    for address in (server.url, f"{server.url}/", f"{server.url}/v1", f"{server.url}/v1/"):
        with JudgeClient(address) as judge:
            assert judge.judge("q", "a").status == Status.SCORED


@pytest.mark.parametrize(
    "address",
    ["", "judge:8000", "ftp://judge", "http://", "/v1", "http://judge:port", "http://judge:99999", "http://judge:0",
     "http://[::1", "http://[judge]:8000", "http://ju dge", "http://judge\n", "http://judge/v1?key=x", "http://judge#x",
     "http://judge\u00e9", "http://-judge", "http://judge/\x00"],
)  # fmt: skip
def test_an_address_that_is_no_url_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="base_url is .*, wanted http://HOST:PORT"):
        JudgeClient(address)


@pytest.mark.parametrize(
    "address", ["http://judge", "https://judge.example:8443/prefix/v1", "http://10.0.0.1:8000", "http://[fd00::1]:8000",
                "http://judge_inference:8000", "http://judge.example."],
)  # fmt: skip
def test_an_address_of_a_server_is_taken(address: str) -> None:
    assert JudgeClient(address).root_url == address.removesuffix("/v1")


def test_credentials_in_the_address_are_refused_without_showing_them() -> None:
    with pytest.raises(ValueError, match="wanted them in api_key") as caught:
        JudgeClient("http://user:secret@judge:8000")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [("timeout_seconds", 0), ("timeout_seconds", float("nan")), ("timeout_seconds", float("inf")),
     ("deadline_seconds", -1), ("max_retries", -1), ("max_retries", 0.5), ("max_reasks", True), ("temperature", -0.1),
     ("temperature", float("nan")), ("seed", -1), ("seed", 0.5), ("max_characters", 0)],
)  # fmt: skip
def test_a_limit_that_cannot_be_is_refused_by_its_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} is .*, wanted"):
        JudgeClient("http://judge", **{option: value})


def test_only_text_can_be_judged(client: JudgeClient) -> None:
    with pytest.raises(TypeError, match="model_response is NoneType, wanted str"):
        client.judge("q", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="original_prompt is bytes, wanted str"):
        client.judge(b"q", "a")  # type: ignore[arg-type]


@pytest.mark.parametrize("fence", ["", "short", "x" * 65, "with space", "line\nbreak", "a" * 8 + "\n"])
def test_a_fence_that_cannot_be_one_is_refused(client: JudgeClient, fence: str) -> None:
    with pytest.raises(ValueError, match="fence is .*, wanted the 8 to 64 letters and digits"):
        client.judge("q", "a", fence=fence)


def test_the_api_key_is_sent(server: Server) -> None:
    with JudgeClient(server.url, api_key="k-123") as judge:
        judge.judge("q", "a")
    assert {authorization for _, authorization, _ in server.asked} == {"Bearer k-123"}


def test_odd_text_is_judged_like_any_other(client: JudgeClient) -> None:
    for text in ("", "\x00\ud800", "{curly} %s {0}", "日本語" * 1000, "<|im_end|>"):
        assert client.judge(text, text).status == Status.SCORED


def test_every_criterion_of_the_rubric_is_in_the_verdict(client: JudgeClient) -> None:
    assert tuple(client.judge("q", "a").categories) == CRITERION_NAMES
