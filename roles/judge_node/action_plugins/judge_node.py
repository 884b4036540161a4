"""The controller's half of the `judge_node` module: check the options, send the program along, read the answer.

One remote call per role and host does everything, and what can be done once a run is not done once a host.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import json
import sys
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

CONTENT_ROOT = Path(__file__).resolve().parents[3]
INSTALL_PATH = "/usr/local/lib/judge-bootstrap/judge-node.pyz"
LINK_PATH = "/usr/local/bin/judge-node"

# Verbs of `cache` for a store that is there already, which change something.
DAY2 = ("cache prune", "cache pin", "cache unpin", "cache update", "cache rollback", "cache rm")
CHANGING = ("disks ensure", "cache start", "cache stop", *DAY2)
INSTALLING = ("disks ensure", "cache start")
# A model store lies on a disk that `disks ensure` made, and that installed the program: these commands travel without
# it, and are sent again to a host that has another one or none.
TRAVELLING_LIGHT = ("cache start", "cache follow", "cache stop", "cache verify", "cache list", *DAY2)
# `cache start` answers as soon as the sync runs, and waits for no end of it: so all hosts sync, and not only as many as
# there are forks, and a link that is lost later costs nothing.
START_WAIT_SECONDS = 0
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS, POLL_GROWTH = 2.0, 10.0, 1.5
RECONNECT_PAUSE_SECONDS = 5
# Option of the module -> option of the program, for each command.
_DISK_OPTIONS = {
    "mount_path": "--mount-path", "device": "--device", "fstype": "--fstype", "strategy": "--strategy",
    "accept_models": "--accept-model", "owner": "--owner", "nodeadm_path": "--nodeadm-path", "group": "--group",
    "proof": "--proof", "gate_units": "--gate", "wait_seconds": "--wait",
}
OPTIONS = {
    "disks ensure": _DISK_OPTIONS,
    "disks status": _DISK_OPTIONS,
    "cache start": {
        "store": "--store", "endpoint": "--endpoint", "sources": "--source", "connections": "--connections",
        "limit_rate": "--limit-rate", "token_file": "--token-file", "token_secret": "--token-secret",
        "token_parameter": "--token-parameter", "aws_region": "--aws-region", "deep": "--deep",
        "verify_quick_every": "--verify-quick-every", "verify_deep_every": "--verify-deep-every",
        "stage": "--stage",
    },
    "cache follow": {"store": "--store"},
    "cache stop": {"store": "--store"},
    "cache verify": {"store": "--store", "deep": "--deep", "limit_rate": "--limit-rate"},
    "cache list": {"store": "--store"},
    "cache prune": {"store": "--store", "max_size": "--max-size", "keep_free": "--keep-free",
                    "unused_for": "--unused-for"},
    "cache pin": {"store": "--store", "why": "--why"},
    "cache unpin": {"store": "--store"},
    "cache update": {"store": "--store", "revision": "--revision"},
    "cache rollback": {"store": "--store", "revision": "--revision"},
    "cache rm": {"store": "--store", "current": "--current"},
    "status": {},
}
# Never ask the Hub; have no such timer.
EMPTY_SAYS_SOMETHING = ("endpoint", "verify_quick_every", "verify_deep_every")
_REQUIRED = {"disks ensure": ["mount_path"], "disks status": ["mount_path"],
             "cache start": ["store", "manifest"], "cache follow": ["store", "manifest"], "cache stop": ["store"],
             "cache verify": ["store"], "cache list": ["store"], "cache prune": ["store"],
             **{command: ["store", "model"] for command in DAY2 if command != "cache prune"}}
# Paths are `str`: the type `path` would replace ~ and $HOME by the controller's.
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "command": {"type": "str", "required": True, "choices": list(OPTIONS)},
    "good_states": {"type": "list", "elements": "str"},
    "mount_path": {"type": "str"},
    "device": {"type": "str"},
    "fstype": {"type": "str", "choices": ["xfs", "ext4"]},
    "strategy": {"type": "str", "choices": ["RAID0", "RAID10", "Mount"]},
    "accept_models": {"type": "list", "elements": "str"},
    "owner": {"type": "str", "choices": ["auto", "nodeadm", "judge"]},
    "nodeadm_path": {"type": "str"},
    "group": {"type": "str"},
    "proof": {"type": "str", "choices": ["samples", "full"]},
    "gate_units": {"type": "list", "elements": "str"},
    "wait_seconds": {"type": "int"},
    "store": {"type": "str"},
    "manifest": {"type": "dict"},
    "endpoint": {"type": "str"},
    "sources": {"type": "list", "elements": "str"},
    "connections": {"type": "int"},
    "limit_rate": {"type": "str"},
    "token_file": {"type": "str"},
    "token_secret": {"type": "str"},
    "token_parameter": {"type": "str"},
    "aws_region": {"type": "str"},
    "verify_quick_every": {"type": "str"},
    "verify_deep_every": {"type": "str"},
    "reconnect_seconds": {"type": "int", "default": 300},
    "deep": {"type": "bool", "default": False},
    "stage": {"type": "bool", "default": False},
    "model": {"type": "str"},
    "why": {"type": "str"},
    "revision": {"type": "str"},
    "current": {"type": "bool", "default": False},
    "max_size": {"type": "str"},
    "keep_free": {"type": "str"},
    "unused_for": {"type": "str"},
}
REQUIRED_IF = [("command", command, names) for command, names in _REQUIRED.items()]


def read_bundle(root: Path) -> tuple[bytes, bytes]:
    """Return judge-node.pyz, and the program that nodes get (judge_node.bundle.for_nodes).

    judge-node.pyz is packed from the sources of a checkout, else it is the file that the wheel carries. The sources
    come first because a .pyz left over in a checkout may be older than they are.
    Raises AnsibleActionFail when `root` has neither.
    """
    sources, packed = root / "pytool", root / "judge-node.pyz"
    if (sources / "judge_node" / "bundle.py").is_file():
        if str(sources) not in sys.path:
            sys.path.insert(0, str(sources))
        bundle = importlib.import_module("judge_node.bundle")
        pyz = bundle.build_pyz()
    elif packed.is_file():
        if str(packed) not in sys.path:
            sys.path.append(str(packed))
        bundle = importlib.import_module("judge_node.bundle")
        pyz = packed.read_bytes()
    else:
        raise AnsibleActionFail(f"no node program: neither {sources}/judge_node/bundle.py nor {packed} exists. "
                                "Reinstall judge-bootstrap, or run from a complete checkout")
    return pyz, bundle.for_nodes(pyz)


@functools.cache
def read_program() -> dict[str, Any]:
    """Return the program as a call carries it: `bundle` (zlib, base64), and the `digests` of what is the same program.

    A node that fetched judge-node.pyz at its first boot has the same program, and more: it is left alone.
    Raises AnsibleActionFail as read_bundle does.
    """
    pyz, program = read_bundle(CONTENT_ROOT)
    return {"bundle": base64.b64encode(zlib.compress(program, 9)).decode("ascii"),
            "digests": [hashlib.blake2b(content, digest_size=32).hexdigest() for content in (program, pyz)]}


# A strategy loads this file before it forks a worker for each host: what is packed here is packed once a run.
with suppress(AnsibleActionFail):
    read_program()


def build_arguments(params: Mapping[str, Any], check: bool, wait_seconds: float | None = None) -> list[str]:
    """Return judge-node's arguments for these module parameters. The manifest goes through stdin (`-`)."""
    command = params["command"]
    required = _REQUIRED.get(command, [])
    takes_manifest = "manifest" in required or (command.startswith("cache") and params.get("manifest"))
    arguments = [*command.split(), *(["-"] if takes_manifest else [])]
    for name, option in sorted(OPTIONS[command].items()):
        value = params.get(name)
        if value is True:
            arguments.append(option)
        elif isinstance(value, list):
            arguments += [f"{option}={item}" for item in value]
        elif value is not None and value is not False and (value != "" or name in EMPTY_SAYS_SOMETHING):
            arguments.append(f"{option}={value}")
    if wait_seconds is not None:
        arguments.append(f"--wait={wait_seconds:g}")
    arguments.append("--json")
    if check and command in CHANGING:
        arguments.append("--check")
    if "model" in required:
        # Behind `--`: no name of a model is an option.
        arguments += ["--", str(params.get("model"))]
    return arguments


