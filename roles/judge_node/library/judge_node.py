#!/usr/bin/python
"""Ansible module: run judge-node once on the host and hand its answer on."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_node
short_description: Run one judge-node command on the host
description:
  - Runs C(judge-node COMMAND --json) on the host and returns its answer as changed, diff and failed.
  - The program itself comes with the call (the action plugin of the same name adds it). A command that changes
    something installs it first, when it is not there or differs; a read-only command and check mode install nothing.
  - When the connection to the controller is gone, the command is stopped, so that an interrupted run leaves no process.
options:
  command:
    description: What judge-node does.
    type: str
    required: true
    choices: [disks ensure, disks status, cache sync, cache verify, status]
  mount_path:
    description: Absolute path where the instance store is mounted. For C(disks) commands.
    type: path
  device:
    description: The disk to take; without it, disks are found by their model. For C(disks) commands.
    type: path
  fstype:
    description: Filesystem of a disk that has to be formatted. For C(disks ensure).
    type: str
    choices: [xfs, ext4]
  accept_models:
    description: Controller models that count as instance store. For C(disks) commands.
    type: list
    elements: str
  store:
    description: Root of the model store. For C(cache) commands.
    type: path
  manifest:
    description: The manifest of the model, as model_manifest_info returns it. For C(cache) commands.
    type: dict
  endpoint:
    description: Base URL of the Hub or of a mirror that speaks its API. For C(cache sync).
    type: str
  token_file:
    description: File on the host that holds the Hub token. The token itself never travels. For C(cache sync).
    type: path
  deep:
    description: Read every file again instead of trusting size and manifest. For C(cache verify).
    type: bool
    default: false
  bundle:
    description: The program, base64. Added by the action plugin.
    type: str
    required: true
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Prepare the instance store
  judge_node:
    command: disks ensure
    mount_path: /mnt/nvme
  become: true
"""

RETURN = r"""
judge:
  description: The object that judge-node printed (ok, changed, state, reason, message, repair, diff, facts).
  returned: when judge-node answered
  type: dict
"""

import base64
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

INSTALL_PATH = "/usr/local/lib/judge-bootstrap/judge-node.pyz"
LINK_PATH = "/usr/local/bin/judge-node"
# mkfs, blkid and mount live in sbin, which the PATH of an ssh session often lacks.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STOP_GRACE_SECONDS = 10
STDERR_TAIL_BYTES = 4096

CHANGING = ("disks ensure", "cache sync")
# Option of the module -> option of the program, for each command.
DISK_OPTIONS = {"mount_path": "--mount-path", "device": "--device", "accept_models": "--accept-model"}
OPTIONS = {
    "disks ensure": dict(DISK_OPTIONS, fstype="--fstype"),
    "disks status": DISK_OPTIONS,
    "cache sync": {"store": "--store", "endpoint": "--endpoint", "token_file": "--token-file"},
    "cache verify": {"store": "--store", "deep": "--deep"},
    "status": {},
}
REQUIRED = {
    "disks ensure": ("mount_path",),
    "disks status": ("mount_path",),
    "cache sync": ("store", "manifest"),
    "cache verify": ("store", "manifest"),
    "status": (),
}


class ConnectionGone(Exception):
    """Nobody reads the answer any more: the controller was interrupted or the connection was cut."""


def build_arguments(params, check_mode):
    """Return judge-node's arguments for these module parameters. The manifest goes through stdin (`-`)."""
    command = params["command"]
    arguments = command.split()
    if command.startswith("cache"):
        arguments.append("-")
    for name, option in sorted(OPTIONS[command].items()):
        value = params.get(name)
        if value is True:
            arguments.append(option)
        elif isinstance(value, list):
            for item in value:
                arguments += [option, item]
        elif value not in (None, False, ""):
            arguments += [option, str(value)]
    arguments.append("--json")
    if check_mode and command in CHANGING:
        arguments.append("--check")
    return arguments


def is_installed(bundle, path=INSTALL_PATH):
    """Tell whether exactly these bytes are already at `path`."""
    try:
        return Path(path).read_bytes() == bundle
    except OSError:
        return False


