"""The store that `judge-node cache sync` makes, read by the programs that it is made for.

Each reader runs as a pod does: it sees the store at another path than the node does, mounted read-only, and it has no
network (a network namespace of its own, with nothing in it).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from judge_bootstrap.adapters.hub import resolve_model
from judge_lab import LabError, gpu, runtime
from judge_lab.hub import DEFAULT_ROOT, TINY_JUDGE, HubServer

pytestmark = pytest.mark.root

READERS = Path(__file__).parent / "store_readers"
BIN = Path(sys.executable).parent
USER = 10001  # whoever a pod runs as: nobody that this machine knows
FOLDER = "models--" + TINY_JUDGE.replace("/", "--")


@dataclass(frozen=True)
class Node:
    """A disk with a store, and a Hub whose model has had two commits: they share the weights."""

    hub: HubServer
    repositories: Path
    store: Path
    old: dict[str, Any]
    new: dict[str, Any]

    def sync(self, manifest: dict[str, Any], *words: str) -> dict[str, Any]:
        """Run the real command; return its answer, which is to be good."""
        code, answer = self.run("sync", manifest, "--endpoint", self.hub.url, *words)
        assert (code, answer["state"]) == (0, "complete"), answer
        return answer

    def verify(self, manifest: dict[str, Any], *words: str) -> tuple[int, str]:
        """Return the exit code and the state that `cache verify` gives."""
        code, answer = self.run("verify", manifest, *words)
        return code, answer["state"]

    def run(self, verb: str, manifest: dict[str, Any], *words: str) -> tuple[int, dict[str, Any]]:
        argv = [BIN / "judge-node", "cache", verb, "-", "--store", self.store, "--json", *words]
        done = subprocess.run(argv, input=json.dumps(manifest), capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout)

    def snapshot(self, manifest: dict[str, Any], root: Path | None = None) -> Path:
        return (root or self.store) / FOLDER / "snapshots" / str(manifest["commit"])

    def entries(self) -> dict[str, tuple[int, int]]:
        """Return what the store holds: {path: (inode, time of change)}."""
        return {str(path.relative_to(self.store)): (path.lstat().st_ino, path.lstat().st_mtime_ns)
                for path in self.store.rglob("*")}

    def hf(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the Hub's own command on the store, as a person on the node would; the Hub is at hand."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.store.parent), "HF_HUB_CACHE": str(self.store),
               "HF_ENDPOINT": self.hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_COLOR": "1", "COLUMNS": "200",
               **environment}
        return subprocess.run([BIN / "hf", *words], env=env, capture_output=True, text=True)

    def warnings(self) -> list[str]:
        """Return what `hf cache ls` finds wrong with the store, without the advice that it gives everybody."""
        done = self.hf("cache", "ls", "--show-warnings")
        assert done.returncode == 0, done.stderr
        return [line for line in done.stderr.splitlines() if "hf skills add" not in line]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A filesystem of its own, which the store's guard demands."""
    if os.geteuid() != 0:
        pytest.skip("mounts and namespaces need root: run it as root")
    for program in ("unshare", "setpriv", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install util-linux iproute2")
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def node(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    repositories = tmp_path_factory.mktemp("repositories")
    shutil.copytree(DEFAULT_ROOT, repositories, dirs_exist_ok=True)
    with HubServer(repositories) as hub:
        old = resolve_model(TINY_JUDGE, "main", hub.url).manifest
        generation = repositories / TINY_JUDGE / "generation_config.json"
        generation.write_text(json.dumps({**json.loads(generation.read_text()), "pad_token_id": 1}))
        new = resolve_model(TINY_JUDGE, "main", hub.url).manifest
        assert old["commit"] != new["commit"]
        node = Node(hub, repositories, disk / "hub", old, new)
        # The Hub serves a commit as long as it is the newest.
        shutil.copytree(DEFAULT_ROOT, repositories, dirs_exist_ok=True)
        node.sync(old)
        generation.write_text(json.dumps({**json.loads(generation.read_text()), "pad_token_id": 1}))
        updated = node.sync(new)
        assert updated["facts"]["fetched_files"] == 1
        yield node


@pytest.fixture
def copy(node: Node) -> Iterator[Node]:
    """A store of one test's own, which it may spoil."""
    store = node.store.parent / "copy"
    subprocess.run(["cp", "-a", node.store, store], check=True)
    yield Node(node.hub, node.repositories, store, node.old, node.new)
    shutil.rmtree(store)


@pytest.fixture(scope="module")
def vllm() -> Path:
    """The environment with transformers and the CPU build of vLLM; made if it is not there."""
    try:
        return runtime.ensure(lambda line: None)
    except LabError as error:
        pytest.skip(f"no vLLM for the CPU: {error}")


def read(node: Node, program: str, *words: str, python: str | Path = sys.executable, user: int | None = None,
         environment: dict[str, str] | None = None, vllm: Path | None = None) -> Any:
    """Run a reader as a pod runs: the store at /mnt/models, read-only, and no network. Return what it printed."""
    env = {"PATH": "/usr/bin:/bin", "HOME": "/mnt/home", "HF_HUB_CACHE": "/mnt/models", "HF_HUB_OFFLINE": "1",
           "HF_HUB_DISABLE_TELEMETRY": "1", **(environment or {})}
    lines = [
        "set -eu",
        "ip link set lo up",
        "mount -t tmpfs -o mode=755 tmpfs /mnt",
        "mkdir /mnt/models /mnt/vllm /mnt/readers /mnt/home",
        f"mount --bind {shlex.quote(str(node.store))} /mnt/models",
        "mount -o remount,bind,ro /mnt/models",
        f"mount --bind -o ro {shlex.quote(str(READERS))} /mnt/readers",
        "chmod 1777 /mnt/home",
    ]
    if vllm is not None:
        lines.append(f"mount --bind -o ro {shlex.quote(str(vllm))} /mnt/vllm")
    become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                                      "--bounding-set=-all", "--no-new-privs"]
    variables = [f"{name}={value}" for name, value in env.items()]
    lines.append("cd /mnt/home")
    lines.append(shlex.join(["exec", *become, "env", "-i", *variables, str(python), f"/mnt/readers/{program}", *words]))
    done = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
                           "\n".join(lines)], capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def hashes_of(manifest: dict[str, Any], node: Node) -> dict[str, str]:
    """Return {path: sha256} that a reader has to find: the manifest's where it names one, else the blob's."""
    sums = {}
    for file in manifest["files"]:
        blob = node.store / FOLDER / "blobs" / (file["blob_sha1"] or file["sha256"])
        said = subprocess.run(["sha256sum", blob], capture_output=True, text=True, check=True).stdout.split()[0]
        assert file["sha256"] in (None, said)
        sums[file["path"]] = said
    return sums


