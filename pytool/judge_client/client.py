"""The client: one answer in, one verdict out, against any server that speaks the OpenAI API."""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from judge_client.prompts import Message, build_judge_prompt, prompt_digest
from judge_client.rubric import RESPONSE_SCHEMA, InvalidReply, Reply, parse_reply, rubric_digest
from judge_client.verdict import Reason, Status, Verdict

if TYPE_CHECKING:
    import openai

# The longest reply that the schema allows takes fewer tokens even where each character is one.
MAX_TOKENS: Final = 700
SAMPLING: Final[dict[str, Any]] = {"temperature": 0.0, "max_tokens": MAX_TOKENS, "seed": 0}

_COMMIT: Final = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")


@dataclass(frozen=True)
class _ServedModel:
    """An entry of /v1/models. Several names of one model share its root: the path or repository it was loaded from."""

    name: str
    root: str

    @property
    def commit(self) -> str | None:
        """The model's commit, where it is served from a folder of the Hub's cache layout."""
        found = _COMMIT.search(self.root)
        return found[1] if found else None


@dataclass(eq=False)
class _Failure(Exception):
    """Why there is no verdict; becomes one in judge()."""

    reason: Reason
    message: str
    status: Status = Status.ERROR
    model: str | None = None


class JudgeClient:
    """Ask a judge for verdicts.

    `base_url` is the server's root or its /v1. Without `model` the server must serve exactly one. `timeout_seconds`
    bounds connecting and each wait for the server. Failures are verdicts too (status `unscored` or `error`, score
    None): `judge` raises only for arguments that are not text. Not retried: the caller sees each failure once.

    Raises ValueError for a base_url that is not http(s).
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: str = "EMPTY",
        timeout_seconds: float = 60.0,
        http_client: Any = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url is {base_url!r}, wanted http://HOST:PORT or http://HOST:PORT/v1")
        if "@" in parts.netloc:
            raise ValueError("base_url holds credentials, wanted them in api_key: a URL ends up in logs")
        self.root_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds
        self._http_client = http_client
        self._openai: openai.OpenAI | None = None
        self._served: dict[str, _ServedModel] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they belong to the caller's http_client. A later call opens new ones."""
        if self._openai is not None and self._http_client is None:
            self._openai.close()
        self._openai = None

    def judge(self, original_prompt: str, model_response: str) -> Verdict:
        """Return the verdict on `model_response` as an answer to `original_prompt`."""
        for name, text in (("original_prompt", original_prompt), ("model_response", model_response)):
            if not isinstance(text, str):
                raise TypeError(f"{name} is {type(text).__name__}, wanted str")
        started = time.monotonic()
        provenance: dict[str, Any] = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "client_version": _version(),
            "base_url": self.root_url,
            "prompt_sha256": prompt_digest(),
            "rubric_sha256": rubric_digest(),
            "sampling": dict(SAMPLING),
        }
        try:
            model = self._expected_model()
            provenance |= {"model_root": model.root, "model_commit": model.commit}
            completion = self._complete(model, build_judge_prompt(original_prompt, model_response))
            reply = self._read(model, completion)
            scores = reply.scores
            outcome: dict[str, Any] = {
                "status": Status.SCORED,
                "score": scores["overall"],
                "categories": scores,
                "reasoning": reply.reasoning,
                "model": model.name,
            }
        except _Failure as failure:
            outcome = {
                "status": failure.status,
                "reason": failure.reason,
                "message": failure.message,
                "model": failure.model or self.model,
            }
        latency_ms = round((time.monotonic() - started) * 1000, 1)
        return Verdict(**outcome, latency_ms=latency_ms, provenance=provenance)

    def is_healthy(self) -> bool:
        """Return whether the server says it is well (/health) and serves the right model now."""
        try:
            self._send("GET", "/health")
            self._served = None
            self._expected_model()
        except _Failure:
            return False
        return True

    def _expected_model(self) -> _ServedModel:
        """Return the model that is to judge, as the server names it; asked once, and again after a surprise."""
        if self._served is None:
            self._served = self._list_models()
        served = self._served
        if self.model is None and len(served) > 1 and len({one.root for one in served.values()}) > 1:
            raise _Failure(
                Reason.WRONG_MODEL_SERVED, f"{self.root_url} serves {_names(served)}: say which is the judge"
            )
        if self.model is None and served:
            return next(iter(served.values()))
        if self.model is None or self.model not in served:
            self._served = None
            wanted = f"wanted {self.model}" if self.model else "wanted a judge"
            raise _Failure(Reason.WRONG_MODEL_SERVED, f"{self.root_url} serves {_names(served)}, {wanted}")
        return served[self.model]

    def _list_models(self) -> dict[str, _ServedModel]:
        document = _document(self._send("GET", "/v1/models"))
        entries = document.get("data") if isinstance(document, Mapping) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, Mapping) and isinstance(entry.get("id"), str) for entry in entries
        ):
            message = f"{self.root_url}/v1/models answered no list of models: is it an OpenAI API?"
            raise _Failure(Reason.RESPONSE_INVALID, message)
        return {entry["id"]: _ServedModel(entry["id"], str(entry.get("root") or entry["id"])) for entry in entries}

    def _complete(self, model: _ServedModel, messages: list[Message]) -> Any:
        schema = {"name": "verdict", "schema": RESPONSE_SCHEMA, "strict": True}
        body = {
            "model": model.name,
            "messages": messages,
            "response_format": {"type": "json_schema", "json_schema": schema},
            **SAMPLING,
        }
        return _document(self._send("POST", "/v1/chat/completions", body), model)

    def _read(self, model: _ServedModel, completion: Any) -> Reply:
        """Return the judge's reply; a completion that holds none is a _Failure."""
        try:
            choice = completion["choices"][0]
            content, finish_reason = choice["message"]["content"], choice["finish_reason"]
            answered_by = completion["model"]
        except (LookupError, TypeError):
            message = "the server's answer is no chat completion"
            raise _Failure(Reason.RESPONSE_INVALID, message, model=model.name) from None
        if answered_by != model.name and not self._same(model, answered_by):
            self._served = None
            raise _Failure(
                Reason.WRONG_MODEL_SERVED, f"{answered_by!r} answered, wanted {model.name}", model=str(answered_by)
            )
        if finish_reason == "length":
            message = f"the judge did not finish within {MAX_TOKENS} tokens"
            raise _Failure(Reason.REPLY_TRUNCATED, message, Status.UNSCORED, model.name)
        if not isinstance(content, str) or not content:
            message = f"the judge gave no reply (finish_reason {finish_reason!r})"
            raise _Failure(Reason.REPLY_EMPTY, message, Status.UNSCORED, model.name)
        if finish_reason != "stop":
            message = f"the judge did not end its reply itself (finish_reason {finish_reason!r})"
            raise _Failure(Reason.REPLY_INVALID, message, Status.UNSCORED, model.name)
        try:
            return parse_reply(content)
        except InvalidReply as error:
            raise _Failure(Reason.REPLY_INVALID, str(error), Status.UNSCORED, model.name) from None

    def _same(self, model: _ServedModel, name: Any) -> bool:
        """Return whether `name` is another name of the model: vLLM answers with the first of several names."""
        other = (self._served or {}).get(name) if isinstance(name, str) else None
        return other is not None and other.root == model.root

    def _send(self, method: str, path: str, body: object = None) -> str:
        """Return the text of the server's answer; each way in which there is none becomes a _Failure.

        The SDK sends, authenticates and tells errors apart; its parsing is left out, because it takes any JSON for a
        completion.
        """
        import openai  # costs 0.6 s: only who judges pays it

        client, url = self._client(), f"{self.root_url}{path}"
        try:
            if method == "GET":
                return client.get(url, cast_to=str)
            return client.post(url, cast_to=str, body=body)
        except openai.APITimeoutError:
            message = f"{url} did not answer within {self._timeout_seconds:g} s"
            raise _Failure(Reason.SERVER_TIMEOUT, message) from None
        except openai.APIConnectionError as error:
            raise _Failure(Reason.SERVER_UNREACHABLE, f"{url}: {error.__cause__ or error}") from None
        except openai.APIStatusError as error:
            if error.status_code == 404 and body is not None:
                self._served = None
                self._expected_model()  # tells a model that has gone from an endpoint that is not there
            raise _Failure(_reason(error.status_code), f"{url} answered {error.status_code}: {_told(error)}") from None

    def _client(self) -> openai.OpenAI:
        import openai

        if self._openai is None:
            self._openai = openai.OpenAI(
                base_url=f"{self.root_url}/v1",
                api_key=self._api_key,
                timeout=self._timeout_seconds,
                max_retries=0,
                http_client=self._http_client,
            )
        return self._openai


def _reason(status: int) -> Reason:
    if status in (401, 403):
        return Reason.SERVER_DENIED
    if status == 429:
        return Reason.SERVER_RATE_LIMITED
    return Reason.SERVER_FAILED if status >= 500 else Reason.REQUEST_REFUSED


def _told(error: openai.APIStatusError) -> str:
    """Return what the server said, in one short line."""
    said = error.body.get("message") if isinstance(error.body, Mapping) else None
    text = " ".join(str(said or error.response.text).split())
    return text[:200] or "nothing"


def _document(text: str, model: _ServedModel | None = None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"the server's answer is not JSON: {error}; it starts with {text[:80]!r}"
        raise _Failure(Reason.RESPONSE_INVALID, message, model=model.name if model else None) from None


def _names(served: Mapping[str, _ServedModel]) -> str:
    return ", ".join(sorted(served)) or "no model"


def _version() -> str:
    from judge_client import __version__

    return __version__
