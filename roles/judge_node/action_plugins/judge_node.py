"""Hand the node program to the `judge_node` module, so that one remote call per role and host does everything."""

from __future__ import annotations

import base64
import importlib
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

CONTENT_ROOT = Path(__file__).resolve().parents[3]


def read_bundle(root: Path) -> bytes:
    """Return the bytes of judge-node.pyz: packed from the sources of a checkout, else the file that the wheel carries.

    The sources come first because a .pyz left over in a checkout may be older than they are.
    Raises AnsibleActionFail when `root` has neither.
    """
    sources, packed = root / "pytool", root / "judge-node.pyz"
    if (sources / "judge_node" / "bundle.py").is_file():
        if str(sources) not in sys.path:
            sys.path.insert(0, str(sources))
        return bytes(importlib.import_module("judge_node.bundle").build_pyz())
    if packed.is_file():
        return packed.read_bytes()
    raise AnsibleActionFail(f"no node program: neither {sources}/judge_node/bundle.py nor {packed} exists. "
                            "Reinstall judge-bootstrap, or run from a complete checkout")


class ActionModule(ActionBase):
    """Add the program to the module's arguments; everything else is the module's."""

    _supports_check_mode = True
    _supports_async = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args, bundle=base64.b64encode(read_bundle(CONTENT_ROOT)).decode("ascii"))
        result.update(self._execute_module(module_name="judge_node", module_args=arguments, task_vars=task_vars))
        return result