# --- huggingface_hub --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(node: Node) -> Any:
    """What the client saw of both commits, and that it could do nothing but read."""
    before = node.entries()
    seen = read(node, "hub_client.py", "/mnt/models", TINY_JUDGE, node.old["commit"], node.new["commit"])
    assert (seen["writable"], seen["network"], seen["offline"]) == (False, False, True)
    assert node.entries() == before
    return seen


def test_the_client_reads_both_commits_byte_for_byte(node: Node, seen: Any) -> None:
    for manifest in (node.old, node.new):
        assert seen["commits"][manifest["commit"]]["files"] == hashes_of(manifest, node)
        assert seen["commits"][manifest["commit"]]["folder"] == str(node.snapshot(manifest, Path("/mnt/models")))


def test_the_client_finds_the_branch_at_the_newer_commit(node: Node, seen: Any) -> None:
    newer = str(node.snapshot(node.new, Path("/mnt/models")))
    assert (seen["main"], seen["config_of_main"]) == (newer, f"{newer}/config.json")
    assert seen["refs"] == {"main": node.new["commit"]}


def test_the_client_s_scan_finds_two_commits_one_size_and_nothing_to_warn_of(node: Node, seen: Any) -> None:
    assert (seen["warnings"], seen["incomplete"]) == ([], 0)
    assert seen["revisions"] == sorted([node.old["commit"], node.new["commit"]])
    blobs = {file["blob_sha1"] or file["sha256"]: file["size"] for one in (node.old, node.new) for file in one["files"]}
    assert seen["size_on_disk"] == sum(blobs.values())


def test_a_file_that_the_manifest_leaves_out_is_absent_offline_not_invented(seen: Any) -> None:
    assert seen["absent"] == "LocalEntryNotFoundError"


