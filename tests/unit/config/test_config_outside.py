"""The cluster, AWS and this machine as doctor asks them: what cannot be asked is one line of text."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from judge_bootstrap.adapters import bounded
from judge_bootstrap.adapters.aws import AwsUnavailable, read_identity
from judge_bootstrap.adapters.kube_checks import ClusterUnavailable, read_cluster
from judge_bootstrap.adapters.tools import install_collections, read_tools

NOBODY = "https://127.0.0.1:9"


def ask(path: Path) -> None:
    """Ask the cluster of a kubeconfig."""
    read_cluster(kubeconfig=str(path), context=None, namespace="n", secret="s", secret_namespace="l",
                 selector={"role": "ai-gpu"})


def kubeconfig(**user: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [
        {"name": "c", "cluster": {"server": NOBODY}}], "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}


@pytest.mark.parametrize(("content", "message"), [
    (json.dumps(kubeconfig(token="long-fake-token")), "Connection refused"),
    ("", "Invalid kube-config"), ("[]", ""), ("a: [", ""), ("\0", ""),
    (json.dumps({"apiVersion": "v1"}), "kube-config"),
    (json.dumps(kubeconfig() | {"current-context": "other"}), "other"),
    (json.dumps(kubeconfig(**{"client-certificate-data": "no base64"})), ""),
    (json.dumps(kubeconfig(exec={"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-program"})), ""),
    (json.dumps(kubeconfig(token="t") | {"clusters": [{"name": "c", "cluster": {"server": "nonsense"}}]}),
     'names the server "nonsense", wanted: https://'),
])
def test_a_cluster_that_cannot_be_asked_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(ClusterUnavailable) as caught:
        ask(path)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert "long-fake-token" not in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>login</html>", b"[]", b"{}", b"3", b"null", b"\xff", b""])
@pytest.mark.parametrize("status", [200, 302, 401, 500])
def test_an_api_server_that_is_none_is_one_line(tmp_path: Path, status: int, body: bytes) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        content = kubeconfig(token="t")
        content["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "kubeconfig").write_text(json.dumps(content))
        with pytest.raises(ClusterUnavailable) as caught:
            ask(tmp_path / "kubeconfig")
        server.shutdown()
        thread.join()
    assert str(caught.value).isprintable()


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterUnavailable, match="Invalid kube-config file"):
        ask(tmp_path / "nope")


@pytest.mark.parametrize(("name", "value", "message"), [
    ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "Could not connect to the endpoint URL"),
    ("AWS_ENDPOINT_URL", "nonsense", "Invalid endpoint: nonsense"),
    ("AWS_PROFILE", "nobody", "The config profile (nobody) could not be found"),
    ("AWS_ACCESS_KEY_ID", "", "Unable to locate credentials"),
])
def test_an_aws_that_cannot_be_asked_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str,
                                                 message: str) -> None:
    for variable, given in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_EC2_METADATA_DISABLED": "true",
                            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                            "NO_PROXY": "127.0.0.1", name: value}.items():
        monkeypatch.setenv(variable, given)
    with pytest.raises(AwsUnavailable) as caught:
        read_identity("us-east-1")
    assert message in str(caught.value)


def test_a_call_that_hangs_is_left_behind() -> None:
    ended = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        bounded.within(0.05, ended.wait)
    ended.set()


def test_a_call_gives_what_it_returns_or_raises() -> None:
    assert bounded.within(5, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        bounded.within(5, lambda: 1 / 0)


def test_this_machine_has_what_the_tests_run_with() -> None:
    tools = read_tools()
    assert str(tools.programs["ansible-playbook"]).startswith("ansible-core 2.")
    assert set(tools.wanted_collections) >= {"amazon.aws", "kubernetes.core"}
    assert tools.free_bytes is not None


def test_collections_are_installed_from_where_the_program_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "playbooks").mkdir()
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CONTENT_ROOT", str(tmp_path))
    # Installed from a wheel there is no Makefile, and requirements.yml is not in the working directory.
    assert install_collections().endswith(f"ansible-galaxy collection install -r {tmp_path}/requirements.yml")
    (tmp_path / "Makefile").touch()
    assert install_collections().startswith("make setup")
