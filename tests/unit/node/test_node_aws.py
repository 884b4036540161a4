"""A secret and a parameter, read with the node's role: of moto, and signed as AWS's own SDK signs."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SdkCredentials
from judge_lab.aws import AwsServer
from judge_lab.stand_in import Handler, StandIn
from judge_node.cache import aws as aws_module
from judge_node.cache.aws import Aws, sign
from judge_node.cache.aws_role import Credentials
from judge_node.cache.tokens import LazyToken, token_in, token_of
from judge_node.result import NodeError
from unit.node.fake_imds import KEY_ID, SECRET_KEY, SESSION_TOKEN, FakeImds, credentials, imds

TOKEN = "hf_plantedTokenOfTheHub4711"
ROLE_POLICY = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["secretsmanager:GetSecretValue", "ssm:GetParameter"], "Resource": "*"}]}
TRUST = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with AwsServer() as server:
        yield server.url


def post(url: str, body: str) -> None:
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "text/plain"})
    with urllib.request.urlopen(request, timeout=120):
        pass


@pytest.fixture
def account(moto: str) -> Iterator[str]:
    """An empty account."""
    post(f"{moto}/moto-api/reset", "")
    yield moto
    post(f"{moto}/moto-api/reset-auth", "inf")


@pytest.fixture
def instance() -> Iterator[FakeImds]:
    with imds() as service:
        yield service


def client(account: str, service: str, region: str = "eu-central-1") -> Any:
    return boto3.client(service, endpoint_url=account, region_name=region, aws_access_key_id="x",
                        aws_secret_access_key="x")


def node(instance: FakeImds, endpoint: str, region: str | None = None, **environment: str) -> Aws:
    names = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url, "AWS_ENDPOINT_URL": endpoint, **environment}
    return Aws(region, environment=names, wait=lambda seconds: None)


def refusal(ask: Callable[[], object]) -> NodeError:
    with pytest.raises(NodeError) as caught:
        ask()
    shown = f"{caught.value.message} {caught.value.repair} {caught.value!r} {caught.value.__cause__!r}"
    for planted in (KEY_ID, SECRET_KEY, SESSION_TOKEN, TOKEN):
        assert planted not in shown
    return caught.value


# --- the real API's stand-in ------------------------------------------------------------------------------------------


def test_a_secret_is_read_with_the_instance_s_role_and_region(account: str, instance: FakeImds) -> None:
    client(account, "secretsmanager").create_secret(Name="judge/hub", SecretString=TOKEN)
    assert node(instance, account).secret("judge/hub") == TOKEN


def test_a_secret_is_read_by_its_arn_in_the_arn_s_region(account: str, instance: FakeImds) -> None:
    arn = client(account, "secretsmanager", "us-west-2").create_secret(Name="judge/hub", SecretString=TOKEN)["ARN"]
    assert node(instance, account).secret(arn) == TOKEN
    assert not any("placement" in path for _, path in instance.requests)


def test_a_binary_secret_is_text_too(account: str, instance: FakeImds) -> None:
    client(account, "secretsmanager").create_secret(Name="binary", SecretBinary=TOKEN.encode())
    assert node(instance, account).secret("binary") == TOKEN


def test_the_region_that_is_given_is_the_one_that_is_asked(account: str, instance: FakeImds) -> None:
    client(account, "secretsmanager", "us-west-2").create_secret(Name="judge/hub", SecretString=TOKEN)
    assert node(instance, account, "us-west-2").secret("judge/hub") == TOKEN
    assert refusal(lambda: node(instance, account).secret("judge/hub")).message == (
        "Secrets Manager in eu-central-1 has no judge/hub"
    )


def test_an_encrypted_parameter_is_read_decrypted(account: str, instance: FakeImds) -> None:
    client(account, "ssm").put_parameter(Name="/judge/hub-token", Value=TOKEN, Type="SecureString")
    assert node(instance, account).parameter("/judge/hub-token") == TOKEN


@pytest.mark.parametrize(("read", "title"), [("secret", "Secrets Manager"), ("parameter", "SSM")])
def test_what_is_not_there_is_told(account: str, instance: FakeImds, read: str, title: str) -> None:
    error = refusal(lambda: getattr(node(instance, account), read)("/judge/none"))
    assert (error.reason, error.message) == ("TOKEN_UNAVAILABLE", f"{title} in eu-central-1 has no /judge/none")
    assert error.repair is not None and error.repair.startswith("aws sts get-caller-identity")


@pytest.fixture
def assume(account: str, instance: FakeImds) -> Callable[[dict[str, Any] | None], None]:
    """Give the instance a role of moto's with this policy; from then on moto checks every signature and permission."""

    def assume(policy: dict[str, Any] | None) -> None:
        iam = client(account, "iam")
        role = iam.create_role(RoleName="judge-node", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
        if policy is not None:
            iam.put_role_policy(RoleName="judge-node", PolicyName="read", PolicyDocument=json.dumps(policy))
        given = client(account, "sts").assume_role(RoleArn=role["Arn"], RoleSessionName="i-0abc")["Credentials"]
        instance.document = credentials(
            AccessKeyId=given["AccessKeyId"], SecretAccessKey=given["SecretAccessKey"], Token=given["SessionToken"]
        )
        post(f"{account}/moto-api/reset-auth", "0")

    return assume


def test_moto_accepts_the_signature_of_a_role_s_session(
    account: str, instance: FakeImds, assume: Callable[[dict[str, Any] | None], None]
) -> None:
    client(account, "secretsmanager").create_secret(Name="judge/hub", SecretString=TOKEN)
    assume(ROLE_POLICY)
    assert node(instance, account).secret("judge/hub") == TOKEN


def test_moto_refuses_another_key(
    account: str, instance: FakeImds, assume: Callable[[dict[str, Any] | None], None]
) -> None:
    client(account, "secretsmanager").create_secret(Name="judge/hub", SecretString=TOKEN)
    assume(ROLE_POLICY)
    instance.document["SecretAccessKey"] = SECRET_KEY
    error = refusal(lambda: node(instance, account).secret("judge/hub"))
    assert error.reason == "TOKEN_UNAVAILABLE"
    assert error.message.endswith("refused to read judge/hub (SignatureDoesNotMatch 403)")


def test_a_role_that_may_not_is_told_which_right_it_lacks(
    account: str, instance: FakeImds, assume: Callable[[dict[str, Any] | None], None]
) -> None:
    client(account, "ssm").put_parameter(Name="/judge/hub-token", Value=TOKEN, Type="SecureString")
    assume(None)
    error = refusal(lambda: node(instance, account).parameter("/judge/hub-token"))
    assert error.reason == "SOURCE_DENIED"
    assert error.message.startswith("the node's role may not read /judge/hub-token of SSM in eu-central-1")
    assert error.repair == (
        "aws sts get-caller-identity   # on the node; allow that role ssm:GetParameter on it, and kms:Decrypt"
    )


# --- the signature, held against the SDK's ----------------------------------------------------------------------------

NOW = 1_764_000_000
HEADERS = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "secretsmanager.GetSecretValue"}


