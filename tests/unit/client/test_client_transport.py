"""The way to the server: proxies, keys, threads, and what a hostile server may do to us."""

from __future__ import annotations

import asyncio
import gc
import gzip
import http.server
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from judge_answers import Server, serving
from judge_client import AsyncJudgeClient, JudgeClient, Reason, Status, Verdict
from judge_client.bounds import MAX_ANSWER_BYTES
from judge_client.transport import key_of

KEY = "judge-key-0123456789"
PYTOOL = Path(__file__).parents[3] / "pytool"


def both(server_url: str, **options: Any) -> list[Verdict]:
    """Return the verdicts of both clients, which send nothing twice."""
    options = {"api_key": KEY, "max_retries": 0, **options}

    async def ask() -> Verdict:
        async with AsyncJudgeClient(server_url, "judge", **options) as judge:
            return await judge.judge("q", "a")

    with JudgeClient(server_url, "judge", **options) as judge:
        return [judge.judge("q", "a"), asyncio.run(ask())]


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Leave the proxies of this machine's environment out."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture
def proxy() -> Iterator[Any]:
    """A proxy that answers every request itself, with 502, and remembers what it was asked for."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(502)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.seen = seen  # type: ignore[attr-defined]
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield listening
    listening.shutdown()
    listening.server_close()
    thread.join()


def test_the_proxies_of_the_environment_are_used(no_proxy: pytest.MonkeyPatch, proxy: Any) -> None:
    no_proxy.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
    for verdict in both("http://judge.invalid:8000"):
        assert "answered 502" in (verdict.message or "")
    assert proxy.seen == ["http://judge.invalid:8000/v1/models"] * 2


def test_hosts_that_the_environment_leaves_out_are_asked_directly(no_proxy: pytest.MonkeyPatch, proxy: Any) -> None:
    no_proxy.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
    no_proxy.setenv("NO_PROXY", "judge.invalid")
    assert [verdict.reason for verdict in both("http://judge.invalid:8000")] == [Reason.SERVER_UNREACHABLE] * 2
    assert proxy.seen == []


def test_our_own_loopback_is_no_matter_of_a_proxy(no_proxy: pytest.MonkeyPatch, proxy: Any, server: Server) -> None:
    no_proxy.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
    for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
        assert [verdict.status for verdict in both(url)] == [Status.SCORED] * 2
    assert proxy.seen == []


def test_a_certificate_of_an_unknown_authority_is_said_and_ssl_cert_file_makes_it_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving(tls) as server:
        for verdict in both(server.url, max_retries=4):
            assert (verdict.reason, verdict.requests) == (Reason.SERVER_UNREACHABLE, 1)
            assert "certificate verify failed" in (verdict.message or "")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert [verdict.status for verdict in both(server.url)] == [Status.SCORED] * 2


def test_https_to_a_port_that_speaks_http_says_that_it_is_about_tls(server: Server) -> None:
    for verdict in both(server.url.replace("http:", "https:")):
        assert verdict.reason is Reason.SERVER_UNREACHABLE
        assert "[SSL" in (verdict.message or "")


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", f"{KEY}\n")
    both(server.url, api_key=None)
    assert {authorization for _, authorization, _ in server.asked} == {f"Bearer {KEY}"}


def test_a_key_that_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "other")
    assert (key_of(" mine\n"), key_of(None), key_of("")) == ("mine", "other", "other")
    monkeypatch.delenv("JUDGE_API_KEY")
    assert (key_of(None), key_of(" \n")) == ("EMPTY", "EMPTY")


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schl\u00fcssel", "nul\x00l", "\ud800"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    with pytest.raises(ValueError, match="api_key holds white space or characters beyond ASCII") as caught:
        JudgeClient("http://judge", api_key=key)
    assert key not in str(caught.value)
    if "\x00" not in key and key.isprintable():
        monkeypatch.setenv("JUDGE_API_KEY", key)
        with pytest.raises(ValueError, match="JUDGE_API_KEY holds white space"):
            AsyncJudgeClient("http://judge")


def test_what_the_environment_says_of_openai_is_not_sent(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://openai.invalid")
    assert [verdict.status for verdict in both(server.url)] == [Status.SCORED] * 2
    assert "of-openai" not in repr(server.asked_headers)
    assert {headers["authorization"] for headers in server.asked_headers} == {f"Bearer {KEY}"}


def test_a_key_that_the_server_says_back_is_in_no_verdict(server: Server) -> None:
    server.status, server.raw = 401, f'{{"error": {{"message": "wrong key: Bearer {KEY}"}}}}'.encode()
    refused = both(server.url)
    server.status, server.raw = 200, f"<html>{KEY}</html>".encode()
    for verdict in (*refused, *both(server.url)):
        assert "***" in (verdict.message or "")
        assert KEY not in repr(verdict)


def test_no_program_is_started_that_would_see_the_key_in_its_environment(server: Server) -> None:
    code = f"""if True:
        import asyncio, sys, judge_client as j
        sys.addaudithook(lambda event, found: event == "subprocess.Popen" and print(found[1]))
        j.JudgeClient({server.url!r}, "judge", "EMPTY", max_retries=0).judge("q", "a")
        async def ask():
            async with j.AsyncJudgeClient({server.url!r}, "judge", "EMPTY", max_retries=0) as judge:
                print((await judge.judge("q", "a")).status)
        asyncio.run(ask())"""
    found = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(PYTOOL)}, capture_output=True,
                           text=True, check=True)
    assert found.stdout.strip() == "scored"


def test_a_redirect_is_not_followed_with_the_texts_that_are_judged(server: Server) -> None:
    with serving() as elsewhere:
        server.status, server.raw = 307, b""
        server.headers = {"Location": f"{elsewhere.url}/v1/chat/completions"}
        for verdict in both(server.url):
            assert verdict.reason is Reason.REQUEST_REFUSED
            assert f"it sends to {elsewhere.url}/v1/chat/completions" in (verdict.message or "")
        assert elsewhere.asked == []


def drip(file: Any, head: bytes, piece: bytes) -> None:
    file.write(head)
    for _ in range(1200):  # for a minute, if nobody hangs up
        file.write(piece)
        file.flush()
        time.sleep(0.05)


@pytest.mark.parametrize("status", [b"200 OK", b"500 Error"])
def test_an_answer_that_does_not_end_is_given_up(server: Server, status: bytes) -> None:
    sent = 0

    def write(file: Any) -> None:
        nonlocal sent
        sent = 0
        file.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
        for _ in range(10_000):
            file.write(b"x" * 65_536)
            sent += 65_536

    server.write = write
    for verdict in both(server.url):
        assert verdict.reason is Reason.RESPONSE_INVALID
        assert f"answered more than {MAX_ANSWER_BYTES} bytes" in (verdict.message or "")
    assert sent < 10 * MAX_ANSWER_BYTES


def test_an_endless_list_of_models_is_given_up(server: Server) -> None:
    server.models = [{"id": f"model-{number:0100d}"} for number in range(40_000)]
    assert [verdict.reason for verdict in both(server.url)] == [Reason.RESPONSE_INVALID] * 2


def test_a_small_answer_that_unpacks_to_a_large_one_is_not_unpacked(server: Server) -> None:
    server.raw, server.headers = gzip.compress(b"0" * 10_000_000), {"Content-Encoding": "gzip"}
    for verdict in both(server.url):
        assert verdict.reason is Reason.RESPONSE_INVALID
        assert "answered in the encoding gzip, wanted none" in (verdict.message or "")
    assert {headers["accept-encoding"] for headers in server.asked_headers} == {"identity"}


def test_an_answer_that_comes_by_drips_ends_with_the_time_limit(server: Server) -> None:
    server.write = lambda file: drip(file, b"HTTP/1.1 200 OK\r\n\r\n", b" ")
    started = time.monotonic()
    for verdict in both(server.url, timeout_seconds=0.5):
        assert verdict.reason is Reason.SERVER_TIMEOUT
    assert time.monotonic() - started < 40


def test_headers_that_come_by_drips_end_with_the_time_limit_of_the_client_for_asyncio(server: Server) -> None:
    server.write = lambda file: drip(file, b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")

    async def ask() -> Verdict:
        async with AsyncJudgeClient(server.url, timeout_seconds=0.5, max_retries=0) as judge:
            return await judge.judge("q", "a")

    started = time.monotonic()
    assert asyncio.run(ask()).reason is Reason.SERVER_TIMEOUT
    assert time.monotonic() - started < 40


def test_headers_that_do_not_end_are_given_up(server: Server) -> None:
    server.write = lambda file: file.write(b"HTTP/1.1 200 OK\r\n" + (b"x: " + b"y" * 10_000 + b"\r\n") * 100)
    assert [verdict.reason for verdict in both(server.url)] == [Reason.SERVER_UNREACHABLE] * 2


@pytest.mark.parametrize("charset", ["hex", "base64", "idna", "unicode_escape", "utf-16", "rot13", "nonsense", "\xff"])
def test_json_is_utf_8_whatever_the_server_says(server: Server, charset: str) -> None:
    server.headers = {"Content-Type": f"application/json; charset={charset}"}
    assert [verdict.status for verdict in both(server.url)] == [Status.SCORED] * 2
    server.status = 400
    assert ["told 400" in (verdict.message or "") for verdict in both(server.url)] == [True] * 2


@pytest.mark.parametrize("said", [b"", b"\xff\xfe", b"SSH-2.0-OpenSSH\r\n",
                                  b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"])
def test_what_is_no_http_is_an_unreachable_server(server: Server, said: bytes) -> None:
    server.write = lambda file: file.write(said)
    assert [verdict.reason for verdict in both(server.url)] == [Reason.SERVER_UNREACHABLE] * 2


def test_many_threads_share_one_client_and_its_connections(server: Server) -> None:
    with JudgeClient(server.url, "judge", max_retries=0) as judge:
        start = threading.Barrier(8)

        def ask(number: int) -> Verdict:
            if number < 8:
                start.wait(60)
            if number % 7 == 0:
                assert judge.is_healthy()
            return judge.judge("q", str(number))

        with ThreadPoolExecutor(8) as pool:
            verdicts = list(pool.map(ask, range(64)))
    assert {verdict.status for verdict in verdicts} == {Status.SCORED}
    assert len({verdict.provenance.fence for verdict in verdicts if verdict.provenance}) == 64
    assert server.connections <= 16


def test_a_client_that_was_closed_opens_again(server: Server) -> None:
    judge = JudgeClient(server.url)
    assert judge.judge("q", "a").status is Status.SCORED
    judge.close()
    assert judge.judge("q", "a").status is Status.SCORED
    judge.close()
    judge.close()


def test_a_client_that_nobody_closes_closes_its_connections(server: Server) -> None:
    JudgeClient(server.url).judge("q", "a")
    gc.collect()  # where a connection is left open, its warning is an error


def test_a_forked_process_has_connections_of_its_own(server: Server) -> None:
    with JudgeClient(server.url) as judge:
        judge.judge("q", "before")
        for _ in range(2):
            child = os.fork()
            if child == 0:
                os._exit(0 if judge.judge("q", "in the child").status is Status.SCORED else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert judge.judge("q", "after").status is Status.SCORED
    assert server.connections == 3


def test_the_http_client_of_the_caller_is_used_and_left_open(server: Server) -> None:
    import httpx2

    with httpx2.Client(headers={"x-mine": "yes"}) as mine:
        for _ in range(2):
            with JudgeClient(server.url, http_client=mine) as judge:
                assert judge.judge("q", "a").status is Status.SCORED
        assert not mine.is_closed
    assert {headers["x-mine"] for headers in server.asked_headers} == {"yes"}


def test_a_batch_in_a_thread_never_goes_around_the_http_client_of_the_caller(server: Server) -> None:
    import httpx2

    with (httpx2.Client() as mine, JudgeClient(server.url, http_client=mine) as judge,
          pytest.raises(ValueError, match=r"wanted AsyncJudgeClient\(\.\.\., http_client=an asynchronous one\)")):
        list(judge.judge_batch([("q", "a")]))
    assert server.asked == []


def test_an_http_client_of_the_caller_that_breaks_gives_a_verdict(server: Server) -> None:
    import httpx2

    mine = httpx2.Client()
    mine.close()
    with JudgeClient(server.url, http_client=mine, max_retries=0) as judge:
        verdict = judge.judge("q", "a")
    assert verdict.reason is Reason.SERVER_UNREACHABLE
    assert "closed" in (verdict.message or "")