def build_call(params: Mapping[str, Any], check: bool, wait_seconds: float | None = None, *,
               with_program: bool = True) -> dict[str, Any]:
    """Return what the host's half is called with. Without the program it answers when the host has that already."""
    program = read_program()
    return {"arguments": build_arguments(params, check, wait_seconds),
            "input": json.dumps(params.get("manifest") or {}),
            "changes": params["command"] in INSTALLING, "check": check,
            "digests": program["digests"], "bundle": program["bundle"] if with_program else None}


def parse_answer(printed: str) -> dict[str, Any] | None:
    """Return the JSON object that judge-node printed, or None when that is not what it printed."""
    try:
        answer = json.loads(printed)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "ok" in answer else None


def failure_message(answer: Mapping[str, Any]) -> str:
    """Return `REASON: what was found (repair: command)`, with what there is of it."""
    text = answer.get("message") or "judge-node failed and gave no message"
    if answer.get("reason"):
        text = f"{answer['reason']}: {text}"
    if answer.get("repair"):
        text = f"{text} (repair: {answer['repair']})"
    return text


def describe_diff(answer: Mapping[str, Any], program_changed: bool) -> dict[str, str]:
    """Return before and after texts for --diff: judge-node's own, and the program itself when it is replaced."""
    diff = answer.get("diff") or {}
    installed = f"install {INSTALL_PATH}\n" if program_changed else ""
    return {"before": diff.get("before") or "", "after": installed + (diff.get("after") or "")}


