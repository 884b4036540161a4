"""The gateway inside a real vLLM: what an attacker reaches, what a client gets, and when the server calls itself ready.

One server on the CPU, started as the pod starts it: the class comes from judge-node.pyz, the model lies in a folder of
its commit. gateway_switch.py lets one server stand behind several gateways, each with golden answers of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gateway_routes
import pytest
from cluster_desks import shipped_variables
from fakes_cli import Desk
from gateway_routes import raw, read_answer, status_of, websocket
from judge_bootstrap.core.golden import BUILT_IN, gateway_config, golden_items, request_of
from judge_client import JudgeClient, Status
from judge_drills import vllm
from judge_lab import runtime
from judge_lab.hub import TINY_JUDGE

COMMIT, NAME = vllm.COMMIT, vllm.MODEL
LIMIT = 20_000
READY_SECONDS = 600
ITEMS = BUILT_IN[:3]


@dataclass
class Server:
    """vLLM behind its gateways. `folder` is where the configurations lie, and the key file."""

    folder: Path
    port: int
    key: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def headers(self, **more: str) -> dict[str, str]:
        """Return the headers of a client that has the key."""
        return {"Authorization": f"Bearer {self.key}", **more}

    def ask(self, method: str, path: str, body: bytes | None = None, *, key: bool = True, gateway: str = "main"
            ) -> tuple[int, Any]:
        """Return status and body (its JSON, where it is JSON)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"x-gateway": gateway, "Content-Type": "application/json", **(self.headers() if key else {})}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        try:
            return answer.status, json.loads(content)
        except ValueError:
            return answer.status, content.decode()

    def configure(self, name: str, accepted: Mapping[str, Mapping[str, int] | None], **changes: Any) -> None:
        """Write the configuration of another gateway: `accepted` scores by item."""
        configure(self.folder, name, accepted, **changes)

    def report(self, gateway: str, want: Callable[[dict[str, Any]], bool]) -> tuple[int, dict[str, Any]]:
        """Ask for readiness until the report is as wanted; return the last one, wanted or not."""
        until = time.monotonic() + READY_SECONDS
        while True:
            status, report = self.ask("GET", "/health/ready", key=False, gateway=gateway)
            if want(report) or time.monotonic() > until:
                return status, report
            time.sleep(0.3)

    def tree(self) -> list[int]:
        """Return the pids of the server's processes."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found += parents.get(pid, [])
        return found


def has_ended(report: Mapping[str, Any]) -> bool:
    """Whether a report says why it is not ready, and not only that a busy engine has not answered for a moment."""
    return report["reason"] not in (None, "PROBE_FAILING")


def configure(folder: Path, name: str, accepted: Mapping[str, Mapping[str, int] | None], **changes: Any) -> None:
    items = [{"id": one.id, "request": request_of(one, NAME), "accepted": accepted[one.id]}
             for one in ITEMS if one.id in accepted]
    values = {"served_name": NAME, "commit": COMMIT, "manifest_digest": "sha256:d", "repo_id": TINY_JUDGE,
              "image": "vllm:1", "api_key_file": str(folder / "api-key"), "max_body_bytes": LIMIT, "tolerance": 1.0,
              "items": items}
    (folder / f"{name}.json").write_text(json.dumps(gateway_config(**{**values, **changes})))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if missing := vllm.available():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("gateway")
    shutil.copy(Path(__file__).with_name("gateway_switch.py"), folder)
    key = secrets.token_urlsafe(32)
    (folder / "api-key").write_text(key)
    configure(folder, "main", {ITEMS[0].id: None})
    with vllm.launched(folder, "gateway_switch.Switch") as (port, process):
        started = Server(folder, port, key, process)
        until = time.monotonic() + vllm.START_SECONDS
        while True:
            try:
                if started.ask("GET", "/health", key=False)[0] == 200:
                    break
            except OSError:
                pass
            if started.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"vLLM did not come up (exit code {started.process.poll()}): {started.log[-3000:]}")
            time.sleep(0.5)
        yield started


@pytest.fixture(scope="module")
def scores(server: Server) -> dict[str, dict[str, int]]:
    """What this judge says to the golden questions, asked by the client through the gateway."""
    found = {}
    with JudgeClient(server.url, NAME, server.key, timeout_seconds=180) as judge:
        for item in ITEMS:
            verdict = judge.judge(item.question, item.answer)
            assert verdict.status is Status.SCORED, verdict
            found[item.id] = verdict.categories
    return found


# --- who gets in ------------------------------------------------------------------------------------------------------


def test_no_route_of_the_server_answers_without_the_key_but_health(server: Server) -> None:
    """Every route that this very server listed at its start, with every method, in twenty spellings."""
    routes = gateway_routes.routes(server.log)
    assert {"/v1/chat/completions", "/v1/completions", "/tokenize", "/invocations", "/docs", "/openapi.json",
            "/metrics"} <= set(routes)
    requests = gateway_routes.requests_of(routes)
    answers = list(gateway_routes.probe(server.url, requests))
    closed = [one for one in answers if not gateway_routes.is_open(one.method, one.path)]
    assert [one for one in closed if one.status not in (401, 404)] == []
    assert len(answers) > 1000
    with_another_key = gateway_routes.probe(server.url, requests, {"Authorization": "Bearer " + "x" * len(server.key)})
    assert {one.status for one in with_another_key if not gateway_routes.is_open(one.method, one.path)} == {401}


def test_with_the_key_four_routes_answer_and_no_more(server: Server) -> None:
    routes = {**gateway_routes.routes(server.log), "/judge/provenance": ("GET",), "/health/ready": ("GET",)}
    answers = gateway_routes.probe(server.url, gateway_routes.requests_of(routes, odd=False), server.headers())
    assert {(one.method, one.path) for one in answers if one.status != 404} == (
        gateway_routes.OPEN | gateway_routes.KEYED)


def test_no_websocket_opens_with_or_without_the_key(server: Server) -> None:
    for path in (*gateway_routes.routes(server.log), "/v1/realtime"):
        assert {websocket(server.url, path), websocket(server.url, path, server.headers())} == {403}, path


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("lines", [
    ["GET /v1/models HTTP/1.1", "Host: x/health?"],
    ["GET /v1/models HTTP/1.1", "Host: x", "Host: y"],
    ["GET /v1/models HTTP/1.0"],
    ["GET http://x/v1/models HTTP/1.1", "Host: x"],
    ["GET http://x/health/../v1/models HTTP/1.1", "Host: x"],
    ["GET /health/../v1/models HTTP/1.1", "Host: x"],
    ["GET /health%0d%0aHost:%20x/v1/models HTTP/1.1", "Host: x"],
    ["GET /health/ready;/../../v1/models HTTP/1.1", "Host: x"],
    ["GET \\v1\\models HTTP/1.1", "Host: x"],
    ["GET /v1/models\t HTTP/1.1", "Host: x"],
    ["OPTIONS * HTTP/1.1", "Host: x"],
    ["CONNECT x:80 HTTP/1.1", "Host: x"],
    ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Length: 0", "X-HTTP-Method-Override: GET"],
    ["GET /v1/models HTTP/1.1", "Host: x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: A"],
    ["PRI * HTTP/2.0"],
    ["GET /v1/models HTTP/1.1", "Host: x", "Authorization: Bearer KEY", "Authorization: Bearer KEY"],
    ["GET /v1/models HTTP/1.1", "Host: x", "Authorization: Bearer wrong", " Bearer KEY"],
    ["GET /v1/models HTTP/1.1", "Host: x", "Authorization : Bearer KEY"],
    ["GET /v1/models HTTP/1.1", "Host: x", "Authorization_: Bearer KEY"],
    ["GET /v1/models HTTP/1.1", "Host: x", "X-Api-Key: KEY", "Cookie: api_key=KEY"],
])
def test_a_request_that_is_written_oddly_gets_no_answer(server: Server, lines: list[str]) -> None:
    answer = raw(server.url, head(*(line.replace("KEY", server.key) for line in lines), "Connection: close"))
    assert status_of(answer) in (0, 400, 401, 404), answer[:300]
    assert b"judge" not in answer.partition(b"\r\n\r\n")[2].replace(b"this judge has no such route", b"")


@pytest.mark.parametrize("lines", [
    ["Content-Length: 4", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Content-Length: 4"],
    ["Transfer-Encoding: xchunked"],
    ["Transfer-Encoding: chunked, identity"],
    ["Content-Length: 4", "Content-Length: 5"],
    ["Content-Length: +4"],
    ["Content-Length: 4 5"],
    ["Content-Length: -1"],
])
def test_no_second_request_hides_in_the_body_of_a_first_one(server: Server, lines: list[str]) -> None:
    """Of two lengths a proxy may believe the other one; what follows would be a request that it never checked."""
    hidden = head("GET /metrics HTTP/1.1", "Host: x", "Connection: close")
    answer = raw(server.url, head("POST /v1/completions HTTP/1.1", "Host: x", *lines) + b"0\r\n\r\n" + hidden)
    found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]
    assert set(found) <= {400, 401, 404}, answer[:300]


def test_a_second_request_on_the_same_connection_needs_the_key_too(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(head("GET /v1/models HTTP/1.1", "Host: x", f"Authorization: Bearer {server.key}"))
        assert status_of(read_answer(connection)) == 200
        connection.sendall(head("GET /v1/models HTTP/1.1", "Host: x"))
        assert status_of(read_answer(connection)) == 401


# --- bodies -----------------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_with_and_without_a_length(server: Server) -> None:
    assert server.ask("POST", "/v1/chat/completions", b"x" * (LIMIT + 1))[0] == 413
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    begun = head("POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {server.key}",
                 "Transfer-Encoding: chunked")
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(begun)
        for _ in range(LIMIT // 4096 + 1):
            connection.sendall(chunk)
        # It never ends, and is answered all the same.
        assert status_of(read_answer(connection)) == 413


def test_a_body_of_the_allowed_size_is_judged(server: Server) -> None:
    body = json.dumps({"model": NAME, "max_tokens": 2, "messages": [{"role": "user", "content": "Rate this: Paris."}]})
    status, answer = server.ask("POST", "/v1/chat/completions", body.ljust(LIMIT).encode())
    assert (status, answer["model"]) == (200, NAME)


def test_who_waits_for_permission_to_send_too_much_never_gets_it(server: Server) -> None:
    asked = head("POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {server.key}",
                 f"Content-Length: {LIMIT + 1}", "Expect: 100-continue")
    assert status_of(raw(server.url, asked)) == 413
    assert status_of(raw(server.url, asked.replace(server.key.encode(), b"wrong"))) == 401


# --- clients ----------------------------------------------------------------------------------------------------------


def test_the_judge_answers_its_clients(server: Server, scores: dict[str, dict[str, int]]) -> None:
    assert set(scores) == {item.id for item in ITEMS}
    assert server.ask("GET", "/judge/provenance") == (200, {
        "repo_id": TINY_JUDGE, "commit": COMMIT, "manifest_digest": "sha256:d", "served_name": NAME, "image": "vllm:1"})


def test_metrics_answer_the_key(server: Server) -> None:
    status, text = server.ask("GET", "/metrics")
    assert (status, "vllm:num_requests_running" in text) == (200, True)


def test_a_streamed_answer_comes_in_pieces(server: Server) -> None:
    body = json.dumps({"model": NAME, "stream": True, "max_tokens": 20, "temperature": 0, "ignore_eos": True,
                       "messages": [{"role": "user", "content": "Rate this answer."}]}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", body, server.headers(**{"Content-Type": "application/json"}))
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Type")) == (200, "text/event-stream; charset=utf-8")
    events = [line for line in answer.read().splitlines() if line.startswith(b"data: ")]
    connection.close()
    assert len(events) > 10
    assert events[-1] == b"data: [DONE]"


def metric(server: Server, name: str) -> float:
    """Return the value of one of vLLM's metrics, which has a single line."""
    _, text = server.ask("GET", "/metrics")
    found = re.search(rf"^vllm:{name}\{{.*\}} (\S+)$", text, re.MULTILINE)
    assert found, text[:2000]
    return float(found[1])


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_who_goes_away_is_computed_for_no_longer(server: Server, stream: bool) -> None:
    tokens = 7000
    before = metric(server, "generation_tokens_total")
    body = json.dumps({"model": NAME, "stream": stream, "max_tokens": tokens, "ignore_eos": True,
                       "messages": [{"role": "user", "content": "Rate this answer."}]}).encode()
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(head(
            "POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {server.key}",
            "Content-Type: application/json", f"Content-Length: {len(body)}") + body)
        wait_until(lambda: metric(server, "num_requests_running") == 1)
    wait_until(lambda: metric(server, "num_requests_running") == 0)
    assert metric(server, "generation_tokens_total") - before < tokens


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + READY_SECONDS
    while not true():
        assert time.monotonic() < until, "not so after a long time"
        time.sleep(0.05)


