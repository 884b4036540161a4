"""`judge-node cache list`: what is in the store, how it is, who uses it, and why it is kept. Reads only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..disks.facts import format_size
from ..result import Result
from .catalog import COMPLETE, Catalog, Checked, Model, open_store, read_catalog
from .prune import free_bytes, why_kept
from .times import format_age
from .usage import Processes, Use, read_use

_HEAD = ("MODEL", "COMMIT", "STATE", "SIZE", "ALONE", "REVISION", "QUICK", "DEEP", "IN USE", "KEPT")


def list_models(root: Path, *, processes: Processes | None = None) -> Result:
    """Return every model of the store. Raises NodeError MOUNT_MISSING when there is no store."""
    store, now = open_store(root), time.time()
    catalog = read_catalog(store)
    use = read_use(store, processes)
    free = free_bytes(root)
    count = f"{len(catalog.models)} model{'' if len(catalog.models) == 1 else 's'}"
    lines = [f"{root}: {count}, {format_size(catalog.size_bytes)} on disk, {format_size(free)} free"]
    if catalog.models:
        lines += ["", *_table([_HEAD, *(_row(model, use, now) for model in catalog.models)])]
    notes = [*_notes(catalog, use), *_others(catalog)]
    if use.unknown and catalog.models:
        notes.append(f"who uses what is unknown: {use.unknown}")
    if notes:
        lines += ["", *notes]
    return Result(
        command="cache list",
        state=COMPLETE if all(model.state == COMPLETE for model in catalog.models) else "incomplete",
        message="\n".join(lines),
        facts={
            "store": str(root),
            "size_on_disk": catalog.size_bytes,
            "free_bytes": free,
            "use_unknown": use.unknown,
            "models": [_as_dict(model, use) for model in catalog.models],
            "foreign": [vars(foreign) for foreign in catalog.foreign],
            "leftover_bytes": sum(left.size_bytes for left in catalog.leftovers),
            "damaged_manifests": [str(path) for path in catalog.damaged],
        },
    )


def checked_text(checked: Checked, now: float) -> str:
    """Return when a model was checked, in words."""
    quick = format_age(now - checked.quick_at) + " ago" if checked.quick_at else "never"
    deep = format_age(now - checked.deep_at) + " ago" if checked.deep_at else "never"
    return f"checked {quick}, deep {deep}"


def _row(model: Model, use: Use, now: float) -> tuple[str, ...]:
    checked, users = model.checked, use.of(model)
    revisions = [*model.current, *(f"({revision})" for revision in model.previous)]
    return (
        model.manifest.repo_id,
        model.manifest.commit[:12],
        model.state,
        format_size(model.manifest.size),
        format_size(model.unique_bytes),
        ", ".join(revisions) or "-",
        format_age(now - checked.quick_at) if checked.quick_at else "never",
        format_age(now - checked.deep_at) if checked.deep_at else "never",
        f"by {len(users)}" if users else "?" if use.unknown else "-",
        (why_kept(model, Use()) or "-").split(":")[0],
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def _notes(catalog: Catalog, use: Use) -> list[str]:
    """Return what does not fit into the table: what is wrong, who uses it, why it is pinned."""
    lines = []
    for model in catalog.models:
        lines += [f"{model.name}: {problem.text}" for problem in model.problems]
        if not model.vouched:
            found = model.checked.problems[:1] or ("wrong bytes were found",)
            lines.append(f"{model.name}: {found[0]}; no new pod is served from it until a sync has repaired it")
        lines += [f"{model.name}: {user}" for user in use.of(model)]
        if model.pinned:
            lines.append(f"{model.name}: pinned: {model.pinned}")
    return lines


def _others(catalog: Catalog) -> list[str]:
    lines = [
        f"{foreign.folder}/snapshots/{foreign.commit[:12]}: {format_size(foreign.size_bytes)},"
        " not brought by judge-node, and left alone"
        for foreign in catalog.foreign
    ]
    if catalog.leftovers:
        size = sum(left.size_bytes for left in catalog.leftovers)
        lines.append(f"{format_size(size)} left by syncs that were cut: the next sync goes on from it")
    return lines + [f"{path}: this manifest is damaged and vouches for nothing" for path in catalog.damaged]


def _as_dict(model: Model, use: Use) -> dict[str, Any]:
    kept = why_kept(model, use)
    return {
        "repo_id": model.manifest.repo_id,
        "commit": model.manifest.commit,
        "digest": model.manifest.digest,
        "state": model.state,
        "complete": model.state == COMPLETE,
        "problems": [problem.text for problem in model.problems],
        "size_on_disk": model.manifest.size,
        "unique_bytes": model.unique_bytes,
        "shared_bytes": model.manifest.size - model.unique_bytes,
        "revisions": list(model.current),
        "previous_of": list(model.previous),
        "quick_at": model.checked.quick_at,
        "deep_at": model.checked.deep_at,
        "check_problems": list(model.checked.problems),
        "published_at": model.published_at,
        "used_at": model.used_at,
        "in_use_by": None if use.unknown and not use.of(model) else [vars(user) for user in use.of(model)],
        "pinned": model.pinned is not None,
        "pinned_why": model.pinned or None,
        "kept": kept,
        "snapshot": f"models--{model.manifest.repo_id.replace('/', '--')}/snapshots/{model.manifest.commit}",
    }
