"""`judge-node disks ensure` and `judge-node disks status`."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from ..files import make_directory
from ..locking import locked
from ..result import EXIT_FAILED, NodeError, Result
from .apply import apply
from .discover import Found, discover
from .facts import Wanted, disk_as_dict
from .plan import OURS, Plan, judge, plan_layout

_LOCK_FOLDER = Path("/run/judge-bootstrap")
_SAFE_PATH = re.compile(r"(/[A-Za-z0-9_@:+-][A-Za-z0-9._@:+-]*)+")
# Directories that the system lives in: mounting over them would break the node.
_SYSTEM_TREES = ("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "proc", "root", "run", "sbin", "sys", "usr")
_SYSTEM_DIRECTORIES = (
    "/home",
    "/mnt",
    "/opt",
    "/srv",
    "/tmp",
    "/var",
    "/var/lib",
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/log",
    "/var/tmp",
    "/media",
)


def check_mount_path(path: str) -> str:
    """Return `path` if it can be a mount path. Raises NodeError (wrong usage) with what is wrong with it."""
    trimmed = path.rstrip("/") or path[:1]
    wanted = "wanted an absolute path such as /mnt/nvme"
    own = "choose a directory of its own"
    if trimmed == "/":
        raise NodeError(f"--mount-path is /, which the system lives in; {wanted}", repair=own)
    if not _SAFE_PATH.fullmatch(trimmed) or len(trimmed) > 200:
        raise NodeError(
            f"--mount-path is {path!r}, {wanted}",
            repair="use letters, digits and . _ @ : + - between slashes, and no ..",
        )
    if trimmed in _SYSTEM_DIRECTORIES or trimmed.split("/")[1] in _SYSTEM_TREES:
        raise NodeError(f"--mount-path is {trimmed}, which the system lives in; {wanted}", repair=own)
    resolved = os.path.realpath(trimmed)
    if resolved != trimmed:
        with contextlib.suppress(NodeError):
            own = f"use {check_mount_path(resolved)}"
        raise NodeError(f"--mount-path {trimmed} goes through a symbolic link to {resolved}", repair=own)
    return trimmed


def ensure(wanted: Wanted, *, check: bool, lock_wait_seconds: float) -> Result:
    """Make one local disk formatted, mounted and persistent; in check mode only say what would be done.

    Raises NodeError when that may not or cannot be done.
    """
    _need_root()
    lock_fd = -1
    with contextlib.ExitStack() as stack:
        if not check:
            make_directory(_LOCK_FOLDER)
            lock_fd = stack.enter_context(locked(_LOCK_FOLDER / "disks.lock", wait_seconds=lock_wait_seconds))
        found = stack.enter_context(discover(wanted))
        try:
            plan = plan_layout(found.host, wanted)
        except NodeError as error:
            error.facts.update(_facts(found, wanted))
            raise
        facts = _facts(found, wanted)
        facts["steps"] = [step.text for step in plan.steps]
        if plan.disk.content is not None:
            facts["fs_uuid"] = plan.disk.content.fs_uuid
        if plan.steps and not check:
            facts["fs_uuid"] = apply(plan, found.host, wanted, found.holds.get(plan.disk.name), lock_fd)
        facts["disk"] = disk_as_dict(plan.disk)
    return Result(
        command="disks ensure",
        changed=bool(plan.steps),
        state=OURS if not check else plan.state,
        message=_message(plan, found, wanted, check),
        before=plan.before,
        after=_after(plan, check),
        facts=facts,
    )


def _after(plan: Plan, check: bool) -> str:
    if check and plan.steps:
        return plan.after + "".join(f"step: {step.text}\n" for step in plan.steps)
    return plan.after


def _message(plan: Plan, found: Found, wanted: Wanted, check: bool) -> str:
    where = f"{plan.disk.summary()} at {wanted.mount_path}"
    persistence = (
        "" if found.host.systemd else "; systemd does not run here, so no mount unit: mounted until the next boot only"
    )
    if not plan.steps:
        return f"nothing to do: {where} is mounted and ours{persistence}"
    if check:
        return f"would " + ", then ".join(step.text for step in plan.steps) + persistence  # noqa: F541
    return (
        f"{where} is formatted, mounted and ours{persistence}"
        if plan.state != OURS
        else f"{where} is mounted and ours{persistence}"
    )


def status(wanted: Wanted) -> Result:
    """Say, without changing anything, whether the right disk is mounted at the mount path."""
    _need_root()
    with discover(wanted) as found:
        result = Result(command="disks status", facts=_facts(found, wanted))
        try:
            plan = plan_layout(found.host, wanted)
        except NodeError as error:
            refused = Result.of_error("disks status", error)
            refused.facts, refused.exit_code = result.facts, EXIT_FAILED
            return refused
    result.state = plan.state
    result.facts["disk"] = disk_as_dict(plan.disk)
    if plan.steps:
        missing = found.host.mount_point.mount is None
        result.ok, result.exit_code = False, EXIT_FAILED
        result.reason = "MOUNT_MISSING" if missing else "FS_STALE"
        result.message = f"{plan.disk.summary()} is {plan.state}; still to do: " + "; ".join(
            step.text for step in plan.steps
        )
        result.repair = f"judge-node disks ensure --mount-path {wanted.mount_path}" + (
            f" --device {wanted.device}" if wanted.device else ""
        )
    else:
        result.message = f"{plan.disk.summary()} is ours and mounted at {wanted.mount_path}"
    return result


def _facts(found: Found, wanted: Wanted) -> dict[str, Any]:
    mount = found.host.mount_point.mount
    return {
        "mount_path": wanted.mount_path,
        "fstype": wanted.fstype,
        "systemd": found.host.systemd,
        "mounted": mount.source if mount else None,
        "candidates": [
            {**disk_as_dict(disk), "state": judge(disk).state, "why": judge(disk).why} for disk in found.host.disks
        ],
    }


def _need_root() -> None:
    if os.geteuid() != 0:
        raise NodeError(
            f"this needs root to open disks, and runs as user {os.geteuid()}", repair="run it again with sudo"
        )
