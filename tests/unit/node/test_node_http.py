"""The connections of a fetch: TLS, proxies, and servers that close what they said they would keep open."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from judge_node.cache import http
from judge_node.cache.failures import Retry
from judge_node.cache.manifest import parse
from judge_node.cache.sync import sync
from judge_node.result import NodeError, Result
from unit.node.fake_hub import FakeHub, manifest_of, serve
from weights import weights

FILES = {"config.json": b"{}", "model.safetensors": weights(bytes(200_000))}


def run(endpoint: str, store: Path, **options: object) -> Result:
    manifest = parse(json.dumps(manifest_of(FILES)).encode())
    retry = Retry(attempts=2, first_wait_seconds=0.001)
    return sync(manifest, store / "hub", endpoint=endpoint, guard=lambda root: None, retry=retry, **options)  # type: ignore[arg-type]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[FakeHub]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with serve(dict(FILES), context=context) as server:
        yield server


@pytest.fixture
def trusting(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    http._tls.cache_clear()
    yield
    http._tls.cache_clear()


@pytest.mark.usefixtures("trusting")
def test_files_come_over_tls(secure: FakeHub, tmp_path: Path) -> None:
    assert run(secure.url, tmp_path).state == "complete"
    assert len(secure.clients) <= 2


def test_a_certificate_that_nobody_vouches_for_is_denied_at_once(secure: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"its certificate is not trusted \(unable to get local issuer") as caught:
        run(secure.url, tmp_path)
    assert caught.value.reason == "SOURCE_DENIED"


@pytest.mark.usefixtures("trusting")
def test_a_certificate_for_another_name_is_denied(secure: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="its certificate is not trusted") as caught:
        run(secure.url.replace("localhost", "127.0.0.1"), tmp_path)
    assert caught.value.reason == "SOURCE_DENIED"


class Proxy:
    """A forward proxy of one request line: CONNECT, or a request with a whole URL; it notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.given: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://user:p%40ss@127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        line = head.split(b"\r\n")[0].decode()
        self.asked.append(line)
        self.given.append(head)
        method, target, _ = line.split()
        host, _, port = target.removeprefix("http://").partition("/")[0].rpartition(":")
        with client, socket.create_connection((host, int(port))) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                server.sendall(head.replace(f"http://{host}:{port}".encode(), b"", 1))
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    made = Proxy()
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", made.url)
    monkeypatch.setenv("https_proxy", made.url)
    yield made
    made.close()


def test_http_goes_through_the_proxy(proxy: Proxy, tmp_path: Path) -> None:
    with serve(dict(FILES)) as hub:
        assert run(hub.url, tmp_path, connections=1).state == "complete"
        assert proxy.asked[0].startswith(f"GET {hub.url}/judge-lab/tiny/resolve/")
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in proxy.given[0]


@pytest.mark.usefixtures("trusting")
def test_https_goes_through_a_tunnel_of_the_proxy(proxy: Proxy, secure: FakeHub, tmp_path: Path) -> None:
    assert run(secure.url, tmp_path).state == "complete"
    assert {line.split()[0] for line in proxy.asked} == {"CONNECT"}
    assert {asked.headers.get("proxy-authorization") for asked in secure.asked} == {None}


def test_no_proxy_is_obeyed(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(dict(FILES)) as hub:
        assert run(hub.url, tmp_path).state == "complete"
    assert proxy.asked == []


def test_a_server_that_closes_after_each_answer_is_asked_anew(tmp_path: Path) -> None:
    with serve(dict(FILES)) as hub:
        hub.closes = True
        assert run(hub.url, tmp_path, connections=1).state == "complete"
        assert len(hub.clients) == len(hub.asked) == 2
