"""What the Hub stand-in knows of the repositories under its folder: files, hashes, commits and listings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
_LFS_FROM_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """One file of a repository, with the names the Hub gives its contents."""

    path: str
    source: Path
    size_bytes: int
    sha256: str
    git_sha1: str
    lfs: bool

    @property
    def etag(self) -> str:
        """sha256 of an LFS file, git's blob sha1 of any other."""
        return self.sha256 if self.lfs else self.git_sha1

    @property
    def pointer(self) -> bytes:
        """What git itself keeps of an LFS file."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size_bytes}\n".encode()
        )

    @property
    def git_oid(self) -> str:
        """The id of the blob in git: of the pointer for an LFS file."""
        return _git_blob_sha1(self.pointer) if self.lfs else self.git_sha1


@dataclass(frozen=True)
class Repository:
    """A repository as it is now: its files by path, and the commit that names them."""

    repo_id: str
    commit: str
    files: Mapping[str, HubFile]


def _git_blob_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Catalog:
    """The repositories under a folder; hashes are kept as long as size and time of a file stay the same."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hashed: dict[tuple[Path, int, int], tuple[str, str]] = {}

    def repository(self, repo_id: str) -> Repository | None:
        """Return the repository as it is on disk now, or None if there is none of that name."""
        org, _, name = repo_id.partition("/")
        folder = self._root / org / name
        if {org, name} & {"", ".", ".."} or not folder.is_dir():
            return None
        files = {
            found.relative_to(folder).as_posix(): self._file(found.relative_to(folder).as_posix(), found)
            for found in sorted(folder.rglob("*"))
            if found.is_file() and not any(part.startswith(".cache") for part in found.relative_to(folder).parts)
        }
        listing = json.dumps([[path, file.sha256] for path, file in sorted(files.items())])
        return Repository(repo_id, hashlib.sha1(listing.encode()).hexdigest(), files)

    def _file(self, path: str, source: Path) -> HubFile:
        stat = source.stat()
        key = (source, stat.st_size, stat.st_mtime_ns)
        if key not in self._hashed:
            sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % stat.st_size)
            with source.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    sha256.update(chunk)
                    sha1.update(chunk)
            self._hashed[key] = (sha256.hexdigest(), sha1.hexdigest())
        lfs = path.endswith(_LFS_SUFFIXES) or stat.st_size >= _LFS_FROM_BYTES
        return HubFile(path, source, stat.st_size, *self._hashed[key], lfs)


def tree(repository: Repository, under: str, *, recursive: bool) -> list[dict[str, object]]:
    """Return the entries of /tree/: the files and folders under a folder ("" is the top)."""
    entries: dict[str, dict[str, object]] = {}
    prefix = f"{under}/" if under else ""
    for path, file in repository.files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            entries[folder] = {
                "type": "directory",
                "oid": hashlib.sha1(f"{repository.commit} {folder}".encode()).hexdigest(),
                "size": 0,
                "path": folder,
            }
        if recursive or len(parts) == 1:
            entries[path] = {"type": "file", "oid": file.git_oid, "size": file.size_bytes, "path": path}
            if file.lfs:
                entries[path]["lfs"] = {
                    "oid": file.sha256, "size": file.size_bytes, "pointerSize": len(file.pointer)
                }  # fmt: skip
    return [entries[path] for path in sorted(entries)]


def info(repository: Repository, *, blobs: bool, gated: bool) -> dict[str, object]:
    """Return the repository's description; with `blobs`, each file's size and hashes too."""
    siblings: list[dict[str, object]] = []
    for path, file in sorted(repository.files.items()):
        sibling: dict[str, object] = {"rfilename": path}
        if blobs:
            sibling |= {"blobId": file.git_oid, "size": file.size_bytes}
            if file.lfs:
                sibling["lfs"] = {"sha256": file.sha256, "size": file.size_bytes, "pointerSize": len(file.pointer)}
        siblings.append(sibling)
    moment = "2026-01-01T00:00:00.000Z"
    return {
        "_id": repository.commit[:24],
        "id": repository.repo_id,
        "modelId": repository.repo_id,
        "author": repository.repo_id.partition("/")[0],
        "sha": repository.commit,
        "private": False,
        "gated": "auto" if gated else False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "createdAt": moment,
        "lastModified": moment,
        "siblings": siblings,
    }
