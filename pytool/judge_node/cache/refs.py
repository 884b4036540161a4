"""`judge-node cache update` and `rollback`: which commit a branch means here. A switch is one rename, never a mix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..locking import locked
from ..result import NodeError, Result
from .catalog import Model, open_store, read_catalog, split_name
from .contents import content_problems
from .manifest import is_revision
from .store import COMMIT, Store


def update(
    root: Path, name: str, *, revision: str = "main", check: bool = False, lock_wait_seconds: float = 60
) -> Result:
    """Point the revision at the commit in REPO@COMMIT, which a sync has brought; what it pointed at stays as previous.

    Raises NodeError: MODEL_INCOMPLETE or INTEGRITY_MISMATCH when the commit is not whole here, LOCKED.
    """
    repo_id, commit = split_name(name)
    if commit is None:
        raise NodeError(f"the model is {name!r}, wanted REPO@COMMIT", repair="judge-node cache list")
    _check_revision(revision)
    store = open_store(root)
    if check:
        return _switch(store, _model(store, name), revision, "cache update", check=True)
    with locked(store.lock, wait_seconds=lock_wait_seconds):
        return _switch(store, _model(store, name), revision, "cache update", check=False)


def rollback(
    root: Path, repo_id: str, *, revision: str = "main", check: bool = False, lock_wait_seconds: float = 60
) -> Result:
    """Point the revision at what it pointed at before; what it leaves is previous then, so a second call undoes it.

    Raises NodeError: MODEL_INCOMPLETE when there is no previous one or it is not whole, INTEGRITY_MISMATCH, LOCKED.
    """
    if split_name(repo_id)[1] is not None:
        raise NodeError(f"the model is {repo_id!r}, wanted REPO: the store knows the commit", repair="cache update")
    _check_revision(revision)
    store = open_store(root)
    if check:
        return _switch(store, _previous(store, repo_id, revision), revision, "cache rollback", check=True)
    with locked(store.lock, wait_seconds=lock_wait_seconds):
        return _switch(store, _previous(store, repo_id, revision), revision, "cache rollback", check=False)


def _check_revision(revision: str) -> None:
    if not is_revision(revision) or COMMIT.fullmatch(revision):
        raise NodeError(f"--revision is {revision[:120]!r}, wanted a branch or tag", repair="--revision main")


def _previous(store: Store, repo_id: str, revision: str) -> Model:
    commit = store.previous(repo_id).get(revision)
    if commit is None or commit == store.refs(repo_id).get(revision):
        raise NodeError(
            f"there is no earlier commit to which {revision} of {repo_id} could go back",
            reason="MODEL_INCOMPLETE",
            repair=f"judge-node cache list --store {store.root}   # then: cache update {repo_id}@COMMIT",
        )
    return _model(store, f"{repo_id}@{commit}")


def _model(store: Store, name: str) -> Model:
    """Return the model, whole by links, sizes and headers."""
    catalog = read_catalog(store)
    found = catalog.named(name)
    if not found:
        raise NodeError(
            f"{store.root} has no model {name}",
            reason="MODEL_INCOMPLETE",
            repair=f"judge-node cache sync MANIFEST --stage --store {store.root}   # brings it without a switch",
        )
    model = catalog.one(name, found)
    repair = f"judge-node cache sync {store.manifest_file(model.manifest)} --stage --store {store.root}"
    if not model.vouched:
        raise NodeError(f"wrong bytes were found in {model.name}", reason="INTEGRITY_MISMATCH", repair=repair)
    problems = list(model.problems) or content_problems(store, model.manifest)
    if problems:
        raise NodeError(f"{model.name}: {problems[0].text}", reason=problems[0].reason, repair=repair + " --deep")
    return model


def _switch(store: Store, model: Model, revision: str, command: str, *, check: bool) -> Result:
    repo_id, commit = model.key
    before = store.refs(repo_id).get(revision)
    store.check_no_links(replace(model.manifest, revision=revision))
    changed = before != commit
    if changed and not check:
        store.point(repo_id, revision, commit)
    word = "would point" if check else "points"
    return Result(
        command=command,
        changed=changed,
        state="complete",
        message=f"{revision} of {repo_id} {word if changed else 'points'} at {commit[:12]}"
        + ("" if changed else " already"),
        before=f"{revision}: {before}\n" if changed and before else "",
        after=f"{revision}: {commit}\n" if changed else "",
        facts={
            "repo_id": repo_id,
            "revision": revision,
            "commit": commit,
            "before": before,
            "previous": before if changed else store.previous(repo_id).get(revision),
            "digest": model.manifest.digest,
            "store": str(store.root),
            "snapshot": str(store.snapshot(model.manifest)),
        },
    )
