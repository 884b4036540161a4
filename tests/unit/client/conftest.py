"""The server that the clients' tests ask, and a client that does not wait between its tries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from judge_answers import Server, serving
from judge_client import JudgeClient


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as told:
        yield told


@pytest.fixture
def client(server: Server) -> Iterator[JudgeClient]:
    with JudgeClient(server.url, "judge", max_retries=0) as judge:
        yield judge