@pytest.fixture
def fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda *_, **__: datetime.fromtimestamp(NOW, UTC)
    )


@pytest.mark.parametrize("session_token", [SESSION_TOKEN, None])
@pytest.mark.parametrize(
    ("url", "headers", "body", "region", "service"),
    [
        ("https://secretsmanager.eu-central-1.amazonaws.com/", HEADERS, b'{"SecretId": "a"}', "eu-central-1",
         "secretsmanager"),
        ("https://ssm.us-gov-west-1.amazonaws.com/", {**HEADERS, "X-Amz-Target": "AmazonSSM.GetParameter"},
         '{"Name": "/über/token"}'.encode(), "us-gov-west-1", "ssm"),
        ("https://ssm.cn-north-1.amazonaws.com.cn:443/", HEADERS, b"", "cn-north-1", "ssm"),
        ("http://127.0.0.1:5000/", HEADERS, b"{}", "us-east-1", "ssm"),
        ("http://[fd00::1]:5000/", HEADERS, b"{}", "us-east-1", "ssm"),
        ("http://localhost:80/", HEADERS, b"{}", "us-east-1", "ssm"),
        ("https://gateway.example/aws/a b/ssm/", HEADERS, b"{}", "us-east-1", "ssm"),
        ("https://gateway.example/aws%20ssm/", HEADERS, b"{}", "us-east-1", "ssm"),
        ("https://ssm.us-east-1.amazonaws.com/", {**HEADERS, "X-Amz-Note": "  two   words "}, b"{}", "us-east-1",
         "ssm"),
    ],
)
def test_the_signature_is_the_sdk_s_byte_for_byte(
    fixed_clock: None, url: str, headers: dict[str, str], body: bytes, region: str, service: str,
    session_token: str | None,
) -> None:
    request = AWSRequest("POST", url, headers=headers, data=body)
    signer = botocore.auth.SigV4Auth(SdkCredentials(KEY_ID, SECRET_KEY, session_token), service, region)
    signer.add_auth(request)
    ours = sign("POST", url, headers, body, Credentials(KEY_ID, SECRET_KEY, session_token), region, service, NOW)
    assert ours["Authorization"] == request.headers["Authorization"]
    assert ours["X-Amz-Date"] == request.headers["X-Amz-Date"]
    assert ours.get("X-Amz-Security-Token") == request.headers.get("X-Amz-Security-Token")


