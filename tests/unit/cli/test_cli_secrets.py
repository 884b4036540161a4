"""`secrets apply`: what goes into the cluster, and that nothing of it is shown."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cluster_desks import shipped_variables
from fakes_cli import Desk
from fakes_kube import FakeKube
from judge_bootstrap.adapters.aws import AwsUnavailable, read_secret
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.main import cli
from judge_bootstrap.cli.secrets import World

TOKEN = "hf_" + "Ab1" * 11
TOKEN_PATH = "/api/v1/namespaces/llm-judge-loader/secrets/hf-secret"
KEY_PATH = "/api/v1/namespaces/llm-judge/secrets/judge-api-key"
OURS = {"app.kubernetes.io/managed-by": "judge-bootstrap"}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def value(kube: FakeKube, path: str, key: str) -> str:
    return base64.b64decode(kube.objects[path]["data"][key]).decode()


class Bench:
    """The command with an API server in memory."""

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.desk, self.kube, self._monkeypatch = desk, FakeKube(), monkeypatch
        self.aws: Callable[[str, str], str] = lambda region, name: TOKEN
        desk.role_variables = shipped_variables()
        monkeypatch.delenv("HF_TOKEN", raising=False)

    def __call__(self, *words: str, token: str | None = TOKEN, stdin: str | bytes | None = None) -> Result:
        if token is not None:
            self._monkeypatch.setenv("HF_TOKEN", token)
        world = World(connect=lambda settings: self.kube, aws_secret=lambda region, name: self.aws(region, name))
        app = AppContext(services=self.desk.services(), extra={"secrets": world})
        done = CliRunner().invoke(cli, ["--env", "prod", "secrets", "apply", *words], obj=app, input=stdin)
        assert TOKEN not in done.output and encoded(TOKEN) not in done.output
        for path in (TOKEN_PATH, KEY_PATH):
            for kept in self.kube.objects.get(path, {}).get("data", {}).values():
                assert kept not in done.output and base64.b64decode(kept).decode() not in done.output
        return done

    def json(self, *words: str, **given: Any) -> tuple[int, dict[str, Any]]:
        done = self(*words, "--json", **given)
        answer: dict[str, Any] = json.loads(done.stdout)
        return done.exit_code, answer


@pytest.fixture
def bench(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(desk, monkeypatch)


def test_both_secrets_and_their_namespaces_are_made(bench: Bench) -> None:
    code, answer = bench.json()
    assert (code, answer["changed"]) == (0, 2)
    assert answer["secrets"] == [
        {"secret": "llm-judge-loader/hf-secret", "what": "Hub token", "action": "created"},
        {"secret": "llm-judge/judge-api-key", "what": "API key", "action": "created"}]
    assert value(bench.kube, TOKEN_PATH, "token") == TOKEN
    assert len(value(bench.kube, KEY_PATH, "api-key")) >= 43
    levels = {name: bench.kube.objects[f"/api/v1/namespaces/{name}"]["metadata"]["labels"]
              ["pod-security.kubernetes.io/enforce"] for name in ("llm-judge", "llm-judge-loader")}
    assert levels == {"llm-judge": "restricted", "llm-judge-loader": "privileged"}


def test_they_carry_our_labels_and_no_copy_of_what_was_applied(bench: Bench) -> None:
    bench()
    for path, name in ((TOKEN_PATH, "judge-loader"), (KEY_PATH, "judge-inference")):
        metadata = bench.kube.objects[path]["metadata"]
        assert metadata["labels"] == {
            "app.kubernetes.io/name": name, "app.kubernetes.io/instance": "judge-inference-service",
            "app.kubernetes.io/managed-by": "judge-bootstrap", "judge-bootstrap.io/owner": "c7eef4471df074ea"}
        assert "annotations" not in metadata
    assert {call.query["fieldManager"] for call in bench.kube.written()} == {"judge-bootstrap"}


def test_again_changes_nothing_and_says_so(bench: Bench) -> None:
    bench()
    before = json.dumps(bench.kube.objects)
    done = bench()
    assert done.stdout.splitlines() == ["Secret llm-judge-loader/hf-secret (Hub token): unchanged",
                                        "Secret llm-judge/judge-api-key (API key): unchanged"]
    assert json.dumps(bench.kube.objects) == before


def test_another_token_is_a_change_and_the_key_stays(bench: Bench) -> None:
    bench()
    key = value(bench.kube, KEY_PATH, "api-key")
    _, answer = bench.json(token="hf_other")
    assert [item["action"] for item in answer["secrets"]] == ["changed", "unchanged"]
    assert (value(bench.kube, TOKEN_PATH, "token"), value(bench.kube, KEY_PATH, "api-key")) == ("hf_other", key)


def test_check_writes_nothing(bench: Bench) -> None:
    done = bench("--check")
    assert done.exit_code == 0 and "hf-secret (Hub token): would be created" in done.stdout
    assert bench.kube.objects == {} and bench.kube.written() == []


def test_rotation_keeps_the_key_before_and_only_that(bench: Bench) -> None:
    bench()
    first = value(bench.kube, KEY_PATH, "api-key")
    bench("--rotate-api-key")
    second = value(bench.kube, KEY_PATH, "api-key")
    assert second != first and value(bench.kube, KEY_PATH, "previous-api-key") == first
    bench("--rotate-api-key")
    assert value(bench.kube, KEY_PATH, "previous-api-key") == second


@pytest.mark.parametrize(("path", "key"), [(TOKEN_PATH, "token"), (KEY_PATH, "api-key")])
def test_a_secret_of_others_is_refused_and_nothing_is_written(bench: Bench, path: str, key: str) -> None:
    bench.kube.put(path, {"metadata": {"labels": {"app": "theirs"}}, "data": {key: encoded("their value")}})
    code, answer = bench.json("--rotate-api-key")
    assert (code, answer["reason"]) == (3, "SECRET_FOREIGN")
    assert "was not made by judge-bootstrap" in answer["message"] and "their value" not in str(answer)
    assert list(bench.kube.objects) == [path]


def test_an_api_key_that_others_made_is_used_as_it_is(bench: Bench) -> None:
    bench.kube.put(KEY_PATH, {"data": {"api-key": encoded("their-own-key")}})
    _, answer = bench.json()
    assert answer["secrets"][1]["action"] == "unchanged"
    assert value(bench.kube, KEY_PATH, "api-key") == "their-own-key"


def test_an_api_key_secret_without_a_key_is_an_error(bench: Bench) -> None:
    bench.kube.put(KEY_PATH, {"data": {"other": encoded("x")}})
    code, answer = bench.json()
    assert (code, answer["reason"]) == (1, "SECRET_UNUSABLE")
    assert TOKEN_PATH not in bench.kube.objects


def test_without_a_token_only_the_key_is_seen_to(bench: Bench) -> None:
    code, answer = bench.json(token=None)
    assert (code, [item["what"] for item in answer["secrets"]]) == (0, ["API key"])
    assert TOKEN_PATH not in bench.kube.objects


def test_a_loader_that_wants_a_token_gets_a_warning_without_one(bench: Bench) -> None:
    bench.desk.role_variables["vllm_k8s_loader_gated_model"] = True
    assert "no Hub token was given, and the loader wants one" in bench(token=None).stderr


def test_a_token_that_nothing_reads_is_told(bench: Bench) -> None:
    assert "nothing reads the Hub token" in bench().stderr
    bench.desk.role_variables["vllm_k8s_loader_gated_model"] = True
    assert "nothing reads" not in bench().stderr


def test_no_api_key_is_made_where_none_is_wanted(bench: Bench) -> None:
    bench.desk.role_variables["vllm_k8s_api_key_secret_name"] = None
    _, answer = bench.json()
    assert [item["what"] for item in answer["secrets"]] == ["Hub token"]
    assert bench("--rotate-api-key").exit_code == 2


def test_the_token_comes_from_stdin(bench: Bench) -> None:
    assert bench("--from", "stdin", token=None, stdin=f"{TOKEN}\n").exit_code == 0
    assert value(bench.kube, TOKEN_PATH, "token") == TOKEN


@pytest.mark.parametrize("secret", [TOKEN, json.dumps({"HF_TOKEN": TOKEN, "other": "x"})])
def test_the_token_comes_from_aws_as_a_node_reads_it(bench: Bench, secret: str) -> None:
    asked = []

    def read(region: str, name: str) -> str:
        asked.append((region, name))
        return secret

    bench.aws = read
    assert bench("--from", "aws", "--secret-id", "hub", token=None).exit_code == 0
    assert (value(bench.kube, TOKEN_PATH, "token"), asked) == (TOKEN, [("us-east-1", "hub")])


def test_aws_is_asked_for_the_secret_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "moto-takes-any")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        import boto3

        boto3.client("secretsmanager", "us-east-1").create_secret(Name="hub", SecretString=TOKEN)
        assert read_secret("us-east-1", "hub") == TOKEN
        with pytest.raises(AwsUnavailable, match="ResourceNotFoundException"):
            read_secret("us-east-1", "none")


def test_aws_that_denies_it_is_one_line(bench: Bench) -> None:
    def read(region: str, name: str) -> str:
        raise AwsUnavailable("An error occurred (AccessDeniedException)")

    bench.aws = read
    code, answer = bench.json("--from", "aws", "--secret-id", "hub")
    assert (code, answer["reason"]) == (1, "TOKEN_UNAVAILABLE")
    assert "us-east-1 gives no secret hub: An error occurred (AccessDeniedException)" in answer["message"]


@pytest.mark.parametrize(("given", "said"), [
    ("", "is empty"), ("a\nb", "is 2 lines"), ("tök", "is a text with blanks or signs"),
    ("a b", "is a text with blanks or signs"),
    ("x" * 5000, "is 5000 characters long")])
def test_what_is_no_token_is_refused_and_not_shown(bench: Bench, given: str, said: str) -> None:
    code, answer = bench.json("--from", "stdin", stdin=given)
    assert (code, answer["reason"]) == (1, "TOKEN_UNAVAILABLE")
    assert f"what stdin holds {said}" in answer["message"] and (not given or given not in str(answer))
    assert bench.kube.objects == {}


def test_bytes_on_stdin_are_no_token(bench: Bench) -> None:
    code, answer = bench.json("--from", "stdin", stdin=io.BytesIO(b"\xff\xfe").getvalue())
    assert (code, answer["reason"]) == (1, "TOKEN_UNAVAILABLE")


@pytest.mark.parametrize("words", [("--from", "aws"), ("--secret-id", "x"), ("--from", "env"),
                                   ("--from", "aws", "--secret-id", TOKEN)])
def test_wrong_words_are_usage(bench: Bench, words: tuple[str, ...]) -> None:
    assert bench(*words, token=None).exit_code == 2


def test_a_token_by_option_does_not_exist(bench: Bench) -> None:
    assert bench("-e", "hf_token=abc").exit_code == 2
