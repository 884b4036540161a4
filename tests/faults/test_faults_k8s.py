"""The role against an API server that answers badly; and first that the proxy which makes it so does what it says.

Also that what R10 looks with sees what it is for.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme
from judge_bootstrap.adapters.kube import TIMEOUT_VARIABLE, connect
from judge_bootstrap.adapters.objects import request
from judge_lab import LabError, layout, prerequisites, site
from k8s_drills import converge, exposure, kwok_nodes
from k8s_drills import faulty_api as proxy_module
from k8s_drills.cluster import Snapshot
from k8s_drills.faulty_api import KINDS, FaultyApi, Plan, faulty_api
from k8s_drills.role import NODE_ANNOTATIONS, NODE_LABELS


class Upstream(BaseHTTPRequestHandler):
    """An API server that counts what it is asked, and has one short watch."""

    protocol_version = "HTTP/1.1"
    asked: Counter[str]
    closed = 0

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked[f"{self.command} {self.path}"] += 1
        body = json.dumps({"path": self.path, "user": self.headers.get("Authorization")}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PATCH = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Path]:
    """The kubeconfig of that API server, with a client certificate in it."""
    from base64 import b64encode

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    Upstream.asked = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    client = authority.issue_cert(common_name="admin", organization_name="system:masters")
    kubeconfig = tmp_path / "upstream.kubeconfig"
    kubeconfig.write_text(json.dumps({
        "clusters": [{"cluster": {"server": f"https://127.0.0.1:{server.server_address[1]}",
                                  "certificate-authority-data": b64encode(authority.cert_pem.bytes()).decode()}}],
        "users": [{"user": {
            "client-certificate-data": b64encode(client.cert_chain_pems[0].bytes()).decode(),
            "client-key-data": b64encode(client.private_key_pem.bytes()).decode()}}]}))
    yield kubeconfig
    server.shutdown()
    server.server_close()
    thread.join(10)


def ask(proxy: FaultyApi, path: str = "/version", method: str = "GET", *, until: Callable[[], bool] | None = None
        ) -> tuple[int, http.client.HTTPResponse, bytes]:
    """Ask the proxy once, without any library that would ask again.

    With `until` the client waits for that to hold, and then for one second more.
    """
    import base64

    import yaml

    found = yaml.safe_load(proxy.kubeconfig.read_text())
    cluster, token = found["clusters"][0]["cluster"], found["users"][0]["user"]["token"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=120)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"})
        if until is not None:
            give_up = time.monotonic() + 120
            while not until() and time.monotonic() < give_up:
                time.sleep(0.02)
            connection.sock.settimeout(1)
        answer = connection.getresponse()
        return answer.status, answer, answer.read()
    finally:
        connection.close()


def test_what_is_struck_follows_from_the_seed_alone() -> None:
    def struck(seed: int) -> list[tuple[str, int]]:
        plan = Plan(seed)
        return [plan.next("GET", f"/{number}") for number in range(500)]

    assert struck(1) == struck(1) != struck(2)


def test_one_request_in_ten_is_struck_and_every_kind_comes_soon() -> None:
    plan = Plan(1)
    for number in range(3000):
        plan.next("GET", f"/{number}")
    assert 240 < plan.struck.total() < 360
    assert set(plan.struck) == set(KINDS)
    assert max(plan.struck.values()) - min(plan.struck.values()) <= 1


def test_a_request_that_is_not_struck_arrives_without_our_token(upstream: Path, tmp_path: Path) -> None:
    with faulty_api(upstream, tmp_path, Plan(rate=0)) as proxy:
        status, _, body = ask(proxy, "/api/v1/nodes?limit=5")
    assert (status, json.loads(body)) == (200, {"path": "/api/v1/nodes?limit=5", "user": None})


def test_without_the_token_nothing_is_handed_on(upstream: Path, tmp_path: Path) -> None:
    with faulty_api(upstream, tmp_path, Plan(rate=0)) as proxy:
        proxy.kubeconfig.write_text(proxy.kubeconfig.read_text().replace('"token": "', '"token": "not-'))
        assert ask(proxy)[0] == 401
    assert not Upstream.asked


@pytest.mark.parametrize(("kind", "status"), [("429", 429), ("500", 500), ("503", 503)])
def test_answers_of_the_proxy_s_own_never_reach_the_server(
    upstream: Path, tmp_path: Path, kind: str, status: int
) -> None:
    with faulty_api(upstream, tmp_path, Plan(rate=1, kinds=(kind,))) as proxy:
        found, answer, _ = ask(proxy)
        assert found == status
        assert (answer.getheader("Retry-After") in ("0", "1")) is (kind == "429")
    assert not Upstream.asked


@pytest.mark.parametrize(("kind", "error", "arrived"), [
    ("reset_before", (ConnectionResetError, http.client.RemoteDisconnected), 0),
    ("reset_after", (ConnectionResetError, http.client.RemoteDisconnected), 1),
    ("held", (TimeoutError,), 1)])
def test_of_the_others_the_client_hears_nothing_and_two_were_done(
    upstream: Path, tmp_path: Path, kind: str, error: tuple[type[Exception], ...], arrived: int
) -> None:
    with faulty_api(upstream, tmp_path, Plan(rate=1, kinds=(kind,))) as proxy:
        with pytest.raises(error):
            # What is held is given up only when it has arrived, however slow the way there was.
            ask(proxy, "/api/v1/nodes/a", "PATCH", until=(lambda: bool(Upstream.asked)) if kind == "held" else None)
        assert proxy.plan.struck == Counter({kind: 1})
    assert Upstream.asked == Counter({"PATCH /api/v1/nodes/a": 1} if arrived else {})


def test_a_watch_is_never_struck(upstream: Path, tmp_path: Path) -> None:
    with faulty_api(upstream, tmp_path, Plan(rate=1)) as proxy:
        assert ask(proxy, "/api/v1/pods?watch=true")[0] == 200
        assert (proxy.plan.passed, proxy.plan.struck.total()) == (1, 0)


def test_who_asks_again_too_soon_after_429_is_noted(
    upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No time passes, however long the next request takes on its way.
    monkeypatch.setattr(proxy_module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    with faulty_api(upstream, tmp_path, Plan(rate=1, kinds=("429",))) as proxy:
        while ask(proxy)[1].getheader("Retry-After") != "1":
            pass
        ask(proxy)
        assert proxy.plan.hasty == ["GET /version"]


def test_the_product_s_client_is_answered_all_the_same_and_waits_as_long_as_it_is_told(
    upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "1")
    with faulty_api(upstream, tmp_path, Plan(seed=3, rate=0.4)) as proxy:
        client = connect(str(proxy.kubeconfig))
        for number in range(30):
            found = request(client, "PATCH", f"/api/v1/nodes/{number}", {}, content_type="application/json")
            assert found["path"] == f"/api/v1/nodes/{number}"
        assert set(proxy.plan.struck) == set(KINDS)
        assert proxy.plan.hasty == []
    assert max(Upstream.asked.values()) > 1  # a request that was done and not answered was sent again


def test_sockets_beyond_loopback_are_told_from_those_on_it() -> None:
    tables = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:9C40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0A014E0A:9C41 0A014E0A:1F40 01 00000000:00000000 00:00000000 00000000     0        0 3
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:D6F9 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 00000000000000000000000001000000:D6FA 00000000000000000000000000000000:0000 0A 00000000:00000000
   2: 0000000000000000FFFF00000100007F:D6FB 00000000000000000000000000000000:0000 0A 00000000:00000000
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref
  1: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4 2
"""
    assert exposure.sockets(tables) == {"tcp:8000", "tcp:55033", "udp:53"}


