"""The lock file of a model: the manifest that every node gets, as a file that is committed and reviewed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from judge_node.cache.manifest import MAX_BYTES, parse
from judge_node.result import NodeError

from judge_bootstrap.core.errors import BootstrapError, UsageProblem

LOCK_AGAIN = "judge-bootstrap --env ENV models lock"
_ORDER = ("schema", "repo_id", "revision", "commit", "quantization", "files", "digest")


def lock_text(manifest: Mapping[str, Any]) -> str:
    """Return the manifest as a lock file's text: always the same for the same content, one file a line."""
    lines = []
    for key in (key for key in _ORDER if key in manifest):
        value = manifest[key]
        if key == "files":
            files = ",\n".join(f"    {json.dumps(file)}" for file in sorted(value, key=lambda file: str(file["path"])))
            lines.append(f'  "files": [\n{files}\n  ]')
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_lock(content: bytes, name: str) -> dict[str, Any]:
    """Return the manifest in a lock file; `name` is what messages call it.

    Raises BootstrapError: INTEGRITY_MISMATCH for one that was edited, FILE_FORBIDDEN for one that names a file that no
    node may store, LOCK_FILE_UNUSABLE for what is no manifest at all.
    """
    try:
        manifest = parse(content[: MAX_BYTES + 1])
        found: dict[str, Any] = json.loads(content)
    except NodeError as error:
        raise BootstrapError(f"{name}: {error.message}", reason=error.reason or "LOCK_FILE_UNUSABLE",
                             hint=LOCK_AGAIN) from error
    if "digest" not in found:
        raise BootstrapError(f"{name} has no digest, so nobody can tell whether it was edited",
                             reason="LOCK_FILE_UNUSABLE", hint=LOCK_AGAIN)
    return {**manifest.as_dict(), "digest": manifest.digest}


def check_agrees(manifest: Mapping[str, Any], name: str, repo_id: str, revision: str) -> None:
    """Raise UsageProblem unless the lock file is of the model that the settings name.

    A revision that is the locked commit itself agrees too.
    """
    if manifest["repo_id"] == repo_id and revision in (manifest["revision"], manifest["commit"]):
        return
    raise UsageProblem(
        f"{name} locks {manifest['repo_id']} at revision {manifest['revision']} ({manifest['commit'][:12]}), the "
        f"settings name {repo_id} at {revision}", reason="LOCK_FILE_UNUSABLE",
        hint=f"{LOCK_AGAIN}   # or correct model.id and model.revision")


@dataclass(frozen=True)
class LockChange:
    """What a new lock file changes against the one that was there; `commit_before` is None where none was."""

    commit_before: str | None
    commit: str
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    # Bytes that a node which has the old files will have to fetch.
    fetch_bytes: int
    size_bytes: int

    def lines(self) -> list[str]:
        """Return the change for people, a line a fact."""
        before = self.commit_before or "(none)"
        lines = [f"commit {before} -> {self.commit}" if before != self.commit else f"commit {self.commit}"]
        for sign, paths in (("+", self.added), ("~", self.changed), ("-", self.removed)):
            lines += [f"{sign} {path}" for path in paths]
        return lines


def compare(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> LockChange:
    """Return what changes from one manifest to another; `before` is None where there was none."""
    old, new = (_by_path(manifest) for manifest in (before, after))
    fetched = {_blob(file): int(file["size"]) for file in new.values()}
    kept = {_blob(file) for file in old.values()}
    return LockChange(
        commit_before=str(before["commit"]) if before else None, commit=str(after["commit"]),
        added=tuple(sorted(set(new) - set(old))), removed=tuple(sorted(set(old) - set(new))),
        changed=tuple(sorted(path for path in set(new) & set(old) if _blob(new[path]) != _blob(old[path]))),
        fetch_bytes=sum(size for blob, size in fetched.items() if blob not in kept), size_bytes=sum(fetched.values()))


def _by_path(manifest: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {str(file["path"]): file for file in manifest["files"]} if manifest else {}


def _blob(file: Mapping[str, Any]) -> str:
    """Return a file's name in the store (judge_node.cache.manifest.File.blob)."""
    return str(file.get("blob_sha1") or file["sha256"])
