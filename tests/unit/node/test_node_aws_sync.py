"""`cache sync` that gets its token of AWS, as the one-file program: when it asks, what it says, what never leaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from judge_lab.aws import AwsServer
from judge_node.bundle import build_pyz
from unit.node.fake_hub import REPO, FakeHub, Fault, manifest_of, serve
from unit.node.fake_imds import KEY_ID, SECRET_KEY, SESSION_TOKEN, FakeImds, imds
from weights import weights

TOKEN = "hf_plantedTokenOfTheHub4711"
FILES = {"config.json": b'{"model_type": "qwen2"}', "model.safetensors": weights(os.urandom(300_000))}


@dataclass
class Site:
    """A node with a role, a secret in its account, and a Hub."""

    hub: FakeHub
    instance: FakeImds
    aws: str
    pyz: Path
    store: Path
    said: str = ""

    def sync(self, *words: str, **environment: str) -> tuple[int, dict[str, Any]]:
        argv = [sys.executable, str(self.pyz), "cache", "sync", "-", "--store", str(self.store), "--json",
                "--endpoint", self.hub.url, *words]
        env = {"PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": self.aws,
               "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.instance.url, **environment}
        done = subprocess.run(argv, input=json.dumps(manifest_of(FILES)), env=env, capture_output=True, text=True)
        assert done.stdout.count("\n") == 1, done.stderr
        self.said += done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with AwsServer() as server:
        with urllib.request.urlopen(f"{server.url}/moto-api/reset", data=b"", timeout=120):
            pass
        account: dict[str, Any] = {"endpoint_url": server.url, "region_name": "eu-central-1", "aws_access_key_id": "x",
                                   "aws_secret_access_key": "x"}
        boto3.client("secretsmanager", **account).create_secret(Name="judge/hub", SecretString=TOKEN)
        boto3.client("ssm", **account).put_parameter(Name="/judge/hub", Value=TOKEN, Type="SecureString")
        yield server.url


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "judge-node.pyz"
    path.write_bytes(build_pyz())
    return path


@pytest.fixture
def site(aws: str, pyz: Path, memory: Path) -> Iterator[Site]:
    with serve(dict(FILES)) as hub, imds() as instance:
        site = Site(hub, instance, aws, pyz, memory / "hub")
        yield site
    kept = [path for path in memory.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert kept == []
    for planted in (TOKEN, KEY_ID, SECRET_KEY, SESSION_TOKEN, "imds-token"):
        assert planted not in site.said


def asked_with(hub: FakeHub) -> set[str | None]:
    return {asked.headers.get("authorization") for asked in hub.asked}


@pytest.mark.parametrize("option", [("--token-secret", "judge/hub"), ("--token-parameter", "/judge/hub")])
def test_the_hub_gets_the_token_that_aws_gave(site: Site, option: tuple[str, str]) -> None:
    code, result = site.sync(*option)
    assert (code, result["state"]) == (0, "complete"), result
    assert asked_with(site.hub) == {f"Bearer {TOKEN}"}
    assert site.instance.requests.count(("PUT", "/latest/api/token")) == 1


def test_a_model_that_is_complete_asks_nobody(site: Site) -> None:
    site.sync("--token-secret", "judge/hub")
    site.instance.requests.clear()
    code, result = site.sync("--token-secret", "judge/hub")
    assert (code, result["changed"], site.instance.requests) == (0, False, [])


def test_a_preview_asks_nobody(site: Site) -> None:
    code, result = site.sync("--token-secret", "judge/hub", "--check")
    assert (code, result["changed"], site.instance.requests, site.hub.asked) == (0, True, [], [])


def test_a_mirror_that_has_everything_needs_no_token_and_gets_none(site: Site) -> None:
    with serve(dict(FILES)) as mirror:
        source = mirror.url + "/{repo_id}/resolve/{commit}/{path}"
        code, _ = site.sync("--token-secret", "judge/hub", "--source", source)
        assert (code, asked_with(mirror)) == (0, {None})
    assert (site.instance.requests, site.hub.asked) == ([], [])


def test_without_a_role_nothing_is_asked_of_the_hub_and_nothing_is_published(site: Site) -> None:
    site.instance.role = None
    code, result = site.sync("--token-secret", "judge/hub")
    assert (code, result["reason"]) == (1, "TOKEN_UNAVAILABLE")
    assert result["message"] == "this instance has no role (no instance profile is attached to it)"
    assert site.hub.asked == []
    assert not (site.store / ("models--" + REPO.replace("/", "--")) / "snapshots").exists()


def test_a_secret_that_is_not_there_is_named_with_its_region(site: Site) -> None:
    code, result = site.sync("--token-secret", "judge/none", "--aws-region", "us-west-2")
    assert (code, result["reason"]) == (1, "TOKEN_UNAVAILABLE")
    assert result["message"] == "Secrets Manager in us-west-2 has no judge/none"


def test_a_token_that_the_hub_refuses_is_not_in_what_it_answers(site: Site) -> None:
    site.hub.faults = {path: [Fault(status=403, headers={"X-Error-Message": f"token {TOKEN}"})] * 9 for path in FILES}
    code, result = site.sync("--token-secret", "judge/hub")
    assert (code, result["reason"]) == (1, "SOURCE_DENIED")


def test_the_program_carries_neither_the_token_nor_a_key_in_its_environment_or_arguments(site: Site) -> None:
    site.hub.faults["model.safetensors"] = [Fault(body="hang", at=1000)]
    argv = [sys.executable, str(site.pyz), "cache", "sync", "-", "--store", str(site.store), "--endpoint", site.hub.url,
            "--token-secret", "judge/hub"]
    env = {"PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": site.aws,
           "AWS_EC2_METADATA_SERVICE_ENDPOINT": site.instance.url}
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    assert process.stdin is not None
    process.stdin.write(json.dumps(manifest_of(FILES)).encode())
    process.stdin.close()
    process.stdin = None
    while not any(asked.path == "model.safetensors" for asked in list(site.hub.asked)):
        assert process.poll() is None
    proc = Path("/proc") / str(process.pid)
    shown = proc.joinpath("cmdline").read_bytes() + proc.joinpath("environ").read_bytes()
    site.hub.go_on.set()
    out, err = process.communicate(timeout=300)
    site.said += (shown + out + err).decode()
    assert process.returncode == 0, site.said


def test_only_one_way_to_a_token_may_be_given(site: Site) -> None:
    code, result = site.sync("--token-file", "/a", "--token-secret", "judge/hub")
    assert code == 2
    assert "argument --token-secret: not allowed with argument --token-file" in result["message"]
