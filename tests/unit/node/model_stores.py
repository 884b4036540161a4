"""Stores with models in them, made as a sync makes them but without a Hub; and nodes with and without users of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from judge_node.cache.manifest import File, Manifest
from judge_node.cache.store import Store
from judge_node.cache.usage import Processes
from weights import weights

REPO = "judge-lab/tiny"
DAY = 86_400


class Quiet(Processes):
    """A node on which nobody uses anything."""

    def blind(self) -> str | None:
        return None

    def pids(self) -> list[int]:
        return []


class Blind(Quiet):
    """A node whose processes cannot be seen."""

    def blind(self) -> str | None:
        return "this runs in a container"


class Only(Processes):
    """Only these processes, read as they are."""

    def __init__(self, *pids: int) -> None:
        super().__init__()
        self._pids = list(pids)

    def blind(self) -> str | None:
        return None

    def pids(self) -> list[int]:
        return self._pids


def commit_of(letter: str) -> str:
    return letter * 40


def file_of(path: str, data: bytes) -> File:
    if path.endswith(".safetensors"):
        return File(path, len(data), hashlib.sha256(data).hexdigest(), None)
    return File(path, len(data), None, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())


def files_of(body: bytes, shared: bytes = b"shared" * 1000) -> dict[str, bytes]:
    """Return a model of two shards: one of its own, one that it shares with the others."""
    return {
        "config.json": b"{}",
        "model-00001-of-00002.safetensors": weights(body),
        "model-00002-of-00002.safetensors": weights(shared),
    }


def add_model(
    store: Store,
    letter: str = "a",
    files: dict[str, bytes] | None = None,
    *,
    repo_id: str = REPO,
    revision: str | None = "main",
    days_old: float = 30,
) -> Manifest:
    """Publish a model at the commit of this letter; without a revision nothing points at it."""
    files = files_of(letter.encode() * 5000) if files is None else files
    commit = commit_of(letter)
    manifest = Manifest(repo_id, revision or commit, commit, tuple(file_of(*item) for item in files.items()))
    blobs = store.folder(repo_id) / "blobs"
    for folder in (blobs, store.own, store.staging, store.partial):
        folder.mkdir(parents=True, exist_ok=True)
    for file in manifest.files:
        path = blobs / file.blob
        if not path.exists():
            path.write_bytes(files[file.path])
            path.chmod(0o444)
    store.publish(manifest)
    store.point_ref(manifest)
    at = time.time() - days_old * DAY
    os.utime(store.vouch(manifest), (at, at))
    return manifest


def add_foreign(store: Store, letter: str, files: dict[str, bytes], repo_id: str = REPO) -> Path:
    """Add a snapshot as `hf download` leaves it: no manifest, and blobs that can be written."""
    folder = store.folder(repo_id)
    snapshot = folder / "snapshots" / commit_of(letter)
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for path, data in files.items():
        blob = folder / "blobs" / file_of(path, data).blob
        if not blob.exists():
            blob.write_bytes(data)
        (snapshot / path).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def break_blob(store: Store, manifest: Manifest, path: str, at: int = -1) -> None:
    """Turn one byte over, as a disk does: size and time stay."""
    file = next(file for file in manifest.files if file.path == path)
    blob = store.blob(manifest, file)
    data = bytearray(blob.read_bytes())
    data[at] ^= 255
    blob.chmod(0o644)
    blob.write_bytes(data)
    blob.chmod(0o444)


def tree(root: Path) -> dict[str, Any]:
    """Return everything below `root`, with what it says; locks and our notes of use aside."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and path.name != "lock" and "/used/" not in name:
            found[name] = path.read_bytes()
    return found


@contextmanager
def running(*argv: str | Path, ready: bytes = b"ready\n", **options: Any) -> Iterator[int]:
    """Run a process until the block ends; it is there once it has said `ready`."""
    process = subprocess.Popen(list(map(str, argv)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    try:
        assert process.stdout is not None and process.stdout.readline() == ready
        yield process.pid
    finally:
        process.kill()
        process.communicate()
