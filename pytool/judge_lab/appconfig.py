"""A stand-in for AWS AppConfig's data plane (`appconfigdata`), built from its documented protocol.

    python -m judge_lab.appconfig --port 5001 --document FILE \\
        --application judge-bootstrap --environment local --profile judge-inference

The document is read at each poll, so whoever changes FILE deploys a new version. A file FILE.fault beside it holds one
word and breaks the service as that word says (see FAULTS) until it is removed. If FILE does not exist, the lab's
default is written there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from judge_lab.stand_in import Handler, StandIn, wait_for_end

DEFAULT_DOCUMENT: Final = Path(__file__).parent / "appconfig.json"

FAULTS: Final = {
    "down": "closes each connection without an answer",
    "denied": "answers 403 AccessDeniedException",
    "throttled": "answers 429 ThrottlingException",
    "slow": "answers after 30 seconds",
    "empty": "answers without a document, as if nothing had changed",
    "invalid": "answers a document that is cut in the middle",
}

_SLOW_SECONDS = 30.0
_POLL_SECONDS = 60
_TOKEN_SECONDS = 24 * 3600
_NAMES = {
    "Application": "ApplicationIdentifier",
    "Environment": "EnvironmentIdentifier",
    "ConfigurationProfile": "ConfigurationProfileIdentifier",
}


def default_document() -> dict[str, Any]:
    """Return the settings that the lab's AppConfig deploys when nobody says otherwise."""
    document: dict[str, Any] = json.loads(DEFAULT_DOCUMENT.read_text())
    return document


@dataclass(frozen=True)
class Session:
    """What a poll token stands for: the version its session has got, and when it may poll again."""

    seen: str | None
    poll_seconds: int | None
    created: float


@dataclass
class _State:
    """What all requests share."""

    document: Path
    names: Mapping[str, str]
    slow_seconds: float
    sessions: dict[str, Session] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self) -> str | None:
        try:
            return self.document.with_name(f"{self.document.name}.fault").read_text().strip() or None
        except FileNotFoundError:
            return None

    def open(self, session: Session) -> str:
        token = secrets.token_urlsafe(24)
        with self.lock:
            self.sessions[token] = session
        return token

    def close(self, token: str) -> Session | None:
        """Take the session of a token, which is good for one poll."""
        with self.lock:
            return self.sessions.pop(token, None)


class _AppConfigHandler(Handler):
    """The two operations. AppConfigServer makes a subclass with its state."""

    state: _State

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._broken():
            return
        if urlsplit(self.path).path != "/configurationsessions":
            self._refuse(404, "ResourceNotFoundException", f"no operation POST {self.path}")
            return
        try:
            asked = json.loads(body)
            poll_seconds = asked.get("RequiredMinimumPollIntervalInSeconds")
        except (ValueError, AttributeError):
            self._refuse(400, "BadRequestException", "the request is not a JSON object")
            return
        for kind, member in _NAMES.items():
            if asked.get(member) != self.state.names[kind]:
                self._refuse(
                    404,
                    "ResourceNotFoundException",
                    f"{kind} {asked.get(member)} could not be found",
                    ResourceType=kind,
                )
                return
        token = self.state.open(Session(None, poll_seconds, time.monotonic()))
        self.answer_json(201, {"InitialConfigurationToken": token})

    def do_GET(self) -> None:
        if self._broken():
            return
        url = urlsplit(self.path)
        if url.path != "/configuration":
            self._refuse(404, "ResourceNotFoundException", f"no operation GET {url.path}")
            return
        token = parse_qs(url.query).get("configuration_token", [""])[0]
        session = self.state.close(token)
        if session is None or time.monotonic() - session.created > _TOKEN_SECONDS:
            self._bad_token("Corrupted" if session is None else "Expired")
            return
        early = session.seen is not None and time.monotonic() - session.created < (session.poll_seconds or 0)
        if early:
            self._bad_token("PollIntervalNotSatisfied")
            return
        try:
            content = self.state.document.read_bytes()
        except FileNotFoundError:
            self._refuse(404, "ResourceNotFoundException", "no configuration is deployed", ResourceType="Deployment")
            return
        fault = self.state.fault()
        if fault == "invalid":
            content = content[: len(content) // 2]
        version = hashlib.sha256(content).hexdigest()[:12]
        changed = version != session.seen and fault != "empty"
        following = Session(version if changed else session.seen, session.poll_seconds, time.monotonic())
        headers = {
            "Next-Poll-Configuration-Token": self.state.open(following),
            "Next-Poll-Interval-In-Seconds": str(session.poll_seconds or _POLL_SECONDS),
            "Content-Type": "application/json",
        }
        # A label belongs to a document: a session that has it already gets neither.
        self.answer(200, content if changed else b"", headers | ({"Version-Label": version} if changed else {}))

    def _broken(self) -> bool:
        """Answer as the fault in force says, and return whether the request is over with that."""
        fault = self.state.fault()
        if fault == "down":
            self.hang_up()
        elif fault == "denied":
            self._refuse(403, "AccessDeniedException", "User is not authorized to perform this operation")
        elif fault == "throttled":
            self._refuse(429, "ThrottlingException", "Rate exceeded")
        elif fault == "slow":
            time.sleep(self.state.slow_seconds)
            return False
        elif fault is not None and fault not in FAULTS:
            self._refuse(500, "InternalServerException", f"unknown fault {fault!r}: one of {', '.join(FAULTS)}")
        else:
            return False
        return True

    def _bad_token(self, problem: str) -> None:
        self._refuse(
            400,
            "BadRequestException",
            f"ConfigurationToken is not valid: {problem}",
            Reason="InvalidParameters",
            Details={"InvalidParameters": {"ConfigurationToken": {"Problem": problem}}},
        )

    def _refuse(self, status: int, error: str, message: str, **members: object) -> None:
        self.answer_json(status, {"Message": message, **members}, {"x-amzn-ErrorType": error})


class AppConfigServer(StandIn):
    """The stand-in in a thread of this process; a context manager. `slow_seconds` is what the fault `slow` waits."""

    def __init__(
        self,
        document: Path,
        *,
        application: str = "judge-bootstrap",
        environment: str = "local",
        profile: str = "judge-inference",
        host: str = "127.0.0.1",
        port: int = 0,
        slow_seconds: float = _SLOW_SECONDS,
    ) -> None:
        names = dict(zip(_NAMES, (application, environment, profile), strict=True))
        state = _State(document, names, slow_seconds)
        super().__init__(type("AppConfigHandler", (_AppConfigHandler,), {"state": state}), host, port)


def main(argv: list[str] | None = None) -> int:
    """Serve until TERM or INT."""
    parser = argparse.ArgumentParser(prog="python -m judge_lab.appconfig", description="A stand-in for AWS AppConfig.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5001, help="0 takes any free port")
    parser.add_argument("--document", type=Path, required=True, metavar="FILE", help="read at each poll")
    parser.add_argument("--application", default="judge-bootstrap")
    parser.add_argument("--environment", default="local")
    parser.add_argument("--profile", default="judge-inference")
    options = parser.parse_args(argv)
    if not options.document.exists():
        options.document.write_bytes(DEFAULT_DOCUMENT.read_bytes())
    server = AppConfigServer(
        options.document,
        application=options.application,
        environment=options.environment,
        profile=options.profile,
        host=options.host,
        port=options.port,
    )
    with server:
        wait_for_end(f"AppConfig stand-in ready at {server.url}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
