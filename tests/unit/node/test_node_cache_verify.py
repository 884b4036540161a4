"""`cache verify`: what it notices, what it notes, and that nothing is vouched for whose bytes are wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from judge_node.cache import verify as verify_module
from judge_node.cache.catalog import read_catalog
from judge_node.cache.manifest import Manifest
from judge_node.cache.store import Store
from judge_node.cache.verify import Throttle, blob_agrees, verify, verify_all
from judge_node.last import read_last
from judge_node.locking import locked
from judge_node.result import NodeError, Result
from unit.node.model_stores import REPO, Quiet, add_model, break_blob, commit_of, file_of, files_of, tree
from weights import HEAD_BYTES, weights

OWN = "model-00001-of-00002.safetensors"
SHARED = "model-00002-of-00002.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hub")


def check_all(store: Store, **options: Any) -> Result:
    return verify_all(store.root, processes=Quiet(), **options)


def states(store: Store) -> dict[str, str]:
    return {model.manifest.commit[0]: model.state for model in read_catalog(store).models}


def noted(store: Store, manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.note("checked", manifest).read_text())
    return found


def test_whole_store_is_complete(store: Store) -> None:
    add_model(store, "a")
    add_model(store, "b")
    result = check_all(store)
    assert (result.ok, result.exit_code, result.state) == (True, 0, "complete")
    assert result.message == "2 models are complete (links, sizes and headers checked)"
    assert check_all(store, deep=True).message == "2 models are complete (every byte hashed)"


def test_store_without_a_model_is_no_failure(store: Store) -> None:
    store.own.mkdir(parents=True)
    assert (check_all(store).ok, check_all(store).message) == (True, "the store has no model yet")


def test_store_that_is_not_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(NodeError) as caught:
        check_all(Store(tmp_path / "nothing"))
    assert caught.value.reason == "MOUNT_MISSING"


def test_quick_check_reads_headers_and_no_more(store: Store) -> None:
    manifest = add_model(store, "a", files_of(b"x" * (8 << 20)))
    result = check_all(store)
    assert result.ok and result.facts["read_bytes"] == 0
    assert verify(manifest, store.root).message == (
        f"{REPO} at {'a' * 12} is complete (3 files, links, sizes and headers checked)"
    )


def test_header_that_changed_is_noticed_by_the_quick_check(store: Store) -> None:
    manifest = add_model(store, "a")
    break_blob(store, manifest, OWN, 0)
    result = check_all(store)
    assert (result.ok, result.exit_code, result.reason, result.state) == (False, 1, "INTEGRITY_MISMATCH", "corrupt")
    assert result.message.startswith(f"{REPO} at {'a' * 12} is corrupt: {OWN} is no weight file: its header is ")
    assert result.repair == (
        f"judge-node cache sync {store.note('withdrawn', manifest)} --store {store.root} --deep"
    ), "the node has the manifest itself"
    assert states(store) == {"a": "corrupt"}, "the hash of the file has shown that its bytes are wrong"


def test_odd_header_whose_hash_is_right_is_reported_and_stays_vouched_for(store: Store) -> None:
    add_model(store, "a", {"odd.safetensors": b"the repository has it like this"})
    assert "odd.safetensors is no weight file" in check_all(store).message
    assert states(store) == {"a": "complete"}


def test_byte_among_the_weights_is_noticed_by_the_deep_check_alone(store: Store) -> None:
    manifest = add_model(store, "a")
    break_blob(store, manifest, OWN)
    assert check_all(store).ok
    result = check_all(store, deep=True)
    assert (result.reason, result.state) == ("INTEGRITY_MISMATCH", "corrupt")
    assert result.message == (
        f"{REPO} at {'a' * 12} is corrupt: {OWN} does not have the manifest's hash; "
        "no new pod is served from it until a sync has repaired it"
    )


def test_wrong_bytes_are_vouched_for_no_more_in_any_model_that_has_them(store: Store) -> None:
    manifest = add_model(store, "a")
    add_model(store, "b")
    other = add_model(store, "c", files_of(b"c", b"not shared"))
    break_blob(store, manifest, SHARED)
    result = check_all(store, deep=True)
    assert states(store) == {"a": "corrupt", "b": "corrupt", "c": "complete"}
    assert [m.commit for m in store.all_vouched()] == [other.commit]
    assert result.message.startswith("2 of 3 models: ")
    pod = verify(manifest, store.root)
    assert (pod.ok, pod.reason) == (False, "INTEGRITY_MISMATCH")
    assert "wrong bytes were found in it, and no sync has repaired it yet" in pod.message


def test_withdrawn_model_fails_every_check_until_it_is_repaired(store: Store) -> None:
    manifest = add_model(store, "a")
    break_blob(store, manifest, OWN)
    check_all(store, deep=True)
    assert not check_all(store).ok
    store.blob(manifest, file_of(OWN, files_of(b"a" * 5000)[OWN])).unlink()
    add_model(store, "a")  # as a sync repairs it
    assert check_all(store).ok and states(store) == {"a": "complete"} and not list(store.withdrawn.rglob("*.json"))


def test_model_whose_shared_blob_was_repaired_for_another_is_vouched_for_again_once_all_is_hashed(
    store: Store,
) -> None:
    manifest = add_model(store, "a")
    add_model(store, "b")
    break_blob(store, manifest, SHARED)
    check_all(store, deep=True)
    store.blob(manifest, file_of(SHARED, files_of(b"")[SHARED])).unlink()
    add_model(store, "b")
    assert states(store) == {"a": "corrupt", "b": "complete"} and not check_all(store).ok
    assert check_all(store, deep=True).ok
    assert states(store) == {"a": "complete", "b": "complete"}


def test_repair_of_a_staged_model_does_not_move_the_branch(store: Store) -> None:
    add_model(store, "a")
    manifest = add_model(store, "b", revision=None)
    (store.snapshot(manifest) / OWN).unlink()
    assert check_all(store).repair == (
        f"judge-node cache sync {store.vouch(manifest)} --stage --store {store.root}"
    )


def test_missing_link_and_blob_are_incomplete(store: Store) -> None:
    manifest = add_model(store, "a")
    (store.snapshot(manifest) / OWN).unlink()
    result = check_all(store)
    assert (result.reason, result.state) == ("MODEL_INCOMPLETE", "incomplete")
    assert result.message == f"{REPO} at {'a' * 12} is incomplete: {OWN} is missing"
    assert result.repair == f"judge-node cache sync {store.vouch(manifest)} --store {store.root}"
    assert states(store) == {"a": "incomplete"}


def test_damaged_manifest_is_a_failure_and_not_a_model_less(store: Store) -> None:
    manifest = add_model(store, "a")
    add_model(store, "b")
    store.vouch(manifest).chmod(0o644)
    store.vouch(manifest).write_bytes(store.vouch(manifest).read_bytes()[:100])
    result = check_all(store)
    assert (result.ok, result.reason) == (False, "MODEL_INCOMPLETE")
    assert "the manifest that vouches for it is damaged" in result.message and commit_of("a") in result.message


def test_check_is_noted_with_its_time_and_what_was_found(store: Store) -> None:
    manifest = add_model(store, "a")
    check_all(store)
    first = noted(store, manifest)
    assert abs(first["quick_at"] - time.time()) < 60 and first["deep_at"] is None and first["problems"] == []
    check_all(store, deep=True)
    assert noted(store, manifest)["deep_at"] >= first["quick_at"]
    check_all(store)
    assert noted(store, manifest)["deep_at"] is not None, "a quick check forgets no deep one"
    break_blob(store, manifest, OWN)
    verify(manifest, store.root, deep=True)
    assert noted(store, manifest)["problems"] == [f"{OWN} does not have the manifest's hash"]


def test_publishing_anew_forgets_what_an_earlier_check_found(store: Store) -> None:
    manifest = add_model(store, "a")
    check_all(store)
    add_model(store, "a")
    assert not store.note("checked", manifest).exists()


def test_the_one_that_was_checked_longest_ago_comes_first(store: Store) -> None:
    for letter in "abc":
        add_model(store, letter)
    for letter, at in (("a", 300), ("b", 100)):
        path = store.own / "checked/models--judge-lab--tiny" / f"{commit_of(letter)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"deep_at": at}))
    result = check_all(store, deep=True)
    assert [model["commit"][0] for model in result.facts["models"]] == ["c", "b", "a"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"quick_at": "x", "deep_at": [], "problems": 5}', b"[" * 99_999])
def test_note_that_cannot_be_read_says_never(store: Store, text: bytes) -> None:
    manifest = add_model(store, "a")
    store.note("checked", manifest).parent.mkdir(parents=True)
    store.note("checked", manifest).write_bytes(text)
    (model,) = read_catalog(store).models
    assert (model.checked.quick_at, model.checked.deep_at, model.checked.problems) == (None, None, ())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
def test_read_only_store_is_verified_and_nothing_is_written(store: Store, tmp_path: Path) -> None:
    manifest = add_model(store, "a")
    break_blob(store, manifest, OWN, 0)
    before = tree(store.root)
    target = tmp_path / "pod"
    target.mkdir()
    subprocess.run(["mount", "--bind", store.root, target], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        found = verify(manifest, target)
        assert (found.ok, found.reason) == (False, "INTEGRITY_MISMATCH") and "is no weight file" in found.message
        assert not check_all(Store(target), deep=True).ok
    finally:
        subprocess.run(["umount", target], check=True)
    assert tree(store.root) == before


def test_verify_of_a_manifest_of_other_files_takes_no_word_back(store: Store) -> None:
    manifest = add_model(store, "a")
    data = files_of(b"a" * 5000)
    lying = [file_of(path, body) for path, body in data.items()]
    lying[0] = type(lying[0])(lying[0].path, lying[0].size, "0" * 64, lying[0].blob_sha1)
    other = Manifest(REPO, "main", manifest.commit, tuple(lying))
    result = verify(other, store.root, deep=True)
    assert not result.ok and states(store) == {"a": "complete"}


def test_wrong_bytes_that_a_sync_repairs_meanwhile_keep_the_word(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = add_model(store, "a")
    break_blob(store, manifest, OWN)
    real = verify_module._withdraw

    def repaired_first(*arguments: Any) -> str:
        path = store.blob(manifest, file_of(OWN, files_of(b"a" * 5000)[OWN]))
        path.chmod(0o644)
        path.write_bytes(files_of(b"a" * 5000)[OWN])
        return real(*arguments)

    monkeypatch.setattr(verify_module, "_withdraw", repaired_first)
    check_all(store, deep=True)
    assert states(store) == {"a": "complete"}


def test_word_that_cannot_be_taken_back_is_said(store: Store) -> None:
    manifest = add_model(store, "a")
    break_blob(store, manifest, OWN)
    with locked(store.lock, wait_seconds=0):
        result = check_all(store, deep=True, lock_wait_seconds=0)
    assert "(and it is still vouched for: another judge-node holds" in result.message


def test_disk_that_cannot_read_a_block_has_wrong_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = add_model(store, "a")

    def fail(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    result = check_all(store, deep=True)
    assert result.reason == "INTEGRITY_MISMATCH" and "cannot be read: Input/output error" in result.message
    assert store.all_vouched() == [] and manifest.commit in result.facts["models"][0]["commit"]


# --- how it reads -----------------------------------------------------------------------------------------------------


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every file on a filesystem that knows no direct reads, as tmpfs was until Linux 6.6."""
    opened = os.open

    def open_(path: Any, mode: int, *more: Any) -> int:
        if mode & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, mode, *more)

    monkeypatch.setattr(os, "open", open_)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (8 << 20) + 4096])