def test_what_changed_in_a_cluster_is_told_object_by_object() -> None:
    before = Snapshot({"A/a": {"x": 1}, "B/b": {}, "C/c": {}}, {})
    assert Snapshot({"A/a": {"x": 2}, "B/b": {}, "D/d": {}}, {}).changed_since(before) == {
        "A/a": "changed", "C/c": "deleted", "D/d": "created"}


@pytest.mark.lab
def test_the_role_converges_in_a_namespace_of_others_and_makes_nothing_twice(tmp_path: Path) -> None:
    try:
        prerequisites.check()
        kwok_nodes.binary()
    except LabError as error:
        pytest.skip(f"the lab or kwok cannot run here: {error}")
    if not site.status()["running"]:
        site.up()
    kubeconfig = layout.current().kubeconfig
    nodes = [kwok_nodes.node(f"kwok-r7-{number}", NODE_LABELS, annotations=NODE_ANNOTATIONS) for number in range(3)]
    with kwok_nodes.kwok_nodes(kubeconfig, tmp_path, nodes), faulty_api(kubeconfig, tmp_path, Plan(rate=0)) as api:
        found = converge.play(api, kubeconfig, tmp_path, seed=1)
    assert (found.wrong, found.duplicates, found.hasty) == ([], [], [])
    assert set(found.struck) == set(KINDS)
