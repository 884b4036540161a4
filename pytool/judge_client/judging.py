"""How a verdict is asked for, whoever sends the requests: the conversation that both clients have with a server.

A conversation is a generator. It yields what is to be done next (a request to send, a pause to make) and is sent what
came of it, so that it is the same for threads and for asyncio, and tests need no server. Failures become verdicts here.
"""

from __future__ import annotations

import datetime
import json
import random
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from judge_client.cleaning import MAX_CHARACTERS, Cleaned, clean
from judge_client.prompts import Message, messages_of, new_fence, prompt_digest
from judge_client.replies import InvalidReply, Reply, parse_reply
from judge_client.rubric import DEFAULT_RUBRIC, OVERALL, Rubric
from judge_client.suspicion import examine
from judge_client.verdict import Provenance, Reason, Status, Verdict

# The longest reply that a schema allows takes fewer tokens even where each character is one.
MAX_TOKENS: Final = 700
SAMPLING: Final[Mapping[str, Any]] = {"temperature": 0.0, "max_tokens": MAX_TOKENS, "seed": 0}
# Votes at temperature 0 would all be the same one.
VOTE_TEMPERATURE: Final = 0.7
# The header in which our gateway says, with each verdict, which model gave it: that of GET /judge/provenance as JSON.
PROVENANCE_HEADER: Final = "x-judge-provenance"

_COMMIT: Final = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")
_SAYS: Final = {"repo_id": "repo_id", "commit": "model_commit", "manifest_digest": "manifest_digest", "image": "image"}
_TRANSIENT: Final = frozenset({
    Reason.SERVER_UNREACHABLE, Reason.SERVER_TIMEOUT, Reason.SERVER_RATE_LIMITED, Reason.SERVER_FAILED,
    Reason.RESPONSE_INVALID})  # fmt: skip
_ASKED_AGAIN: Final = frozenset({Reason.REPLY_INVALID, Reason.REPLY_EMPTY})

Parsed = TypeVar("Parsed")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Request:
    """A request that is to be sent to the server."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pause:
    """A time to wait before the conversation goes on."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What the server answered, whatever its status. Names of headers in lower case."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


Steps = Generator[Request | Pause, Answer | None, Result]


@dataclass(eq=False)
class Failure(Exception):
    """Why there is no verdict; becomes one."""

    reason: Reason
    message: str
    status: Status = Status.ERROR
    model: str | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True)
class Observation:
    """How one request for a verdict went: its reason (None: a completion came) and how long it took."""

    reason: Reason | None
    seconds: float


Watch = Callable[[Observation], None]


@dataclass(frozen=True)
class Policy:
    """How patient a client is. Times in seconds; the deadline covers one call with all that is sent for it.

    `max_retries` counts what is sent again after something transient; `max_reasks` how often a reply that is no
    verdict is asked for again.
    """

    timeout_seconds: float = 60.0
    deadline_seconds: float = 300.0
    max_retries: int = 4
    max_reasks: int = 1
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "deadline_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}, wanted more than 0")
        for name in ("max_retries", "max_reasks", "first_pause_seconds", "longest_pause_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}, wanted 0 or more")

    def pause_before(self, retry: int, asked_seconds: float | None) -> float:
        """Return how long to wait before retry number `retry` (from 0). What the server asks for is the least."""
        longest = min(self.longest_pause_seconds, self.first_pause_seconds * 2**retry)
        # All clients of a server that comes back would otherwise do so in the same moment.
        return max(asked_seconds or 0.0, random.uniform(longest / 2, longest))


@dataclass(frozen=True)
class Task(Generic[Parsed]):
    """What is asked of the judge: texts by name, the messages made of them, and the reading of the reply."""

    name: str
    schema: Mapping[str, Any]
    prompt_sha256: str
    texts: Mapping[str, str]
    messages: Callable[[Mapping[str, Cleaned], str], list[Message]]
    parse: Callable[[str], Parsed]