@pytest.mark.parametrize(
    ("service", "ask", "call", "argument"),
    [
        ("secretsmanager", "get_secret_value", "secret", {"SecretId": "judge/hub"}),
        ("ssm", "get_parameter", "parameter", {"Name": "/judge/hub", "WithDecryption": True}),
    ],
)
def test_the_request_is_the_one_that_boto3_sends(
    account: str, instance: FakeImds, service: str, ask: str, call: str, argument: dict[str, Any]
) -> None:
    sent: list[Any] = []
    ours: list[urllib.request.Request] = []

    def keep(request: Any, **_: Any) -> None:
        sent.append(request)

    boto = client(account, service)
    boto.meta.events.register("before-send.*", keep)
    with pytest.raises(boto.exceptions.ClientError):
        getattr(boto, ask)(**argument)
    exchange = aws_module.exchange

    def spy(request: urllib.request.Request, seconds: float, **other: Any) -> Any:
        ours.append(request)
        return exchange(request, seconds, **other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aws_module, "exchange", spy)
        refusal(lambda: getattr(node(instance, account), call)(next(iter(argument.values()))))
    theirs = {name.lower(): value for name, value in sent[0].headers.items()}
    for name in ("X-Amz-Target", "Content-Type"):
        said = theirs[name.lower()]
        assert ours[0].get_header(name.capitalize()) == (said.decode() if isinstance(said, bytes) else said)
    assert (ours[0].get_method(), ours[0].full_url, json.loads(ours[0].data or b"")) == (  # type: ignore[arg-type]
        sent[0].method, sent[0].url, json.loads(sent[0].body)
    )


# --- what AWS can answer ----------------------------------------------------------------------------------------------


