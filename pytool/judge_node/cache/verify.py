"""`judge-node cache verify`: is the model complete? Quick by links and sizes, deep by hashing every byte. Read-only."""

from __future__ import annotations

from pathlib import Path

from ..result import EXIT_FAILED, Result
from .manifest import Manifest
from .store import Problem, Store


def verify(manifest: Manifest, root: Path, *, deep: bool = False) -> Result:
    """Return whether the store holds the model of the manifest; `state` is complete, incomplete or corrupt."""
    store = Store(root)
    problems = store.problems(manifest)
    if deep:
        problems += _wrong_blobs(store, manifest)
    result = Result(
        command="cache verify",
        state="complete",
        facts={
            "repo_id": manifest.repo_id,
            "commit": manifest.commit,
            "digest": manifest.digest,
            "deep": deep,
            "snapshot": str(store.snapshot(manifest)),
            "files": len(manifest.files),
            "size_on_disk": manifest.size,
            "problems": [problem.text for problem in problems],
        },
    )
    if not problems:
        how = "every byte hashed" if deep else "links and sizes checked"
        result.message = (
            f"{manifest.repo_id} at {manifest.commit[:12]} is complete ({len(manifest.files)} files, {how})"
        )
        return result
    corrupt = [problem for problem in problems if problem.reason == "INTEGRITY_MISMATCH"]
    result.ok, result.exit_code = False, EXIT_FAILED
    result.state = "corrupt" if corrupt else "incomplete"
    result.reason = (corrupt or problems)[0].reason
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    result.message = (
        f"{manifest.repo_id} at {manifest.commit[:12]} is {result.state}: {(corrupt or problems)[0].text}{more}"
    )
    result.repair = f"judge-node cache sync MANIFEST --store {root}" + (" --deep" if deep and corrupt else "")
    return result


def _wrong_blobs(store: Store, manifest: Manifest) -> list[Problem]:
    from .hashing import file_agrees

    found = []
    for file in manifest.blobs().values():
        if store.blob_size(manifest, file) != file.size:
            continue  # reported by the quick check
        try:
            agrees = file_agrees(store.blob(manifest, file), file)
        except OSError as error:
            found.append(Problem("INTEGRITY_MISMATCH", f"{file.path} cannot be read: {error.strerror}"))
            continue
        if not agrees:
            found.append(Problem("INTEGRITY_MISMATCH", f"{file.path} does not have the manifest's hash"))
    return found
