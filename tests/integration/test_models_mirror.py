"""The S3 mirror against a real S3 server (moto), a Hub that fails on demand, and a node that syncs from the mirror."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from judge_bootstrap.adapters.mirror import PART_BYTES, Mirror, Uploads, parse_target
from judge_bootstrap.core.errors import BootstrapError
from judge_lab.aws import AwsServer
from judge_lab.hub import Fault, HubServer
from judge_node.cache.failures import Retry
from judge_node.cache.manifest import Manifest, parse
from weights import weights

PYTOOL = Path(__file__).resolve().parents[2] / "pytool"
REPO, BUCKET, PREFIX = "org/tiny", "models", "hub"
WEIGHTS = "model-00001-of-00002.safetensors"
GROUP_VARS = """\
judge_environment: {{production: false, provider: aws, region: us-east-1}}
model_cache_repo_id: {repo}
model_cache_hub_endpoint: {hub}
model_cache_mirror: s3://{bucket}/{prefix}
"""


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsServer]:
    with AwsServer() as server:
        yield server


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which one file goes up in parts: a whole one and a rest."""
    folder = tmp_path_factory.mktemp("hub") / REPO
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / WEIGHTS).write_bytes(weights(os.urandom(1 << 20) * (PART_BYTES >> 20) + b"the rest"))
    (folder / "model-00002-of-00002.safetensors").write_bytes(weights(os.urandom(3 << 20)))
    (folder / "modeling.py").write_text("import os")
    return folder


@dataclass
class Field:
    """A bucket of its own, a Hub, and the command line in an environment that names both."""

    aws: AwsServer
    hub: HubServer
    root: Path
    s3: Any
    bucket: str
    environ: dict[str, str] = field(default_factory=dict)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-m", "judge_bootstrap", "--env", "drill", "--json", *words],
                                cwd=self.root, env=self.environ, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run a command to its end; return its exit code and its answer."""
        process = self.start(*words)
        stdout, stderr = process.communicate(timeout=600)
        assert stdout.count("\n") == 1, f"wanted one JSON object, found {stdout!r}; stderr:\n{stderr}"
        return process.returncode, json.loads(stdout)

    def keys(self) -> dict[str, int]:
        """Return what is visible in the bucket: size by key."""
        listed = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {found["Key"]: found["Size"] for found in listed}

    def uploads(self) -> list[str]:
        """Return the keys of uploads in parts that nobody has ended."""
        return [found["Key"] for found in self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])]

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of what is under each blob's key."""
        return {key: hashlib.sha256(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()).hexdigest()
                for key in self.keys() if "/blobs/" in key}


@pytest.fixture
def place(aws: AwsServer, repository: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Field]:
    bucket = f"{BUCKET}-{abs(hash(request.node.name)) % 10**9}"
    given = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
    s3 = boto3.client("s3", endpoint_url=aws.url, region_name="us-east-1", **given)
    s3.create_bucket(Bucket=bucket)
    with HubServer(repository.parents[1]) as hub:
        group_vars = tmp_path / "inventory" / "drill" / "group_vars"
        group_vars.mkdir(parents=True)
        (group_vars / "all.yml").write_text(GROUP_VARS.format(repo=REPO, hub=hub.url, bucket=bucket, prefix=PREFIX))
        environ = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(PYTOOL), "HOME": str(tmp_path), "AWS_ENDPOINT_URL": aws.url,
            "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_EC2_METADATA_DISABLED": "true",
            "JUDGE_BOOTSTRAP_INVENTORY": str(tmp_path / "inventory"), "JUDGE_BOOTSTRAP_STATE": str(tmp_path / "state"),
            "no_proxy": "*",
        }
        yield Field(aws, hub, tmp_path, s3, bucket, environ)


def expected(repository: Path) -> dict[str, str]:
    """Return what the mirror is to hold: the sha256 by blob key."""
    found = {}
    for path in repository.iterdir():
        if path.suffix == ".py":
            continue
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        in_git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        blob = sha256 if path.suffix == ".safetensors" else in_git
        found[f"{PREFIX}/{REPO}/blobs/{blob}"] = sha256
    return found


def test_the_mirror_gets_every_file_of_the_manifest_and_then_the_manifest(place: Field, repository: Path) -> None:
    code, answer = place.run("models", "mirror")
    assert (code, answer["ok"], answer["changed"], answer["fetched_bytes"]) == (
        0, True, True, answer["upload_bytes"]), answer
    assert place.hashes() == expected(repository)
    manifest = place.s3.get_object(Bucket=place.bucket, Key=f"{PREFIX}/{REPO}/manifests/{answer['commit']}.json")
    assert parse(manifest["Body"].read()).digest == answer["digest"]
    assert place.uploads() == []


