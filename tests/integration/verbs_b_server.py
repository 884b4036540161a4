"""A serving pod for the tests of health, warmup and logs: the gateway's routes, without a model. Runs in the pod.

Arguments: the model's path and `--served-model-name NAME`, as vLLM has them. POST /test with a JSON object changes what
it says: `ready` (body of /health/ready), `exit` (end with this status).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PATH, NAME = sys.argv[1], sys.argv[3]
COMMIT = PATH.rpartition("/")[2]
KEY = Path("/etc/judge-api-key/api-key").read_text().strip()
READY: dict[str, Any] = {"ready": True, "reason": None, "message": "", "served_name": NAME, "commit": COMMIT,
                         "golden": {"items": 1, "drift": 0.5, "worst": "q1"}}
SCORES = dict.fromkeys(("accuracy", "relevance", "helpfulness", "safety", "pleasing", "overall"), 8)
METRICS = 'vllm:num_requests_running{engine="0"} 2.0\nvllm:kv_cache_usage_perc{engine="0"} 0.25\n'
state: dict[str, Any] = {"ready": READY, "requests": 0}


def say(text: str) -> None:
    """Write one line at once."""
    print(text, flush=True)


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    def do_GET(self) -> None:
        """Answer health, models and metrics."""
        if self.path == "/health":
            self.reply(200, "")
        elif self.path == "/health/ready":
            self.reply(200 if state["ready"]["ready"] else 503, state["ready"])
        elif self.headers.get("Authorization") != f"Bearer {KEY}":
            self.reply(401, {"error": "no valid API key"})
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": NAME, "root": PATH, "object": "model"}]})
        elif self.path == "/metrics":
            self.reply(200, METRICS)
        else:
            self.reply(404, {"error": "no such route"})

    def do_POST(self) -> None:
        """Judge, or do what a test asks for."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/test":
            self.reply(200, {})
            state["ready"] = {**state["ready"], **body.get("ready", {})}
            if "exit" in body:
                say("last words")
                os._exit(body["exit"])
        elif self.headers.get("Authorization") != f"Bearer {KEY}":
            self.reply(401, {"error": "no valid API key"})
        else:
            # Graphs are compiled by the first requests, for much longer than a busy machine takes for the others, which
            # are alike.
            time.sleep(2 if state["requests"] < 3 else 0.1)
            state["requests"] += 1
            content = json.dumps({"reasoning": "It is right.", "scores": SCORES})
            usage = {"completion_tokens": 40}
            self.reply(200, {"object": "chat.completion", "model": NAME, "usage": usage, "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}]})

    def reply(self, status: int, body: Any) -> None:
        """Send an answer."""
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the lines are counted."""


def count() -> None:
    """Write a numbered line twenty times a second, some of them alike but for the number."""
    number = 0
    while True:
        say(f"line {number}")
        number += 1
        time.sleep(0.05)


say(f"the key is {KEY}")
say("\x1b[31mred\x1b[0m \x1b[2Jcleared")
threading.Thread(target=count, daemon=True).start()
ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
