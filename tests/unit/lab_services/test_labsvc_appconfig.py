"""The AppConfig stand-in, asked by the real boto3 client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config
from judge_lab import appconfig, hub

NAMES = {
    "ApplicationIdentifier": "judge-bootstrap",
    "EnvironmentIdentifier": "local",
    "ConfigurationProfileIdentifier": "judge-inference",
}


@pytest.fixture
def document(tmp_path: Path) -> Path:
    file = tmp_path / "appconfig.json"
    file.write_text('{"judge_inference": {}}')
    return file


@pytest.fixture
def client(document: Path) -> Iterator[Any]:
    with appconfig.AppConfigServer(document, slow_seconds=60) as server:
        yield client_of(server.url, read_seconds=60)


def client_of(url: str, *, read_seconds: float) -> Any:
    return boto3.client(
        "appconfigdata",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="lab",
        aws_secret_access_key="lab",
        config=Config(connect_timeout=60, read_timeout=read_seconds, retries={"total_max_attempts": 1}),
    )


def start(client: Any, **members: Any) -> str:
    return str(client.start_configuration_session(**{**NAMES, **members})["InitialConfigurationToken"])


def break_service(document: Path, fault: str) -> None:
    document.with_name(f"{document.name}.fault").write_text(f"{fault}\n")


def test_the_first_poll_gives_the_document_and_its_version(client: Any, document: Path) -> None:
    answer = client.get_latest_configuration(ConfigurationToken=start(client))
    assert answer["Configuration"].read() == document.read_bytes()
    assert answer["ContentType"] == "application/json"
    assert answer["NextPollIntervalInSeconds"] == 60
    assert len(answer["VersionLabel"]) == 12


def test_an_unchanged_document_comes_back_empty(client: Any) -> None:
    first = client.get_latest_configuration(ConfigurationToken=start(client))
    second = client.get_latest_configuration(ConfigurationToken=first["NextPollConfigurationToken"])
    assert second["Configuration"].read() == b""
    assert second.get("VersionLabel") in (None, "")


def test_a_changed_document_comes_back_with_another_version(client: Any, document: Path) -> None:
    first = client.get_latest_configuration(ConfigurationToken=start(client))
    document.write_text('{"judge_inference": {"vllm": {"port": 8001}}}')
    second = client.get_latest_configuration(ConfigurationToken=first["NextPollConfigurationToken"])
    assert second["Configuration"].read() == document.read_bytes()
    assert second["VersionLabel"] != first["VersionLabel"]


def test_a_new_session_gets_the_whole_document_again(client: Any, document: Path) -> None:
    client.get_latest_configuration(ConfigurationToken=start(client))
    again = client.get_latest_configuration(ConfigurationToken=start(client))
    assert again["Configuration"].read() == document.read_bytes()


def test_a_token_is_good_for_one_poll(client: Any) -> None:
    token = start(client)
    client.get_latest_configuration(ConfigurationToken=token)
    with pytest.raises(client.exceptions.BadRequestException, match="Corrupted"):
        client.get_latest_configuration(ConfigurationToken=token)


def test_polling_before_the_agreed_interval_is_refused(client: Any) -> None:
    token = start(client, RequiredMinimumPollIntervalInSeconds=60)
    first = client.get_latest_configuration(ConfigurationToken=token)
    with pytest.raises(client.exceptions.BadRequestException, match="PollIntervalNotSatisfied"):
        client.get_latest_configuration(ConfigurationToken=first["NextPollConfigurationToken"])


@pytest.mark.parametrize(
    ("member", "kind"),
    [
        ("ApplicationIdentifier", "Application"),
        ("EnvironmentIdentifier", "Environment"),
        ("ConfigurationProfileIdentifier", "ConfigurationProfile"),
    ],
)
def test_an_unknown_name_is_not_found_and_says_which(client: Any, member: str, kind: str) -> None:
    with pytest.raises(client.exceptions.ResourceNotFoundException, match=f"{kind} other could not be found") as caught:
        start(client, **{member: "other"})
    assert caught.value.response["ResourceType"] == kind


def test_no_document_means_nothing_is_deployed(client: Any, document: Path) -> None:
    document.unlink()
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="no configuration is deployed"):
        client.get_latest_configuration(ConfigurationToken=start(client))


@pytest.mark.parametrize(
    ("fault", "error"), [("denied", "AccessDeniedException"), ("throttled", "ThrottlingException")]
)
def test_a_refusing_service_answers_a_typed_error(client: Any, document: Path, fault: str, error: str) -> None:
    break_service(document, fault)
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        start(client)
    assert caught.value.response["Error"]["Code"] == error


def test_a_service_that_is_down_closes_the_connection(client: Any, document: Path) -> None:
    break_service(document, "down")
    with pytest.raises(botocore.exceptions.ConnectionClosedError):
        start(client)


def test_a_slow_service_answers_after_the_client_gave_up(client: Any, document: Path) -> None:
    break_service(document, "slow")
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        start(client_of(client.meta.endpoint_url, read_seconds=1))


def test_an_empty_answer_may_be_the_first_one(client: Any, document: Path) -> None:
    break_service(document, "empty")
    assert client.get_latest_configuration(ConfigurationToken=start(client))["Configuration"].read() == b""


def test_an_invalid_document_is_no_json(client: Any, document: Path) -> None:
    break_service(document, "invalid")
    body = client.get_latest_configuration(ConfigurationToken=start(client))["Configuration"].read()
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def test_an_unknown_fault_is_told_instead_of_ignored(client: Any, document: Path) -> None:
    break_service(document, "flood")
    with pytest.raises(client.exceptions.InternalServerException, match="unknown fault 'flood': one of down, denied"):
        start(client)


def test_the_service_is_whole_again_when_the_fault_is_removed(client: Any, document: Path) -> None:
    break_service(document, "denied")
    document.with_name(f"{document.name}.fault").unlink()
    assert start(client)


def test_the_default_document_pins_the_commit_of_the_committed_model() -> None:
    model = appconfig.default_document()["judge_inference"]["model"]
    assert model["id"] == hub.TINY_JUDGE
    server = hub.HubServer()
    try:
        assert model["revision"] == server.commit(hub.TINY_JUDGE)
    finally:
        server.stop()