def install(bundle, path=INSTALL_PATH, link=LINK_PATH):
    """Put the program at `path`, by one rename, and `link` beside the other commands. Raises OSError."""
    target, command = Path(path), Path(link)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor, staged = tempfile.mkstemp(dir=target.parent, prefix=".judge-node.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(bundle)
            os.fchmod(handle.fileno(), 0o755)
            handle.flush()
            os.fsync(handle.fileno())
        Path(staged).replace(target)
    except BaseException:
        Path(staged).unlink()
        raise
    if not (command.is_symlink() and command.resolve() == target.resolve()):
        command.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if command.is_symlink() or command.exists():
            command.unlink()
        command.symlink_to(target)


def end_with_parent():
    """Ask the kernel to TERM this process when the module dies: it covers a kill -9 of the module itself."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def stop(child):
    """End the child's whole process group: TERM, so that judge-node can leave a clean state, then KILL."""
    try:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(STOP_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    except ProcessLookupError:
        child.wait()


def read_until_end(child, watched):
    """Return all that the child prints. Raises ConnectionGone when nobody reads descriptor `watched` any more."""
    printed = []
    poller = select.poll()
    poller.register(child.stdout, select.POLLIN)
    poller.register(watched, 0)  # no event asked for: POLLERR and POLLHUP are always reported
    while True:
        for descriptor, event in poller.poll():
            if descriptor == watched:
                if event & select.POLLNVAL:
                    poller.unregister(watched)
                    continue
                raise ConnectionGone()
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                return b"".join(printed)
            printed.append(chunk)


def raise_connection_gone(signal_number, frame):
    raise ConnectionGone()


def run_watched(command, given, watched=1):
    """Run the command with `given` on stdin; return (exit status, stdout, end of stderr), both as bytes.

    Raises ConnectionGone, after the command and its children are ended, when the reader of `watched` (our own stdout,
    which is the ssh channel) goes away or this process is told to stop.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(given)
        stdin.seek(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, raise_connection_gone)
        environment = dict(os.environ, PATH=os.environ.get("PATH", "") + ":" + SEARCH_PATH)
        child = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=environment,
            start_new_session=True, preexec_fn=end_with_parent,
        )
        try:
            printed = read_until_end(child, watched)
            child.wait()
        except BaseException:
            stop(child)
            raise
        finally:
            child.stdout.close()
        size = stderr.seek(0, os.SEEK_END)
        stderr.seek(max(0, size - STDERR_TAIL_BYTES))
        return child.returncode, printed, stderr.read()


def run_program(bundle, installed, arguments, given):
    """Run judge-node, the installed one or a private copy that is removed afterwards."""
    if installed:
        return run_watched([sys.executable, INSTALL_PATH] + arguments, given)
    with tempfile.NamedTemporaryFile(prefix="judge-node.", suffix=".pyz") as copy:
        copy.write(bundle)
        copy.flush()
        return run_watched([sys.executable, copy.name] + arguments, given)


def parse_answer(printed):
    """Return the JSON object that judge-node printed, or None when that is not what it printed."""
    try:
        answer = json.loads(printed.decode("utf-8"))
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "ok" in answer else None


def failure_message(answer):
    """Return `REASON: what was found (repair: command)`, with what there is of it."""
    text = answer.get("message") or "judge-node failed and gave no message"
    if answer.get("reason"):
        text = f"{answer['reason']}: {text}"
    if answer.get("repair"):
        text = f"{text} (repair: {answer['repair']})"
    return text


def describe_diff(answer, program_changed):
    """Return before and after texts for --diff: judge-node's own, and the program itself when it is replaced."""
    diff = answer.get("diff") or {}
    after = diff.get("after") or ""
    if program_changed:
        after = f"install {INSTALL_PATH}\n{after}"
    return {"before": diff.get("before") or "", "after": after}


def main():
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "str", "required": True, "choices": sorted(OPTIONS)},
            "mount_path": {"type": "path"},
            "device": {"type": "path"},
            "fstype": {"type": "str", "choices": ["xfs", "ext4"]},
            "accept_models": {"type": "list", "elements": "str"},
            "store": {"type": "path"},
            "manifest": {"type": "dict"},
            "endpoint": {"type": "str"},
            "token_file": {"type": "path"},
            "deep": {"type": "bool", "default": False},
            "bundle": {"type": "str", "required": True, "no_log": True},
        },
        required_if=[("command", command, list(names)) for command, names in sorted(REQUIRED.items()) if names],
        supports_check_mode=True,
    )
    command = module.params["command"]
    bundle = base64.b64decode(module.params["bundle"])
    installed = is_installed(bundle)
    program_changed = command in CHANGING and not installed
    try:
        if program_changed and not module.check_mode:
            install(bundle)
            installed = True
        given = json.dumps(module.params["manifest"] or {}).encode("utf-8")
        arguments = build_arguments(module.params, module.check_mode)
        status, printed, errors = run_program(bundle, installed, arguments, given)
    except ConnectionGone:
        sys.exit(1)
    except OSError as error:
        module.fail_json(msg=f"cannot run judge-node on this host: {error}")

    answer = parse_answer(printed)
    if answer is None:
        said = errors.decode("utf-8", "replace").strip() or printed[:500].decode("utf-8", "replace")
        module.fail_json(msg=f"judge-node ended with status {status} and no answer: {said}", rc=status)
    result = {
        "changed": bool(answer.get("changed")) or program_changed,
        "diff": describe_diff(answer, program_changed),
        "judge": answer,
        "rc": status,
    }
    if not answer["ok"]:
        module.fail_json(msg=failure_message(answer), **result)
    module.exit_json(msg=answer.get("message") or "", **result)


if __name__ == "__main__":
    main()
