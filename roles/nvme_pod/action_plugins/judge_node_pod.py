"""Send what `judge_node` would run over ssh through a pod instead, and read its answer in the same way.

Both halves of judge_node are used as they are: its action plugin checks the options, makes the call and reads the
answer; its module, with the call written into it, is the script that runs on the host. So the two ways cannot drift
apart.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

CONTENT_ROOT = Path(__file__).resolve().parents[3]
JUDGE_NODE = CONTENT_ROOT / "roles" / "judge_node"
# Where Ansible, and we, write a module's call into its source (ansible.executor.module_common).
PLACE_OF_CALL = "<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"
# Options of the pod; all others are judge_node's.
POD_OPTIONS = ("host", "address", "image", "namespace", "start_seconds", "deadline_seconds", "kubeconfig", "context",
               "python_path")


@functools.cache
def over_ssh() -> ModuleType:
    """Return judge_node's action plugin, whose functions are the controller's half of it."""
    path = JUDGE_NODE / "action_plugins" / "judge_node.py"
    spec = importlib.util.spec_from_file_location("judge_node_over_ssh", path)
    if spec is None or spec.loader is None:
        raise AnsibleActionFail(f"cannot load {path}; run from a complete checkout, or reinstall judge-bootstrap")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program_for(call: Mapping[str, Any]) -> str:
    """Return the host's half of judge_node with this call in it: a script that prints one JSON object."""
    source = (JUDGE_NODE / "library" / "judge_node.py").read_text(encoding="utf-8")
    if source.count(PLACE_OF_CALL) != 1:
        raise AnsibleActionFail(f"{JUDGE_NODE}/library/judge_node.py has no one place for its call ({PLACE_OF_CALL})")
    return source.replace(PLACE_OF_CALL, json.dumps(call))


class ActionModule(ActionBase):
    """Check the options, have the host's half run in a pod, hand its answer on."""

    _supports_check_mode = True
    _supports_async = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the task's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        way = over_ssh()
        spec = {**way.ARGUMENT_SPEC, **{name: {"type": "raw"} for name in POD_OPTIONS}}
        _, params = self.validate_argument_spec(spec, required_if=way.REQUIRED_IF)
        check = bool(self._task.check_mode)
        module_args = {name: self._task.args[name] for name in POD_OPTIONS if name in self._task.args}
        module_args["program"] = program_for(way.build_call(params, check))
        told = self._execute_module(module_name="judge_node_pod", module_args=module_args, task_vars=task_vars)
        result.update(way.read_result(told, None if check else params["good_states"]))
        return result