@dataclass
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
    """An entry of /v1/models. Several names of one model share its root: the path or repository it was loaded from."""

    name: str
    root: str

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

    Raises ValueError for a base_url that is not http(s) or holds credentials, and for a temperature below 0.
    """

    def __init__(self, base_url: str, model: str | None = None, *, rubric: Rubric = DEFAULT_RUBRIC,
                 policy: Policy | None = None, temperature: float = 0.0, seed: int = 0,
                 max_characters: int = MAX_CHARACTERS, clock: Callable[[], float] = time.monotonic) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url is {base_url!r}, wanted http://HOST:PORT or http://HOST:PORT/v1")
        if "@" in parts.netloc:
            raise ValueError("base_url holds credentials, wanted them in api_key: a URL ends up in logs")
        if not temperature >= 0:
            raise ValueError(f"temperature is {temperature!r}, wanted 0 or more")
        if max_characters < 1:
            raise ValueError(f"max_characters is {max_characters!r}, wanted 1 or more")
        self.root_url = base_url.rstrip("/").removesuffix("/v1")
        self.model, self.rubric, self.policy = model, rubric, policy or Policy()
        self._sampling = {**SAMPLING, "temperature": temperature, "seed": seed}
        self._max_characters, self._clock = max_characters, clock
        self._served: dict[str, ServedModel] | None = None

    # --- conversations -------------------------------------------------------------------------------------------

    def judge(self, original_prompt: str, model_response: str, *, fence: str | None = None, vote: int | None = None,
              watch: Watch | None = None) -> Steps[Verdict]:
        """Ask for a verdict. `vote` numbers one of several on the same texts, from 0: each is sampled differently."""
        asked = yield from self.ask(judgement_task(original_prompt, model_response, self.rubric), fence=fence,
                                    vote=vote, watch=watch)
        facts: dict[str, Any] = {
            "latency_ms": asked.latency_ms, "requests": asked.requests, "provenance": asked.provenance,
            "model": asked.model, "grounds": examine(original_prompt, model_response,
                                                     asked.provenance.changes.get("model_response"), self.rubric)}
        if asked.reply is None:
            return unscored(asked.failure, facts)
        scores = asked.reply.scores
        return Verdict(Status.SCORED, scores[OVERALL], self.rubric.weighted(scores), scores, asked.reply.reasoning,
                       **facts)

    def ask(self, task: Task[Parsed], *, fence: str | None = None, vote: int | None = None,
            watch: Watch | None = None) -> Steps[Asked[Parsed]]:
        """Ask a task of the judge: sent again after what is transient, and asked anew when the reply is no reply.

        Raises TypeError for texts that are not text.
        """
        for name, text in task.texts.items():
            if not isinstance(text, str):
                raise TypeError(f"{name} is {type(text).__name__}, wanted str")
        started = self._clock()
        sampling = dict(self._sampling)
        if vote is not None:
            sampling |= {"seed": sampling["seed"] + vote,
                         "temperature": sampling["temperature"] or VOTE_TEMPERATURE}
        said: dict[str, Any] = {}
        budget = _Budget(self.policy, started + self.policy.deadline_seconds, self._clock, watch)
        asked: Asked[Parsed] | None = None
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
                code = fence or new_fence()
                if reask:
                    # The same request would be answered by the same reply.
                    sampling["seed"] += 1_000_003
                texts = {name: clean(text, code, self._max_characters) for name, text in task.texts.items()}
                changes = {name: text.changes for name, text in texts.items() if text.changes}
                body = request_body(model.name, task.messages(texts, code), task.schema, sampling, task.name)
                try:
                    reply, more = yield from self._complete(model, body, task, budget)
                except Failure as found:
                    if found.reason not in _ASKED_AGAIN or reask == self.policy.max_reasks or budget.is_over():
                        raise
                    continue
                said |= more
                break
        except Failure as found:
            failure = found
        provenance = Provenance(
            time=now, client_version=_version(), base_url=self.root_url, prompt_sha256=task.prompt_sha256,
            rubric=self.rubric.name, rubric_sha256=self.rubric.digest, sampling=sampling, fence=code, changes=changes,
            **said)
        asked = Asked(provenance, round((self._clock() - started) * 1000, 1), budget.requests,
                      model.name if model else self.model, reply, failure)
        if failure and failure.model:
            asked.model = failure.model
        return asked

    def health(self) -> Steps[bool]:
        """Ask whether the server says it is well (/health) and serves the right model now. Nothing is sent twice."""
        try:
            _checked("/health", (yield from _send(Request("GET", "/health"))), self.root_url)
            self._served = None
            yield from self._expected_model(None)
        except Failure:
            return False
        return True

    def served_model(self) -> Steps[ServedModel]:
        """Ask which model judges. Raises Failure: what a whole batch would fail with is better known before it."""
        self._served = None
        budget = _Budget(self.policy, self._clock() + self.policy.deadline_seconds, self._clock, None)
        return (yield from self._expected_model(budget))

    # --- their parts ---------------------------------------------------------------------------------------------

    def _expected_model(self, budget: _Budget | None) -> Steps[ServedModel]:
        """Return the model that is to judge, as the server names it; asked once, and again after a surprise."""
        if self._served is None:
            self._served = yield from self._list_models(budget)
        served = self._served
        if self.model is None and len(served) > 1 and len({one.root for one in served.values()}) > 1:
            raise Failure(Reason.WRONG_MODEL_SERVED,
                          f"{self.root_url} serves {_names(served)}: say which is the judge")
        if self.model is None and served:
            return next(iter(served.values()))
        if self.model is None or self.model not in served:
            self._served = None
            wanted = f"wanted {self.model}" if self.model else "wanted a judge"
            raise Failure(Reason.WRONG_MODEL_SERVED, f"{self.root_url} serves {_names(served)}, {wanted}")
        return served[self.model]

    def _list_models(self, budget: _Budget | None) -> Steps[dict[str, ServedModel]]:
        request = Request("GET", "/v1/models")
        url = f"{self.root_url}{request.path}"

        def read(answer: Answer) -> dict[str, ServedModel]:
            document = _document(answer.text)
            entries = document.get("data") if isinstance(document, Mapping) else None
            if not isinstance(entries, list) or not all(
                isinstance(entry, Mapping) and isinstance(entry.get("id"), str) for entry in entries
            ):
                raise Failure(Reason.RESPONSE_INVALID, f"{url} answered no list of models: is it an OpenAI API?")
            return {entry["id"]: ServedModel(entry["id"], str(entry.get("root") or entry["id"])) for entry in entries}

        if budget is None:
            return read(_checked(request.path, (yield from _send(request)), self.root_url))
        return (yield from budget.send(request, self.root_url, read))

    def _complete(self, model: ServedModel, body: Mapping[str, Any], task: Task[Parsed], budget: _Budget
                  ) -> Steps[tuple[Parsed, dict[str, Any]]]:
        """Return the judge's reply and what the server says of itself. A completion that holds none is a Failure."""

        def read(answer: Answer) -> tuple[Parsed, dict[str, Any]]:
            return self._read(model, _document(answer.text, model), task), _said(answer)

        try:
            return (yield from budget.send(Request("POST", "/v1/chat/completions", body), self.root_url, read))
        except Failure as failure:
            if failure.reason is Reason.REQUEST_REFUSED and "answered 404" in failure.message:
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
        if answered_by != model.name and not self._same(model, answered_by):
            self._served = None
            raise Failure(Reason.WRONG_MODEL_SERVED, f"{answered_by!r} answered, wanted {model.name}",
                          model=str(answered_by)[:200])
        if finish_reason == "length":
            message = f"the judge did not finish within {MAX_TOKENS} tokens"
            raise Failure(Reason.REPLY_TRUNCATED, message, Status.UNSCORED, model.name)
        if not isinstance(content, str) or not content:
            message = f"the judge gave no reply (finish_reason {finish_reason!r})"
            raise Failure(Reason.REPLY_EMPTY, message, Status.UNSCORED, model.name)
        if finish_reason != "stop":
            message = f"the judge did not end its reply itself (finish_reason {finish_reason!r})"
            raise Failure(Reason.REPLY_INVALID, message, Status.UNSCORED, model.name)
        try:
            return task.parse(content)
        except InvalidReply as error:
            raise Failure(Reason.REPLY_INVALID, str(error), Status.UNSCORED, model.name) from None

    def _same(self, model: ServedModel, name: Any) -> bool:
        """Return whether `name` is another name of the model: vLLM answers with the first of several names."""
        other = (self._served or {}).get(name) if isinstance(name, str) else None
        return other is not None and other.root == model.root


