"""Serves a snapshot with vLLM on the CPU, asks it once, and prints the answer as one JSON object.

    python vllm_server.py SNAPSHOT
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from typing import Any

URL = "http://127.0.0.1:8000"
START_SECONDS = 1200


def ask(path: str, document: object = None) -> bytes:
    request = urllib.request.Request(URL + path, data=None if document is None else json.dumps(document).encode(),
                                     headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        content: bytes = answer.read()
    return content


def wait_for(server: subprocess.Popen[bytes]) -> None:
    """Wait until the server is ready. Raises RuntimeError if it ends, or takes too long."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            ask("/health")
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"vLLM did not come up (exit code {server.poll()})") from None
            time.sleep(0.5)


def main(snapshot: str) -> dict[str, Any]:
    # As the pod's command, and --enforce-eager for the CPU; what it prints goes to stderr.
    argv = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", snapshot, "--served-model-name", "judge",
            "--host", "127.0.0.1", "--port", "8000", "--dtype", "half", "--max-model-len", "2048", "--enforce-eager"]
    server = subprocess.Popen(argv, stdout=sys.stderr.fileno())
    try:
        wait_for(server)
        models = json.loads(ask("/v1/models"))
        answer = json.loads(ask("/v1/chat/completions", {
            "model": "judge", "temperature": 0, "max_tokens": 100,
            "messages": [{"role": "user", "content": "Rate this answer: Paris is the capital of France."}]}))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(300)
    (choice,) = answer["choices"]
    return {"root": models["data"][0]["root"], "text": choice["message"]["content"],
            "finish_reason": choice["finish_reason"]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