def test_the_key_stands_in_no_log(server: Server) -> None:
    assert server.key not in server.log


def test_every_listening_socket_is_this_machine_s_own_but_the_port(server: Server) -> None:
    """The port listens on the address that --host names, here a loopback one; nothing else may listen on any other."""
    inodes = set()
    for pid in server.tree():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
            except OSError:
                continue
            if found:
                inodes.add(found[1])
    listening = []
    for table, size in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                assert len(address) == size
                listening.append((address, int(port, 16)))
    assert ("0100007F", server.port) in listening
    assert [one for one in listening if one[0] not in ("0100007F", "0" * 24 + "01000000")] == []


# --- readiness --------------------------------------------------------------------------------------------------------


def test_it_becomes_ready_with_a_valid_verdict_where_none_was_accepted(server: Server) -> None:
    status, report = server.report("main", lambda report: report["ready"])
    assert (status, report["reason"], report["commit"]) == (200, None, COMMIT)
    assert report["golden"] == {"items": 1, "drift": None, "worst": None}


def test_the_gateway_asks_what_the_client_asks_and_gets_the_same_scores(
        server: Server, scores: dict[str, dict[str, int]]) -> None:
    server.configure("accepted", scores)
    status, report = server.report("accepted", lambda report: report["ready"])
    assert (status, report["golden"]["items"], report["golden"]["drift"]) == (200, 3, 0.0)


