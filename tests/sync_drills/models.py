"""Models whose bytes follow from a seed: an old commit that a store has, and a new one that it is to get."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weights import weights

REPO = "judge-drill/model"
MIB = 1 << 20
CHUNK_BYTES = 16 * MIB  # what a kill may cost a big file
_LFS = ".safetensors"


@dataclass(frozen=True)
class Model:
    """One commit: the true bytes of every file."""

    repo_id: str
    commit: str
    files: dict[str, bytes] = field(repr=False)

    @property
    def folder(self) -> str:
        return "models--" + self.repo_id.replace("/", "--")

    @property
    def size(self) -> int:
        return sum(len(data) for data in self.by_blob().values())

    def by_blob(self) -> dict[str, bytes]:
        """Return {etag: bytes}."""
        return {blob_name(path, data): data for path, data in self.files.items()}

    def manifest(self, revision: str = "main") -> dict[str, Any]:
        """Return the manifest as the controller makes it."""
        entries = [
            {
                "path": path,
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest() if path.endswith(_LFS) else None,
                "blob_sha1": None if path.endswith(_LFS) else blob_name(path, data),
            }
            for path, data in self.files.items()
        ]
        return {"schema": 1, "repo_id": self.repo_id, "revision": revision, "commit": self.commit, "files": entries}

    def write(self, path: Path, revision: str = "main") -> Path:
        """Write the manifest."""
        path.write_text(json.dumps(self.manifest(revision)))
        return path


def blob_name(path: str, data: bytes) -> str:
    """Return the Hub's etag: sha256 of a file in LFS, git's blob hash of another."""
    if path.endswith(_LFS):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pair(seed: int, shards: Sequence[int], small_bytes: int = 20_000, repo_id: str = REPO) -> tuple[Model, Model]:
    """Return the old and the new commit of one repository.

    The new one has shards of these sizes and eight small files, four of which the old one has, too, with an index, a
    shard of its own and other content under the same names.
    """
    rng = random.Random(seed)
    shared = {
        "tokenizer.json": rng.randbytes(small_bytes * 4),
        "merges.txt": rng.randbytes(small_bytes),
        "vocab.json": rng.randbytes(small_bytes),
        "tokenizer_config.json": rng.randbytes(700),
    }

    def commit(sizes: Sequence[int]) -> Model:
        names = [f"model-{number:05}-of-{len(sizes):05}{_LFS}" for number in range(1, len(sizes) + 1)]
        index = {"metadata": {}, "weight_map": {f"w{number}": name for number, name in enumerate(names)}}
        files = {
            "config.json": b'{"model_type": "llama", "salt": "' + rng.randbytes(300).hex().encode() + b'"}',
            "generation_config.json": b'{"salt": "' + rng.randbytes(50).hex().encode() + b'"}',
            f"model{_LFS}.index.json": json.dumps(index).encode() + b" " * rng.randrange(100),
            "special/added_tokens.json": rng.randbytes(small_bytes),
            **shared,
            **{
                name: weights(rng.randbytes(size), f"w{number}")
                for number, (name, size) in enumerate(zip(names, sizes, strict=True))
            },
        }
        return Model(repo_id, rng.randbytes(20).hex(), files)

    return commit([max(size // 8, 1) for size in shards]), commit(shards)
