"""The CLI for tests of commands that talk to a cluster: role variables as they ship, and an API server in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[1] / "roles"


def shipped_variables(**changed: Any) -> dict[str, Any]:
    """Return the defaults of all roles, with some changed."""
    found: dict[str, Any] = {}
    for path in sorted(ROLES.glob("*/defaults/main.yml")):
        found |= yaml.safe_load(path.read_text())
    return {**found, **changed}
