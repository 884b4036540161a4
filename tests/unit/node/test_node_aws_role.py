"""Whose role a node has: IMDSv2 and the container's agent, on stand-ins that botocore reads, too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.credentials import ContainerProvider
from botocore.utils import InstanceMetadataFetcher
from judge_node.cache import aws_role
from judge_node.cache.aws_role import Credentials, Role
from judge_node.result import NodeError
from unit.node.fake_imds import (
    AGENT_TOKEN,
    KEY_ID,
    ROLE,
    SECRET_KEY,
    SESSION_TOKEN,
    FakeAgent,
    FakeImds,
    agent,
    credentials,
    imds,
)

OURS = Credentials(KEY_ID, SECRET_KEY, SESSION_TOKEN)


@pytest.fixture
def instance() -> Iterator[FakeImds]:
    with imds() as service:
        yield service


@pytest.fixture
def container() -> Iterator[FakeAgent]:
    with agent() as service:
        yield service


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_role, "_METADATA_SECONDS", 0.2)


def role(instance: FakeImds, **environment: str) -> Role:
    return Role({"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.url, **environment})


def pod(container: FakeAgent, token_file: Path, **environment: str) -> dict[str, str]:
    return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": container.url,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token_file), "AWS_EC2_METADATA_DISABLED": "true",
            **environment}


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "eks-pod-identity-token"
    path.write_text(AGENT_TOKEN)
    return path


def refusal(ask: Role, what: str = "credentials") -> NodeError:
    with pytest.raises(NodeError) as caught:
        getattr(ask, what)()
    for planted in (KEY_ID, SECRET_KEY, SESSION_TOKEN, AGENT_TOKEN, "imds-token"):
        assert planted not in f"{caught.value.message} {caught.value.repair} {caught.value!r}"
    return caught.value


def test_the_instance_s_role_is_had_by_imds_v2(instance: FakeImds) -> None:
    assert role(instance).credentials() == OURS
    assert instance.requests == [
        ("PUT", "/latest/api/token"),
        ("GET", "/latest/meta-data/iam/security-credentials/"),
        ("GET", f"/latest/meta-data/iam/security-credentials/{ROLE}"),
    ]


def test_aws_s_own_sdk_gets_the_same_of_the_stand_in(instance: FakeImds) -> None:
    found = InstanceMetadataFetcher(base_url=instance.url + "/").retrieve_iam_role_credentials()
    assert (found["access_key"], found["secret_key"], found["token"]) == (KEY_ID, SECRET_KEY, SESSION_TOKEN)


def test_without_a_token_the_stand_in_refuses_as_the_service_does(instance: FakeImds) -> None:
    instance.token_uses = 0
    assert "answered 401" in refusal(role(instance)).message


def test_a_metadata_token_that_ended_is_asked_for_anew(instance: FakeImds) -> None:
    instance.token_uses = 1
    assert role(instance).credentials() == OURS
    assert len(instance.tokens) == 2


def test_the_region_is_the_instance_s_unless_the_environment_says_another(instance: FakeImds) -> None:
    assert role(instance).region() == "eu-central-1"
    assert role(instance, AWS_REGION="us-west-2", AWS_DEFAULT_REGION="us-east-1").region() == "us-west-2"
    assert role(instance, AWS_DEFAULT_REGION="us-east-1").region() == "us-east-1"


def test_a_region_that_would_change_the_host_is_refused(instance: FakeImds) -> None:
    instance.region = "us-east-1.evil.example/"
    assert refusal(role(instance), "region").message == (
        "the instance's region is 'us-east-1.evil.example/', wanted a region such as us-east-1"
    )


def test_a_busy_service_is_asked_again(instance: FakeImds) -> None:
    instance.busy_times = 2
    assert role(instance).credentials() == OURS


def test_a_hop_limit_of_one_is_named_and_costs_three_timeouts(instance: FakeImds, quick: None) -> None:
    instance.hop_limit_too_low = True
    started = time.monotonic()
    error = refusal(role(instance))
    assert time.monotonic() - started < 25  # the service itself would be waited for three times 10 seconds
    assert error.reason == "TOKEN_UNAVAILABLE"
    assert error.message == (
        f"the metadata service at {instance.url} cannot be asked for the role of this node (no answer in 0.2 seconds); "
        "from a pod it is reached only with Pod Identity or a hop limit of 2"
    )
    assert [method for method, _ in instance.requests] == ["PUT"] * 3


def test_there_is_no_way_back_to_imds_v1(instance: FakeImds, quick: None) -> None:
    instance.hop_limit_too_low = True
    refusal(role(instance))
    assert ("GET", "/latest/meta-data/iam/security-credentials/") not in instance.requests


def test_a_service_that_is_switched_off_is_told(instance: FakeImds) -> None:
    instance.enabled = False
    assert refusal(role(instance)).message.endswith("answered 403: it is switched off for this instance")


def test_an_instance_without_a_role_is_told(instance: FakeImds) -> None:
    instance.role = None
    assert refusal(role(instance)).message == (
        "this instance has no role (no instance profile is attached to it)"
    )


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (credentials(Code="AssumeRoleUnauthorizedAccess"), "no credentials (AssumeRoleUnauthorizedAccess)"),
        (credentials(Token=None), "lacks AccessKeyId, SecretAccessKey or Token"),
        (credentials(Token=f"{SESSION_TOKEN}\r\nX-Injected: 1"), "lacks AccessKeyId, SecretAccessKey or Token"),
        (f"<html>{SECRET_KEY}</html>", "the answer is no JSON object"),
        ("[]", "the answer is no JSON object"),
    ],
)
def test_an_answer_that_is_no_credentials_is_not_shown(instance: FakeImds, document: object, said: str) -> None:
    instance.document = document
    assert said in refusal(role(instance)).message


def test_the_metadata_is_not_asked_where_that_is_forbidden(instance: FakeImds) -> None:
    assert "AWS_EC2_METADATA_DISABLED is true" in refusal(role(instance, AWS_EC2_METADATA_DISABLED="true")).message
    assert instance.requests == []


def test_no_proxy_comes_between(instance: FakeImds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert role(instance).credentials() == OURS


def test_a_long_lived_key_of_the_environment_is_not_used(instance: FakeImds) -> None:
    asked = role(instance, AWS_ACCESS_KEY_ID="AKIALONGLIVED", AWS_SECRET_ACCESS_KEY="x")
    assert asked.credentials() == OURS


def test_a_pod_gets_its_role_of_the_agent(container: FakeAgent, token_file: Path) -> None:
    assert Role(pod(container, token_file)).credentials() == OURS
    assert container.asked_with == [AGENT_TOKEN]


def test_aws_s_own_sdk_gets_the_same_of_the_agent(container: FakeAgent, token_file: Path) -> None:
    found = ContainerProvider(environ=pod(container, token_file)).load().get_frozen_credentials()
    assert (found.access_key, found.secret_key, found.token) == (KEY_ID, SECRET_KEY, SESSION_TOKEN)


def test_the_token_file_goes_before_the_token_and_is_read_each_time(container: FakeAgent, token_file: Path) -> None:
    asked = Role(pod(container, token_file, AWS_CONTAINER_AUTHORIZATION_TOKEN="another"))
    asked.credentials()
    token_file.write_text("renewed")
    assert "gave none (it answered 400)" in refusal(asked).message
    assert container.asked_with == [AGENT_TOKEN, "renewed"]


def test_an_agent_that_fails_is_asked_again(container: FakeAgent, token_file: Path) -> None:
    container.busy_times = 2
    assert Role(pod(container, token_file)).credentials() == OURS


def test_a_token_file_that_is_not_there_is_named(container: FakeAgent, tmp_path: Path) -> None:
    assert refusal(Role(pod(container, tmp_path / "none"))).message == (
        f"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE ({tmp_path}/none) cannot be read: No such file or directory"
    )


@pytest.mark.parametrize("host", ["169.254.170.99", "evil.example", "169.254.170.23.evil.example", "10.0.0.1", ""])
def test_the_pod_s_token_goes_unencrypted_to_no_other_host(container: FakeAgent, token_file: Path, host: str) -> None:
    asked = Role(pod(container, token_file, AWS_CONTAINER_CREDENTIALS_FULL_URI=f"http://{host}/v1/credentials"))
    assert "wanted https, this machine or 169.254.170.2" in refusal(asked).message


@pytest.mark.parametrize("url", ["http://169.254.170.23/v1/credentials", "http://[fd00:ec2::23]/v1/credentials",
                                 "http://169.254.170.2/v2", "http://127.0.0.1:51679/x", "https://agent.example/x"])
def test_the_addresses_that_aws_documents_are_allowed(url: str) -> None:
    aws_role._check_agent(url)


def test_credentials_are_not_in_their_repr() -> None:
    assert repr(OURS) == "Credentials()"
