"""`judge-node status`: what this node has, found without being told where: our filesystems and the models on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .cache.store import Store
from .disks.facts import ADOPTED_FOLDER, MARKER_MOST_BYTES, MARKER_NAME, format_size
from .disks.record import read_result
from .disks.sysfs import System
from .files import read_file
from .result import EXIT_FAILED, Result

_STORE_DEPTHS = ("", "*", "*/*")


def status(system: System | None = None) -> Result:
    """Return the filesystems that carry our marker and every model of their stores, each complete or not."""
    disks, models, lines = [], [], []
    ours = ("/", f"/{ADOPTED_FOLDER}")
    for path in sorted({mount.path for mount in (system or System()).mounts() if mount.root in ours}):
        marker = _marker(Path(path))
        if marker is None:
            continue
        disks.append({"mount_path": path, **marker})
        serials = [*(marker.get("serials") or ()), marker.get("serial")]
        about = ", ".join(dict.fromkeys(str(serial) for serial in serials if serial)) or "unknown"
        adopted = f", adopted from {marker['adopted_from']}" if marker.get("adopted_from") else ""
        lines.append(f"disk {path}: filesystem {marker.get('fs_uuid')}, serial {about}{adopted}")
        for root in sorted(
            {own.parent for depth in _STORE_DEPTHS for own in Path(path).glob(f"{depth}/.judge-bootstrap".lstrip("/"))}
        ):
            for found in _models(Store(root)):
                models.append(found)
                name = f"{found['repo_id']} at {found['commit'][:12]}"
                lines.append(f"model {name}: {found['state']}, {format_size(found['size_on_disk'])}")
    broken = [model for model in models if model["state"] != "complete"]
    last = read_result()
    result = Result(command="status", facts={"disks": disks, "models": models, "last_ensure": last})
    if last is not None and not last.get("ok"):
        result.ok, result.exit_code, result.reason = False, EXIT_FAILED, str(last.get("reason") or "") or None
        result.message = "\n".join(["the last `disks ensure` of this boot failed: " + str(last.get("message")), *lines])
        result.repair = str(last.get("repair") or "") or None
    elif not disks:
        result.ok, result.exit_code, result.reason = False, EXIT_FAILED, "MOUNT_MISSING"
        result.message = "no filesystem with our marker is mounted on this node"
        result.repair = "judge-node disks ensure --mount-path PATH"
    elif broken:
        result.ok, result.exit_code, result.reason = False, EXIT_FAILED, broken[0]["reason"]
        result.message = "\n".join(
            [*lines, f"{len(broken)} of {len(models)} models are not complete: {broken[0]['why']}"]
        )
        result.repair = "judge-node cache sync MANIFEST --store STORE"
    else:
        result.message = "\n".join(lines if models else [*lines, "no model yet"])
    return result


def _marker(root: Path) -> dict[str, Any] | None:
    try:
        said = json.loads(read_file(root / MARKER_NAME, MARKER_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return (
        {key: said.get(key) for key in ("fs_uuid", "serial", "serials", "adopted_from", "size_bytes", "made_at")}
        if isinstance(said, dict)
        else None
    )


def _models(store: Store) -> list[dict[str, Any]]:
    found = []
    for manifest in store.all_vouched():
        problems = store.problems(manifest)
        found.append(
            {
                "repo_id": manifest.repo_id,
                "commit": manifest.commit,
                "digest": manifest.digest,
                "store": str(store.root),
                "size_on_disk": manifest.size,
                "state": "complete" if not problems else "incomplete",
                "reason": problems[0].reason if problems else None,
                "why": problems[0].text if problems else None,
            }
        )
    return found