def unscored(failure: Failure | None, facts: Mapping[str, Any]) -> Verdict:
    """Return the verdict of a failure."""
    assert failure is not None
    return Verdict(failure.status, reason=failure.reason, message=failure.message, **facts)


class _Budget:
    """How much may still be sent, and for how long, for one call."""

    def __init__(self, policy: Policy, until: float, clock: Callable[[], float], watch: Watch | None) -> None:
        self._policy, self._until, self._clock, self._watch = policy, until, clock, watch
        self._retries = 0
        self.requests = 0

    def is_over(self) -> bool:
        """Tell whether the deadline has passed."""
        return self._clock() >= self._until

    def send(self, request: Request, root_url: str, read: Callable[[Answer], Result]) -> Steps[Result]:
        """Send a request and read its answer, again after something transient as long as the budget lasts."""
        while True:
            self.requests += 1
            started = self._clock()
            try:
                found = read(_checked(request.path, (yield from _send(request)), root_url))
            except Failure as failure:
                self._saw(request, failure.reason, started)
                pause = self._policy.pause_before(self._retries, failure.retry_after_seconds)
                if (failure.reason not in _TRANSIENT or self._retries >= self._policy.max_retries
                        or self._clock() + pause >= self._until):
                    raise
                self._retries += 1
                yield Pause(pause)
            else:
                self._saw(request, None, started)
                return found

    def _saw(self, request: Request, reason: Reason | None, started: float) -> None:
        if self._watch is not None and request.method == "POST":
            self._watch(Observation(reason, self._clock() - started))