def test_scores_far_from_those_accepted_are_never_ready(server: Server, scores: dict[str, dict[str, int]]) -> None:
    far = {one: {name: score + 4 if score <= 5 else score - 4 for name, score in of.items()}
           for one, of in scores.items()}
    server.configure("drifted", far)
    status, report = server.report("drifted", has_ended)
    assert (status, report["ready"], report["reason"], report["golden"]["drift"]) == (503, False, "GOLDEN_DRIFT", 4.0)
    # Nor is it asked again: what a judge says on a second try is no news.
    verdicts = server.log.count("judge-gateway: ready")
    time.sleep(2)
    assert server.ask("GET", "/health/ready", key=False, gateway="drifted")[0] == 503
    assert server.log.count("judge-gateway: ready") == verdicts
    # It lives, though: a restart would change nothing, and people may ask it why.
    assert server.ask("GET", "/health", key=False, gateway="drifted")[0] == 200


def test_another_commit_than_wanted_is_never_ready(server: Server) -> None:
    server.configure("other", {ITEMS[0].id: None}, commit="d" * 40)
    status, report = server.report("other", has_ended)
    assert (status, report["ready"], report["reason"]) == (503, False, "WRONG_MODEL_SERVED")
    assert f"snapshots/{COMMIT}, wanted commit {'d' * 40}" in report["message"]


