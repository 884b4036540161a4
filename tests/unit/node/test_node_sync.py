"""`cache sync` and `cache verify` against a real HTTP server with faults."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_node.cache import partial as partial_module
from judge_node.cache import sync as sync_module
from judge_node.cache.failures import Retry
from judge_node.cache.manifest import Manifest, parse
from judge_node.cache.store import Store
from judge_node.cache.sync import sync
from judge_node.cache.verify import verify
from judge_node.locking import locked
from judge_node.result import NodeError, Result
from unit.node.fake_hub import COMMIT, REPO, FakeHub, Fault, manifest_of, serve
from weights import HEAD_BYTES, weights

_RANDOM = random.Random(3)
WEIGHTS = "model-00001-of-00002.safetensors"
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "tokenizer.json": _RANDOM.randbytes(70_000),
    "sub/generation_config.json": b"{}",
    WEIGHTS: weights(_RANDOM.randbytes(3_000_000 - HEAD_BYTES)),
    "model-00002-of-00002.safetensors": weights(_RANDOM.randbytes(100_000)),
    "merges.txt": b"",
}
TOKEN = "hf_planted_token_4711"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve(dict(FILES)) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "hub"


def manifest(files: dict[str, bytes] | None = None, **other: Any) -> Manifest:
    return parse(json.dumps({**manifest_of(FILES if files is None else files), **other}).encode())


def quick_retry(**other: Any) -> Retry:
    return Retry(first_wait_seconds=0.001, **other)


def run_sync(hub: FakeHub, store: Path, wanted: Manifest | None = None, **options: Any) -> Result:
    options.setdefault("retry", quick_retry())
    return sync(wanted or manifest(), store, endpoint=hub.url, guard=lambda root: None, **options)


def read_snapshot(store: Path) -> dict[str, bytes]:
    root = store / "models--judge-lab--tiny/snapshots" / COMMIT
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if not path.is_dir()}


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in [root, *root.rglob("*")]}


def test_sync_brings_every_file_byte_for_byte(hub: FakeHub, store: Path) -> None:
    result = run_sync(hub, store)
    assert result.ok and result.changed and result.state == "complete"
    assert read_snapshot(store) == FILES
    assert result.facts["fetched_bytes"] == sum(map(len, FILES.values()))


def test_blobs_are_read_only_files_named_by_their_etag_and_links_are_relative(hub: FakeHub, store: Path) -> None:
    run_sync(hub, store)
    link = store / "models--judge-lab--tiny/snapshots" / COMMIT / WEIGHTS
    assert str(link.readlink()) == "../../blobs/" + hashlib.sha256(FILES[WEIGHTS]).hexdigest()
    nested = store / "models--judge-lab--tiny/snapshots" / COMMIT / "sub/generation_config.json"
    assert str(nested.readlink()).startswith("../../../blobs/")
    assert link.resolve().stat().st_mode & 0o777 == 0o444


def test_second_sync_changes_nothing_and_asks_nothing(hub: FakeHub, store: Path) -> None:
    run_sync(hub, store)
    before, asked = tree(store), len(hub.asked)
    result = run_sync(hub, store)
    assert (result.ok, result.changed, len(hub.asked), tree(store)) == (True, False, asked, before)


def test_nothing_but_the_model_is_left_behind(hub: FakeHub, store: Path) -> None:
    (store / ".locks/judge-bootstrap/partial").mkdir(parents=True)
    (store / ".locks/judge-bootstrap/partial/orphan").write_bytes(b"x" * 100)
    run_sync(hub, store)
    assert (
        list((store / ".locks/judge-bootstrap/partial").iterdir())
        == list((store / ".locks/judge-bootstrap/staging").iterdir())
        == []
    )


def test_check_lists_the_files_and_writes_nothing(hub: FakeHub, store: Path) -> None:
    result = run_sync(hub, store, check=True)
    assert result.ok and result.changed and result.state == "absent"
    assert result.facts["to_fetch"] == list(FILES)
    assert f"fetch {WEIGHTS} (2.9 MiB)" in result.after
    assert not store.exists() and not hub.asked


def test_check_works_before_the_disk_is_mounted(hub: FakeHub, store: Path) -> None:
    result = sync(
        manifest(), store, endpoint=hub.url, check=True, guard=lambda root: f"{root} is on the root filesystem"
    )
    assert result.ok and result.changed
    assert "once the disk is mounted" in result.message


def test_store_on_the_root_filesystem_is_refused(tmp_path: Path) -> None:
    if tmp_path.stat().st_dev != Path("/").stat().st_dev:
        pytest.skip("the folder for tests is not on the root filesystem here")
    with pytest.raises(NodeError, match="is on the root filesystem .*, wanted a mounted local disk") as caught:
        sync(manifest(), tmp_path / "hub", endpoint="http://127.0.0.1:9")
    assert (caught.value.reason, caught.value.exit_code) == ("MOUNT_MISSING", 3)
    assert not (tmp_path / "hub").exists()


def test_wrong_bytes_once_are_fetched_again(hub: FakeHub, store: Path) -> None:
    hub.faults[WEIGHTS] = [Fault(body="wrong", at=5)]
    run_sync(hub, store)
    assert read_snapshot(store) == FILES


def test_wrong_bytes_for_good_are_never_published(hub: FakeHub, store: Path) -> None:
    hub.faults[WEIGHTS] = [Fault(body="wrong", at=2_999_999)] * 9
    with pytest.raises(NodeError, match="do not have the manifest's hash") as caught:
        run_sync(hub, store)
    assert caught.value.reason == "INTEGRITY_MISMATCH"
    assert not (store / "models--judge-lab--tiny/snapshots").exists()
    assert not (store / "models--judge-lab--tiny/blobs" / hashlib.sha256(FILES[WEIGHTS]).hexdigest()).exists()


@pytest.mark.parametrize("kind", ["truncate", "reset"])
def test_broken_connection_goes_on_where_it_broke(hub: FakeHub, store: Path, kind: str) -> None:
    hub.faults[WEIGHTS] = [Fault(body=kind, at=2_200_000)]
    run_sync(hub, store)
    assert read_snapshot(store) == FILES
    first, second = hub.ranges(WEIGHTS)
    assert first is None
    if kind == "truncate":  # a reset also throws away what the kernel had received, so there it may start over
        assert second == "bytes=2200000-2999999"


def test_source_without_range_is_read_from_the_start(hub: FakeHub, store: Path) -> None:
    hub.knows_range = False
    hub.faults[WEIGHTS] = [Fault(body="truncate", at=2_000_000)]
    run_sync(hub, store)
    assert read_snapshot(store) == FILES


def test_content_range_of_another_place_is_not_believed(hub: FakeHub, store: Path) -> None:
    lie = Fault(status=206, headers={"Content-Range": "bytes 7-2999999/3000000"})
    hub.faults[WEIGHTS] = [Fault(body="truncate", at=2_000_000), lie]
    run_sync(hub, store)
    assert read_snapshot(store) == FILES
    assert hub.ranges(WEIGHTS) == [None, "bytes=2000000-2999999", "bytes=2000000-2999999"]


def test_source_of_another_size_is_refused_before_a_byte_is_taken(hub: FakeHub, store: Path) -> None:
    hub.files[WEIGHTS] = FILES[WEIGHTS] + b"more"
    with pytest.raises(NodeError, match="has 3000004 bytes, the manifest 3000000") as caught:
        run_sync(hub, store)
    assert caught.value.reason == "INTEGRITY_MISMATCH"


def test_compressed_answer_is_refused(hub: FakeHub, store: Path) -> None:
    hub.faults["config.json"] = [Fault(headers={"Content-Encoding": "gzip"})] * 2
    with pytest.raises(NodeError, match="answers compressed although asked not to"):
        run_sync(hub, store)


@pytest.mark.parametrize(
    ("fault", "reason", "requests"),
    [
        (Fault(status=401, headers={"X-Error-Code": "GatedRepo"}), "SOURCE_DENIED", 1),
        (Fault(status=403), "SOURCE_DENIED", 1),
        (Fault(status=404), "SOURCE_NOT_FOUND", 1),
        (Fault(status=429), "SOURCE_RATE_LIMITED", 3),
        (Fault(status=500), "SOURCE_UNREACHABLE", 3),
        (Fault(status=503), "SOURCE_UNREACHABLE", 3),
        (Fault(body="truncate", at=0), "SOURCE_UNREACHABLE", 3),
        (Fault(body="reset", at=0), "SOURCE_UNREACHABLE", 3),
    ],
)
def test_each_failure_has_its_reason_and_its_own_number_of_attempts(
    hub: FakeHub, store: Path, fault: Fault, reason: str, requests: int
) -> None:
    hub.faults["config.json"] = [fault] * 20
    with pytest.raises(NodeError) as caught:
        run_sync(hub, store, manifest({"config.json": FILES["config.json"]}), retry=quick_retry(attempts=3))
    assert (caught.value.reason, len(hub.asked)) == (reason, requests)
    assert hub.url + f"/{REPO}/resolve/{COMMIT}/config.json" in caught.value.message


def test_retry_after_beyond_the_longest_wait_fails_at_once_and_says_so(hub: FakeHub, store: Path) -> None:
    hub.faults["config.json"] = [Fault(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(NodeError, match="asks to wait 3600 seconds") as caught:
        run_sync(hub, store, manifest({"config.json": FILES["config.json"]}))
    assert (caught.value.reason, len(hub.asked)) == ("SOURCE_RATE_LIMITED", 1)


def test_backoff_doubles_with_jitter_and_is_bounded() -> None:
    retry = Retry(random=lambda: 1.0, longest_wait_seconds=5)
    assert [retry.seconds(failures, None) for failures in (1, 2, 3, 4)] == [1, 2, 4, 5]


def test_source_that_is_not_there_is_unreachable(store: Path) -> None:
    with pytest.raises(NodeError, match="Connection refused") as caught:
        sync(manifest(), store, endpoint="http://127.0.0.1:9", guard=lambda root: None, retry=quick_retry(attempts=2))
    assert caught.value.reason == "SOURCE_UNREACHABLE"


def test_redirect_to_another_host_does_not_carry_the_token(hub: FakeHub, store: Path) -> None:
    with serve(dict(FILES)) as cdn:
        hub.faults[WEIGHTS] = [
            Fault(status=302, headers={"Location": f"{cdn.url}/x/y/resolve/z/{WEIGHTS}?signature=secret"})
        ]
        run_sync(hub, store, manifest({WEIGHTS: FILES[WEIGHTS]}), token=TOKEN)
        assert [asked.headers.get("authorization") for asked in hub.asked] == [f"Bearer {TOKEN}"]
        assert [asked.headers.get("authorization") for asked in cdn.asked] == [None]
    assert read_snapshot(store) == {WEIGHTS: FILES[WEIGHTS]}


def test_redirect_on_the_same_host_keeps_the_token(hub: FakeHub, store: Path) -> None:
    hub.faults["config.json"] = [Fault(status=307, headers={"Location": f"/renamed/repo/resolve/{COMMIT}/config.json"})]
    run_sync(hub, store, manifest({"config.json": FILES["config.json"]}), token=TOKEN)
    assert [asked.headers.get("authorization") for asked in hub.asked] == [f"Bearer {TOKEN}"] * 2


def test_failures_name_neither_token_nor_signature(hub: FakeHub, store: Path) -> None:
    with serve({}) as cdn:
        hub.faults[WEIGHTS] = [Fault(status=302, headers={"Location": f"{cdn.url}/a/b/resolve/c/{WEIGHTS}?sig=s3cret"})]
        with pytest.raises(NodeError) as caught:
            run_sync(hub, store, manifest({WEIGHTS: FILES[WEIGHTS]}), token=TOKEN)
    said = json.dumps(Result.of_error("cache sync", caught.value).as_dict())
    assert TOKEN not in said and "s3cret" not in said


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("ftp://hub", "wanted a URL such as"),
        ("huggingface.co", "wanted a URL such as"),
        ("https://user:pw@hub", "secrets do not belong in arguments"),
        ("https://hub:99999", "is not usable"),
        ("http://hub.example.com", "unencrypted to hub.example.com"),
    ],
)
def test_unusable_endpoint_is_wrong_usage(store: Path, endpoint: str, message: str) -> None:
    with pytest.raises(NodeError, match=message) as caught:
        sync(manifest(), store, endpoint=endpoint, token=TOKEN, guard=lambda root: None)
    assert caught.value.exit_code == 2


def test_model_that_does_not_fit_is_refused_before_the_first_byte(hub: FakeHub, store: Path) -> None:
    raw = manifest_of(FILES)
    raw["files"][3]["size"] = 1 << 49
    with pytest.raises(NodeError, match="free, wanted 512.0 TiB") as caught:
        run_sync(hub, store, parse(json.dumps(raw).encode()))
    assert (caught.value.reason, hub.asked) == ("SPACE_SHORT", [])


def test_full_disk_is_typed_and_what_was_fetched_is_kept(
    hub: FakeHub, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def full(fd: int, data: Any, offset: int) -> int:
        if offset >= 2 << 20:
            raise OSError(28, "No space left on device")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(partial_module, "CHUNK_BYTES", 1 << 20)
    only = manifest({WEIGHTS: FILES[WEIGHTS]})
    with pytest.raises(NodeError, match="the disk is full") as caught:
        run_sync(hub, store, only, connections=1)
    assert caught.value.reason == "SPACE_SHORT"
    monkeypatch.setattr(os, "pwrite", real)
    result = run_sync(hub, store, only)
    assert result.facts["resumed_bytes"] == 2 << 20
    assert read_snapshot(store) == {WEIGHTS: FILES[WEIGHTS]}


def test_kept_bytes_that_are_damaged_are_fetched_again(hub: FakeHub, store: Path) -> None:
    partial = store / ".locks/judge-bootstrap/partial"
    partial.mkdir(parents=True)
    (partial / hashlib.sha256(FILES[WEIGHTS]).hexdigest()).write_bytes(bytes(1_000_000))  # a power cut leaves zeros
    run_sync(hub, store)
    assert read_snapshot(store) == FILES


def test_update_fetches_only_the_changed_shard_and_reads_no_other_blob(
    hub: FakeHub, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sync(hub, store)
    hub.files["model-00002-of-00002.safetensors"] = weights(b"new" * 1000)
    hub.asked.clear()

    def read_nothing(*args: object) -> bool:
        raise AssertionError("an unchanged blob was read")

    monkeypatch.setattr("judge_node.cache.hashing.file_agrees", read_nothing)
    run_sync(hub, store, manifest(hub.files, commit="b" * 40))
    assert [asked.path for asked in hub.asked] == ["model-00002-of-00002.safetensors"]
    assert (store / "models--judge-lab--tiny/refs/main").read_text() == "b" * 40
    assert verify(manifest(), store).ok, "the previous snapshot is still complete"


def with_index(weight_map: object) -> dict[str, bytes]:
    index = json.dumps({"weight_map": weight_map}).encode()
    return {"model.safetensors.index.json": index, WEIGHTS: weights(b"weights", "a", "b")}


def test_model_without_a_shard_that_its_index_names_is_never_published(hub: FakeHub, store: Path) -> None:
    hub.files = with_index({"a": WEIGHTS, "b": "model-00009-of-00009.safetensors"})
    with pytest.raises(NodeError, match="names the shard 'model-00009-of-00009.safetensors', which") as caught:
        run_sync(hub, store, manifest(hub.files))
    assert caught.value.reason == "MODEL_INCOMPLETE"
    assert not (store / "models--judge-lab--tiny/snapshots").exists()


def test_model_with_all_shards_of_its_index_is_published(hub: FakeHub, store: Path) -> None:
    hub.files = with_index({"a": WEIGHTS, "b": WEIGHTS})
    assert run_sync(hub, store, manifest(hub.files)).state == "complete"


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, "x"])
def test_index_that_is_none_is_incomplete(hub: FakeHub, store: Path, weight_map: object) -> None:
    hub.files = with_index(weight_map)
    with pytest.raises(NodeError, match="is not an index of weights") as caught:
        run_sync(hub, store, manifest(hub.files))
    assert caught.value.reason == "MODEL_INCOMPLETE"


def test_blob_that_nothing_vouches_for_is_hashed_before_it_is_linked(hub: FakeHub, store: Path) -> None:
    blobs = store / "models--judge-lab--tiny/blobs"
    blobs.mkdir(parents=True)
    good, bad = (
        FILES["tokenizer.json"],
        bytes(len(FILES[WEIGHTS])),
    )  # the right size, the wrong bytes: as hf would accept
    (blobs / hashlib.sha1(b"blob %d\0" % len(good) + good).hexdigest()).write_bytes(good)
    (blobs / hashlib.sha256(FILES[WEIGHTS]).hexdigest()).write_bytes(bad)
    run_sync(hub, store)
    assert read_snapshot(store) == FILES
    asked = {asked.path for asked in hub.asked}
    assert WEIGHTS in asked and "tokenizer.json" not in asked


def test_snapshot_made_by_another_tool_is_not_complete_and_is_replaced(hub: FakeHub, store: Path) -> None:
    snapshot = store / "models--judge-lab--tiny/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_model.bin").write_bytes(b"pickle")
    assert verify(manifest(), store).reason == "MODEL_INCOMPLETE"
    run_sync(hub, store)
    assert read_snapshot(store) == FILES


def test_manifest_is_durable_before_the_snapshot_appears(
    hub: FakeHub, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Path.rename, []

    def watched(self: Path, target: Path) -> Path:
        if "snapshots" in target.parts:
            seen.append(Store(store).vouch(manifest()).is_file())
        return real(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    run_sync(hub, store)
    assert seen == [True]


@pytest.mark.parametrize(
    ("damage", "reason", "text"),
    [
        ("remove-link", "MODEL_INCOMPLETE", "config.json is missing"),
        ("remove-blob", "MODEL_INCOMPLETE", "its blob is missing"),
        ("truncate", "INTEGRITY_MISMATCH", "has 5 bytes, wanted 23"),
        ("other-link", "INTEGRITY_MISMATCH", "config.json is not the link to its blob"),
        ("plain-file", "INTEGRITY_MISMATCH", "config.json is not the link to its blob"),
        ("extra-file", "INTEGRITY_MISMATCH", "extra.py is in the snapshot but not in the manifest"),
        ("no-manifest", "MODEL_INCOMPLETE", "nothing vouches for"),
        ("bad-manifest", "MODEL_INCOMPLETE", "nothing vouches for"),
    ],
)
def test_quick_verify_sees_the_damage_and_a_sync_repairs_it(
    hub: FakeHub, store: Path, damage: str, reason: str, text: str
) -> None:
    run_sync(hub, store)
    link = store / "models--judge-lab--tiny/snapshots" / COMMIT / "config.json"
    blob, vouch = link.resolve(), Store(store).vouch(manifest())
    if damage == "remove-link":
        link.unlink()
    elif damage == "remove-blob":
        blob.unlink()
    elif damage == "truncate":
        blob.chmod(0o644)
        os.truncate(blob, 5)
    elif damage == "other-link":
        link.unlink()
        link.symlink_to("/etc/passwd")
    elif damage == "plain-file":
        link.unlink()
        link.write_bytes(FILES["config.json"])
    elif damage == "extra-file":
        (link.parent / "extra.py").write_text("import os")
    elif damage == "no-manifest":
        vouch.unlink()
    else:
        vouch.chmod(0o644)
        vouch.write_text("{")
    found = verify(manifest(), store)
    assert (found.ok, found.reason) == (False, reason)
    assert text in found.message
    assert run_sync(hub, store).changed
    assert verify(manifest(), store, deep=True).ok
    assert read_snapshot(store) == FILES


def test_deep_verify_sees_a_flipped_bit_and_a_deep_sync_repairs_it(hub: FakeHub, store: Path) -> None:
    run_sync(hub, store)
    blob = (store / "models--judge-lab--tiny/snapshots" / COMMIT / WEIGHTS).resolve()
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(1_500_000)
        file.write(bytes([FILES[WEIGHTS][1_500_000] ^ 1]))
    assert verify(manifest(), store).ok, "sizes cannot show it"
    found = verify(manifest(), store, deep=True)
    assert (found.state, found.reason) == ("corrupt", "INTEGRITY_MISMATCH")
    assert found.repair == f"judge-node cache sync MANIFEST --store {store} --deep"
    result = run_sync(hub, store, deep=True)
    assert result.changed and result.facts["fetched_files"] == 1
    assert verify(manifest(), store, deep=True).ok


def test_deep_check_says_which_file_is_wrong_and_leaves_it(hub: FakeHub, store: Path) -> None:
    run_sync(hub, store)
    blob = (store / "models--judge-lab--tiny/snapshots" / COMMIT / "config.json").resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"#" * len(FILES["config.json"]))
    result = run_sync(hub, store, check=True, deep=True)
    assert result.changed and result.facts["to_fetch"] == ["config.json"]
    assert read_snapshot(store)["config.json"][:1] == b"#"


def test_deep_sync_of_a_good_store_changes_nothing(hub: FakeHub, store: Path) -> None:
    run_sync(hub, store)
    asked = len(hub.asked)
    assert not run_sync(hub, store, deep=True).changed
    assert len(hub.asked) == asked


def test_ref_that_moved_is_pointed_back(hub: FakeHub, store: Path) -> None:
    run_sync(hub, store)
    ref = store / "models--judge-lab--tiny/refs/main"
    ref.write_text("c" * 40)
    assert run_sync(hub, store).changed
    assert ref.read_text() == COMMIT


def test_lock_held_by_another_is_refused_after_the_wait(hub: FakeHub, store: Path) -> None:
    (store / ".locks/judge-bootstrap").mkdir(parents=True)
    with (
        locked(store / ".locks/judge-bootstrap/lock", wait_seconds=0),
        pytest.raises(NodeError, match=f"process {os.getpid()}") as caught,
    ):
        run_sync(hub, store, lock_wait_seconds=0)
    assert (caught.value.reason, caught.value.exit_code) == ("LOCKED", 3)


def test_two_syncs_at_once_fetch_each_file_once(hub: FakeHub, store: Path) -> None:
    results: list[Result] = []
    threads = [threading.Thread(target=lambda: results.append(run_sync(hub, store))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked.path for asked in hub.asked) == sorted(path for path, data in FILES.items() if data)
    assert [result.ok for result in results] == [True, True]
    assert read_snapshot(store) == FILES


def test_no_op_sync_does_not_load_the_network_code(hub: FakeHub, store: Path) -> None:
    run_sync(hub, store)
    program = (
        "import sys, pathlib; from judge_node.cache.sync import sync; from judge_node.cache.manifest import parse;"
        "r = sync(parse(sys.stdin.buffer.read()), pathlib.Path(sys.argv[1]), endpoint='http://x', guard=lambda _: 0);"
        "assert not r.changed; print('ssl' in sys.modules, 'http.client' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(store)],
        input=json.dumps(manifest_of(FILES)),
        text=True,
        capture_output=True,
        env={"PYTHONPATH": str(Path(sync_module.__file__).parents[2])},
        check=True,
    )
    assert done.stdout == "False False\n"


_HF = """
import json, sys
from huggingface_hub import snapshot_download, try_to_load_from_cache, scan_cache_dir
store, repo = sys.argv[1:]
print(json.dumps({
    "snapshot": snapshot_download(repo, local_files_only=True, cache_dir=store),
    "file": try_to_load_from_cache(repo, "config.json", cache_dir=store),
    "nested": try_to_load_from_cache(repo, "sub/generation_config.json", cache_dir=store),
    "repos": [[r.repo_id, r.size_on_disk, [x.commit_hash for x in r.revisions]] for r in scan_cache_dir(store).repos],
}))
"""


def test_hugging_face_tools_read_the_store_as_their_own_cache(hub: FakeHub, store: Path) -> None:
    run_sync(hub, store)
    env = {"HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"], "HOME": str(store.parent)}
    done = subprocess.run(
        [sys.executable, "-c", _HF, str(store), REPO], capture_output=True, text=True, env=env, check=True
    )
    found = json.loads(done.stdout)
    snapshot = store / "models--judge-lab--tiny/snapshots" / COMMIT
    assert found == {
        "snapshot": str(snapshot),
        "file": str(snapshot / "config.json"),
        "nested": str(snapshot / "sub/generation_config.json"),
        "repos": [[REPO, sum(map(len, FILES.values())), [COMMIT]]],
    }


@pytest.mark.parametrize("place", [
    "", "blobs", "snapshots", "refs", "../.locks/judge-bootstrap", "../.locks/judge-bootstrap/partial",
    "../.locks/judge-bootstrap/staging", "../.locks/judge-bootstrap/manifests"])
def test_a_link_in_the_store_is_not_followed_to_write_elsewhere(
        hub: FakeHub, store: Path, tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    link = Path(os.path.normpath(store / "models--judge-lab--tiny" / place))
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(NodeError, match=f"{link} is a symbolic link to {elsewhere}") as caught:
        run_sync(hub, store)
    assert caught.value.reason == "INTEGRITY_MISMATCH"
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("precious")])
def test_a_lock_that_is_no_file_is_refused_and_nothing_is_emptied(hub: FakeHub, store: Path, make: Any) -> None:
    folder = store / ".locks/judge-bootstrap"
    folder.mkdir(parents=True)
    (folder / "precious").write_text("precious")
    make(folder / "lock")
    with pytest.raises(NodeError, match=f"the lock {folder}/lock is no regular file"):
        run_sync(hub, store)
    assert (folder / "precious").read_text() == "precious"


def test_a_pipe_in_the_place_of_a_manifest_vouches_for_nothing(hub: FakeHub, store: Path) -> None:
    run_sync(hub, store)
    vouch = Store(store).vouch(manifest())
    vouch.unlink()
    os.mkfifo(vouch)
    assert verify(manifest(), store).reason == "MODEL_INCOMPLETE"


def test_what_a_source_says_is_one_line_without_signs_that_a_terminal_obeys(hub: FakeHub, store: Path) -> None:
    hub.faults["config.json"] = [Fault(status=403, headers={"X-Error-Code": "\x1b[2J" + "A" * 5000})]
    with pytest.raises(NodeError) as caught:
        run_sync(hub, store)
    message = caught.value.message
    assert r"(\x1b[2JAAAA" in message and message.isprintable() and len(message) < 400


def test_the_repair_of_a_source_names_the_source(hub: FakeHub, store: Path) -> None:
    hub.faults["config.json"] = [Fault(status=503)] * 3
    with pytest.raises(NodeError) as caught:
        run_sync(hub, store, retry=quick_retry(attempts=3))
    assert str(caught.value.repair).startswith(f"curl -sSI {hub.url} ")
