"""`judge-node cache pin` and `unpin`: a model that no prune and no rm may remove, and why somebody wants it."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..files import make_directory, write_file
from ..locking import locked
from ..result import NodeError, Result
from .catalog import Model, open_store, read_catalog
from .store import Store, remove_durably

_MOST_WHY = 500


def pin(root: Path, name: str, *, why: str = "", check: bool = False, lock_wait_seconds: float = 60) -> Result:
    """Pin the one model that REPO[@COMMIT] means. Raises NodeError when there is none."""
    why = " ".join(why.split())
    if len(why) > _MOST_WHY:
        raise NodeError(f"--why has {len(why)} signs, wanted at most {_MOST_WHY}", repair="say it shorter")
    store = open_store(root)
    model = read_catalog(store).one(name)
    if model.pinned is not None and model.pinned == (why or model.pinned):
        return _result("cache pin", store, model, f"{model.name} is pinned already", changed=False)
    if not check:
        # With the lock: the model must not be on its way out while its pin is written.
        with locked(store.lock, wait_seconds=lock_wait_seconds):
            model = read_catalog(store).one(name)
            path = store.note("pins", model.manifest)
            make_directory(path.parent)
            write_file(path, (json.dumps({"why": why, "at": int(time.time())}) + "\n").encode())
    text = f"{'would pin' if check else 'pinned'} {model.name}: no prune and no rm removes it"
    return _result("cache pin", store, model, text, changed=True, after=f"pinned{': ' + why if why else ''}\n")


def unpin(root: Path, name: str, *, check: bool = False, lock_wait_seconds: float = 60) -> Result:
    """Take the pin off; a model that is not here is no failure."""
    store = open_store(root)
    catalog = read_catalog(store)
    found = catalog.named(name)
    if not found:
        return Result(command="cache unpin", state="absent", message=f"{name} is not in {store.root}")
    # Of several commits the pinned one is meant.
    model = catalog.one(name, [m for m in found if m.pinned is not None] or found)
    if model.pinned is None:
        return _result("cache unpin", store, model, f"{model.name} is not pinned", changed=False)
    if not check:
        with locked(store.lock, wait_seconds=lock_wait_seconds):
            remove_durably(store.note("pins", model.manifest))
    text = f"{'would unpin' if check else 'unpinned'} {model.name}"
    before = f"pinned{': ' + model.pinned if model.pinned else ''}\n"
    return _result("cache unpin", store, model, text, changed=True, before=before)


def _result(
    command: str, store: Store, model: Model, message: str, *, changed: bool, before: str = "", after: str = ""
) -> Result:
    return Result(
        command=command,
        changed=changed,
        state=model.state,
        message=message,
        before=before,
        after=after,
        facts={"repo_id": model.key[0], "commit": model.key[1], "store": str(store.root)},
    )
