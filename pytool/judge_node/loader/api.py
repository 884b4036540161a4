"""The API server as a pod reaches it: a few calls, each tried again while that can help, and not for ever.

Only the standard library is at hand on a node, and three kinds of call do not need a client library.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..result import NodeError, foreign

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MERGE_PATCH = "application/merge-patch+json"
_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 16 << 20
# Answers that may be another one a moment later. 500 too: etcd's "too many requests" and a lost leader come as that.
_PASSING = (429, 500, 502, 503, 504)


class ApiError(Exception):
    """The API server refused, or did not answer in time. `status` is HTTP's; 0: there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Api:
    """One API server. The token is read anew for each attempt: kubelet renews it in its file."""

    host: str
    port: int
    token_file: Path
    ca_file: Path
    # An API server that is being replaced is away for about so long.
    deadline_seconds: float = 30.0
    first_wait_seconds: float = 0.5
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    _context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def in_cluster(cls) -> Api:
        """Return the one that kubelet tells every pod of. Raises NodeError outside a pod."""
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "")
        found = cls(host, int(port) if port.isdigit() else 443, ACCOUNT_FOLDER / "token", ACCOUNT_FOLDER / "ca.crt")
        if not host or not found.token_file.is_file():
            raise NodeError(
                "found no API server (KUBERNETES_SERVICE_HOST) or no service account's token: this is no pod with one",
                repair="judge-node cache sync MANIFEST --store PATH   # on the node itself",
            )
        return found

    def node(self, name: str) -> dict[str, Any]:
        """Return the Node. Raises ApiError."""
        return self._call("GET", f"/api/v1/nodes/{name}")

    def patch_node(self, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Merge `patch` into the Node and return it; repeated, it changes nothing more. Raises ApiError."""
        return self._call("PATCH", f"/api/v1/nodes/{name}?fieldManager=judge-bootstrap", patch, MERGE_PATCH)

    def create_event(self, namespace: str, event: Mapping[str, Any]) -> None:
        """Create the event; it has a name, so an attempt without an answer makes no second one. Raises ApiError."""
        try:
            self._call("POST", f"/api/v1/namespaces/{namespace}/events", event)
        except ApiError as error:
            if error.status != 409:
                raise

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = "application/json"
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        deadline, wait = time.monotonic() + self.deadline_seconds, self.first_wait_seconds
        while True:
            asked: float | None = None
            try:
                status, retry_after, text = self._ask(method, path, data, kind)
            except (OSError, http.client.HTTPException, ssl.SSLError, ValueError) as error:
                failure = ApiError(0, f"{method} {path.partition('?')[0]}: {foreign(error) or type(error).__name__}")
            else:
                if 200 <= status < 300:
                    return _object(text)
                failure = ApiError(status, f"{method} {path.partition('?')[0]}: {status} {_why(text)}")
                if status not in _PASSING:
                    raise failure
                if retry_after is not None and retry_after.strip().isdigit():
                    asked = float(retry_after)
            # Jitter: all nodes' loaders lose the same API server at the same moment.
            seconds = asked if asked is not None else wait * (0.5 + self.random() / 2)
            if time.monotonic() + seconds >= deadline:
                raise failure from None
            self.sleep(seconds)
            wait = min(wait * 2, 8.0)

    def _ask(self, method: str, path: str, data: bytes | None, kind: str) -> tuple[int, str | None, bytes]:
        if self._context is None:
            self._context = ssl.create_default_context(cafile=str(self.ca_file))
        token = self.token_file.read_text(encoding="ascii").strip()
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/json",
            "User-Agent": f"judge-node/{__version__} loader",
        }
        if data is not None:
            headers["Content-Type"] = kind
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=_TIMEOUT_SECONDS, context=self._context
        )
        with contextlib.closing(connection):
            connection.request(method, path, body=data, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers.get("Retry-After"), response.read(_MOST_BYTES)


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ApiError(0, "the API server answered with something that is no object")
    return found


def _why(text: bytes) -> str:
    """Return what the API server says of a refusal: the message of its Status object."""
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if isinstance(said, dict) and "message" in said:
        return foreign(said["message"], 300)
    return foreign(text.decode("utf-8", "replace"))
