"""What the gateway of a pod is told, out of the manifest and the settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters.lock_file import place_of


def configuration(manifest: Mapping[str, Any], *, served_name: str, image: str, api_key_file: str | None,
                  max_body_bytes: int, tolerance: float, golden_file: str | None, inventory: str | None,
                  ) -> dict[str, Any]:
    """Return gateway.json as a dict. A relative golden_file lies beside the folder `inventory`.

    Raises UsageProblem GOLDEN_FILE_UNUSABLE.
    """
    from judge_node.cache.manifest import parse

    from judge_bootstrap.core.golden import gateway_config, golden_items

    place = place_of(golden_file, Path(inventory or ".")) if golden_file else None
    # Ansible hands over texts and numbers of types of its own, which look like the plain ones and are not.
    return gateway_config(
        served_name=str(served_name), repo_id=str(manifest["repo_id"]), commit=str(manifest["commit"]),
        manifest_digest=parse(json.dumps(manifest).encode()).digest, image=str(image),
        api_key_file=str(api_key_file) if api_key_file else None, max_body_bytes=int(max_body_bytes),
        tolerance=float(tolerance), items=golden_items(place, str(served_name)))
