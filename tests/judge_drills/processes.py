"""The servers of the drills as processes of their own: started, asked and ended from here."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
PYTHONPATH = os.pathsep.join((str(_TESTS), str(_TESTS.parent / "pytool")))


@dataclass(frozen=True)
class Running:
    """A server that listens at `url`."""

    url: str
    process: subprocess.Popen[str]

    def ask(self, path: str, document: Any = None) -> Any:
        """GET a path, or POST a document to it, and return the JSON that comes back."""
        data = None if document is None else json.dumps(document).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}{path}", data), timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def started(module: str, *arguments: str) -> Iterator[Running]:
    """Have `python -m judge_drills.MODULE ARGUMENTS` run: it tells its port first, and ends with its input."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"judge_drills.{module}", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"judge_drills.{module} ended with {process.wait()}")
        yield Running(f"http://127.0.0.1:{port}", process)
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