@dataclass
class Canned:
    """An endpoint that gives these answers in turn, and the last one from then on."""

    url: str = ""
    answers: list[tuple[int, bytes, dict[str, str]]] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def api() -> Iterator[Canned]:
    state = Canned()

    class Service(Handler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            state.requests.append(dict(self.headers))
            status, body, headers = state.answers[0] if len(state.answers) == 1 else state.answers.pop(0)
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:  # where a redirect would lead
            state.requests.append({"followed": self.path})
            self.answer(200)

    with StandIn(Service) as server:
        state.url = server.url
        yield state


def error_of(kind: str, message: str = "", status: int = 400, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps({"__type": kind, "Message": message}).encode(), headers


FOUND = (200, json.dumps({"SecretString": TOKEN}).encode(), {})


@pytest.mark.parametrize(
    "trouble",
    [error_of("ThrottlingException", "Rate exceeded"), error_of("InternalServiceError", status=500),
     (503, b"<html>busy</html>", {}), (429, b"", {})],
)
def test_what_passes_is_waited_out(api: Canned, instance: FakeImds, trouble: tuple[int, bytes, dict[str, str]]) -> None:
    api.answers = [trouble, trouble, FOUND]
    assert node(instance, api.url).secret("a") == TOKEN


@pytest.mark.parametrize("answer", [(200, b"<html>log in here</html>", {}), (403, b"<html>forbidden</html>", {})])
def test_a_page_in_aws_s_place_is_not_taken_for_its_word(
    api: Canned, instance: FakeImds, answer: tuple[int, bytes, dict[str, str]]
) -> None:
    api.answers = [answer]
    assert refusal(lambda: node(instance, api.url).secret("a")).message == (
        f"Secrets Manager in eu-central-1 refused to read a (status {answer[0]})"
    )


def test_throttling_that_does_not_end_is_told_after_seven_attempts(api: Canned, instance: FakeImds) -> None:
    api.answers = [error_of("ThrottlingException", "Rate exceeded")]
    error = refusal(lambda: node(instance, api.url).secret("a"))
    host = api.url.removeprefix("http://")
    assert error.message == (
        f"Secrets Manager at {host} gave no answer in 7 attempts (ThrottlingException 400)"
    )
    assert (error.reason, error.repair, len(api.requests)) == ("TOKEN_UNAVAILABLE", "run it again later", 7)


def test_an_endpoint_that_is_not_there_is_named(instance: FakeImds) -> None:
    error = refusal(lambda: node(instance, "http://127.0.0.1:9").parameter("a"))
    assert error.message == "SSM at 127.0.0.1:9 gave no answer in 7 attempts (Connection refused)"
    assert error.repair == "curl -sSI http://127.0.0.1:9/   # on the node: is there a route to it?"


def test_aws_s_words_on_permissions_are_handed_on_without_secrets(api: Canned, instance: FakeImds) -> None:
    said = (
        "User: arn:aws:sts::123456789012:assumed-role/judge/i-0abc is not authorized to perform: "
        "secretsmanager:GetSecretValue on resource: judge/hub because no identity-based policy allows it"
    )
    api.answers = [error_of("com.amazonaws.secretsmanager#AccessDeniedException", f"{said} {SESSION_TOKEN}")]
    error = refusal(lambda: node(instance, api.url).secret("judge/hub"))
    assert (error.reason, error.exit_code) == ("SOURCE_DENIED", 1)
    assert error.message == (
        f"the node's role may not read judge/hub of Secrets Manager in eu-central-1: {said} ..."
    )


def test_of_a_refused_signature_nothing_is_repeated(api: Canned, instance: FakeImds) -> None:
    canonical = f"The Canonical String should have been 'POST\n/\n\nx-amz-security-token:{SESSION_TOKEN}"
    api.answers = [error_of("InvalidSignatureException", canonical)]
    assert refusal(lambda: node(instance, api.url).secret("a")).message == (
        "Secrets Manager in eu-central-1 refused to read a (InvalidSignatureException 400)"
    )


def test_a_clock_that_is_wrong_is_named(api: Canned, instance: FakeImds) -> None:
    ahead = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 1000))
    api.answers = [error_of("InvalidSignatureException", "Signature expired", Date=ahead)]
    error = refusal(lambda: node(instance, api.url).secret("a"))
    assert error.message.startswith("Secrets Manager refused the signature: the node's clock is ")
    assert error.message.endswith(" seconds behind")
    assert error.repair == "chronyc tracking   # on the node; set its clock, then run again"


def test_a_redirect_is_not_followed(api: Canned, instance: FakeImds) -> None:
    api.answers = [(302, b"", {"Location": f"{api.url}/elsewhere"})]
    refusal(lambda: node(instance, api.url).secret("a"))
    assert not [request for request in api.requests if "followed" in request]


def test_an_answer_without_an_end_is_cut_off(api: Canned, instance: FakeImds) -> None:
    api.answers = [(200, b" " * (1 << 20), {})]
    assert "it sent more than 262144 bytes" in refusal(lambda: node(instance, api.url).secret("a")).message