def read_result(told: Mapping[str, Any], good_states: list[str] | None) -> dict[str, Any]:
    """Return the task's result for what the host's half told; `good_states` None takes judge-node's word for it."""
    if "rc" not in told or "program_changed" not in told:
        return dict(told)  # the host's half itself failed, and says why
    answer, status = parse_answer(told["stdout"]), told["rc"]
    if answer is None:
        said = told["stderr"].strip() or told["stdout"][:500]
        return {"failed": True, "changed": False, "rc": status,
                "msg": f"judge-node ended with status {status} and no answer: {said}"}
    result = {"changed": bool(answer.get("changed")) or told["program_changed"], "rc": status, "judge": answer,
              "diff": describe_diff(answer, told["program_changed"]), "msg": answer.get("message") or ""}
    if not answer["ok"]:
        result.update(failed=True, msg=failure_message(answer))
    elif good_states is not None and answer.get("state") not in good_states:
        found = {**answer, "message": f"found state {answer.get('state')}, wanted {' or '.join(good_states)}: "
                                      f"{answer.get('message') or 'judge-node gave no message'}"}
        result.update(failed=True, msg=failure_message(found))
    return result


def is_running(told: Mapping[str, Any]) -> bool:
    """Tell whether the host says that the sync goes on."""
    answer = parse_answer(told.get("stdout") or "")
    return answer is not None and answer.get("state") == "running"


class ActionModule(ActionBase):
    """Check the options here, run judge-node there, hand its answer on."""

    _supports_check_mode = True
    _supports_async = False
    _requires_connection = True
    _host_lacks_program = False  # known after the first call of a task

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the task's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, params = self.validate_argument_spec(ARGUMENT_SPEC, required_if=REQUIRED_IF)
        check = bool(self._task.check_mode)
        if params["command"] == "cache follow":
            told = self._follow(params, task_vars)
        else:
            told = self._ask(params, task_vars, START_WAIT_SECONDS if params["command"] == "cache start" else None)
        result.update(read_result(told, None if check else params["good_states"]))
        return result

    def _ask(self, params: Mapping[str, Any], task_vars: dict[str, Any] | None,
             wait_seconds: float | None = None) -> dict[str, Any]:
        """Run one command on the host, with the program when it is needed. Raises AnsibleConnectionFailure."""
        check = bool(self._task.check_mode)
        # In check mode nothing was installed.
        light = params["command"] in TRAVELLING_LIGHT and not check and not self._host_lacks_program
        call = build_call(params, check, wait_seconds, with_program=not light)
        told: dict[str, Any] = self._execute_module(module_name="judge_node", module_args=call, task_vars=task_vars)
        if told.get("program_missing") and light:
            self._host_lacks_program = True
            return self._ask(params, task_vars, wait_seconds)
        return told

    def _follow(self, params: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Wait for the end of the sync, showing how far it is.

        A host that does not answer is asked again for `reconnect_seconds`: the sync there needs no connection. After
        that this raises AnsibleConnectionFailure.
        """
        host, model = (task_vars or {}).get("inventory_hostname"), (params["manifest"] or {}).get("repo_id")
        wait_seconds, silent_since = FIRST_POLL_SECONDS, None
        while True:
            asked = time.monotonic()
            try:
                told = self._ask(params, task_vars, wait_seconds)
            except AnsibleConnectionFailure:
                silent_since = silent_since or asked
                left = silent_since + params["reconnect_seconds"] - time.monotonic()
                if left <= 0:
                    raise
                # judge_bootstrap.adapters.runner reads these lines, and puts them where people look.
                self._display.display(f"{host}: syncing {model}: no answer over ssh; asking again for {left:.0f} s")
                time.sleep(min(left, RECONNECT_PAUSE_SECONDS))
                self._connection.reset()  # a master connection that is dead would be asked again
                continue
            if not is_running(told):
                return told
            silent_since = None
            said = parse_answer(told["stdout"]) or {}
            self._display.display(f"{host}: syncing {model}: {(said.get('facts') or {}).get('progress_text')}")
            wait_seconds = min(wait_seconds * POLL_GROWTH, LONGEST_POLL_SECONDS)