def test_what_is_there_is_not_brought_again(place: Field) -> None:
    place.run("models", "mirror")
    asked = len(place.hub.requests)
    code, answer = place.run("models", "mirror")
    assert (code, answer["changed"], answer["upload_bytes"], answer["fetched_bytes"]) == (0, False, 0, 0)
    # The Hub is asked what the revision means, and for no file but the configuration that is read for it.
    files = [request.path for request in place.hub.requests[asked:] if ".safetensors" in request.path]
    assert files == []


def test_check_says_what_is_missing_and_brings_nothing(place: Field) -> None:
    code, answer = place.run("models", "mirror", "--check")
    assert (code, answer["check"], answer["changed"], len(answer["missing_files"])) == (0, True, True, 4)
    assert place.keys() == {}


def test_a_blob_that_nobody_vouches_for_is_brought_anew(place: Field, repository: Path) -> None:
    key = next(key for key, sha256 in expected(repository).items() if key.endswith(sha256))
    size = next(path.stat().st_size for path in repository.iterdir() if key.endswith(
        hashlib.sha256(path.read_bytes()).hexdigest()))
    place.s3.put_object(Bucket=place.bucket, Key=key, Body=b"\0" * size)
    place.run("models", "mirror")
    assert place.hashes() == expected(repository)


@pytest.mark.parametrize("pattern", [WEIGHTS, "model-00002-of-00002.safetensors", "tokenizer.json"])
def test_wrong_bytes_of_the_right_size_never_become_visible(place: Field, repository: Path, pattern: str) -> None:
    place.hub.faults[:] = [Fault("corrupt", pattern)]
    code, answer = place.run("models", "mirror")
    assert (code, answer["reason"]) == (1, "INTEGRITY_MISMATCH")
    assert pattern in answer["message"] and "2 times" in answer["message"]
    right = expected(repository)
    assert {key: right[key] for key in place.hashes()} == place.hashes()
    assert place.uploads() == []
    assert "manifests" not in str(place.keys()), "the manifest is written last"
    place.hub.faults.clear()
    assert place.run("models", "mirror")[0] == 0
    assert place.hashes() == right


def test_bytes_that_were_wrong_once_are_fetched_again(place: Field, repository: Path) -> None:
    place.hub.faults[:] = [Fault("corrupt", WEIGHTS, times=1)]
    assert place.run("models", "mirror")[0] == 0
    assert place.hashes() == expected(repository)


@pytest.mark.parametrize("fault", [
    Fault("short", "*.safetensors", times=5), Fault("no-range", WEIGHTS), Fault("503", "*.safetensors", 2, 0.1),
    Fault("429", "*.safetensors", 2, 0.1), Fault("expired", WEIGHTS, times=1),
], ids=lambda fault: fault.kind)
def test_a_hub_that_falters_is_asked_again_where_it_stopped(place: Field, repository: Path, fault: Fault) -> None:
    place.hub.faults[:] = [fault]
    code, answer = place.run("models", "mirror")
    assert code == 0, answer
    assert place.hashes() == expected(repository)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interrupted_run_leaves_no_half_upload_and_the_next_does_what_is_left(
    place: Field, repository: Path, number: int, code: int
) -> None:
    process = slowly(place)
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=60)
    answer = json.loads(stdout)
    assert (process.returncode, answer["reason"]) == (code, "INTERRUPTED")
    assert place.uploads() == []
    there = set(place.hashes())
    assert there < set(expected(repository))
    place.hub.faults.clear()
    answer = place.run("models", "mirror")[1]
    assert len(answer["missing_files"]) == 4 - len(there)
    assert place.hashes() == expected(repository)


def test_what_a_killed_run_left_is_ended_by_the_next(place: Field, repository: Path) -> None:
    process = slowly(place)
    process.kill()
    process.communicate(timeout=60)
    assert len(place.uploads()) == 1
    place.hub.faults.clear()
    assert place.run("models", "mirror")[0] == 0
    assert (place.uploads(), place.hashes()) == ([], expected(repository))