# --- where it is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "environment", "url"),
    [
        ("us-east-1", {}, "https://secretsmanager.us-east-1.amazonaws.com/"),
        ("cn-north-1", {}, "https://secretsmanager.cn-north-1.amazonaws.com.cn/"),
        ("us-gov-west-1", {"AWS_USE_FIPS_ENDPOINT": "true"},
         "https://secretsmanager-fips.us-gov-west-1.amazonaws.com/"),
        ("us-east-1", {"AWS_ENDPOINT_URL": "https://all.example"}, "https://all.example/"),
        ("us-east-1", {"AWS_ENDPOINT_URL": "https://all.example",
                       "AWS_ENDPOINT_URL_SECRETS_MANAGER": "https://one.example/x/"}, "https://one.example/x/"),
        ("us-east-1", {"AWS_ENDPOINT_URL": "https://all.example", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
         "https://secretsmanager.us-east-1.amazonaws.com/"),
    ],
)
def test_the_endpoint_is_the_one_that_the_sdk_asks(
    monkeypatch: pytest.MonkeyPatch, region: str, environment: dict[str, str], url: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sdk = boto3.client("secretsmanager", region_name=region, aws_access_key_id="x", aws_secret_access_key="x")
    assert Aws(region, environment=environment)._endpoint(aws_module._SECRET, region) == url
    assert sdk.meta.endpoint_url.rstrip("/") + "/" == url


def test_the_token_does_not_travel_unencrypted_outside_a_private_network(instance: FakeImds) -> None:
    assert refusal(lambda: node(instance, "http://aws.example").secret("a")).message == (
        "the token would travel unencrypted from aws.example"
    )


@pytest.mark.parametrize("endpoint", ["secretsmanager", "https://user:word@aws.example", "ftp://aws.example",
                                      "https://aws.example:port", "https://aws.example/?a", "https://a b"])
def test_an_endpoint_that_is_none_is_not_shown(instance: FakeImds, endpoint: str) -> None:
    error = refusal(lambda: node(instance, endpoint).secret("a"))
    assert error.message == (
        "the endpoint that is configured for Secrets Manager is no URL, wanted one such as https://HOST"
    )


def test_an_arn_of_another_service_is_refused(instance: FakeImds) -> None:
    arn = "arn:aws:ssm:us-east-1:123456789012:parameter/judge"
    assert refusal(lambda: node(instance, "http://127.0.0.1:9").secret(arn)).message == (
        f"{arn} is no ARN of Secrets Manager"
    )


# --- the token in the value, and when it is asked for -----------------------------------------------------------------


@pytest.mark.parametrize("value", [TOKEN, f" {TOKEN}\n", json.dumps({"HF_TOKEN": TOKEN}), json.dumps({"token": TOKEN}),
                                   json.dumps({"hf_token": TOKEN, "other": "x"})])
def test_a_token_is_the_value_or_one_of_three_keys(value: str) -> None:
    assert token_in(value, "the secret a") == TOKEN


@pytest.mark.parametrize("value", ["", "{", json.dumps({"TOKEN": TOKEN}), json.dumps({"HF_TOKEN": [TOKEN]}),
                                   f"{TOKEN} {TOKEN}", f"{TOKEN}\r\nX-Injected: 1", "x" * 5000, f"ü{TOKEN}",
                                   json.dumps({"HF_TOKEN": ""}), "{" * 100_000])
def test_a_value_without_one_token_is_refused_unseen(value: str) -> None:
    error = refusal(lambda: token_in(value, "the secret a"))
    assert error.reason == "TOKEN_UNAVAILABLE"
    assert error.message.startswith("the secret a does not hold the Hub token, wanted ")


def test_aws_is_asked_when_the_token_is_first_needed_and_once(
    account: str, instance: FakeImds, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(account, "secretsmanager").create_secret(Name="judge/hub", SecretString=json.dumps({"HF_TOKEN": TOKEN}))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", instance.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", account)
    token = token_of(secret="judge/hub")
    assert callable(token) and instance.requests == []
    assert TOKEN not in repr(token)
    assert token() == TOKEN
    asked = len(instance.requests)
    assert (token(), len(instance.requests)) == (TOKEN, asked)


def test_a_parameter_is_asked_of_ssm_in_the_region_that_is_given(
    account: str, instance: FakeImds, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(account, "ssm", "us-west-2").put_parameter(Name="/judge/hub-token", Value=TOKEN, Type="SecureString")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", instance.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", account)
    token = token_of(parameter="/judge/hub-token", region="us-west-2")
    assert callable(token) and token() == TOKEN


def test_eight_threads_ask_once_and_all_get_the_failure() -> None:
    asked, failures = [], []

    def ask() -> str:
        asked.append(1)
        raise NodeError("no", reason="TOKEN_UNAVAILABLE")

    token = LazyToken(ask)

    def use() -> None:
        with pytest.raises(NodeError) as caught:
            token()
        failures.append(caught.value.reason)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(asked), failures) == (1, ["TOKEN_UNAVAILABLE"] * 8)


def test_a_token_in_the_place_of_a_name_is_not_shown() -> None:
    planted = "hf_" + "aB3" * 12
    error = refusal(lambda: token_of(secret=planted))
    assert planted not in f"{error.message} {error.repair}"
    assert error.message == "--token-secret looks like a token itself, wanted the name of what holds it"


def test_a_name_that_cannot_be_one_is_wrong_usage() -> None:
    error = refusal(lambda: token_of(parameter="a b\n"))
    assert (error.exit_code, error.message) == (2, "--token-parameter is 'a b\\n', wanted a name or an ARN")
