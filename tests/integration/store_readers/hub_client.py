"""Reads a model with huggingface_hub, by commit and by branch, and prints what it got as one JSON object.

    python hub_client.py STORE REPO COMMIT...
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import warnings
from pathlib import Path
from typing import Any


def contents(snapshot: str) -> dict[str, str]:
    """Return {path: sha256} of all that the snapshot holds."""
    found = Path(snapshot)
    return {path.relative_to(found).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in found.rglob("*") if path.is_file()}


def confinement(store: str) -> dict[str, bool]:
    """Say whether this process could write to the store, or reach a network."""
    try:
        Path(store, "written").touch()
        writable = True
    except OSError:
        writable = False
    try:
        socket.create_connection(("10.77.0.1", 80), timeout=1).close()
        network = True
    except OSError:
        network = False
    return {"writable": writable, "network": network}


def main(store: str, repo_id: str, *commits: str) -> dict[str, Any]:
    from huggingface_hub import (
        constants,
        hf_hub_download,
        scan_cache_dir,
        snapshot_download,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import LocalEntryNotFoundError

    by_commit = {}
    for commit in commits:
        folder = snapshot_download(repo_id, revision=commit)
        files = contents(folder)
        for path in files:
            assert hf_hub_download(repo_id, path, revision=commit) == str(Path(folder, path))
        by_commit[commit] = {"folder": folder, "files": files}
    try:
        hf_hub_download(repo_id, "README.md", revision=commits[0])
        absent = "found"
    except LocalEntryNotFoundError:
        absent = "LocalEntryNotFoundError"
    scanned = scan_cache_dir()
    (repo,) = scanned.repos
    return {
        **confinement(store),
        "cache": constants.HF_HUB_CACHE,
        "offline": constants.HF_HUB_OFFLINE,
        "commits": by_commit,
        "main": snapshot_download(repo_id),
        "config_of_main": try_to_load_from_cache(repo_id, "config.json"),
        "absent": absent,
        "warnings": [str(warning) for warning in scanned.warnings],
        "incomplete": len(scanned.incomplete_files),
        "refs": {name: revision.commit_hash for name, revision in repo.refs.items()},
        "revisions": sorted(revision.commit_hash for revision in repo.revisions),
        "size_on_disk": scanned.size_on_disk,
    }


if __name__ == "__main__":
    warnings.simplefilter("error")
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