def test_a_commit_that_is_open_stays_whole_while_the_branch_moves(copy: Node) -> None:
    """The client of a process that goes on reading, while the command points the branch back and forth."""
    from huggingface_hub import snapshot_download

    pads = {copy.old["commit"]: 0, copy.new["commit"]: 1}
    wrong: list[str] = []
    warned: list[str] = []
    seen: set[str] = set()
    ended = threading.Event()

    def keep_reading() -> None:
        while not ended.is_set():
            folder = Path(snapshot_download(TINY_JUDGE, cache_dir=copy.store, local_files_only=True))
            seen.add(folder.name)
            found = json.loads((folder / "generation_config.json").read_text())["pad_token_id"]
            if found != pads[folder.name] or len(list(folder.iterdir())) != len(copy.old["files"]):
                wrong.append(f"{folder.name}: {found}")

    held = (copy.snapshot(copy.new) / "generation_config.json").open()
    reader = threading.Thread(target=keep_reading)
    reader.start()
    try:
        for _ in range(5):
            for manifest in (copy.old, copy.new):
                assert copy.sync(manifest)["facts"]["fetched_bytes"] == 0
                warned += copy.warnings()
    finally:
        ended.set()
        reader.join()
    with held:
        assert json.load(held)["pad_token_id"] == 1
    assert (wrong, seen, warned) == ([], set(pads), [])


# --- the `hf` command -------------------------------------------------------------------------------------------------


def test_hf_cache_ls_lists_the_model_and_warns_of_nothing(node: Node) -> None:
    done = node.hf("cache", "ls", "--revisions", "--format", "json", HF_HUB_OFFLINE="1")
    assert (done.returncode, node.warnings()) == (0, [])
    listed = {entry["revision"]: entry["refs"] for entry in json.loads(done.stdout)}
    assert listed == {node.old["commit"]: [], node.new["commit"]: ["main"]}


def test_hf_cache_ls_would_warn_of_a_folder_of_ours_anywhere_else(copy: Node) -> None:
    """Why our own files lie below .locks: the scan takes every other name for a repository."""
    (copy.store / ".judge-bootstrap").mkdir()
    assert ["is not a valid HuggingFace cache directory" in line for line in copy.warnings()] == [True]


