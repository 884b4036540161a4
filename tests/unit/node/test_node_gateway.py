"""The gateway as an attacker sees it: what reaches the server behind it, and what comes back."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import gateway_routes
import pytest
from judge_node.serving import gateway as module
from judge_node.serving.config import ConfigError
from judge_node.serving.gateway import Gateway
from unit.node.gateway_app import COMMIT, KEY, FakeServer, Got, knock, knock_at, make

CHAT = ("POST", "/v1/chat/completions")


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def gateway(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    return make(server, tmp_path, monkeypatch)


def test_only_health_answers_without_a_key(gateway: Gateway, server: FakeServer) -> None:
    found = knock_at(gateway, gateway_routes.requests_of(gateway_routes.routes()), key=None)
    assert {one for one, status in found.items() if status != 401} == {("GET", "/health")}
    assert len(found) > 1000
    assert server.reached == []


def test_the_key_opens_four_routes_and_no_more(gateway: Gateway) -> None:
    routes = {**gateway_routes.routes(), "/judge/provenance": ("GET",), "/health/ready": ("GET",)}
    found = knock_at(gateway, gateway_routes.requests_of(routes))
    assert {one for one, status in found.items() if status != 404} == gateway_routes.OPEN | gateway_routes.KEYED


@pytest.mark.parametrize(("path", "raw_path", "root_path"), [
    ("/v1/models", b"/v1%2fmodels", ""),  # decoded by the server before it came here
    ("/v1/models", b"/v1/model%73", ""),
    ("/v1/models", None, ""),
    ("/x/v1/models", b"/x/v1/models", "/x"),
    ("/v1/models", b"/v1/models", "/v1"),  # the framework would cut the prefix off and route /models
    ("/health", b"/%68ealth", ""),
])
def test_a_path_that_came_in_another_way_than_it_reads_is_another_path(
        gateway: Gateway, server: FakeServer, path: str, raw_path: bytes | None, root_path: str) -> None:
    got = knock(gateway, "GET", path, raw_path=raw_path, root_path=root_path)
    assert got.status == 404
    assert server.reached == []


@pytest.mark.parametrize("headers", [
    [],
    [b""],
    [b"Bearer"],
    [b"Bearer "],
    [b"Bearer wrong"],
    [KEY.encode()],
    [b"Basic " + KEY.encode()],
    [b"Bearer\t" + KEY.encode()],
    [b"Bearer " + KEY.encode()[:-1]],
    [b"Bearer " + KEY.encode() + b"x"],
    [b"Bearer " + KEY.upper().encode()],
    [b"Bearer " + KEY.encode() + b", Bearer wrong"],
    [b"Bearer " + KEY.encode(), b"Bearer " + KEY.encode()],
    [b"Bearer wrong", b"Bearer " + KEY.encode()],
    [b"Bearer " + b"\xff\x00"],
])
def test_anything_but_one_header_with_the_key_is_refused(gateway: Gateway, server: FakeServer, headers: list[bytes]
                                                         ) -> None:
    got = knock(gateway, *CHAT, key=None, headers=[(b"authorization", value) for value in headers])
    assert got.status == 401
    assert (b"www-authenticate", b"Bearer") in got.messages[0]["headers"]
    assert got.json["error"]["code"] == "invalid_api_key"
    assert server.reached == []


@pytest.mark.parametrize("value", [b"Bearer ", b"bearer ", b"BEARER  "])
def test_the_scheme_is_read_as_the_standard_says(gateway: Gateway, value: bytes) -> None:
    got = knock(gateway, "GET", "/v1/models", key=None, headers=[(b"Authorization", value + KEY.encode())])
    assert got.status == 200


def test_neither_host_nor_other_headers_make_a_route_of_a_path(gateway: Gateway) -> None:
    tricks = [(b"host", b"x/health?"), (b"host", b"x/health#"), (b"x-forwarded-prefix", b"/health"),
              (b"x-original-url", b"/health"), (b"x-rewrite-url", b"/health"), (b"x-http-method-override", b"GET"),
              (b"x-api-key", KEY.encode()), (b"api-key", KEY.encode()), (b"authorization_", b"Bearer " + KEY.encode()),
              (b"cookie", b"authorization=Bearer " + KEY.encode()), (b"proxy-authorization", b"Bearer " + KEY.encode())]
    for trick in tricks:
        for name in (CHAT, ("GET", "/v1/models")):
            got = knock(gateway, *name, key=None, headers=[trick], query_string=f"api_key={KEY}".encode())
            assert got.status == 401, trick


def test_no_byte_of_an_open_request_reaches_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Watching(FakeServer):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope["path"], scope["query_string"], dict(scope["headers"]), (await receive())["body"]))
            await super().__call__(scope, receive, send)

    gateway = make(Watching(), tmp_path, monkeypatch)
    for path in ("/health", "/health/ready"):
        knock(gateway, "GET", path, key=None, query_string=b"evil=1", headers=[(b"origin", b"evil")], body=[b"evil"])
    assert seen
    assert "evil" not in repr(seen)


def test_the_answer_passes_in_the_same_pieces(gateway: Gateway, server: FakeServer) -> None:
    got = knock(gateway, *CHAT, body=[b'{"a"', b": 1}"])
    assert server.body == b'{"a": 1}'
    assert [message["type"] for message in got.messages] == ["http.response.start", *["http.response.body"] * 2]
    assert got.messages[0]["headers"][0] == (b"x-of", b"vllm")
    assert got.body == server.verdict


def signatures(got: Got) -> list[bytes]:
    return [value for name, value in got.messages[0]["headers"] if name.lower() == b"x-judge-provenance"]


def test_a_verdict_says_which_model_gave_it(gateway: Gateway) -> None:
    (value,) = signatures(knock(gateway, *CHAT))
    assert json.loads(value) == knock(gateway, "GET", "/judge/provenance").json
    assert json.loads(value)["commit"] == COMMIT
    assert value.isascii()


def test_a_refusal_of_the_server_is_signed_as_its_verdicts_are(gateway: Gateway, server: FakeServer) -> None:
    server.status = 400
    got = knock(gateway, *CHAT)
    assert (got.status, len(signatures(got))) == (400, 1)


@pytest.mark.parametrize("name", [b"x-judge-provenance", b"X-Judge-Provenance"])
def test_nobody_further_in_may_say_which_model_gave_a_verdict(
        gateway: Gateway, server: FakeServer, name: bytes) -> None:
    server.answer_headers = [(name, b'{"commit": "another"}'), (b"x-of", b"vllm"), (name, b"again")]
    got = knock(gateway, *CHAT)
    (value,) = signatures(got)
    assert json.loads(value)["commit"] == COMMIT
    assert (b"x-of", b"vllm") in got.messages[0]["headers"]


def test_only_verdicts_are_signed(gateway: Gateway) -> None:
    for name in [("GET", "/health"), ("GET", "/health/ready"), ("GET", "/v1/models"), ("GET", "/metrics"),
                 ("GET", "/judge/provenance"), ("GET", "/docs"), ("GET", CHAT[1])]:
        assert signatures(knock(gateway, *name)) == [], name


def test_no_refusal_of_the_gateway_is_signed(gateway: Gateway) -> None:
    """Who has no key learns nothing of the model."""
    for got in (knock(gateway, *CHAT, key=None), knock(gateway, *CHAT, key="wrong"),
                knock(gateway, *CHAT, body=[b"x" * 1001])):
        assert got.status in (401, 413)
        assert signatures(got) == []


def test_the_server_does_not_see_the_key(gateway: Gateway, server: FakeServer) -> None:
    knock(gateway, *CHAT, headers=[(b"x-request-id", b"7")])
    assert server.headers == [(b"x-request-id", b"7")]


def test_a_caller_who_goes_away_is_told_to_the_server(gateway: Gateway, server: FakeServer) -> None:
    server.endless = True
    knock(gateway, *CHAT)
    assert server.disconnected


def test_a_body_without_a_length_is_counted_while_it_comes(gateway: Gateway, server: FakeServer) -> None:
    taken = 0

    async def without_end() -> Any:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"x" * 300, "more_body": True}

    got = knock(gateway, *CHAT, headers=[(b"transfer-encoding", b"chunked")], receive=without_end)
    assert (got.status, got.json["error"]["code"], taken) == (413, "body_too_large", 4)
    assert server.reached == []


@pytest.mark.parametrize(("length", "status"), [(b"1001", 413), (b"9" * 4000, 413), (b"1000", 200), (b"nonsense", 200)])
def test_a_length_that_is_too_large_is_refused_before_a_byte_is_read(gateway: Gateway, length: bytes, status: int
                                                                     ) -> None:
    assert knock(gateway, *CHAT, headers=[(b"content-length", length)], body=[b"x"]).status == status


def test_a_length_that_lies_does_not_help(gateway: Gateway) -> None:
    got = knock(gateway, *CHAT, headers=[(b"content-length", b"5")], body=[b"x" * 600, b"x" * 600])
    assert got.status == 413


def test_the_largest_body_that_is_allowed_passes(gateway: Gateway, server: FakeServer) -> None:
    assert knock(gateway, *CHAT, body=[b"x" * 999, b"x"]).status == 200
    assert len(server.body) == 1000


def test_a_body_that_never_ends_is_given_up(gateway: Gateway, server: FakeServer, monkeypatch: pytest.MonkeyPatch
                                            ) -> None:
    monkeypatch.setattr(module, "BODY_SECONDS", 0.01)

    async def dripping() -> Any:
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"", "more_body": True}

    got = knock(gateway, *CHAT, receive=dripping)
    assert (got.status, got.json["error"]["code"]) == (408, "request_timeout")
    assert (b"connection", b"close") in got.messages[0]["headers"]
    assert server.reached == []


def test_a_caller_who_goes_away_in_the_middle_of_the_body_is_answered_nothing(gateway: Gateway, server: FakeServer
                                                                              ) -> None:
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def cut() -> Any:
        return messages.pop(0)

    assert knock(gateway, *CHAT, receive=cut).messages == []
    assert server.reached == []


def test_a_websocket_is_closed_before_it_opens_even_with_the_key(gateway: Gateway, server: FakeServer) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": [(b"authorization", f"Bearer {KEY}".encode())]}
    asyncio.run(gateway(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert server.other_scopes == []


def test_the_server_s_own_start_passes(gateway: Gateway, server: FakeServer) -> None:
    async def none() -> Any:
        return {}

    asyncio.run(gateway({"type": "lifespan"}, none, lambda message: none()))
    assert server.other_scopes == ["lifespan"]


def test_a_kind_of_connection_that_nobody_thought_of_does_not_pass(gateway: Gateway, server: FakeServer) -> None:
    async def none() -> Any:
        return {}

    with pytest.raises(ValueError, match="webtransport"):
        asyncio.run(gateway({"type": "webtransport", "path": "/health"}, none, lambda message: none()))
    assert server.other_scopes == []


def test_provenance_says_what_a_verdict_stands_on(gateway: Gateway) -> None:
    assert knock(gateway, "GET", "/judge/provenance").json == {
        "repo_id": "org/judge", "commit": "0123456789abcdef0123456789abcdef01234567", "manifest_digest": "sha256:d",
        "served_name": "judge", "image": "vllm:1"}


def test_health_tells_whether_the_engine_lives(gateway: Gateway, server: FakeServer) -> None:
    assert knock(gateway, "GET", "/health", key=None).status == 200
    server.healthy = False
    assert knock(gateway, "GET", "/health", key=None).status == 503


# --- the key file -----------------------------------------------------------------------------------------------------


def status_with(gateway: Gateway, key: str) -> int | None:
    return knock(gateway, "GET", "/v1/models", key=key).status


def test_a_key_that_was_replaced_is_not_good_any_more(gateway: Gateway, tmp_path: Path) -> None:
    assert status_with(gateway, KEY) == 200
    other, kept = tmp_path / "other", (tmp_path / "api-key").stat()
    other.write_text("k" * len(KEY) + "\n")
    os.utime(other, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    other.replace(tmp_path / "api-key")  # as kubelet does: another file under the same name, of the same size and time
    assert (status_with(gateway, KEY), status_with(gateway, "k" * len(KEY))) == (401, 200)


def test_a_key_that_was_rewritten_in_place_is_seen(gateway: Gateway, tmp_path: Path) -> None:
    assert status_with(gateway, KEY) == 200
    (tmp_path / "api-key").write_text("k" * len(KEY) + "\n")
    os.utime(tmp_path / "api-key", ns=(1, 1))
    assert status_with(gateway, KEY) == 401


def test_during_a_rotation_the_old_key_and_the_new_one_are_good(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("new\n\n newer \r\n")
    (tmp_path / "previous-api-key").write_text(f"{KEY}\n")
    assert [status_with(gateway, key) for key in ("new", "newer", KEY, "other", "")] == [200, 200, 200, 401, 401]
    (tmp_path / "previous-api-key").unlink()
    assert [status_with(gateway, key) for key in ("new", KEY)] == [200, 401]


def absent(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_text("\n \n")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.write_bytes(b"k" * 100_000)


@pytest.mark.parametrize("spoil", [absent, empty, a_folder, a_pipe, endless])
def test_without_a_usable_key_nobody_is_let_in(gateway: Gateway, server: FakeServer, tmp_path: Path, spoil: Any
                                               ) -> None:
    assert status_with(gateway, KEY) == 200
    # A previous key alone does not open: it is on its way out.
    (tmp_path / "previous-api-key").write_text("old\n")
    spoil(tmp_path / "api-key")
    server.reached.clear()
    for method, path in gateway_routes.KEYED | {("GET", "/nowhere")}:
        for key in (KEY, "old", "", None, "\n"):
            got = knock(gateway, method, path, key=key)
            assert (got.status, got.json["error"]["code"]) == (503, "api_key_unavailable")
    assert server.reached == []
    assert knock(gateway, "GET", "/health", key=None).status == 200
    report = knock(gateway, "GET", "/health/ready", key=None)
    assert (report.status, report.json["reason"]) == (503, "API_KEY_UNAVAILABLE")


def test_with_null_for_a_key_file_the_listed_routes_are_open_and_no_others(
        server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = make(server, tmp_path, monkeypatch, api_key_file=None)
    assert "everyone who reaches the port may ask the judge" in capsys.readouterr().err
    assert knock(gateway, *CHAT, key=None).status == 200
    assert knock(gateway, "POST", "/v1/completions", key=None).status == 404


# --- a server that must not start -------------------------------------------------------------------------------------


def test_without_a_configuration_there_is_no_server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_GATEWAY_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="JUDGE_GATEWAY_CONFIG is not set"):
        Gateway(server)


@pytest.mark.parametrize(("content", "said"), [
    ("", "no JSON"), ("{", "no JSON"), ("[]", "wanted an object with schema"), ('{"schema": 1}', "no served_name"),
    ("x" * 2_000_000, "more than 1048576 bytes"),
])
def test_with_a_bad_configuration_there_is_no_server(
        server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str) -> None:
    path = tmp_path / "gateway.json"
    path.write_text(content)
    monkeypatch.setenv("JUDGE_GATEWAY_CONFIG", str(path))
    with pytest.raises(ConfigError, match=said) as caught:
        Gateway(server)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
