"""`judge-node status`: what this node has, found without being told where: our filesystems and the models on them."""

from __future__ import annotations

import time
from typing import Any

from .cache.catalog import Catalog, marked_mounts, model_file, read_catalog, stores_below
from .cache.listing import checked_text
from .cache.store import Store
from .disks.facts import format_size
from .disks.record import read_result
from .disks.sysfs import System
from .last import CACHE_RESULT, read_last
from .result import EXIT_FAILED, Result

_SYNC = "judge-node cache sync"


def status(system: System | None = None) -> Result:
    """Return the filesystems that carry our marker and every model of their stores, each complete or not."""
    disks, models, lines = [], [], []
    for path, marker in marked_mounts(system):
        disks.append({"mount_path": path, **marker})
        serials = [*(marker.get("serials") or ()), marker.get("serial")]
        about = ", ".join(dict.fromkeys(str(serial) for serial in serials if serial)) or "unknown"
        adopted = f", adopted from {marker['adopted_from']}" if marker.get("adopted_from") else ""
        lines.append(f"disk {path}: filesystem {marker.get('fs_uuid')}, serial {about}{adopted}")
        for root in stores_below(path):
            for found, line in _models(read_catalog(Store(root))):
                models.append(found)
                lines.append(line)
    broken = [model for model in models if model["state"] != "complete"]
    last, check = read_result(), read_last(CACHE_RESULT)
    facts = {"disks": disks, "models": models, "last_ensure": last, "last_verify": check}
    result = Result(command="status", facts=facts)
    if last is not None and not last.get("ok"):
        _fail(result, last, ["the last `disks ensure` of this boot failed: " + str(last.get("message")), *lines])
    elif not disks:
        result.ok, result.exit_code, result.reason = False, EXIT_FAILED, "MOUNT_MISSING"
        result.message = "no filesystem with our marker is mounted on this node"
        result.repair = "judge-node disks ensure --mount-path PATH"
    elif broken:
        result.ok, result.exit_code, result.reason = False, EXIT_FAILED, broken[0]["reason"]
        result.message = "\n".join(
            [*lines, f"{len(broken)} of {len(models)} models are not complete: {broken[0]['why']}"]
        )
        result.repair = broken[0]["repair"]
    elif check is not None and not check.get("ok") and not _is_repaired(check, models):
        _fail(result, check, [*lines, "the last `cache verify` of this boot failed: " + str(check.get("message"))])
    else:
        result.message = "\n".join(lines if models else [*lines, "no model yet"])
    return result


def _fail(result: Result, last: dict[str, Any], lines: list[str]) -> None:
    result.ok, result.exit_code, result.reason = False, EXIT_FAILED, str(last.get("reason") or "") or None
    result.message = "\n".join(lines)
    result.repair = str(last.get("repair") or "") or None


def _is_repaired(check: dict[str, Any], models: list[dict[str, Any]]) -> bool:
    """Return whether all that the check complained of was brought anew since, or is gone."""
    facts = check.get("facts")
    checked = facts.get("models") if isinstance(facts, dict) else None
    if not isinstance(checked, list) or not checked:
        return False  # it did not come as far as a model
    at = check.get("at")
    since = {(m["repo_id"], m["commit"]): m["published_at"] for m in models}
    bad = [m for m in checked if isinstance(m, dict) and m.get("state") != "complete"]
    return bool(bad) and all(
        type(at) is int and since.get((str(m.get("repo_id")), str(m.get("commit"))), at + 1) >= at for m in bad
    )


def _models(catalog: Catalog) -> list[tuple[dict[str, Any], str]]:
    """Return what is said of each model, and the line for it."""
    now = time.time()
    found: list[tuple[dict[str, Any], str]] = []
    for model in catalog.models:
        problem = model.problems[0] if model.problems else None
        reason, why = (problem.reason, problem.text) if problem else (None, None)
        if not model.vouched:
            reason = "INTEGRITY_MISMATCH"
            why = (*model.checked.problems, "wrong bytes were found in it")[0]
        about = f"{model.state}, {format_size(model.manifest.size)}, {checked_text(model.checked, now)}"
        said = {
            "repo_id": model.manifest.repo_id,
            "commit": model.manifest.commit,
            "digest": model.manifest.digest,
            "store": str(catalog.store.root),
            "size_on_disk": model.manifest.size,
            "state": model.state,
            "reason": reason,
            "why": why,
            "repair": f"{_SYNC} {model_file(catalog.store, model)} --store {catalog.store.root}" if reason else None,
            "revisions": list(model.current),
            "published_at": model.published_at,
            "quick_at": model.checked.quick_at,
            "deep_at": model.checked.deep_at,
        }
        found.append((said, f"model {model.name}: {about}"))
    for path in catalog.damaged:
        said = {
            "repo_id": path.parent.name,
            "commit": path.stem,
            "store": str(catalog.store.root),
            "state": "incomplete",
            "reason": "MODEL_INCOMPLETE",
            "why": f"the manifest that vouches for it is damaged ({path})",
            "repair": f"{_SYNC} MANIFEST --store {catalog.store.root}",
            "published_at": 0,
        }
        found.append((said, f"model {path.parent.name} at {path.stem[:12]}: incomplete"))
    return found