def test_a_name_that_is_not_served_is_never_ready(server: Server) -> None:
    items = [{"id": "x", "request": request_of(ITEMS[0], "other"), "accepted": None}]
    document = json.loads((server.folder / "main.json").read_text())
    document |= {"served_name": "other", "golden": {"tolerance": 1.0, "items": items}}
    (server.folder / "name.json").write_text(json.dumps(document))
    status, report = server.report("name", has_ended)
    assert (status, report["reason"], report["message"]) == (
        503, "WRONG_MODEL_SERVED", f"the server serves {NAME}, wanted other")


def test_what_models_baseline_wrote_is_ready_and_what_a_person_changed_in_it_is_not(
        server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: the command asks this judge, the file makes a gateway's configuration, the gateway asks again."""
    content = tmp_path / "content"
    (content / "playbooks").mkdir(parents=True)
    (content / "inventory" / "prod").mkdir(parents=True)
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CONTENT_ROOT", str(content))
    desk = Desk(content, role_variables=shipped_variables(
        vllm_k8s_endpoint_url=server.url, vllm_k8s_endpoint_key_file=str(server.folder / "api-key"),
        model_cache_dir="/mnt/nvme/hub"))
    path = tmp_path / "golden.json"
    result = desk.invoke("--env", "prod", "models", "baseline", "--out", str(path))
    assert result.exit_code == 0, result.output
    source = json.loads(path.read_text())["accepted_from"]
    assert (source["commit"], source["repo_id"], source["image"]) == (COMMIT, TINY_JUDGE, "vllm:1")
    server.configure("baseline", {}, items=golden_items(path, NAME))
    status, report = server.report("baseline", lambda report: report["ready"])
    assert (status, report["golden"]["items"], report["golden"]["drift"]) == (200, len(BUILT_IN), 0.0)

    changed = json.loads(path.read_text())
    for item in changed["items"]:
        item["accepted"] = {name: 11 - score for name, score in item["accepted"].items()}
    path.write_text(json.dumps(changed))
    server.configure("changed", {}, items=golden_items(path, NAME))
    _, report = server.report("changed", has_ended)
    assert report["reason"] == "GOLDEN_DRIFT"
    checked, answer = desk.invoke_json("--env", "prod", "models", "baseline", "--out", str(path), "--check")
    assert (checked.exit_code, answer["reason"]) == (1, "GOLDEN_DRIFT")
    assert abs(answer["drift"] - report["golden"]["drift"]) < 0.001


# --- vLLM's own order of things ---------------------------------------------------------------------------------------

BUILD = """
import os, sys
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

words = ["--model", "m", "--middleware", "judge_node.serving.gateway.Gateway"]
arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
for path in sys.argv[1:]:
    os.environ["JUDGE_GATEWAY_CONFIG"] = path
    try:
        app = build_app(arguments, ("generate",))
        print("built:", app.user_middleware[0].cls.__module__, len(app.user_middleware) > 1)
    except Exception as error:
        print("refused:", error)
"""


def test_vllm_puts_the_gateway_before_everything_and_does_not_start_without_its_configuration(server: Server) -> None:
    """With vLLM's own builder of the application, without an engine: it is what runs before the port is served."""
    env = {"PATH": os.environ["PATH"], "HOME": str(server.folder), "PYTHONPATH": f"{server.folder}/judge-node.pyz"}
    bad = server.folder / "bad.json"
    bad.write_text("{}")
    done = subprocess.run([runtime.folder() / "bin/python", "-c", BUILD, server.folder / "main.json", "/nowhere", bad],
                          env=env, cwd=server.folder, capture_output=True, text=True, timeout=1200)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("built", "refused"))]
    assert len(lines) == 3, done.stderr[-2000:]
    assert lines[0] == "built: judge_node.serving.gateway True"
    assert lines[1] == "refused: /nowhere: cannot be read: No such file or directory, wanted gateway.json"
    assert lines[2].startswith(f"refused: {bad}: the configuration has no schema")


