"""The client that applications of the earlier toolkit call: the same call, the same dict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from threading import Lock
from typing import Any, Final, Self

from judge_client.client import JudgeClient
from judge_client.exchange import Policy, root_of
from judge_client.replies import shown
from judge_client.verdict import Status

DEFAULT_HOST: Final = "judge-inference-service"
DEFAULT_PORT: Final = 8000
_SETTINGS: Final = {"host": ("services", "judge_inference", "host"), "port": ("services", "judge_inference", "port"),
                    "model_name": ("judge", "model_name")}


class JudgeInferenceClient:
    """Ask the judge at http://HOST:PORT for a score.

    `settings` is a settings document, whose keys `services.judge_inference.host`, `services.judge_inference.port` and
    `judge.model_name` stand in for arguments that are not given (nested, or with dots in one key). Without a model name
    the server must serve exactly one. The key is "EMPTY" unless `api_key`, or JUDGE_API_KEY in the environment, is set.

    One thing differs from the earlier client: a failure has score None and a `reason`. With `zero_on_failure` it has
    score 0 as it had then, and the reason beside it: such a 0 is no score, do not average over it.

    Raises ValueError, which names the key, for a host, port or model name that cannot be one.
    """

    def __init__(self, host: str | None = None, port: int | None = None, model_name: str | None = None, *,
                 settings: Mapping[str, Any] | None = None, api_key: str | None = None,
                 timeout_seconds: float = Policy.timeout_seconds, zero_on_failure: bool = False) -> None:
        told = {name: _setting(settings or {}, path) for name, path in _SETTINGS.items()}
        host = host if host is not None else told["host"] if told["host"] is not None else DEFAULT_HOST
        port = port if port is not None else told["port"] if told["port"] is not None else DEFAULT_PORT
        model_name = model_name if model_name is not None else told["model_name"]
        # Settings documents carry numbers as text now and then.
        if isinstance(port, str) and re.fullmatch(r"[0-9]{1,5}", port):
            port = int(port)
        if type(port) is not int or not 0 < port < 65536:
            raise ValueError(f"services.judge_inference.port is {shown(port)}, wanted a number from 1 to 65535")
        if model_name is not None and (not isinstance(model_name, str) or not model_name):
            raise ValueError(f"judge.model_name is {shown(model_name)}, wanted the name that the server serves")
        try:
            if not isinstance(host, str) or not host or any(one in host for one in "/@?#"):
                raise ValueError
            shown_host = f"[{host}]" if ":" in host and not host.startswith("[") else host
            self.base_url = f"{root_of(f'http://{shown_host}:{port}')}/v1"
        except ValueError:
            raise ValueError(f"services.judge_inference.host is {shown(host)}, wanted a host name or address") from None
        self.model_name = model_name
        self._zero_on_failure = zero_on_failure
        self._options: dict[str, Any] = {"api_key": api_key, "timeout_seconds": timeout_seconds}
        self._clients: dict[str | None, JudgeClient] = {}
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def judge(self, original_prompt: str, model_response: str, model: str | None = None) -> dict[str, Any]:
        """Return {"score", "reasoning", "categories", "model", "latency_ms"}, and on failure "reason", too.

        `score` is the judge's overall score from 1 to 10. `model` judges instead of the one of the configuration.
        """
        verdict = self._client(model or self.model_name).judge(original_prompt, model_response)
        told: dict[str, Any] = {
            "score": verdict.score, "reasoning": verdict.reasoning, "categories": dict(verdict.categories),
            "model": verdict.model, "latency_ms": verdict.latency_ms}
        if verdict.status is not Status.SCORED:
            told |= {"score": 0 if self._zero_on_failure else None, "reasoning": verdict.message,
                     "reason": str(verdict.reason)}
        return told

    def is_healthy(self) -> bool:
        """Return whether the server says it is well (/health) and serves the right model now."""
        return self._client(self.model_name).is_healthy()

    def _client(self, model: str | None) -> JudgeClient:
        with self._lock:
            if model not in self._clients:
                self._clients[model] = JudgeClient(self.base_url, model, **self._options)
            return self._clients[model]


def _setting(settings: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    if (flat := settings.get(".".join(path))) is not None:
        return flat
    found: Any = settings
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
