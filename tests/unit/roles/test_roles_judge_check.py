"""The last proof: the right model behind the Service, and a verdict; and the port that leads there."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from judge_bootstrap.adapters.judge_check import Endpoint, check, fetch_models, served_model
from judge_bootstrap.adapters.port_forward import relay
from judge_bootstrap.core.errors import BootstrapError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = f"/models/models--org--name/snapshots/{COMMIT}"
MODELS = {"data": [{"id": "judge", "root": ROOT}]}


def test_the_path_of_the_wanted_model_is_returned() -> None:
    assert served_model(MODELS, "judge", COMMIT) == ROOT


@pytest.mark.parametrize(("models", "message"), [
    ({"data": [{"id": "other", "root": ROOT}]}, "/v1/models serves other, wanted judge"),
    ({"data": []}, "/v1/models serves nothing, wanted judge"),
    ({"data": [{"id": "judge", "root": "/models/snapshots/" + "f" * 40}]}, f"wanted commit {COMMIT}"),
    ({"data": [{"id": "judge", "root": ROOT + "-old"}]}, f"wanted commit {COMMIT}"),
    ({"data": [{"id": "judge", "root": None}]}, f"wanted commit {COMMIT}"),
    ({"error": "x"}, "wanted a list of models"),
    ([], "wanted a list of models"),
    (None, "wanted a list of models"),
])
def test_any_other_model_or_commit_is_the_wrong_one(models: Any, message: str) -> None:
    with pytest.raises(BootstrapError, match=message) as caught:
        served_model(models, "judge", COMMIT)
    assert caught.value.reason == "WRONG_MODEL_SERVED"


class FakePods:
    def __init__(self, models: dict[str, Any]) -> None:
        self.models_of, self.judged, self.keys = models, list[str](), list[str | None]()

    @contextmanager
    def forward(self, endpoint: Endpoint) -> Iterator[str]:
        yield endpoint.pod

    def models(self, base_url: str, api_key: str | None) -> Any:
        self.keys.append(api_key)
        return self.models_of[base_url]

    def judge(self, base_url: str, model: str, api_key: str | None) -> Mapping[str, Any]:
        self.keys.append(api_key)
        self.judged.append(base_url)
        return {"status": "scored", "score": 7}

    def check(self, *names: str) -> Any:
        endpoints = [Endpoint(name, 8000) for name in names]
        return check(endpoints, "llm-judge", "judge-service", "judge", COMMIT, self.forward, self.models, self.judge,
                     api_key="key")


def test_every_pod_is_asked_for_its_model_and_one_for_a_verdict() -> None:
    pods = FakePods({"a": MODELS, "b": MODELS})
    found = pods.check("a", "b")
    assert (found.pods, found.verdict["score"], pods.judged) == (("a", "b"), 7, ["a"])
    assert pods.keys == ["key"] * 3


def test_one_pod_with_an_old_model_fails_and_is_named() -> None:
    pods = FakePods({"a": MODELS, "b": {"data": [{"id": "judge", "root": "/old"}]}})
    with pytest.raises(BootstrapError, match="pod b: judge is served from /old") as caught:
        pods.check("a", "b")
    assert (caught.value.reason, caught.value.hint) == ("WRONG_MODEL_SERVED", "judge-bootstrap run vllm_k8s verify")


def test_a_pod_that_does_not_answer_is_named_with_the_command_for_its_log() -> None:
    def refuse(base_url: str, api_key: str | None) -> Any:
        raise BootstrapError("/v1/models did not answer", reason="PROBE_FAILING")

    pods = FakePods({})
    with pytest.raises(BootstrapError, match="pod a: /v1/models did not answer") as caught:
        check([Endpoint("a", 8000)], "llm-judge", "judge-service", "judge", COMMIT, pods.forward, refuse, pods.judge)
    assert caught.value.hint == "kubectl -n llm-judge logs a"


def test_no_ready_pod_is_no_success() -> None:
    with pytest.raises(BootstrapError, match="no pod is ready behind llm-judge/judge-service") as caught:
        FakePods({}).check()
    assert caught.value.reason == "POD_PENDING"


def test_a_server_that_does_not_answer_is_probe_failing() -> None:
    with pytest.raises(BootstrapError, match="/v1/models did not answer") as caught:
        fetch_models("http://127.0.0.1:1")
    assert caught.value.reason == "PROBE_FAILING"


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        host, port = httpd.server_address[:2]
        yield str(host), port
        httpd.shutdown()
        thread.join()


def test_the_relay_carries_large_bodies_and_several_connections(server: tuple[str, int]) -> None:
    body = json.dumps(["x" * 1_000_000]).encode()
    opened: list[socket.socket] = []

    def open_stream() -> socket.socket:
        opened.append(socket.create_connection(server))
        return opened[-1]

    with relay(open_stream) as port:
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            for _ in range(2):  # keep-alive: one connection, one stream
                connection.request("POST", "/", body)
                assert connection.getresponse().read() == body
            connection.close()
    assert len(opened) == 3
    assert [stream.fileno() for stream in opened] == [-1, -1, -1], "every stream is closed at the end"


def test_a_stream_that_cannot_be_opened_ends_the_connection_instead_of_hanging() -> None:
    def refuse() -> socket.socket:
        raise ConnectionRefusedError

    with relay(refuse) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        assert connection.recv(1) == b""


def test_the_port_is_closed_when_the_block_ends(server: tuple[str, int]) -> None:
    with relay(lambda: socket.create_connection(server)) as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=30)
