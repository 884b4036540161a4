"""A small HTTP server that answers the judge's clients as told, and conversations that are held without any."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from threading import Barrier, Lock, Thread
from typing import Any

from judge_client.exchange import Answer, Failure, Pause, Request, Steps
from judge_client.verdict import Reason

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = f"/models/models--org--judge/snapshots/{COMMIT}"
SCORES = {"accuracy": 9, "relevance": 8, "helpfulness": 7, "safety": 10, "pleasing": 6, "overall": 8}
REPLY = {"reasoning": "The facts are right.", "scores": SCORES}
MODELS = ({"id": "judge", "root": ROOT}, {"id": "org/judge", "root": ROOT})


def completion(content: Any = None, finish_reason: Any = "stop", model: Any = "judge") -> dict[str, Any]:
    """Return a chat completion; `content` is a text, or what becomes one as JSON (default: REPLY)."""
    told = content if isinstance(content, str) else json.dumps(REPLY if content is None else content)
    message = {"role": "assistant", "content": told}
    return {"id": "x", "model": model, "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


def answer(document: Any, status: int = 200, **headers: str) -> Answer:
    """Return an answer with this document; names of headers with _ for -."""
    text = document if isinstance(document, str) else json.dumps(document)
    return Answer(status, text, {name.replace("_", "-"): value for name, value in headers.items()})


def models(*names_and_roots: tuple[str, str]) -> Answer:
    """Return the list of served models (default: MODELS)."""
    listed = [{"id": name, "root": root} for name, root in names_and_roots]
    return answer({"object": "list", "data": listed or list(MODELS)})


class Clock:
    """A clock that stands still, but for the pauses and answers of a conversation."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Talk:
    """A conversation held without a server: each POST takes the next of `answers`, each GET that of its path.

    `answers` are Answers, or Failures that are raised; the last one is given again and again. Each takes `seconds`.
    """

    def __init__(self, *answers: Answer | Failure, clock: Clock | None = None, seconds: float = 0.0,
                 gets: Mapping[str, Answer | Failure] | None = None) -> None:
        self._answers, self._clock, self._seconds = list(answers) or [answer(completion())], clock, seconds
        self.gets: dict[str, Answer | Failure] = {"/v1/models": models(), "/health": answer(""), **(gets or {})}
        self.requests: list[Request] = []
        self.pauses: list[float] = []

    @property
    def bodies(self) -> list[Mapping[str, Any]]:
        """What was asked of the judge."""
        return [one.body for one in self.requests if one.body is not None]

    def hold(self, steps: Steps[Any]) -> Any:
        """Hold the conversation to its end."""
        told: Answer | None = None
        failure: Failure | None = None
        try:
            while True:
                step = steps.throw(failure) if failure else steps.send(told)
                told = failure = None
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    self._pass(step.seconds)
                    continue
                self.requests.append(step)
                self._pass(min(self._seconds, step.timeout_seconds))
                if self._seconds > step.timeout_seconds:
                    failure = Failure(Reason.SERVER_TIMEOUT, "no answer")
                    continue
                found = self.gets[step.path] if step.method == "GET" else self._next()
                told, failure = (None, found) if isinstance(found, Failure) else (found, None)
        except StopIteration as ended:
            return ended.value

    def _next(self) -> Answer | Failure:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def _pass(self, seconds: float) -> None:
        if self._clock is not None:
            self._clock.now += seconds


class Server:
    """What the test's server answers, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.models: list[dict[str, Any]] = [dict(one) for one in MODELS]
        self.models_status = 200
        self.health_status = 200
        self.status = 200
        self.content: str | None = json.dumps(REPLY)
        self.finish_reason = "stop"
        self.answered_by = "judge"
        self.raw: bytes | None = None
        self.headers: dict[str, str] = {}
        self.delay_seconds = 0.0
        # Completions wait here until so many are asked for at the same time.
        self.gate: Barrier | None = None
        # Writes a whole answer to a completion by itself, headers included; the connection is closed after it.
        self.write: Callable[[Any], None] | None = None
        self.asked: list[tuple[str, str | None, Any]] = []
        self.asked_headers: list[dict[str, str]] = []
        self.connections = 0
        self._lock = Lock()

    @property
    def completions(self) -> list[Any]:
        """The bodies of the completions that were asked for."""
        return [body for path, _, body in self.asked if path == "/v1/chat/completions"]

    def note(self, path: str, headers: Any, body: bytes) -> None:
        with self._lock:
            self.asked.append((path, headers.get("Authorization"), json.loads(body) if body else None))
            self.asked_headers.append({name.lower(): value for name, value in headers.items()})

    def connected(self) -> None:
        with self._lock:
            self.connections += 1

    def answer(self, path: str) -> tuple[int, bytes]:
        if path == "/health":
            return self.health_status, b""
        if path == "/v1/models":
            return self.models_status, json.dumps({"object": "list", "data": self.models}).encode()
        if path != "/v1/chat/completions":
            return 404, b'{"detail":"Not Found"}'
        if self.raw is not None:
            return self.status, self.raw
        if self.status != 200:
            return self.status, json.dumps({"error": {"message": f"told {self.status}", "code": self.status}}).encode()
        message = {"role": "assistant", "content": self.content}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return 200, json.dumps({"id": "x", "model": self.answered_by, "choices": [choice]}).encode()


@contextmanager
def serving(tls: SSLContext | None = None) -> Iterator[Server]:
    """Run the server for a while, with https where `tls` is given."""
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            told.connected()
            super().setup()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            told.note(self.path, self.headers, body)
            time.sleep(told.delay_seconds)
            if told.gate is not None and self.command == "POST":
                told.gate.wait()
            if told.write is not None and self.command == "POST":
                self.close_connection = True
                try:
                    told.write(self.wfile)
                except OSError:
                    return  # the client has gone, which is what some tests are about
                return
            status, content = told.answer(self.path)
            self.send_response(status)
            headers = {"Content-Type": "application/json", **(told.headers if self.command == "POST" else {})}
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    told.url = f"http{'' if tls is None else 's'}://127.0.0.1:{http.server_port}"
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def contents(bodies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the user's message of each request."""
    return [body["messages"][1]["content"] for body in bodies]
