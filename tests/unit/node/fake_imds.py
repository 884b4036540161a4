"""Stand-ins for what gives a node its role, of the documented protocols: IMDSv2, and the agent of EKS Pod Identity.

They hold to what AWS's user guides say and its own SDK (botocore) reads: see test_node_aws_role.py.
"""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from judge_lab.stand_in import Handler, StandIn

KEY_ID, SECRET_KEY, SESSION_TOKEN = "ASIAPLANTEDKEYID0001", "planted/Secret+Key/4711", "planted//Session+Token==4711"
AGENT_TOKEN = "planted.pod-identity.jwt"
ROLE = "judge-node-role"
_TOKEN_PATH = "/latest/api/token"
_ROLES = "/latest/meta-data/iam/security-credentials/"


def credentials(**other: Any) -> dict[str, Any]:
    """What the services answer, in the instance's form."""
    until = datetime.now(UTC) + timedelta(hours=6)
    return {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET_KEY,
            "Token": SESSION_TOKEN, "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"), **other}


@dataclass
class FakeImds:
    """The state of the metadata service; change it while it serves."""

    url: str = ""
    role: str | None = ROLE
    document: Any = field(default_factory=credentials)
    region: str = "eu-central-1"
    enabled: bool = True
    hop_limit_too_low: bool = False
    busy_times: int = 0
    # {session token: how many requests it is still good for}
    tokens: dict[str, int] = field(default_factory=dict)
    token_uses: int = 1000
    requests: list[tuple[str, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def imds() -> Iterator[FakeImds]:
    """Serve one metadata service."""
    state = FakeImds()

    class Service(Handler):
        def do_PUT(self) -> None:
            state.requests.append(("PUT", self.path))
            if state.hop_limit_too_low:
                state.ended.wait(10)  # the packets of the answer do not arrive
                return self.hang_up()
            if not state.enabled:
                return self.answer(403)
            if state.busy_times:
                state.busy_times -= 1
                return self.answer(503)
            ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            # A request that came through a proxy is refused, as the service does.
            if "X-Forwarded-For" in self.headers:
                return self.answer(403)
            if self.path != _TOKEN_PATH or not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
                return self.answer(400)
            token = f"imds-token-{len(state.tokens)}=="
            state.tokens[token] = state.token_uses
            return self.answer(200, token.encode(), {"X-aws-ec2-metadata-token-ttl-seconds": ttl})

        def do_GET(self) -> None:
            state.requests.append(("GET", self.path))
            token = self.headers.get("X-aws-ec2-metadata-token", "")
            if state.tokens.get(token, 0) <= 0:
                return self.answer(401)
            state.tokens[token] -= 1
            if self.path == "/latest/meta-data/placement/region":
                return self.answer(200, state.region.encode())
            if self.path == _ROLES and state.role:
                return self.answer(200, state.role.encode())
            if state.role and self.path == _ROLES + urllib.parse.quote(state.role):
                body = state.document if isinstance(state.document, str) else json.dumps(state.document)
                return self.answer(200, body.encode())
            return self.answer(404)

    with StandIn(Service) as server:
        state.url = server.url
        try:
            yield state
        finally:
            state.ended.set()


@dataclass
class FakeAgent:
    """The agent that gives a container its credentials."""

    url: str = ""
    busy_times: int = 0
    asked_with: list[str | None] = field(default_factory=list)


@contextlib.contextmanager
def agent() -> Iterator[FakeAgent]:
    """Serve one agent; it wants AGENT_TOKEN as kubelet would have projected it."""
    state = FakeAgent()

    class Service(Handler):
        def do_GET(self) -> None:
            state.asked_with.append(self.headers.get("Authorization"))
            if state.busy_times:
                state.busy_times -= 1
                return self.answer(500)
            if self.path != "/v1/credentials":
                return self.answer(404)
            if self.headers.get("Authorization") != AGENT_TOKEN:
                return self.answer(400, b"AccessDeniedException")
            return self.answer_json(200, {**credentials(), "AccountId": "123456789012"})

    with StandIn(Service) as server:
        state.url = server.url + "/v1/credentials"
        yield state
