"""`judge-node disks plan`, `ensure` and `status`."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files import make_directory
from ..last import leave
from ..locking import locked
from ..result import EXIT_FAILED, NodeError, Result
from . import record
from .apply import apply, need_tools, start_boot_unit
from .discover import Found, discover, wait_for_disks
from .facts import Disk, Wanted, disk_as_dict, format_size
from .judge import OURS, judge, our_sets
from .plan import LOOK_AGAIN, MOUNT, START, Plan, plan_layout

# Each round ends with what makes the disks another thing; erase, create, format is the longest chain there is.
_MOST_ROUNDS = 6
LOCK = Path("/run/judge-bootstrap/disks.lock")
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
    if (
        trimmed in _SYSTEM_DIRECTORIES
        or trimmed.split("/")[1] in _SYSTEM_TREES
        or trimmed.startswith(("/var/lib/kubelet/", "/var/lib/containerd/"))
    ):
        raise NodeError(f"--mount-path is {trimmed}, which the system lives in; {wanted}", repair=own)
    resolved = os.path.realpath(trimmed)
    if resolved != trimmed:
        with contextlib.suppress(NodeError):
            own = f"use {check_mount_path(resolved)}"
        raise NodeError(f"--mount-path {trimmed} goes through a symbolic link to {resolved}", repair=own)
    return trimmed


def plan(wanted: Wanted) -> Result:
    """Say what `ensure` would do, with the evidence for every disk of this node; change nothing.

    Raises NodeError when it would refuse.
    """
    need_root()
    with discover(wanted, all_disks=True) as found:
        others = [_seen(disk) for disk in found.host.others]
        try:
            result = _result("disks plan", _planned(found, wanted), found, wanted, check=True)
        except NodeError as error:
            error.message += _table(error.facts["candidates"], others)
            error.facts["others"] = others
            raise
    result.message += _table(result.facts["candidates"], others)
    result.facts["others"] = others
    return result


def _table(candidates: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """Return a line of evidence for every disk of the node."""
    lines = []
    for disk in candidates + others:
        about = ", ".join(filter(None, (format_size(disk["size_bytes"]), disk["model"], disk["serial"])))
        holds = ", ".join(disk["signatures"] or ())
        evidence = [text for text in (disk["state"] or "not selected", disk["why"], holds) if text]
        lines.append(f"\n  {disk['name']} ({about}): {', '.join(evidence)}")
    return "".join(lines)


def ensure(wanted: Wanted, *, check: bool, lock_wait_seconds: float) -> Result:
    """Make the local disks one filesystem, mounted and kept; in check mode only say what would be done.

    Its result is left in /run for `judge-node status`, and a failure in the journal.
    Raises NodeError when that may not or cannot be done.
    """
    need_root()
    if check:
        with discover(wanted) as found:
            return _result("disks ensure", _planned(found, wanted), found, wanted, check=True)
    try:
        result = _ensure(wanted, lock_wait_seconds)
    except NodeError as error:
        failed = Result.of_error("disks ensure", error)
        _leave(failed)
        raise
    _leave(result)
    return result


def _ensure(wanted: Wanted, lock_wait_seconds: float) -> Result:
    make_directory(LOCK.parent)
    first: Plan | None = None
    with locked(LOCK, wait_seconds=lock_wait_seconds) as lock_fd:
        wait_for_disks(wanted)
        for _ in range(_MOST_ROUNDS):
            with discover(wanted, to_change=True) as found:
                now = _planned(found, wanted)
                first = first or now
                if not _to_apply(now):
                    break
                apply(now, found, wanted, lock_fd)
        else:
            raise NodeError(
                f"{now.summary} is still not as wanted: " + "; ".join(step.text for step in now.steps),
                reason="FS_CREATE_FAILED",
                state=now.state,
            )
        now = replace(now, notes=tuple(dict.fromkeys((*first.notes, *now.notes))))
        result = _result("disks ensure", now, found, wanted, check=False)
    # The boot unit runs `ensure` itself, which wants the lock.
    if any(step.name == START for step in now.steps):
        start_boot_unit(wanted, found.host.units.boot_state == "failed")
    result.changed = bool(first.steps)
    result.before = first.before
    if not first.steps:
        result.after = first.before
    result.facts["steps"] = [step.text for step in first.steps]
    return result


def _to_apply(found: Plan) -> bool:
    return any(step.name != START for step in found.steps)


def _planned(found: Found, wanted: Wanted) -> Plan:
    try:
        planned = plan_layout(found.host, wanted)
        need_tools(planned, wanted)
    except NodeError as error:
        error.facts.update(_facts(found, wanted))
        raise
    return planned


def _leave(result: Result) -> None:
    """Leave the result for `judge-node status`, and what failed in the journal (the boot unit's output is there)."""
    leave(record.RESULT, result)


def _result(command: str, planned: Plan, found: Found, wanted: Wanted, *, check: bool) -> Result:
    facts = _facts(found, wanted)
    content = planned.target.content if planned.target is not None else None
    facts.update(
        owner=planned.owner,
        fs_uuid=content.fs_uuid if content is not None else None,
        steps=[step.text for step in planned.steps],
        warnings=list(planned.notes),
    )
    if planned.target is not None:
        facts["disk"] = disk_as_dict(planned.target)
    if planned.volume is not None:
        facts["volume"] = {"path": planned.volume.path, "made_by": planned.volume.made_by}
    steps = "".join(f"step: {step.text}\n" for step in planned.steps)
    return Result(
        command=command,
        changed=bool(planned.steps),
        state=planned.state,
        message=_message(planned, found, wanted, check),
        before=planned.before,
        after=planned.after + steps if check else planned.before,
        facts=facts,
    )


def _message(planned: Plan, found: Found, wanted: Wanted, check: bool) -> str:
    where = f"{planned.summary} at {wanted.mount_path}"
    more = "".join(f"; {note}" for note in planned.notes)
    if not found.host.units.systemd:
        more += "; systemd does not run here, so no mount unit: mounted until the next boot only"
    if check and planned.steps:
        return "would " + ", then ".join(step.text for step in planned.steps) + more
    kept = "ours" if planned.volume is None else f"adopted from {planned.owner}"
    return f"{where} is mounted and {kept}{more}"


def status(wanted: Wanted) -> Result:
    """Say, without changing anything, whether the right disk is mounted at the mount path."""
    need_root()
    with discover(wanted) as found:
        try:
            planned = plan_layout(found.host, wanted)
        except NodeError as error:
            refused = Result.of_error("disks status", error)
            refused.facts, refused.exit_code = _facts(found, wanted), EXIT_FAILED
            return refused
    result = _result("disks status", planned, found, wanted, check=False)
    result.changed, result.before, result.after = False, "", ""
    if planned.steps:
        missing = any(step.name == MOUNT or step.name in LOOK_AGAIN for step in planned.steps)
        result.ok, result.exit_code = False, EXIT_FAILED
        result.reason = "MOUNT_MISSING" if missing else "FS_STALE"
        todo = "; ".join(step.text for step in planned.steps)
        result.message = f"{planned.summary} is {planned.state}; still to do: {todo}"
        result.repair = f"judge-node disks ensure --mount-path {wanted.mount_path}" + (
            f" --device {wanted.device}" if wanted.device else ""
        )
    return result


def _facts(found: Found, wanted: Wanted) -> dict[str, Any]:
    host = found.host
    mount = host.mount_point.mount
    return {
        "mount_path": wanted.mount_path,
        "fstype": wanted.fstype,
        "strategy": wanted.strategy,
        "systemd": host.units.systemd,
        "mounted": mount.source if mount else None,
        "candidates": [_judged(disk, found) for disk in host.disks],
        "arrays": [{**disk_as_dict(disk), "level": disk.level, "members": list(disk.members)} for disk in host.arrays],
    }


def _judged(disk: Disk, found: Found) -> dict[str, Any]:
    judgement = judge(disk, found.host.record)
    of_ours = any(disk in found_set.members for found_set in our_sets(found.host))
    state, why = (OURS, "part of our array") if of_ours and disk.holders else (judgement.state, judgement.why)
    return {**disk_as_dict(disk), "state": state, "why": why}


def _seen(disk: Disk) -> dict[str, Any]:
    """Return a disk that is no candidate: why it could not be one anyway, if that is known."""
    judgement = judge(replace(disk, content=None))
    known = judgement.reason in ("DISK_BUSY", "DISK_NOT_LOCAL")
    return {**disk_as_dict(disk), "state": None, "why": judgement.why if known else ""}


def need_root() -> None:
    """Raise NodeError unless this process is root's."""
    if os.geteuid() != 0:
        raise NodeError(
            f"this needs root to open disks, and runs as user {os.geteuid()}",
            reason="NOT_ROOT",
        )
