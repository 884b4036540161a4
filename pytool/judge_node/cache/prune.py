"""`judge-node cache prune` and `rm`: make room. The least recently used goes first, and nothing that is needed goes.

Needed is what is in use, pinned, current or previous, what came or was used a few minutes ago, and whatever a manifest
of ours does not stand for: a store may be shared with `hf download`. When use cannot be read, nothing is deleted.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..disks.facts import format_size
from ..locking import locked
from ..result import EXIT_FAILED, NodeError, Result
from . import removal
from .catalog import Catalog, Leftover, Model, open_store, read_catalog, split_name
from .store import Store, remove_durably
from .times import format_age
from .usage import Processes, Use, read_use

# A pod that is starting has checked its model, and does not show yet that it uses it.
_GRACE_SECONDS = 600
# A sync that was cut goes on from what it left; after a day nobody has started it again.
_LEFTOVER_SECONDS = 86_400


@dataclass(frozen=True)
class Goal:
    """What to reach; one of the three is set."""

    max_bytes: int | None = None
    keep_free_bytes: int | None = None
    unused_for_seconds: float | None = None

    def short(self, size_bytes: int, free_bytes: int) -> int:
        """Return how many bytes are still to go for a store of this size on a filesystem with so much free."""
        if self.max_bytes is not None:
            return max(0, size_bytes - self.max_bytes)
        return max(0, (self.keep_free_bytes or 0) - free_bytes)

    def takes(self, idle_seconds: float) -> bool:
        """Return whether what was idle for so long may go."""
        return self.unused_for_seconds is None or idle_seconds >= self.unused_for_seconds


@dataclass(frozen=True)
class Plan:
    """What goes, in this order, with the bytes that each frees; what stays although it could help, and why."""

    leftovers: tuple[Leftover, ...]
    models: tuple[tuple[Model, int], ...]
    kept: tuple[tuple[Model, str], ...]
    short_bytes: int

    def __bool__(self) -> bool:
        return bool(self.leftovers or self.models)

    @property
    def freed_bytes(self) -> int:
        """All bytes that go."""
        return sum(left.size_bytes for left in self.leftovers) + sum(freed for _, freed in self.models)

    def lines(self, now: float) -> str:
        """Return what goes, a line each."""
        found = [f"cut sync: {left.path.name} ({format_size(left.size_bytes)})" for left in self.leftovers]
        found += [
            f"{model.name} ({format_size(freed)}, unused for {format_age(now - model.last_used_at)})"
            for model, freed in self.models
        ]
        return "".join(f"{line}\n" for line in found)


def plan_prune(catalog: Catalog, use: Use, goal: Goal, *, free_bytes: int, now: float) -> Plan:
    """Return what to remove. Pure: `use` is believed as it is, unknown or not."""
    left_bytes = goal.short(catalog.size_bytes, free_bytes)
    by_age = goal.unused_for_seconds is not None
    leftovers, models, kept = [], [], []
    for left in sorted(catalog.leftovers, key=lambda left: left.changed_at):
        idle = now - left.changed_at
        if (by_age or left_bytes > 0) and idle >= _LEFTOVER_SECONDS and goal.takes(idle):
            leftovers.append(left)
            left_bytes = max(0, left_bytes - left.size_bytes)
    gone: set[tuple[str, str]] = set()
    for model in sorted(catalog.models, key=lambda m: (m.last_used_at, m.key)):
        if not by_age and left_bytes <= 0:
            break
        idle = now - model.last_used_at
        if not goal.takes(idle):
            continue
        why = why_kept(model, use) or ("it came or was used minutes ago" if idle < _GRACE_SECONDS else None)
        if why:
            kept.append((model, why))
            continue
        gone.add(model.key)
        freed = _freed_by(catalog, model, gone)
        models.append((model, freed))
        left_bytes = max(0, left_bytes - freed)
    return Plan(tuple(leftovers), tuple(models), tuple(kept), 0 if by_age else left_bytes)


def why_kept(model: Model, use: Use) -> str | None:
    """Return why the model is needed, or None."""
    users = use.of(model)
    if users:
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        return f"in use: {users[0]}{more}"
    if model.pinned is not None:
        return f"pinned{': ' + model.pinned if model.pinned else ''}"
    if model.current or model.newest:
        return f"current{': ' + ', '.join(model.current) if model.current else ''}"
    if model.previous:
        return f"previous: {', '.join(model.previous)} can be rolled back to it"
    return None


def _freed_by(catalog: Catalog, model: Model, gone: set[tuple[str, str]]) -> int:
    """Return the bytes of the blobs that nobody needs once `gone`, with the model in it, are gone."""
    repo_id, folder = model.manifest.repo_id, catalog.store.folder(model.manifest.repo_id).name
    holders, sizes = catalog.holders.get(folder, {}), catalog.blob_bytes.get(folder, {})
    return sum(
        sizes.get(name, 0)
        for name in model.manifest.blobs()
        if all((repo_id, commit) in gone for commit in holders.get(name, ()))
    )


def prune(
    root: Path,
    goal: Goal,
    *,
    check: bool = False,
    lock_wait_seconds: float = 60,
    processes: Processes | None = None,
    now: float | None = None,
) -> Result:
    """Remove what is not needed until the goal is reached.

    Raises NodeError USE_UNKNOWN, with nothing deleted, when something would go and use cannot be read; LOCKED.
    """
    store, now = open_store(root), time.time() if now is None else now
    if check:
        catalog, use, found = _planned(store, goal, processes, now)
        _need_known(use, found)
        return _result(store, found, found.freed_bytes, goal, now, check=True)
    with locked(store.lock, wait_seconds=lock_wait_seconds):
        _finish_cut(store, processes)
        catalog, use, found = _planned(store, goal, processes, now)
        use.note(store)
        _need_known(use, found)
        for left in found.leftovers:
            remove_durably(left.path)
        freed = sum(left.size_bytes for left in found.leftovers)
        freed += _remove(store, [model for model, _ in found.models], processes)
    return _result(store, found, freed, goal, now, check=False)


def reclaimable_bytes(store: Store, processes: Processes | None = None) -> int | None:
    """Return what a prune could free at most; None when use cannot be read, and a prune would delete nothing."""
    if not store.own.is_dir():
        return 0
    _, use, found = _planned(store, Goal(max_bytes=0), processes, time.time())
    return None if use.unknown else found.freed_bytes


def rm(
    root: Path,
    name: str,
    *,
    current: bool = False,
    check: bool = False,
    lock_wait_seconds: float = 60,
    processes: Processes | None = None,
) -> Result:
    """Remove the one model that REPO[@COMMIT] means; one that is not here is no failure.

    Raises NodeError: MODEL_IN_USE, MODEL_KEPT (pinned; or not ours; or current, without `current`), USE_UNKNOWN.
    """
    store = open_store(root)
    if check:
        model, _ = _to_remove(store, name, current, processes)
        return _removed(store, name, model, model.unique_bytes if model else 0, check=True)
    with locked(store.lock, wait_seconds=lock_wait_seconds):
        _finish_cut(store, processes)
        model, use = _to_remove(store, name, current, processes)
        use.note(store)
        freed = _remove(store, [model], processes) if model else 0
    return _removed(store, name, model, freed, check=False)


def _to_remove(
    store: Store, name: str, current: bool, processes: Processes | None
) -> tuple[Model | None, Use]:
    catalog = read_catalog(store)
    found = catalog.named(name)
    if not found:
        repo_id, commit = split_name(name)
        for foreign in catalog.foreign:
            if foreign.folder == store.folder(repo_id).name and foreign.commit.startswith(commit or ""):
                raise NodeError(
                    f"{name} was not brought by judge-node (nothing here vouches for {foreign.commit[:12]})",
                    reason="MODEL_KEPT",
                    repair=f"HF_HUB_CACHE={store.root} hf cache rm model/{repo_id}",
                )
        return None, Use()
    model = catalog.one(name, found)
    use = read_use(store, processes)
    users = use.of(model)
    if users:
        raise _in_use(model, users[0])
    if model.pinned is not None:
        why = f" ({model.pinned})" if model.pinned else ""
        raise NodeError(
            f"{model.name} is pinned{why}",
            reason="MODEL_KEPT",
            repair=f"judge-node cache unpin {model.manifest.repo_id}@{model.manifest.commit} --store {store.root}",
        )
    if (model.current or model.newest) and not current:
        revisions = f" of {', '.join(model.current)}" if model.current else ""
        raise NodeError(
            f"{model.name} is the current one{revisions}: the next pod would find no model",
            reason="MODEL_KEPT",
            repair=f"judge-node cache rm {name} --current --store {store.root}   # if that is meant",
        )
    if use.unknown:
        raise _unknown(use.unknown)
    return model, use


def _removed(store: Store, name: str, model: Model | None, freed: int, *, check: bool) -> Result:
    if model is None:
        return Result(command="cache rm", state="absent", message=f"{name} is not in {store.root}")
    return Result(
        command="cache rm",
        changed=True,
        state="absent" if not check else model.state,
        message=f"{'would remove' if check else 'removed'} {model.name}: {format_size(freed)}",
        before=f"{model.name}\n",
        facts={"repo_id": model.key[0], "commit": model.key[1], "freed_bytes": freed, "store": str(store.root)},
    )


def _remove(store: Store, models: list[Model], processes: Processes | None) -> int:
    """Remove the models; return the bytes that went. One that came into use in this moment is put back."""
    for model in models:
        removal.take_away(store, model)
    again = read_use(store, processes) if models else Use()
    used = [model for model in models if again.unknown or again.of(model)]
    for model in used:
        removal.put_back(store, model)
    freed = sum(removal.finish(store, model.manifest) for model in models if model not in used)
    if used:
        raise _unknown(again.unknown) if again.unknown else _in_use(used[0], again.of(used[0])[0])
    return freed


def _finish_cut(store: Store, processes: Processes | None) -> None:
    """Finish the removals that were cut, except of what is used by now: that is kept, and not vouched for."""
    cut = store.all_noted("removing")
    use = read_use(store, processes) if cut else Use()
    if use.unknown:
        return
    for manifest in cut:
        if (manifest.repo_id, manifest.commit) in use.users:
            store.move_note("removing", "withdrawn", manifest)
        else:
            removal.finish(store, manifest)


def _planned(store: Store, goal: Goal, processes: Processes | None, now: float) -> tuple[Catalog, Use, Plan]:
    catalog = read_catalog(store)
    use = read_use(store, processes)
    return catalog, use, plan_prune(catalog, use, goal, free_bytes=free_bytes(store.root), now=now)


def free_bytes(path: Path) -> int:
    """Return the free bytes of the filesystem at `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _need_known(use: Use, plan: Plan) -> None:
    if use.unknown and plan:
        raise _unknown(use.unknown)


def _unknown(why: str) -> NodeError:
    return NodeError(f"nothing was deleted, because it is unknown what is in use: {why}", reason="USE_UNKNOWN")


def _in_use(model: Model, user: object) -> NodeError:
    return NodeError(f"{model.name} is in use: {user}", reason="MODEL_IN_USE")


def _result(store: Store, plan: Plan, freed: int, goal: Goal, now: float, *, check: bool) -> Result:
    count = len(plan.models)
    did = f"{'would remove' if check else 'removed'} {count} model{'' if count == 1 else 's'}"
    if plan.leftovers:
        did += f" and what cut syncs left ({len(plan.leftovers)} files)"
    free = free_bytes(store.root)
    result = Result(
        command="cache prune",
        changed=bool(plan),
        state="done",
        message=f"{did}: {format_size(freed)}{'' if check else ' freed'}" if plan else "nothing to remove",
        before=plan.lines(now),
        facts={
            "store": str(store.root),
            "freed_bytes": freed,
            "free_bytes": free,
            "short_bytes": plan.short_bytes,
            "removed": [_as_dict(model, freed_bytes=bytes_) for model, bytes_ in plan.models],
            "leftovers": [str(left.path) for left in plan.leftovers],
            "kept": [_as_dict(model, why=why) for model, why in plan.kept],
        },
    )
    kept = "; ".join(f"{model.name} is kept ({why})" for model, why in plan.kept)
    if plan.short_bytes:
        result.ok, result.exit_code, result.reason, result.state = False, EXIT_FAILED, "SPACE_SHORT", "short"
        kept = kept or "nothing else here is ours"
        result.message += f", and {format_size(plan.short_bytes)} more would have to go: {kept}"
        result.repair = f"judge-node cache list --store {store.root}"
    elif kept and goal.unused_for_seconds is not None:
        result.message += f"; {kept}"
    return result


def _as_dict(model: Model, **other: Any) -> dict[str, Any]:
    return {"repo_id": model.manifest.repo_id, "commit": model.manifest.commit, **other}
