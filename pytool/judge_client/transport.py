"""The openai SDK as the sender of a conversation's requests: one connection pool, proxies and keys as its users know.

What it answers is taken raw, because its parser takes any JSON for a completion, and it tries nothing again, because
the caller must see what the server says. Importing the SDK takes half a second: only who asks a judge pays it, at the
first call.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from judge_client.judging import Answer, Failure, Request
from judge_client.verdict import Reason

if TYPE_CHECKING:
    import openai

KEY_VARIABLE: Final = "JUDGE_API_KEY"
# What servers without keys are sent: the SDK wants one.
NO_KEY: Final = "EMPTY"


def key_of(api_key: str | None) -> str:
    """Return the API key to send: the one given, else that of the environment, else NO_KEY."""
    return api_key or os.environ.get(KEY_VARIABLE) or NO_KEY


class SyncTransport:
    """Sends for JudgeClient. `http_client` is an httpx client of the caller's, which is never closed here."""

    def __init__(self, root_url: str, api_key: str, timeout_seconds: float, http_client: Any = None) -> None:
        self._options: dict[str, Any] = {"base_url": f"{root_url}/v1", "api_key": api_key, "timeout": timeout_seconds,
                                         "max_retries": 0, "http_client": http_client}
        self._root_url, self._timeout_seconds = root_url, timeout_seconds
        self._client: openai.OpenAI | None = None

    def send(self, request: Request) -> Answer:
        """Return the server's answer, whatever its status. Raises Failure when there is none."""
        import openai

        if self._client is None:
            self._client = openai.OpenAI(**self._options)
        client, url = self._client, f"{self._root_url}{request.path}"
        try:
            if request.method == "GET":
                return Answer(200, client.get(url, cast_to=str))
            return _answer(client.chat.completions.with_raw_response.create(**request.body or {}))
        except openai.APIStatusError as error:
            return _answer(error.response)
        except openai.APIConnectionError as error:
            raise _failure(url, error, self._timeout_seconds) from None

    def close(self) -> None:
        """Close the connections. A later request opens new ones."""
        if self._client is not None and self._options["http_client"] is None:
            self._client.close()
        self._client = None


class AsyncTransport:
    """Sends for AsyncJudgeClient; otherwise as SyncTransport."""

    def __init__(self, root_url: str, api_key: str, timeout_seconds: float, http_client: Any = None) -> None:
        self._options: dict[str, Any] = {"base_url": f"{root_url}/v1", "api_key": api_key, "timeout": timeout_seconds,
                                         "max_retries": 0, "http_client": http_client}
        self._root_url, self._timeout_seconds = root_url, timeout_seconds
        self._client: openai.AsyncOpenAI | None = None

    async def send(self, request: Request) -> Answer:
        """Return the server's answer, whatever its status. Raises Failure when there is none."""
        import openai

        if self._client is None:
            self._client = openai.AsyncOpenAI(**self._options)
        client, url = self._client, f"{self._root_url}{request.path}"
        try:
            if request.method == "GET":
                return Answer(200, await client.get(url, cast_to=str))
            return _answer(await client.chat.completions.with_raw_response.create(**request.body or {}))
        except openai.APIStatusError as error:
            return _answer(error.response)
        except openai.APIConnectionError as error:
            raise _failure(url, error, self._timeout_seconds) from None

    async def close(self) -> None:
        """Close the connections. A later request opens new ones."""
        if self._client is not None and self._options["http_client"] is None:
            await self._client.close()
        self._client = None


def _answer(response: Any) -> Answer:
    return Answer(response.status_code, response.text,
                  {name.lower(): value for name, value in response.headers.items()})


def _failure(url: str, error: openai.APIConnectionError, timeout_seconds: float) -> Failure:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Failure(Reason.SERVER_TIMEOUT, f"{url} did not answer within {timeout_seconds:g} s")
    said = " ".join(str(error.__cause__ or error).split())
    return Failure(Reason.SERVER_UNREACHABLE, f"{url}: {said or type(error.__cause__ or error).__name__}")