def slowly(place: Field) -> subprocess.Popen[str]:
    """Start a run, and return when the big file is on its way in parts and the small ones are there.

    The big one takes two minutes then: far longer than another command needs to come, also on a busy machine.
    """
    place.hub.faults[:] = [Fault("slow", WEIGHTS, value=256 << 10)]
    process = place.start("models", "mirror")
    deadline = time.monotonic() + 120
    while not (place.uploads() and len(place.keys()) == 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_two_runs_at_once_are_one_too_many(place: Field) -> None:
    first = slowly(place)
    code, answer = place.run("models", "mirror")
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert (code, answer["reason"]) == (3, "LOCKED")


@pytest.mark.parametrize(("words", "code", "reason", "said"), [
    (("--to", "s3://no-such-bucket/hub"), 1, "MIRROR_FAILED", "s3://no-such-bucket/hub cannot be used: "),
    (("--to", "models/hub"), 2, None, "found the mirror 'models/hub', wanted s3://BUCKET/PREFIX"),
    (("-e", "model.id=org/none"), 1, "SOURCE_NOT_FOUND", "knows no model org/none"),
    (("-e", "model_cache_hub_endpoint=http://127.0.0.1:9"), 1, "SOURCE_UNREACHABLE", "could not be asked"),
])
def test_what_cannot_be_done_is_one_line(
    place: Field, words: tuple[str, ...], code: int, reason: str | None, said: str
) -> None:
    ended, answer = place.run("models", "mirror", *words)
    assert (ended, answer["ok"], answer["reason"]) == (code, False, reason)
    assert said in answer["message"] and "\n" not in answer["message"]
    assert answer["hint"]
    assert place.keys() == {}


def test_an_s3_that_fails_half_way_leaves_what_it_was_told_to_the_next_run(place: Field, tmp_path: Path) -> None:
    """The connection to S3 is lost: not even the upload's end can be asked for, so it is noted."""
    manifest = locked(place)
    uploads = Uploads(tmp_path / "uploads.json")
    mirror = Mirror(Failing(place.s3), parse_target(f"s3://{place.bucket}/{PREFIX}"), manifest, uploads)
    with pytest.raises(BootstrapError, match="cannot be used: the network is gone") as caught:
        mirror.fill(mirror.missing(), place.hub.url, None, retry=Retry(first_wait_seconds=0.01))
    assert caught.value.reason == "MIRROR_FAILED"
    assert len(uploads.all()) == 1
    assert Mirror(place.s3, mirror.target, manifest, uploads).clean() == 1
    assert (place.uploads(), uploads.all()) == ([], [])


class Failing:
    """S3 until its first part; after that nothing gets through."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3

    def __getattr__(self, name: str) -> Any:
        if name in ("upload_part", "abort_multipart_upload", "complete_multipart_upload"):
            raise OSError("the network is gone")
        return getattr(self._s3, name)


def locked(place: Field) -> Manifest:
    code, answer = place.run("models", "lock", "--out", str(place.root / "x.json"))
    assert code == 0, answer
    return parse((place.root / "x.json").read_bytes())


def test_a_node_syncs_from_the_mirror_alone_and_asks_the_hub_nothing(place: Field, repository: Path) -> None:
    locked(place)
    place.run("models", "mirror", "-e", f"model_cache_lock_file={place.root / 'x.json'}", "-e", "model.revision=main")
    # A public-to-the-VPC bucket, as a gateway endpoint's policy makes it: plain HTTP, no credentials.
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                                                      "Resource": f"arn:aws:s3:::{place.bucket}/*"}]}
    place.s3.put_bucket_policy(Bucket=place.bucket, Policy=json.dumps(policy))
    asked = len(place.hub.requests)
    with store() as root:
        done = subprocess.run(
            [sys.executable, "-m", "judge_node", "cache", "sync", str(place.root / "x.json"), "--store", str(root),
             "--source", f"{place.aws.url}/{place.bucket}/{PREFIX}", "--endpoint", "", "--json"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PYTOOL), "no_proxy": "*"}, capture_output=True,
            text=True, timeout=600, check=False)
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["state"]) == (0, "complete"), answer["message"]
        (snapshot,) = (root / "models--org--tiny" / "snapshots").iterdir()
        assert _hashes(snapshot) == _hashes(repository)
    assert len(place.hub.requests) == asked


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
            if path.suffix != ".py"}


@contextlib.contextmanager
def store() -> Iterator[Path]:
    """Yield a store on a filesystem that is not the root's, as judge-node wants it."""

    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="judge-mirror-") as folder:
        yield Path(folder) / "hub"
