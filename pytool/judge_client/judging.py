"""How a verdict is asked for, whoever sends the requests: the conversation that both clients have with a server.

A conversation is a generator. It yields what is to be done next (a request to send, a pause to make) and is sent what
came of it, so that it is the same for threads and for asyncio, and tests need no server. Failures become verdicts here.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from judge_client.cleaning import MAX_CHARACTERS, Cleaned, clean
from judge_client.exchange import (
    Answer,
    Budget,
    Failure,
    Observation,
    Pause,
    Policy,
    Request,
    Result,
    Steps,
    Watch,
    root_of,
)
from judge_client.prompts import Message, fence_of, messages_of, prompt_digest
from judge_client.replies import InvalidReply, Reply, parse_reply, shown
from judge_client.rubric import DEFAULT_RUBRIC, OVERALL, Rubric
from judge_client.verdict import Provenance, Reason, Status, Verdict, one_line

__all__ = ["Answer", "Asked", "Failure", "Judging", "Observation", "Pause", "Policy", "Request", "Result",
           "ServedModel", "Steps", "Task", "Watch", "request_body"]

# The longest reply that a schema allows takes fewer tokens even where each character is one.
MAX_TOKENS: Final = 700
SAMPLING: Final[Mapping[str, Any]] = {"temperature": 0.0, "max_tokens": MAX_TOKENS, "seed": 0}
# Votes at temperature 0 would all be the same one.
VOTE_TEMPERATURE: Final = 0.7
# The header in which our gateway says, with each verdict, which model gave it: that of GET /judge/provenance as JSON.
PROVENANCE_HEADER: Final = "x-judge-provenance"

# A short code, or one of other characters, might stand in the texts by chance.
_FENCE: Final = re.compile(r"[0-9A-Za-z]{8,64}")
_COMMIT: Final = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")
_SAYS: Final = {"repo_id": "repo_id", "commit": "model_commit", "manifest_digest": "manifest_digest", "image": "image"}
_ASKED_AGAIN: Final = frozenset({Reason.REPLY_INVALID, Reason.REPLY_EMPTY})

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Task(Generic[Parsed]):
    """What is asked of the judge: texts by name, the messages made of them, and the reading of the reply."""

    name: str
    schema: Mapping[str, Any]
    prompt_sha256: str
    texts: Mapping[str, str]
    messages: Callable[[Mapping[str, Cleaned], str], list[Message]]
    parse: Callable[[str], Parsed]


@dataclass(frozen=True)
class Asked(Generic[Parsed]):
    """What came of a task. `reply` is None where there is none, and then `failure` says why."""

    provenance: Provenance
    latency_ms: float
    requests: int
    model: str | None = None
    reply: Parsed | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class ServedModel:
    """An entry of /v1/models. Several names of one model share its root: the path or repository it was loaded from.

    `names` are all of them: vLLM answers under the first, whichever it was asked by.
    """

    name: str
    root: str
    names: frozenset[str] = frozenset()

    @property
    def commit(self) -> str | None:
        """The model's commit, where it is served from a folder of the Hub's cache layout."""
        found = _COMMIT.search(self.root)
        return found[1] if found else None


def request_body(model: str, messages: Sequence[Message], schema: Mapping[str, Any],
                 sampling: Mapping[str, Any] = SAMPLING, name: str = "verdict") -> dict[str, Any]:
    """Return the body of the chat completion that asks for a reply to a schema."""
    wanted = {"name": name, "schema": schema, "strict": True}
    return {"model": model, "messages": list(messages),
            "response_format": {"type": "json_schema", "json_schema": wanted}, **sampling}


def judgement_task(original_prompt: str, model_response: str, rubric: Rubric) -> Task[Reply]:
    """Return the task of scoring a response."""
    return Task(
        "verdict", rubric.schema, prompt_digest(rubric),
        {"original_prompt": original_prompt, "model_response": model_response},
        lambda texts, fence: messages_of(texts["original_prompt"], texts["model_response"], rubric, fence),
        lambda text: parse_reply(text, rubric),
    )  # fmt: skip


class Judging:
    """The conversations of one client with one server; what it learns of the served models lasts.

    Any number may be held at a time, also by several threads: `_served` is replaced as a whole and read once.

    Raises ValueError for a base_url that is not http(s) or holds credentials, and for sampling that cannot be.
    """

    def __init__(self, base_url: str, model: str | None = None, *, rubric: Rubric = DEFAULT_RUBRIC,
                 policy: Policy | None = None, temperature: float = 0.0, seed: int = 0,
                 max_characters: int = MAX_CHARACTERS, clock: Callable[[], float] = time.monotonic) -> None:
        self.root_url = root_of(base_url)
        if not 0 <= temperature <= 2:
            raise ValueError(f"temperature is {temperature!r}, wanted a number from 0 to 2")
        if type(seed) is not int or not 0 <= seed < 2**31:
            raise ValueError(f"seed is {seed!r}, wanted a whole number from 0 to {2**31 - 1}")
        if type(max_characters) is not int or max_characters < 1:
            raise ValueError(f"max_characters is {max_characters!r}, wanted a whole number, 1 or more")
        self.model, self.rubric, self.policy = model, rubric, policy or Policy()
        self._sampling = {**SAMPLING, "temperature": temperature, "seed": seed,
                          "max_tokens": max(MAX_TOKENS, self.rubric.longest_reply)}
        self.max_characters, self._clock = max_characters, clock
        self._served: dict[str, ServedModel] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What a verdict depends on beside the texts, the prompts and the model: sampling, and the limit of a text."""
        return {**self._sampling, "max_characters": self.max_characters}

    def judge(self, original_prompt: str, model_response: str, *, fence: str | None = None, vote: int | None = None,
              watch: Watch | None = None) -> Steps[Verdict]:
        """Ask for a verdict. `vote` numbers one of several on the same texts, from 0: each is sampled differently."""
        from judge_client.suspicion import examine  # its word lists take as long to load as all the rest

        asked = yield from self.ask(judgement_task(original_prompt, model_response, self.rubric), fence=fence,
                                    vote=vote, watch=watch)
        facts: dict[str, Any] = {
            "latency_ms": asked.latency_ms, "requests": asked.requests, "provenance": asked.provenance,
            "model": asked.model, "grounds": examine(
                original_prompt, model_response, asked.provenance.changes.get("model_response"), self.rubric,
                self.max_characters)}
        if asked.reply is None:
            return unscored(asked.failure, facts)
        scores = asked.reply.scores
        return Verdict(Status.SCORED, scores[OVERALL], self.rubric.weighted(scores), scores, asked.reply.reasoning,
                       **facts)

    def ask(self, task: Task[Parsed], *, fence: str | None = None, vote: int | None = None,
            watch: Watch | None = None) -> Steps[Asked[Parsed]]:
        """Ask a task of the judge: sent again after what is transient, and asked anew when the reply is no reply.

        Raises TypeError for texts that are not text, ValueError for a fence that cannot be one.
        """
        for name, text in task.texts.items():
            if not isinstance(text, str):
                raise TypeError(f"{name} is {type(text).__name__}, wanted str")
        if fence is not None and not _FENCE.fullmatch(fence):
            raise ValueError(f"fence is {shown(fence)}, wanted the 8 to 64 letters and digits that a provenance names")
        started = self._clock()
        sampling = dict(self._sampling)
        if vote is not None:
            sampling |= {"seed": sampling["seed"] + vote,
                         "temperature": sampling["temperature"] or VOTE_TEMPERATURE}
        said: dict[str, Any] = {}
        budget = Budget(self.policy, started + self.policy.deadline_seconds, self._clock, watch)
        failure: Failure | None = None
        model: ServedModel | None = None
        reply: Parsed | None = None
        changes: dict[str, Mapping[str, int]] = {}
        code = fence
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        try:
            model = yield from self._expected_model(budget)
            said = {"model_root": model.root, "model_commit": model.commit}
            for reask in range(self.policy.max_reasks + 1):
                code = fence or fence_of(*task.texts.values(), salt=f"{vote or 0}.{reask}" if vote or reask else "")
                if reask:
                    # The same request would be answered by the same reply.
                    sampling["seed"] += 1_000_003
                texts = {name: clean(text, code, self.max_characters) for name, text in task.texts.items()}
                changes = {name: dict(text.changes) for name, text in texts.items() if text.changes}
                body = request_body(model.name, task.messages(texts, code), task.schema, sampling, task.name)
                try:
                    reply, more = yield from self._complete(model, body, task, budget)
                except Failure as found:
                    if found.reason not in _ASKED_AGAIN or reask == self.policy.max_reasks or budget.is_over():
                        raise
                    continue
                said |= more
                if model.commit is not None and model.commit != said["model_commit"]:
                    # The server was given another model since it was asked for its models: what it said then is old.
                    said["model_root"] = self._served = None
                break
        except Failure as found:
            failure = found
        provenance = Provenance(
            time=now, client_version=_version(), base_url=self.root_url, prompt_sha256=task.prompt_sha256,
            rubric=self.rubric.name, rubric_sha256=self.rubric.digest, sampling=sampling, fence=code, changes=changes,
            **said)
        answered_by = (failure and failure.model) or (model.name if model else self.model)
        return Asked(provenance, round((self._clock() - started) * 1000, 1), budget.requests, answered_by, reply,
                     failure)

    def health(self) -> Steps[bool]:
        """Ask whether the server says it is well (/health) and serves the right model now. Nothing is sent twice."""
        once = Budget(replace(self.policy, max_retries=0), math.inf, self._clock, None)
        try:
            health = Request("GET", "/health", timeout_seconds=self.policy.timeout_seconds)
            yield from once.send(health, self.root_url, lambda answer: answer)
            self._served = None
            yield from self._expected_model(once)
        except Failure:
            return False
        return True

    def served_model(self) -> Steps[ServedModel]:
        """Ask which model judges. Raises Failure: what a whole batch would fail with is better known before it."""
        self._served = None
        budget = Budget(self.policy, self._clock() + self.policy.deadline_seconds, self._clock, None)
        return (yield from self._expected_model(budget))

    def _expected_model(self, budget: Budget) -> Steps[ServedModel]:
        """Return the model that is to judge, as the server names it; asked once, and again after a surprise."""
        served = self._served
        if served is None:
            served = self._served = yield from self._list_models(budget)
        if self.model is None and len({one.root for one in served.values()}) > 1:
            self._served = None
            raise Failure(Reason.WRONG_MODEL_SERVED,
                          f"{self.root_url} serves {_names(served)}: say which is the judge")
        if self.model is None and served:
            return next(iter(served.values()))
        if self.model is None or self.model not in served:
            self._served = None
            wanted = f"wanted {self.model}" if self.model else "wanted a judge"
            raise Failure(Reason.WRONG_MODEL_SERVED, f"{self.root_url} serves {_names(served)}, {wanted}")
        return served[self.model]

    def _list_models(self, budget: Budget) -> Steps[dict[str, ServedModel]]:
        request = Request("GET", "/v1/models", timeout_seconds=self.policy.timeout_seconds)
        url = f"{self.root_url}{request.path}"

        def read(answer: Answer) -> dict[str, ServedModel]:
            document = _document(answer.text)
            entries = document.get("data") if isinstance(document, Mapping) else None
            if not isinstance(entries, list) or not all(
                isinstance(entry, Mapping) and isinstance(entry.get("id"), str) for entry in entries
            ):
                raise Failure(Reason.RESPONSE_INVALID, f"{url} answered no list of models: is it an OpenAI API?",
                              lasting=True)
            # A name that cannot be shown cannot be asked for, either: half of a surrogate pair, a line break.
            roots = {entry["id"]: one_line(str(entry.get("root") or entry["id"])) for entry in entries
                     if entry["id"].isprintable()}
            return {name: ServedModel(name, root, frozenset(one for one in roots if roots[one] == root))
                    for name, root in roots.items()}

        return (yield from budget.send(request, self.root_url, read))

    def _complete(self, model: ServedModel, body: Mapping[str, Any], task: Task[Parsed], budget: Budget
                  ) -> Steps[tuple[Parsed, dict[str, Any]]]:
        """Return the judge's reply and what the server says of itself. A completion that holds none is a Failure."""

        def read(answer: Answer) -> tuple[Parsed, dict[str, Any]]:
            return self._read(model, _document(answer.text, model), task), _said(answer)

        try:
            request = Request("POST", "/v1/chat/completions", body, self.policy.timeout_seconds)
            return (yield from budget.send(request, self.root_url, read))
        except Failure as failure:
            if failure.http_status == 404:
                self._served = None
                yield from self._expected_model(budget)  # tells a model that has gone from a missing endpoint
            failure.model = failure.model or model.name
            raise

    def _read(self, model: ServedModel, completion: Any, task: Task[Parsed]) -> Parsed:
        try:
            choice = completion["choices"][0]
            content, finish_reason = choice["message"]["content"], choice["finish_reason"]
            answered_by = completion["model"]
        except (LookupError, TypeError):
            message = "the server's answer is no chat completion"
            raise Failure(Reason.RESPONSE_INVALID, message, model=model.name) from None
        if answered_by != model.name and not (isinstance(answered_by, str) and answered_by in model.names):
            self._served = None
            raise Failure(Reason.WRONG_MODEL_SERVED, f"{shown(answered_by)} answered, wanted {model.name}",
                          model=one_line(str(answered_by), 200))
        if finish_reason == "length":
            message = f"the judge did not finish within {self._sampling['max_tokens']} tokens"
            raise Failure(Reason.REPLY_TRUNCATED, message, Status.UNSCORED, model.name)
        if not isinstance(content, str) or not content:
            message = f"the judge gave no reply (finish_reason {shown(finish_reason)})"
            raise Failure(Reason.REPLY_EMPTY, message, Status.UNSCORED, model.name)
        if finish_reason != "stop":
            message = f"the judge did not end its reply itself (finish_reason {shown(finish_reason)})"
            raise Failure(Reason.REPLY_INVALID, message, Status.UNSCORED, model.name)
        try:
            return task.parse(content)
        except InvalidReply as error:
            raise Failure(Reason.REPLY_INVALID, str(error), Status.UNSCORED, model.name) from None


def unscored(failure: Failure | None, facts: Mapping[str, Any]) -> Verdict:
    """Return the verdict of a failure."""
    assert failure is not None
    return Verdict(failure.status, reason=failure.reason, message=failure.message, **facts)


def _said(answer: Answer) -> dict[str, Any]:
    """Return what the gateway says, in its header, of the model that answered; {} for a server without one."""
    try:
        document = json.loads(answer.headers[PROVENANCE_HEADER])
        return {ours: one_line(document[theirs]) for theirs, ours in _SAYS.items()
                if isinstance(document.get(theirs), str)}  # fmt: skip
    except (ValueError, LookupError, AttributeError, RecursionError):
        return {}


def _document(text: str, model: ServedModel | None = None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"the server's answer is not JSON: {error}; it starts with {text[:80]!r}"
        raise Failure(Reason.RESPONSE_INVALID, message, model=model.name if model else None) from None


def _names(served: Mapping[str, ServedModel]) -> str:
    return one_line(", ".join(sorted(served)), 200) or "no model"


def _version() -> str:
    from judge_client import __version__

    return __version__
