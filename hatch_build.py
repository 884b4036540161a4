"""Build hook: puts judge-node.pyz, built from the same sources, into the wheel as package data."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PyzBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable install uses the checkout in place: there the program is zipped from its sources when needed.
        if version == "editable":
            return
        target = Path(self.root, "build", "judge-node.pyz")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(_bundle(Path(self.root, "pytool")).build_pyz())
        target.chmod(0o755)
        build_data["force_include"][str(target)] = "judge_bootstrap/_ansible/judge-node.pyz"


def _bundle(pytool: Path) -> Any:
    """Import judge_node.bundle from the sources that are being built, whatever is installed."""
    sys.path.insert(0, str(pytool))
    try:
        return importlib.import_module("judge_node.bundle")
    finally:
        sys.path.remove(str(pytool))