@pytest.mark.parametrize("direct", [True, False])
def test_file_of_any_size_is_hashed_as_it_is(
    tmp_path: Path, size: int, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(size)
    path = tmp_path / "blob"
    path.write_bytes(data)
    if not direct:
        refuse_direct(monkeypatch)
    for name in ("x.safetensors", "x.json"):
        throttle = Throttle()
        assert blob_agrees(path, file_of(name, data), throttle) and throttle.read_bytes == size
        if size:
            assert not blob_agrees(path, file_of(name, data[:-1] + bytes([data[-1] ^ 1])), throttle)


def test_file_that_takes_no_direct_read_after_all_is_read_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"x" * 10_000)
    preadv, flags = os.preadv, []

    def refuse_first(fd: int, buffers: Any, offset: int) -> int:
        if not flags:
            flags.append(fd)
            raise OSError(22, "Invalid argument")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", refuse_first)
    assert blob_agrees(path, file_of("x.json", b"x" * 10_000), Throttle())



@pytest.mark.skipif(shutil.which("fincore") is None, reason="needs fincore (util-linux)")
@pytest.mark.parametrize("direct", [True, False])
def test_deep_check_brings_nothing_into_the_page_cache(
    tmp_path: Path, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "blob"
    data = os.urandom(16 << 20)
    path.write_bytes(data)
    with path.open() as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if not direct:
        refuse_direct(monkeypatch)
    assert blob_agrees(path, file_of("x.safetensors", data), Throttle())
    assert cached_pages(path) <= 64, "at most what was read ahead"


@pytest.mark.skipif(shutil.which("fincore") is None, reason="needs fincore (util-linux)")
def test_deep_check_leaves_in_the_page_cache_what_a_pod_is_about_to_load(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    data = os.urandom(4 << 20)
    path.write_bytes(data)
    assert cached_pages(path) == 1024
    assert blob_agrees(path, file_of("x.safetensors", data), Throttle())
    assert cached_pages(path) == 1024


def cached_pages(path: Path) -> int:
    done = subprocess.run(["fincore", "-n", "-o", "PAGES", path], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_rate_is_held(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    data = os.urandom(12 << 20)
    path.write_bytes(data)
    started = time.monotonic()
    blob_agrees(path, file_of("x.safetensors", data), Throttle(24 << 20))
    assert 0.45 < time.monotonic() - started < 30


def test_rate_holds_over_all_files_together(store: Store) -> None:
    add_model(store, "a", {f"{number}.safetensors": weights(os.urandom(100_000 - HEAD_BYTES)) for number in range(5)})
    started = time.monotonic()
    result = check_all(store, deep=True, limit_rate=1_000_000)
    assert result.ok and result.facts["read_bytes"] == 500_000
    assert time.monotonic() - started > 0.45


# --- as the timer runs it ---------------------------------------------------------------------------------------------


def test_failure_leaves_a_result_for_status_and_exit_code_1(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from judge_node.cli import main

    result = tmp_path / "run/cache-result.json"
    monkeypatch.setattr("judge_node.last.CACHE_RESULT", result)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    manifest = add_model(store, "a")
    assert main(["cache", "verify", "--store", str(store.root), "--quick"]) == 0
    assert (read_last(result) or {})["ok"] is True
    break_blob(store, manifest, OWN)
    assert main(["cache", "verify", "--store", str(store.root), "--deep", "--limit-rate", "200M"]) == 1
    assert capsys.readouterr().err.splitlines()[0].startswith("INTEGRITY_MISMATCH: judge-lab/tiny at aaaaaaaaaaaa is")
    left = read_last(result) or {}
    assert (left["ok"], left["reason"]) == (False, "INTEGRITY_MISMATCH")
    shutil.rmtree(store.root)
    assert main(["cache", "verify", "--store", str(store.root)]) == 3
    assert (read_last(result) or {})["reason"] == "MOUNT_MISSING"
