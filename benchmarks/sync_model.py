"""The model that the sync benchmarks move: two shards and eight small files, random but the same in every run."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

from judge_node.cache.manifest import parse
from sync_server import ask

REPO_ID = "bench/model"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
# As a 7B model of today has them; only merges.txt, tokenizer.json and vocab.json are of a size to notice.
SMALL_FILES = {
    "config.json": 700, "generation_config.json": 250, "merges.txt": 1_670_000, "special_tokens_map.json": 600,
    "tokenizer.json": 7_030_000, "tokenizer_config.json": 7_300, "vocab.json": 2_780_000,
}
_BLOCK_BYTES = 16 << 20


def make_model(root: Path, shard_bytes: tuple[int, int]) -> None:
    """Write the repository below `root`: valid safetensors, and an index that names both."""
    folder = root / REPO_ID
    folder.mkdir(parents=True)
    dice = random.Random(20260101)
    weights = {}
    for number, (name, size) in enumerate(zip(SHARDS, shard_bytes, strict=True)):
        weights[f"layers.{number}"] = name
        write_shard(folder / name, size, number, f"layers.{number}")
    for name, size in SMALL_FILES.items():
        text = dice.randbytes(size // 2).hex()
        (folder / name).write_text(f'{{"a": "{text}"}}' if name.endswith(".json") else text)
    (folder / "config.json").write_text(json.dumps({"model_type": "bench", "comment": dice.randbytes(300).hex()}))
    index = {"metadata": {"total_size": sum(shard_bytes)}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_shard(path: Path, size: int, seed: int, tensor: str) -> None:
    """Write a shard of exactly `size` bytes with one tensor of random bytes; another seed gives other bytes."""
    block = random.Random(seed).randbytes(_BLOCK_BYTES)
    header = b""
    for _ in range(3):  # the header's own length is in the tensor's; a few rounds settle it
        body = size - 8 - len(header)
        text = json.dumps({tensor: {"dtype": "U8", "shape": [body], "data_offsets": [0, body]}})
        header = text.encode() + b" " * (-len(text) % 64)
    body = size - 8 - len(header)
    header = json.dumps({tensor: {"dtype": "U8", "shape": [body], "data_offsets": [0, body]}}).encode().ljust(
        len(header))
    with path.open("xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        number = 0
        while body > 0:
            number += 1
            turn = number * 4099 % _BLOCK_BYTES  # no two blocks are the same
            file.write((block[turn:] + block[:turn])[:body])
            body -= _BLOCK_BYTES


def manifest_of(hub: str) -> dict[str, Any]:
    """Return the manifest of the model as the Hub has it now."""
    found = ask(f"{hub}/api/models/{REPO_ID}?blobs=true")
    files = [{"path": file["rfilename"], "size": file["size"],
              "sha256": file["lfs"]["sha256"] if "lfs" in file else None,
              "blob_sha1": None if "lfs" in file else file["blobId"]} for file in found["siblings"]]
    manifest = {"schema": 1, "repo_id": REPO_ID, "revision": "main", "commit": found["sha"], "files": files}
    parse(json.dumps(manifest).encode())  # as the node will
    return manifest


def blobs(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the manifest's files by the name of their blob."""
    return {file["sha256"] or file["blob_sha1"]: file for file in manifest["files"]}


def warm(root: Path) -> None:
    """Bring every file below `root` into the page cache."""
    buffer = bytearray(8 << 20)
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