def _send(request: Request) -> Steps[Answer]:
    answer = yield request
    assert answer is not None
    return answer


def _checked(path: str, answer: Answer, root_url: str) -> Answer:
    """Return an answer of status 2xx; any other is a Failure."""
    if 200 <= answer.status < 300:
        return answer
    message = f"{root_url}{path} answered {answer.status}: {_told(answer)}"
    raise Failure(_reason(answer.status), message, retry_after_seconds=_retry_after(answer))


def _reason(status: int) -> Reason:
    if status in (401, 403):
        return Reason.SERVER_DENIED
    if status == 429:
        return Reason.SERVER_RATE_LIMITED
    if status == 408:
        return Reason.SERVER_TIMEOUT
    # 501 and 505 are no passing trouble: the server will never know how.
    return Reason.SERVER_FAILED if status >= 500 and status not in (501, 505) else Reason.REQUEST_REFUSED


def _retry_after(answer: Answer) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110: seconds, or a date); None for none."""
    told = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", told):
        return float(told)
    if not told:
        return None
    from email.utils import parsedate_to_datetime  # not needed but here, and slow to import

    try:
        at = parsedate_to_datetime(told)
        return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _told(answer: Answer) -> str:
    """Return what the server said, in one short line."""
    try:
        document = json.loads(answer.text)
        error = document["error"]
        said = error["message"] if isinstance(error, Mapping) else error
    except (ValueError, LookupError, TypeError, RecursionError):
        said = answer.text
    return " ".join(str(said).split())[:200] or "nothing"


def _said(answer: Answer) -> dict[str, Any]:
    """Return what the gateway says, in its header, of the model that answered; {} for a server without one."""
    try:
        document = json.loads(answer.headers[PROVENANCE_HEADER])
        return {ours: document[theirs] for theirs, ours in _SAYS.items()
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
    return ", ".join(sorted(served)) or "no model"


def _version() -> str:
    from judge_client import __version__

    return __version__
