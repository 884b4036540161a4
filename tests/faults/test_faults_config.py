"""AppConfig on a bad day, through the CLI and real boto3, against the lab's stand-in and worse servers."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from judge_bootstrap.adapters.appconfig import AppConfigUnavailable, AwsAppConfig
from judge_bootstrap.cli.main import cli
from judge_bootstrap.core.environment import AppConfigRef
from judge_lab.appconfig import AppConfigServer

REF = AppConfigRef(application="judge-bootstrap", environment="own", profile="judge-inference")
GOOD = {"judge_inference": {"vllm": {"port": 9000}}}
FAULTS = ["down", "denied", "throttled", "slow", "empty", "invalid"]


class Site:
    """An environment of the test's own, whose AppConfig can be broken."""

    def __init__(self, folder: Path, document: Path) -> None:
        self.folder, self.document = folder, document
        self.fault_file = document.with_name(document.name + ".fault")

    def config_show(self, *, production: bool = False) -> tuple[int, dict[str, Any]]:
        ref = json.dumps(REF.model_dump())
        (self.folder / "inventory" / "own" / "group_vars" / "all.yml").write_text(
            f"judge_environment: {{production: {json.dumps(production)}, region: us-east-1, appconfig: {ref}}}\n")
        done = CliRunner().invoke(cli, ["--env", "own", "--json", "config", "show"])
        return done.exit_code, json.loads(done.stdout)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    (tmp_path / "inventory" / "own" / "group_vars").mkdir(parents=True)
    document = tmp_path / "document.json"
    document.write_text(json.dumps(GOOD))
    for name in [name for name in os.environ if name.startswith("JUDGE_BOOTSTRAP_")]:
        monkeypatch.delenv(name)
    with AppConfigServer(document, environment="own", slow_seconds=4) as server:
        for name, value in {
            "JUDGE_BOOTSTRAP_INVENTORY": str(tmp_path / "inventory"), "JUDGE_BOOTSTRAP_STATE": str(tmp_path / "state"),
            "AWS_ENDPOINT_URL_APPCONFIGDATA": server.url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield Site(tmp_path, document)


def test_a_live_document_is_applied_and_kept(site: Site) -> None:
    code, answer = site.config_show()
    assert (code, answer["appconfig"]["status"], answer["settings"]["vllm.port"]["value"]) == (0, "live", 9000)
    assert (site.folder / "state" / "own" / "appconfig.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("fault", FAULTS)
def test_with_a_fault_the_last_good_copy_stands_in_and_the_warning_says_so(site: Site, fault: str) -> None:
    version = site.config_show()[1]["appconfig"]["version"]
    site.document.write_text(json.dumps({"judge_inference": {"vllm": {"port": 1}}}))
    site.fault_file.write_text(fault)
    code, answer = site.config_show(production=True)
    assert (code, answer["appconfig"]["status"], answer["settings"]["vllm.port"]["value"]) == (0, "last good", 9000)
    assert f"using the last good copy, version {version}, " in answer["warnings"][0]


@pytest.mark.parametrize("fault", FAULTS)
def test_with_a_fault_and_no_copy_production_stops_and_others_use_defaults(site: Site, fault: str) -> None:
    site.fault_file.write_text(fault)
    code, answer = site.config_show()
    assert (code, answer["appconfig"]["status"]) == (0, "unavailable")
    assert answer["settings"]["vllm.port"]["source"].startswith("default: ")
    assert "there is no last good copy" in answer["warnings"][0]
    code, answer = site.config_show(production=True)
    assert (code, answer["ok"]) == (2, False)
    assert "in production defaults do not stand in for one" in answer["message"]


def test_what_broke_is_said_in_the_words_of_aws(site: Site) -> None:
    site.fault_file.write_text("denied")
    assert "cannot be read (AccessDeniedException: User is not authorized" in site.config_show()[1]["warnings"][0]


def test_no_credentials_are_said_to_be_missing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "cannot be read (Unable to locate credentials)" in site.config_show()[1]["warnings"][0]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "nonsense", "http://", "ftp://127.0.0.1", "http://127.0.0.1:x"])
def test_an_endpoint_that_leads_nowhere_is_only_unavailable(site: Site, monkeypatch: pytest.MonkeyPatch,
                                                            endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_APPCONFIGDATA", endpoint)
    code, answer = site.config_show()
    assert (code, answer["appconfig"]["status"]) == (0, "unavailable")


def test_a_profile_that_is_not_there_is_only_unavailable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "cannot be read (The config profile (nobody) could not be found)" in site.config_show()[1]["warnings"][0]


SESSION = b'HTTP/1.1 201 Created\r\nContent-Length: 32\r\n\r\n{"InitialConfigurationToken":"t"}'
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 19\r\n\r\n<html>login</html>\n"
BROKEN_ANSWERS = {
    "a page instead of a session": [PAGE],
    "no session in the answer": [b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"],
    "a session that is no object": [b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n[]"],
    "an error without a body": [b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"],
    "an error with a page": [PAGE.replace(b"200 OK", b"502 Bad Gateway")], "no HTTP": [b"SSH-2.0-OpenSSH_9.2\r\n"],
    "a redirect": [b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"],
    "nothing": [b""], "a page instead of a document": [SESSION, PAGE],
    "a document that is cut": [SESSION, b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"],
    "a document that is badly packed": [
        SESSION, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"],
    "chunks that are none": [SESSION, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    "no document at all": [SESSION, b""],
    "an error for the document": [SESSION, b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n"],
}


@pytest.mark.parametrize("answers", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS.keys())
def test_an_answer_that_is_not_appconfigs_leaves_the_last_good_copy(site: Site, monkeypatch: pytest.MonkeyPatch,
                                                                    answers: list[bytes]) -> None:
    site.config_show()
    with saying(answers) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_APPCONFIGDATA", endpoint)
        code, answer = site.config_show(production=True)
    assert (code, answer["appconfig"]["status"], answer["settings"]["vllm.port"]["value"]) == (0, "last good", 9000)


@contextmanager
def saying(answers: list[bytes]) -> Iterator[str]:
    """Serve one connection for each answer: read the request's head and body, say the answer, hang up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(0.3)
                    try:
                        while connection.recv(65_536):
                            pass
                    except OSError:
                        pass
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server that sends one byte of its header now and then: no read timeout ever fires."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not ended.wait(0.1):
                    try:
                        connection.sendall(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        thread.join()


@pytest.mark.usefixtures("site")
def test_a_server_that_drips_is_given_up_at_the_deadline(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_APPCONFIGDATA", dripping)
    with pytest.raises(AppConfigUnavailable, match=r"^no answer within 1 s$"):
        AwsAppConfig(REF, "us-east-1", deadline_seconds=1.0).fetch()
