"""Serving pods as `health` and `warmup` ask them: small HTTP servers with the gateway's routes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SCORES = dict.fromkeys(("accuracy", "relevance", "helpfulness", "safety", "pleasing", "overall"), 8)
VERDICT = json.dumps({"reasoning": "It is right.", "scores": SCORES})


@dataclass
class PodServer:
    """One pod. `routes`: path to (status, body as JSON or text), behind the key where the gateway wants one.

    `slow_seconds`: how long each answer takes; `asked`: method, path and Authorization of each request.
    """

    routes: dict[str, tuple[int, Any]] = field(default_factory=dict)
    key: str | None = None
    slow_seconds: float = 0.0
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    def answer(self, method: str, path: str, authorization: str | None) -> tuple[int, Any]:
        """Return status and body."""
        self.asked.append((method, path, authorization))
        time.sleep(self.slow_seconds)
        if self.key and not path.startswith("/health") and authorization != f"Bearer {self.key}":
            return 401, {"error": "no valid API key"}
        return self.routes.get(path, (404, {"error": "no such route"}))


def serving(name: str, commit: str, *, key: str | None = None, vouched: str | None = None,
            **ready: Any) -> PodServer:
    """Return a pod that serves this model well, with changes to what /health/ready says."""
    body = {"ready": True, "reason": None, "message": "", "served_name": name, "commit": vouched or commit,
            "golden": {"items": 1, "drift": 0.0, "worst": None}, "started_at": "2026-11-28T11:50:00+00:00",
            "ready_at": "2026-11-28T11:51:00+00:00", **ready}
    completion = {"object": "chat.completion", "model": name, "usage": {"completion_tokens": 40}, "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": VERDICT}}]}
    root = f"/models/models--org--judge/snapshots/{commit}"
    return PodServer({
        "/health": (200, ""), "/health/ready": (200 if body["ready"] else 503, body),
        "/v1/models": (200, {"data": [{"id": name, "root": root}]}), "/metrics": (200, "vllm:num_requests_running 3\n"),
        "/v1/chat/completions": (200, completion)}, key=key)


@contextmanager
def served(pod: PodServer) -> Iterator[str]:
    """Yield the base URL of a pod."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            pod.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer()

        def _answer(self) -> None:
            status, body = pod.answer(self.command, self.path, self.headers.get("Authorization"))
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", str(body))
            self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
