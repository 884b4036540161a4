"""Plain HTTP to a pod's forwarded port: short requests, bounded in time and size, through no proxy."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from judge_bootstrap.core.problems import one_line

TIMEOUT_SECONDS = 10.0
MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class Reply:
    """What came back. `status` 0: nothing did, and `error` says why in one line."""

    status: int
    body: bytes = b""
    error: str = ""

    def text(self) -> str:
        """Return the body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body's JSON, None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class _Stay(urllib.request.HTTPRedirectHandler):
    """A pod has no business sending us elsewhere, least of all with the key."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def get(url: str, key: str | None = None, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Reply:
    """Return the answer to a GET; never raises for what the other side does."""
    return send(urllib.request.Request(url), key, timeout_seconds)


def post(url: str, body: Mapping[str, Any], key: str | None = None, *, timeout_seconds: float) -> Reply:
    """Return the answer to a POST of JSON; never raises for what the other side does."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return send(request, key, timeout_seconds)


def send(request: urllib.request.Request, key: str | None, timeout_seconds: float) -> Reply:
    """Send a request, with the API key where there is one."""
    import http.client

    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
    try:
        with opener.open(request, timeout=timeout_seconds) as answer:
            return Reply(answer.status, answer.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            try:
                return Reply(error.code, error.read(MOST_BYTES))
            except (OSError, http.client.HTTPException):
                return Reply(error.code)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Reply(0, error=one_line(getattr(error, "reason", None) or error))
