"""`judge`: which server is asked and with which key; a key is never an argument, and never printed."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result
from cluster_desks import shipped_variables
from fakes_cli import Desk
from fakes_kube import FakeKube
from judge_answers import serving as https
from judge_bootstrap.adapters.judge_pods import ReadyPod
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.judge import VERBS
from judge_bootstrap.cli.judge_server import RealCluster, checked_url
from judge_bootstrap.cli.main import cli
from judge_bootstrap.core import redact
from judge_bootstrap.core.errors import BootstrapError, UsageProblem
from pod_servers import PodServer, served, serving

COMMIT = "a" * 40
KEY = "key-" + "k" * 28
TEXTS = ("--prompt", "2+2?", "--response", "4")


@pytest.fixture(autouse=True)
def no_key_of_ours_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    monkeypatch.setattr(redact, "_remembered", set())
    monkeypatch.setattr("judge_client.exchange.Policy.pause_before", lambda *_: 0.0)


@dataclass
class FakeCluster:
    """A cluster whose pods all lead to one server. `secret`: the key in its Secret."""

    url: str
    found: Sequence[ReadyPod] = (ReadyPod("p-1", "org/judge"),)
    secret: str | None = None
    asked: list[str] = field(default_factory=list)

    def __call__(self, _settings: Any) -> FakeCluster:
        return self

    def pods(self) -> Sequence[ReadyPod]:
        return self.found

    def key(self) -> str | None:
        self.asked.append("key")
        return self.secret

    @contextmanager
    def forward(self, model: str) -> Iterator[str]:
        self.asked.append(f"forward to {model}")
        yield self.url


def score(*words: str, environment: Mapping[str, str] | None = None) -> Result:
    return CliRunner(env=dict(environment or {})).invoke(cli, ["judge", "score", *TEXTS, *words], obj=AppContext())


def score_in(desk: Desk, cluster: Any, *words: str, **variables: Any) -> Result:
    desk.role_variables = shipped_variables(**variables)
    app = AppContext(services=desk.services(), extra={"judge": cluster})
    return CliRunner().invoke(cli, ["--env", "prod", "judge", "score", *TEXTS, *words], obj=app)


@pytest.fixture
def pod() -> Iterator[tuple[PodServer, str]]:
    """Yield a judge that wants the key, and its URL."""
    server = serving("org/judge", COMMIT, key=KEY)
    with served(server) as url:
        yield server, url


def test_without_url_and_environment_both_ways_are_named() -> None:
    done = score()
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "Error: nothing says which server judges",
        "Hint: add --url http://HOST:PORT (any server with OpenAI's API), or --env ENV for the judge of an environment"]


@pytest.mark.parametrize("root", ["", "/", "/v1", "/v1/"])
def test_the_key_comes_from_a_file(pod: tuple[PodServer, str], tmp_path: Path, root: str) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\nand a second line\n")
    done = score("--url", pod[1] + root, "--api-key-file", str(file))
    assert done.exit_code == 0, done.stderr
    assert {said for _, _, said in pod[0].asked} == {f"Bearer {KEY}"}


def test_the_key_comes_from_the_environment(pod: tuple[PodServer, str]) -> None:
    assert score("--url", pod[1], environment={"JUDGE_API_KEY": KEY}).exit_code == 0


def test_a_file_wins_over_the_environment(pod: tuple[PodServer, str], tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    done = score("--url", pod[1], "--api-key-file", str(file), environment={"JUDGE_API_KEY": "another-key-altogether"})
    assert done.exit_code == 0, done.stderr


def test_a_wrong_key_is_said_with_both_ways_to_give_one(pod: tuple[PodServer, str]) -> None:
    done = score("--url", pod[1], "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["reason"]) == (1, False, "SERVER_DENIED")
    assert found["message"] == f"{pod[1]}/v1/models answered 401: no valid API key"
    assert found["hint"] == "--api-key-file FILE, or export JUDGE_API_KEY"
    assert found["verdict"]["score"] is None


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty, wanted the API key in its first line"),
    (b"two words", "is no API key, wanted one word of at most 4096 printable characters"),
    (b"k" * 5000, "is no API key, wanted one word of at most 4096 printable characters"),
    (b"\x00\x01", "is no API key, wanted one word of at most 4096 printable characters"),
    (b"\xff\xfe", "it is no text in ASCII"),
])
def test_a_file_without_a_key_is_wrong_usage(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    done = score("--url", "http://127.0.0.1:9", "--api-key-file", str(file))
    assert done.exit_code == 2
    assert message in done.stderr and done.stderr.endswith(f"Hint: ls -l {file}   # --api-key-file\n")
    assert "two words" not in done.stderr and "kkkk" not in done.stderr, "what is no key may still be a secret"


def test_a_key_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    done = score("--url", "http://127.0.0.1:9", "--api-key-file", str(tmp_path / "none"))
    assert (done.exit_code, "No such file or directory" in done.stderr) == (2, True)


def test_a_variable_without_a_key_is_wrong_usage_and_not_shown() -> None:
    done = score("--url", "http://127.0.0.1:9", environment={"JUDGE_API_KEY": "Bearer abcdefgh"})
    assert done.exit_code == 2
    assert "JUDGE_API_KEY holds no API key" in done.stderr and "abcdefgh" not in done.stderr


@pytest.mark.parametrize("json_too", [False, True])
def test_a_key_that_the_server_says_back_is_masked(tmp_path: Path, json_too: bool) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    parrot = PodServer({"/v1/models": (401, {"error": f"no such key: Bearer {KEY}"})})
    with served(parrot) as url:
        done = score("--url", url, "--api-key-file", str(file), *(["--json"] if json_too else []))
    assert (done.exit_code, parrot.asked[0][2]) == (1, f"Bearer {KEY}")
    assert "no such key: Bearer ***" in done.output and KEY not in done.output


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://h:0", "http://h:99999",
                                 "http://h?x=1", "http://h#x", "http://[::1", "unix:/run/judge.sock", "http://a b:80",
                                 "http://a;b", "http://h\n:80"])
def test_what_is_no_address_is_wrong_usage(url: str) -> None:
    with pytest.raises(UsageProblem, match="wanted the address of a server") as caught:
        checked_url(url)
    assert caught.value.hint == "--url http://HOST:PORT, as in http://127.0.0.1:8000"


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageProblem, match="holds credentials") as caught:
        checked_url("user:hunter22@host")
    assert "hunter22" not in caught.value.message + str(caught.value.hint)


def test_a_server_that_is_down_is_said_in_one_line_with_the_next_command() -> None:
    done = score("--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    said, hint = done.stderr.splitlines()
    assert said.startswith("Error: SERVER_UNREACHABLE: http://127.0.0.1:9/v1/models: ") and "refused" in said
    assert hint == "Hint: curl -sS http://127.0.0.1:9/v1/models"


def test_https_to_a_port_that_speaks_http_is_told_how_to_be_written(pod: tuple[PodServer, str]) -> None:
    done = score("--url", pod[1].replace("http:", "https:"), "--timeout", "2")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].endswith(f"or, if it speaks http: --url {pod[1]}")


def test_a_certificate_that_is_not_trusted_is_told_how_to_become_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    with https(tls) as server:
        done = score("--url", server.url)
    assert done.exit_code == 1
    assert "certificate verify failed" in done.stderr
    assert done.stderr.splitlines()[-1] == "Hint: export SSL_CERT_FILE=FILE   # with the certificate of your own CA"


@pytest.mark.parametrize(("answered", "reason", "said"), [
    ((404, "not found"), "REQUEST_REFUSED", "/v1/models answered 404: not found"),
    ((200, "<html>Welcome</html>"), "RESPONSE_INVALID", "is not JSON"),
    ((200, {"data": "x"}), "RESPONSE_INVALID", "answered no list of models: is it an OpenAI API?"),
])
def test_a_server_that_is_no_judge_is_recognised(answered: tuple[int, Any], reason: str, said: str) -> None:
    with served(PodServer({"/v1/models": answered})) as url:
        done = score("--url", url, "--json")
        found = json.loads(done.stdout)
        assert (done.exit_code, found["reason"], said in found["message"]) == (1, reason, True)
        assert found["hint"] == f"curl -sS {url}/v1/models   # does a server with OpenAI's API answer there?"


def test_texts_that_are_too_long_for_the_model_are_said_so(pod: tuple[PodServer, str]) -> None:
    said = "This model's maximum context length is 2048 tokens. However, your request has 2500 input tokens."
    pod[0].routes["/v1/chat/completions"] = (400, {"error": {"message": said}})
    done = score("--url", pod[1], environment={"JUDGE_API_KEY": KEY})
    assert done.exit_code == 1
    assert said in done.stderr and "\nHint: give shorter texts, or serve the judge with a longer context" in done.stderr


def test_another_model_than_the_one_named_is_said(pod: tuple[PodServer, str]) -> None:
    done = score("--url", pod[1], "--model", "other", environment={"JUDGE_API_KEY": KEY})
    assert done.exit_code == 1
    assert f"WRONG_MODEL_SERVED: {pod[1]} serves org/judge, wanted other" in done.stderr


def test_a_slow_server_is_given_the_time_that_was_asked_for(pod: tuple[PodServer, str]) -> None:
    pod[0].slow_seconds = 0.4
    done = score("--url", pod[1], "--timeout", "30", environment={"JUDGE_API_KEY": KEY})
    assert done.exit_code == 0, done.stderr


# --- the judge of an environment -------------------------------------------------------------------------------------


def test_an_environment_s_judge_is_asked_with_the_key_of_its_secret(desk: Desk, pod: tuple[PodServer, str]) -> None:
    cluster = FakeCluster(pod[1], secret=KEY)
    done = score_in(desk, cluster, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["env"] == "prod"
    assert cluster.asked == ["key", "forward to org/judge"]


def test_the_key_of_the_user_s_variable_is_not_sent_to_an_environment_s_judge(
        desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "key-for-another-server-altogether")
    open_to_all = serving("org/judge", COMMIT)
    with served(open_to_all) as url:
        assert score_in(desk, FakeCluster(url)).exit_code == 0
    assert {said for _, _, said in open_to_all.asked} == {"Bearer EMPTY"}


def test_who_may_not_read_the_secret_gives_the_key_in_a_file(desk: Desk, pod: tuple[PodServer, str],
                                                             tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    cluster = FakeCluster(pod[1])
    assert score_in(desk, cluster, "--api-key-file", str(file)).exit_code == 0
    assert cluster.asked == ["forward to org/judge"]


@pytest.mark.parametrize(("named", "forwarded", "code"), [("org/new", "org/new", 1), ("judge", "org/judge", 0),
                                                          ("nope", "org/judge", 1)])
def test_a_model_is_found_under_any_name_that_a_pod_serves(desk: Desk, named: str, forwarded: str, code: int) -> None:
    pod = serving("org/judge", COMMIT)
    # vLLM answers with the first of its names.
    pod.routes["/v1/models"][1]["data"].append({**pod.routes["/v1/models"][1]["data"][0], "id": "judge"})
    with served(pod) as url:
        cluster = FakeCluster(url, found=(ReadyPod("p-1", "org/judge"), ReadyPod("p-2", "org/new")))
        done = score_in(desk, cluster, "--model", named)
    assert (done.exit_code, cluster.asked[-1]) == (code, f"forward to {forwarded}")
    if code:
        assert f"serves judge, org/judge, wanted {named}" in done.stderr


def test_without_a_ready_pod_nothing_is_asked(desk: Desk) -> None:
    done = score_in(desk, FakeCluster("http://127.0.0.1:9", found=()), "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["reason"]) == (1, "POD_PENDING")
    assert found["hint"] == "judge-bootstrap --env prod health"


def test_an_environment_whose_server_is_elsewhere_is_asked_there(desk: Desk, pod: tuple[PodServer, str],
                                                                 tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    done = score_in(desk, None, vllm_k8s_endpoint_url=pod[1], vllm_k8s_endpoint_key_file=str(file))
    assert done.exit_code == 0, done.stderr


def test_hints_for_an_environment_are_its_own_commands(desk: Desk, pod: tuple[PodServer, str]) -> None:
    done = score_in(desk, FakeCluster(pod[1], secret="not-the-key-of-the-pods"))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "Hint: judge-bootstrap --env prod secrets apply --check"


def test_an_url_wins_over_the_environment(desk: Desk, pod: tuple[PodServer, str],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_settings: Any) -> Any:
        raise AssertionError("no cluster is to be asked")

    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    assert score_in(desk, refuse, "--url", pod[1]).exit_code == 0


def test_the_cluster_s_ready_pods_and_secret_are_what_is_asked() -> None:
    kube = FakeKube()
    labels = {"app.kubernetes.io/name": "judge-inference"}
    for name, ready in (("ready", "True"), ("loading", "False")):
        kube.put(f"/api/v1/namespaces/llm-judge/pods/{name}", {
            "metadata": {"name": name, "labels": labels},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
            "spec": {"containers": [{"name": "vllm", "args": ["--served-model-name", "org/judge", "judge"]}]}})
    kube.put("/api/v1/namespaces/llm-judge/secrets/judge-api-key",
             {"metadata": {"name": "judge-api-key"}, "data": {"api-key": base64.b64encode(KEY.encode()).decode()}})
    settings: Any = SimpleNamespace(connect=lambda: kube, namespace="llm-judge", api_key_secret_name="judge-api-key",
                                    port=8000, serving_pods="app.kubernetes.io/name=judge-inference")
    cluster = RealCluster(settings)
    assert (cluster.pods(), cluster.key()) == ([ReadyPod("ready", "org/judge")], KEY)


# --- the group -------------------------------------------------------------------------------------------------------


def test_every_verb_of_the_group_is_there_and_explains_itself() -> None:
    for verb in VERBS:
        done = CliRunner().invoke(cli, ["judge", verb, "--help"])
        assert done.exit_code == 0 and "Examples:" in done.output, verb


def test_what_the_client_says_of_a_file_is_an_error_with_its_code_s_exit_code(tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.json"
    rubric.write_text("no rubric")
    done = score("--url", "http://127.0.0.1:9", "--rubric", str(rubric), "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["reason"]) == (2, False, "RUBRIC_UNUSABLE")
    assert found["message"] and found["hint"]


def test_a_known_error_of_the_cluster_is_handed_on(desk: Desk) -> None:
    def refuse(_settings: Any) -> Any:
        raise BootstrapError("it says no", reason="CLUSTER_DENIED", hint="judge-bootstrap --env ENV preflight")

    done = score_in(desk, refuse)
    assert (done.exit_code, done.stderr) == (
        1, "Error: CLUSTER_DENIED: it says no\nHint: judge-bootstrap --env prod preflight\n")