def test_hf_cache_verify_agrees_with_the_hub(node: Node) -> None:
    done = node.hf("cache", "verify", TINY_JUDGE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Verified {len(node.new['files'])} file(s)" in done.stdout + done.stderr


def test_hf_cache_verify_and_ours_find_the_same_wrong_byte(copy: Node) -> None:
    weights = copy.snapshot(copy.new) / "model-00001-of-00002.safetensors"
    blob = weights.resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    assert copy.hf("cache", "verify", TINY_JUDGE).returncode == 1
    assert copy.verify(copy.new, "--deep") == (1, "corrupt")
    assert copy.sync(copy.new, "--deep")["facts"]["fetched_bytes"] == len(content)
    assert copy.hf("cache", "verify", TINY_JUDGE).returncode == 0


def spoiled(copy: Node, *words: str) -> None:
    done = copy.hf("cache", *words, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_model_that_a_person_removed_with_hf_is_not_vouched_for_and_comes_back(copy: Node) -> None:
    spoiled(copy, "rm", f"model/{TINY_JUDGE}")
    assert [copy.verify(one) for one in (copy.old, copy.new)] == [(1, "incomplete")] * 2
    assert copy.sync(copy.new)["facts"]["fetched_files"] == len(copy.new["files"])
    assert copy.verify(copy.new, "--deep") == (0, "complete")


def test_a_commit_that_a_person_removed_with_hf_leaves_the_other_whole(copy: Node) -> None:
    spoiled(copy, "rm", copy.new["commit"])
    assert copy.verify(copy.new) == (1, "incomplete")
    assert copy.verify(copy.old, "--deep") == (0, "complete")
    assert copy.sync(copy.new)["facts"]["fetched_files"] == 1
    assert copy.warnings() == []


def test_one_file_that_a_person_removed_with_hf_is_missed_and_fetched_alone(copy: Node) -> None:
    spoiled(copy, "rm", f"hf://models/{TINY_JUDGE}/config.json")
    assert [copy.verify(one) for one in (copy.old, copy.new)] == [(1, "incomplete")] * 2
    assert copy.sync(copy.new)["facts"]["to_fetch"] == ["config.json"]
    assert copy.verify(copy.new, "--deep") == (0, "complete")


def test_hf_cache_prune_takes_the_commit_that_no_branch_names_and_ours_says_so(copy: Node) -> None:
    spoiled(copy, "prune")
    assert copy.verify(copy.new, "--deep") == (0, "complete")
    assert copy.verify(copy.old) == (1, "incomplete")


def test_locks_that_a_person_removed_are_no_lie_and_cost_no_byte(copy: Node) -> None:
    shutil.rmtree(copy.store / ".locks")
    assert copy.verify(copy.new) == (1, "incomplete")
    assert copy.sync(copy.new)["facts"]["fetched_bytes"] == 0
    assert copy.verify(copy.new, "--deep") == (0, "complete")


def test_what_hf_downloads_beside_ours_is_read_and_left_alone(copy: Node) -> None:
    """`hf download` of the same commit into the same store brings what the manifest left out, and spoils nothing."""
    done = copy.hf("download", TINY_JUDGE)
    assert done.returncode == 0, done.stderr
    assert (copy.snapshot(copy.new) / "README.md").exists()
    code, answer = copy.run("verify", copy.new)
    assert (code, answer["state"]) == (1, "corrupt")
    assert "README.md is in the snapshot but not in the manifest" in answer["message"]
    assert copy.sync(copy.new)["facts"]["fetched_bytes"] == 0
    assert copy.verify(copy.new, "--deep") == (0, "complete")


# --- transformers and vLLM --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """A model without quantization, which transformers made itself: what it has to find again."""

    node: Node
    manifest: dict[str, Any]
    weights: str


@pytest.fixture(scope="module")
def plain(node: Node, vllm: Path) -> Plain:
    repo_id = "judge-lab/plain"
    folder = node.repositories / repo_id
    done = subprocess.run(
        [vllm / "bin/python", READERS / "transformers_loader.py", "make", DEFAULT_ROOT / TINY_JUDGE, folder],
        env={"PATH": os.environ["PATH"], "HOME": str(node.store.parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["shards"] > 1
    manifest = resolve_model(repo_id, "main", node.hub.url).manifest
    own = Node(node.hub, node.repositories, node.store.parent / "plain", manifest, manifest)
    own.sync(manifest)
    return Plain(own, manifest, made["weights"])


def load(node: Node, verb: str, manifest: dict[str, Any], vllm: Path) -> Any:
    folder = "models--" + manifest["repo_id"].replace("/", "--")
    return read(node, "transformers_loader.py", verb, manifest["repo_id"], manifest["commit"],
                f"/mnt/models/{folder}/snapshots/{manifest['commit']}",
                python="/mnt/vllm/bin/python", user=USER, vllm=vllm)


def test_transformers_finds_configuration_and_tokenizer_by_branch_commit_and_path(node: Node, vllm: Path) -> None:
    found = load(node, "configure", node.old, vllm)
    assert {way: one["pad_token_id"] for way, one in found.items()} == {"main": 1, "commit": 0, "path": 0}
    for one in found.values():
        assert (one["model_type"], one["decoded"], one["template"]) == ("qwen2", "Rate this answer:", True)


def test_transformers_loads_the_very_weights_and_generates(plain: Plain, vllm: Path) -> None:
    found = load(plain.node, "load", plain.manifest, vllm)
    assert set(found) == {"main", "commit", "path"}
    for one in found.values():
        assert (one["weights"], one["new_tokens"]) == (plain.weights, 4)


def test_vllm_serves_a_commit_of_it_and_answers(node: Node, vllm: Path) -> None:
    before = node.entries()
    snapshot = str(node.snapshot(node.old, Path("/mnt/models")))
    answer = read(node, "vllm_server.py", snapshot, python="/mnt/vllm/bin/python", user=USER, vllm=vllm,
                  environment={**gpu.ENVIRONMENT, "VLLM_NO_USAGE_STATS": "1"})
    assert answer["root"] == snapshot
    assert answer["text"].strip() and answer["finish_reason"] in ("stop", "length")
    assert node.entries() == before
