"""What a reader finds in a store, held against the true bytes; written apart from the product, and uses none of it.

`listing()` needs only the standard library and this file, so that it runs inside a machine, too:
python3 oracle.py STORE prints it as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_COMMIT = re.compile(r"[0-9a-f]{40}")
_VOUCHES = ("manifests", "withdrawn")
_STATE = ("pins", "checked", "used", "previous")


def listing(root: str) -> dict[str, Any]:
    """Return every name in the store: {"files": {path: content}, "folders": [paths]}.

    A content is [size, sha256] as read through the name, with [link target] behind it for a link; or what the reader
    gets instead. Small files below refs/ have their text behind it.
    """
    files: dict[str, Any] = {}
    folders = []
    read: dict[tuple[int, int], list[Any]] = {}  # a file is read once, under however many names
    for parent, names, others in os.walk(root):
        for name in sorted(names + others):
            path = Path(parent) / name
            shown = path.relative_to(root).as_posix()
            if path.is_dir() and not path.is_symlink():
                folders.append(shown)
                continue
            files[shown] = [*_read(path, read), *([str(path.readlink())] if path.is_symlink() else [])]
            if "/refs/" in shown and files[shown][0] < 1000:
                files[shown].append(path.read_text(errors="replace"))
    return {"files": files, "folders": folders}


def _read(path: Path, read: dict[tuple[int, int], list[Any]]) -> list[Any]:
    found = hashlib.sha256()
    size = 0
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            key = status.st_dev, status.st_ino
            while key not in read:
                data = file.read(1 << 20)
                found.update(data)
                size += len(data)
                if not data:
                    read[key] = [size, found.hexdigest()]
            return read[key]
    except OSError as error:
        return [-1, error.strerror]


def unverified(found: dict[str, Any], models: Iterable[Any]) -> list[str]:
    """Return what a reader can reach that is not, to the byte, a commit as it is on the Hub.

    Everything below snapshots/ counts, vouched for or not: a reader that asks by commit opens it. So does a branch
    that leads to no whole snapshot, and a blob that is not what its name says.
    """
    truth = {
        f"{model.folder}/snapshots/{model.commit}": {
            path: [len(data), hashlib.sha256(data).hexdigest()] for path, data in model.files.items()
        }
        for model in models
    }
    blobs = {f"{model.folder}/blobs/{name}": [len(data), hashlib.sha256(data).hexdigest()]
             for model in models for name, data in model.by_blob().items()}  # fmt: skip
    wrong = []
    seen: dict[str, dict[str, Any]] = {
        path: {} for path in found["folders"] if re.fullmatch(r"models--[^/]+/snapshots/[^/]+", path)
    }
    for path, content in found["files"].items():
        parts = path.split("/")
        if parts[0].startswith("models--") and len(parts) > 2 and parts[1] == "snapshots":
            seen.setdefault("/".join(parts[:3]), {})["/".join(parts[3:])] = content[:2]
        elif path in blobs and content[:2] != blobs[path]:
            wrong.append(f"{path}: {content[:2]}, wanted {blobs[path]}")
    for snapshot, files in seen.items():
        wanted = truth.get(snapshot)
        if wanted is None:
            wrong.append(f"{snapshot} is no commit on the Hub")
            continue
        wrong += [f"{snapshot}: {path} is missing" for path in sorted(set(wanted) - set(files))]
        wrong += [f"{snapshot}: {path} is not of the commit" for path in sorted(set(files) - set(wanted))]
        wrong += [
            f"{snapshot}: {path} reads as {files[path]}, wanted {content}"
            for path, content in wanted.items()
            if path in files and files[path] != content
        ]
    for path, content in found["files"].items():
        folder, _, revision = path.partition("/refs/")
        if revision and folder.startswith("models--"):
            target = f"{folder}/snapshots/{str(content[-1]).strip()}"
            if target not in seen or not _COMMIT.fullmatch(str(content[-1]).strip()):
                wrong.append(f"{path} names {content[-1]!r}, of which there is no snapshot")
    return wrong


def complete(found: dict[str, Any], model: Any, revision: str | None = None) -> bool:
    """Return whether a reader gets every byte of the commit, and gets it by `revision`, too, where one is given."""
    for path, data in model.files.items():
        content = found["files"].get(f"{model.folder}/snapshots/{model.commit}/{path}")
        if content is None or content[:2] != [len(data), hashlib.sha256(data).hexdigest()]:
            return False
    return revision is None or found["files"].get(f"{model.folder}/refs/{revision}", [""])[-1] == model.commit


def orphans(found: dict[str, Any], own: str) -> list[str]:
    """Return what no snapshot needs and no document names; `own` is the folder of the store's own files in it."""
    linked: set[str] = set()
    commits = set()
    for path, content in found["files"].items():
        matched = re.fullmatch(r"(models--[^/]+)/snapshots/([^/]+)/.+", path)
        if matched:
            commits.add((matched[1], matched[2]))
            if len(content) > 2:
                linked.add(os.path.normpath(Path(path).parent / content[2]))
    left = [path for path in found["files"] if path not in linked and not _belongs(path, own, commits)]
    left += [f"{path}/" for path in found["folders"] if path.startswith((f"{own}/staging/", f"{own}/partial/"))]
    return sorted(left)


def _belongs(path: str, own: str, commits: set[tuple[str, str]]) -> bool:
    """Say whether a file that no snapshot links to has its place."""
    name = path.rpartition("/")[2]
    if name.startswith("."):  # a temporary name
        return False
    if path.startswith("models--"):
        return path.split("/")[1] in ("snapshots", "refs")
    if path == f"{own}/lock" or re.fullmatch(f"{re.escape(own)}/unchanged/[0-9a-f]{{8}}", path):
        return True
    matched = re.fullmatch(rf"{re.escape(own)}/(\w+)/(models--[^/]+)/.+", path)
    if matched and matched[1] in _VOUCHES:
        return (matched[2], name.removesuffix(".json")) in commits
    return bool(matched) and matched[1] in _STATE


if __name__ == "__main__":
    json.dump(listing(str(Path(sys.argv[1]))), sys.stdout)
