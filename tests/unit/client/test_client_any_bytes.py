"""Whatever a server sends, the client has a verdict, or a typed reason why there is none; never a traceback.

Driven without sockets: the conversations by made-up answers and a clock that only pauses move, the two transports by
whatever status, headers and bytes an HTTP server can send.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judge_client import AsyncJudgeClient, Comparison, JudgeClient, Reason, Status, Verdict
from judge_client.judging import (
    PROVENANCE_HEADER,
    Answer,
    Failure,
    Judging,
    Observation,
    Pause,
    Policy,
    Request,
    ServedModel,
    Steps,
)
from judge_client.pairs import compare
from judge_client.rubric import CRITERION_NAMES, DEFAULT_RUBRIC

GOOD = {"reasoning": "Fine.", "scores": dict.fromkeys(CRITERION_NAMES, 7)}
PAIR = {"reasoning": "Fine.", "winner": "first"}
COMPLETION = {"id": "x", "object": "chat.completion", "model": "judge", "choices": [
    {"index": 0, "message": {"role": "assistant", "content": json.dumps(GOOD)}, "finish_reason": "stop"}]}
MODELS = {"object": "list", "data": [{"id": "judge", "object": "model", "root": "/models/judge"}]}
POLICY = Policy(timeout_seconds=10, deadline_seconds=100, max_retries=3, max_reasks=1)

# Texts with what breaks readers: halves of surrogate pairs, escapes of a terminal, line ends of every kind.
odd_texts = st.text(st.one_of(st.characters(), st.sampled_from("\ud800\udfff\x00\x1b\x9b\r\n\u2028\u202e{}[]\":,")))
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**30, -1, 0, 1, 10, 11, 7.0]))
words = st.sampled_from(["judge", "stop", "length", "", "first"])
leaves = st.one_of(st.none(), st.booleans(), numbers, odd_texts, words)
documents = st.recursive(leaves, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(odd_texts, inner, max_size=3)), max_leaves=8)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to every value in a document, itself included."""
    if isinstance(document, list):
        document = dict(enumerate(document))
    inner = document.items() if isinstance(document, dict) else ()
    return [path, *(found for key, value in inner for found in places(value, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A document in which one or two values are others, or gone."""
    made = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(places(made)))
        if not path:
            return draw(documents)
        place = made
        for key in path[:-1]:
            place = place[key]
        if draw(st.booleans()):
            place[path[-1]] = draw(documents)
        else:
            del place[path[-1]]
    return made


@st.composite
def replies(draw: st.DrawFn) -> dict[str, Any]:
    """A chat completion whose content is a reply that is good, changed, cut, or anything."""
    good = draw(st.sampled_from([GOOD, PAIR]))
    whole = json.dumps(good)
    content = draw(st.one_of(
        st.just(whole), changed(good).map(json.dumps), st.integers(0, len(whole)).map(lambda end: whole[:end]),
        odd_texts, documents))  # fmt: skip
    made: dict[str, Any] = json.loads(json.dumps(COMPLETION))
    made["choices"][0]["message"]["content"] = content
    return made


texts = st.one_of(
    odd_texts,
    st.sampled_from(["", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "NaN", "<!doctype html><html>", "null"]),
    st.one_of(replies(), changed(COMPLETION), changed(MODELS), documents,
              st.fixed_dictionaries({"error": documents})).map(json.dumps),
    st.sampled_from([MODELS, COMPLETION]).map(json.dumps),
)  # fmt: skip
statuses = st.one_of(st.sampled_from([200, 200, 200, 400, 401, 404, 408, 429, 500, 501, 503]), st.integers(100, 999))
headers = st.dictionaries(
    st.sampled_from(["retry-after", PROVENANCE_HEADER, "content-type"]),
    st.one_of(odd_texts, documents.map(json.dumps), st.sampled_from([
        "1", "0.5", "-1", "9" * 12, "nan", "inf", "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 99999 07:28:00 GMT"])),
    max_size=2)  # fmt: skip
answers = st.builds(Answer, statuses, texts, headers)
failures = st.builds(lambda reason: Failure(reason, "it went away"),
                     st.sampled_from([Reason.SERVER_UNREACHABLE, Reason.SERVER_TIMEOUT]))
served = st.just(Answer(200, json.dumps(MODELS)))
said_by_servers = st.lists(st.one_of(answers, failures), min_size=1, max_size=6)
stories = st.one_of(said_by_servers, st.builds(lambda first, rest: [first, *rest], served, said_by_servers))
many = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Clock:
    """A time that passes in pauses, and a little with each request."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def hold(start: Callable[[Judging], Steps[Any]], story: Sequence[Answer | Failure]) -> tuple[Any, int, float]:
    """Hold a conversation with a server that tells this story, from its start again when it is over.

    Returns the result, how many requests there were, and how many seconds it took.
    """
    clock = Clock()
    steps = start(Judging("http://judge:8000", policy=POLICY, clock=clock))
    requests = 0
    answer: Answer | None = None
    failure: Failure | None = None
    try:
        while True:
            step = steps.throw(failure) if failure else steps.send(answer)
            answer = failure = None
            if isinstance(step, Pause):
                assert step.seconds >= 0
                clock.now += step.seconds
                continue
            assert isinstance(step, Request)
            found = story[requests % len(story)]
            requests += 1
            clock.now += 0.1
            if isinstance(found, Failure):
                failure = Failure(found.reason, found.message)
            else:
                answer = found
    except StopIteration as ended:
        return ended.value, requests, clock.now


def check_words(document: Any) -> None:
    """Fail unless every text in it can be written to a file."""
    json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def check_unscored(found: Verdict | Comparison) -> None:
    """Fail unless the reason is one of the table, and the message one short line that may go to a terminal."""
    assert isinstance(found.reason, Reason)
    assert found.message
    assert found.message.isprintable()
    assert len(found.message) < 1500


def check_verdict(verdict: Verdict) -> None:
    if verdict.status is Status.SCORED:
        assert set(verdict.categories) == set(CRITERION_NAMES)
        assert all(type(score) is int and 1 <= score <= 10 for score in verdict.categories.values())
        assert verdict.score == verdict.categories["overall"]
        assert verdict.weighted_score == DEFAULT_RUBRIC.weighted(verdict.categories)
        assert (verdict.reason, verdict.message) == (None, None)
        assert verdict.reasoning
    else:
        assert (verdict.score, verdict.weighted_score, verdict.categories) == (None, None, {})
        check_unscored(verdict)
    assert verdict.provenance is not None
    check_words(verdict.to_dict())
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def check_comparison(found: Comparison) -> None:
    if found.status is Status.SCORED:
        assert found.winner is not None
        assert (found.reason, found.message) == (None, None)
        assert all(order is not None for order in found.orders)
    else:
        assert (found.winner, found.consistent) == (None, None)
        check_unscored(found)
    check_words(found.to_dict())
    assert Comparison.from_dict(json.loads(json.dumps(found.to_dict()))) == found


# --- conversations ----------------------------------------------------------------------------------------------------


@many
@given(stories)
def test_any_answers_give_a_verdict_or_a_typed_reason(story: list[Answer | Failure]) -> None:
    seen: list[Observation] = []
    verdict, requests, seconds = hold(lambda judging: judging.judge("prompt", "response", watch=seen.append), story)
    check_verdict(verdict)
    assert verdict.requests == requests
    # The list of models, asked for twice at most, and one try more than there are retries and questions anew.
    assert requests <= POLICY.max_retries + POLICY.max_reasks + 4
    assert seconds <= POLICY.deadline_seconds + 0.1 * requests
    assert all(one.reason is None or isinstance(one.reason, Reason) for one in seen)
    if verdict.status is Status.SCORED:
        assert seen[-1].reason is None


@many
@given(stories)
def test_any_answers_give_a_comparison_or_a_typed_reason(story: list[Answer | Failure]) -> None:
    found, requests, _ = hold(lambda judging: compare(judging, "prompt", "a", "b"), story)
    check_comparison(found)
    assert found.requests == requests


@many
@given(stories)
def test_any_answers_give_a_health(story: list[Answer | Failure]) -> None:
    healthy, requests, _ = hold(lambda judging: judging.health(), story)
    assert type(healthy) is bool
    assert requests <= 2


@many
@given(stories)
def test_any_answers_give_a_served_model_or_a_typed_failure(story: list[Answer | Failure]) -> None:
    try:
        found, _, _ = hold(lambda judging: judging.served_model(), story)
    except Failure as failure:
        assert isinstance(failure.reason, Reason)
        assert failure.message.isprintable()
    else:
        assert isinstance(found, ServedModel)
        check_words(found.name)


@many
@given(odd_texts, odd_texts)
def test_any_texts_can_be_judged(prompt: str, response: str) -> None:
    sent: list[Request] = []

    def watched(judging: Judging) -> Steps[Verdict]:
        steps = judging.judge(prompt, response)
        answer: Answer | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as ended:
                found: Verdict = ended.value
                return found
            if isinstance(step, Request):
                sent.append(step)
            answer = yield step

    verdict, _, _ = hold(watched, [Answer(200, json.dumps(MODELS)), Answer(200, json.dumps(COMPLETION))])
    check_verdict(verdict)
    assert verdict.status is Status.SCORED
    check_words(sent[-1].body)


# --- transports -------------------------------------------------------------------------------------------------------

charsets = st.sampled_from(["utf-8", "utf-7", "utf-16", "latin-1", "idna", "unicode_escape", "base64", "no-such",
                            "\x00"])
wire_headers = st.fixed_dictionaries({}, optional={
    "content-type": st.one_of(charsets.map(lambda name: f"application/json; charset={name}"),
                              st.sampled_from(["text/html", "text/event-stream", "application/json", "", ";;;"])),
    "content-encoding": st.sampled_from(["gzip", "deflate", "br", "zstd", "identity", "no-such", "gzip, gzip"]),
    "retry-after": st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
    PROVENANCE_HEADER: st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
    "location": st.sampled_from(["/elsewhere", "http://other/", "", "http://[", "//"]),
})  # fmt: skip
bodies = st.one_of(st.binary(max_size=200), texts.map(lambda text: text.encode(errors="surrogatepass")))
wire_answers = st.tuples(st.one_of(statuses.filter(lambda status: status >= 200), st.just(200)), wire_headers, bodies)


class Wire:
    """A server that says the list of models first, and then what it is told to."""

    def __init__(self, story: Sequence[tuple[int, dict[str, str], bytes]], *, models: bool) -> None:
        self._story = [(200, {}, json.dumps(MODELS).encode()), *story] if models else story
        self._asked = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        status, headers, body = self._story[self._asked % len(self._story)]
        self._asked += 1
        found = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        # As a stream: a body that cannot be decoded is found out when it is read, as from a socket.
        return httpx2.Response(status, headers=found, stream=httpx2.ByteStream(body))

    async def later(self, request: httpx2.Request) -> httpx2.Response:
        return self(request)


@pytest.fixture(scope="module")
def http_options() -> dict[str, Any]:
    return {"model": "judge", "api_key": "k", "max_retries": 0, "max_reasks": 0}


@many
@given(st.lists(wire_answers, min_size=1, max_size=3), st.booleans())
def test_any_bytes_from_a_server_give_a_verdict_or_a_typed_reason(
        http_options: dict[str, Any], story: list[tuple[int, dict[str, str], bytes]], models: bool) -> None:
    client = httpx2.Client(transport=httpx2.MockTransport(Wire(story, models=models)))
    with client, JudgeClient("http://judge:8000", http_client=client, **http_options) as judge:
        check_verdict(judge.judge("prompt", "response"))
        assert type(judge.is_healthy()) is bool


@settings(many, max_examples=100)
@given(st.lists(wire_answers, min_size=1, max_size=3), st.booleans())
def test_any_bytes_from_a_server_give_the_async_client_a_verdict_or_a_typed_reason(
        http_options: dict[str, Any], story: list[tuple[int, dict[str, str], bytes]], models: bool) -> None:
    async def ask() -> Verdict:
        transport = httpx2.MockTransport(Wire(story, models=models).later)
        async with httpx2.AsyncClient(transport=transport) as client:
            judge = AsyncJudgeClient("http://judge:8000", http_client=client, **http_options)
            return await judge.judge("prompt", "response")

    check_verdict(asyncio.run(ask()))
