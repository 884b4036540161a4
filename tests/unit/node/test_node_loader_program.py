"""`judge-node loader run` as a pod starts it: one process, its options, its signals, its log."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judge_node.bundle import build_pyz
from judge_node.cache.journal import boot_id, read
from judge_node.cache.partial import journal_path
from judge_node.cli import main
from judge_node.loader.commands import span
from unit.node.fake_hub import FakeHub, Fault, manifest_of
from unit.node.fake_hub import serve as serve_hub
from unit.node.fake_kube import NODE, FakeKube
from unit.node.fake_kube import serve as serve_kube
from weights import weights

FILES = {"config.json": b"{}", "model.safetensors": weights(bytes(3_000_000))}
# What kubelet gives to a pod, and a disk: the service account's folder and the guard are not to be had here.
START = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
from judge_node.loader import api, run
api.ACCOUNT_FOLDER = Path(sys.argv.pop(1))
run.Loader.__init__.__kwdefaults__["guard"] = lambda root: None
run.POLL_SECONDS = 0.1
from judge_node.cli import main
sys.exit(main())
"""


class Pod:
    """The program in a process of its own, as a pod has it."""

    def __init__(self, folder: Path, hub: FakeHub, kube: FakeKube) -> None:
        self.folder, self.hub, self.kube = folder, hub, kube
        (folder / "models").mkdir()
        (folder / "models/wanted.json").write_text(json.dumps(manifest_of(FILES)))
        (folder / "judge-node.pyz").write_bytes(build_pyz())

    def start(self, *more: str) -> subprocess.Popen[str]:
        env = {**os.environ, "KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": str(self.kube.port)}
        return subprocess.Popen(
            [sys.executable, "-c", START, self.folder / "judge-node.pyz", self.folder, "loader", "run",
             f"--models={self.folder}/models", f"--store={self.folder}/nvme/hub", f"--node={NODE}",
             f"--endpoint={self.hub.url}", *more],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def has_kept(self, name: str, size: int) -> bool:
        """Whether the journal of a file that is on its way says that its first `size` bytes are here."""
        content = FILES[name]
        partial = self.folder / "nvme/hub/.locks/judge-bootstrap/partial" / hashlib.sha256(content).hexdigest()
        return not read(journal_path(partial), len(content), boot_id()).missing(size)

    def blobs(self) -> int:
        return len(list((self.folder / "nvme/hub").glob("models--*/blobs/*")))


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    with serve_hub(dict(FILES)) as hub, serve_kube(tmp_path) as (kube, _):
        yield Pod(tmp_path, hub, kube)


def soon(holds: Callable[[], object], seconds: float = 120) -> bool:
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def test_it_runs_from_the_one_file_until_it_is_told_to_end(pod: Pod) -> None:
    process = pod.start("--taint=judge-bootstrap.io/model-not-ready")
    came = soon(lambda: pod.kube.events and pod.kube.events[-1]["reason"] == "ModelReady")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    assert came, stdout + stderr
    assert (process.returncode, stderr) == (0, "")
    lines = stdout.splitlines()
    assert all(line[:2] == "20" and line[19:21] == "Z " for line in lines[:-1])
    assert any("complete: judge-lab/tiny at aaaaaaaaaaaa is complete, taint off" in line for line in lines)
    assert lines[-1] == "stopped; the next one goes on from here"


def test_a_fetch_that_is_stopped_is_gone_on_with_by_the_next(pod: Pod) -> None:
    pod.hub.faults["model.safetensors"] = [Fault(body="hang", at=2_500_000)]
    process = pod.start()
    # Sent is not received: where the machine is busy, most of it still is on its way.
    assert soon(lambda: pod.has_kept("model.safetensors", 2 << 20))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
    stdout, stderr = pod.start("--once").communicate(timeout=300)
    assert "is complete" in stdout, stderr
    assert pod.hub.ranges("model.safetensors")[-1] not in (None, "bytes=0-2999999")


def test_once_ends_with_1_when_the_model_cannot_be_had(pod: Pod) -> None:
    pod.hub.faults["model.safetensors"] = [Fault(403)] * 3
    process = pod.start("--once")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1, stdout
    assert stderr.startswith("SOURCE_DENIED: ")
    assert pod.kube.said()["reason"] == "SOURCE_DENIED"


def test_a_token_is_in_no_line_and_in_no_word_of_the_node(pod: Pod) -> None:
    token = "hf_" + "planted4711" * 3
    (pod.folder / "hf-token").write_text(token)
    stdout, stderr = pod.start("--once", f"--token-file={pod.folder}/hf-token").communicate(timeout=300)
    assert pod.hub.asked[-1].headers["authorization"] == f"Bearer {token}"
    assert token not in stdout + stderr + repr(pod.kube)


@pytest.mark.parametrize(("words", "said"), [
    (["--node=No Node"], "'No Node' is no name of a Node"),
    (["--taint=a b"], "'a b' is no key of a taint"),
    (["--verify-deep-every=sometimes"], "'sometimes' is no span such as 30s"),
    (["--connections=65"], "invalid choice"),
    (["--store=relative"], "--store is 'relative', wanted an absolute path"),
    (["--compile-cache=x"], "--compile-cache is 'x', wanted an absolute path"),
    (["--token=hf_x"], "unrecognized arguments"),
])  # fmt: skip
def test_wrong_usage_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    usual = {"--models": "/x", "--store": "/mnt/nvme/hub", "--node": "n"}
    given = [f"{key}={value}" for key, value in usual.items() if not words[0].startswith(f"{key}=")]
    assert main(["loader", "run", *given, *words]) == 2
    assert said in capsys.readouterr().err


def test_outside_a_pod_it_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["loader", "run", "--models=/x", "--store=/mnt/nvme/hub", "--node=n"]) == 2
    assert "this is no pod with one" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15min", 900), ("6h", 21600), ("7d", 604800), ("", None)])
def test_spans(text: str, seconds: float | None) -> None:
    assert span(text) == seconds
