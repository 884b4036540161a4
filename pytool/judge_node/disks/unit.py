"""The two systemd units: the mount, and the check at every boot; and the rule by which systemd names a mount unit."""

from __future__ import annotations

import shlex

from ..systemd import exec_start
from .facts import ADOPTED_FOLDER, INSTANCE_STORE_MODEL, Volume, Wanted

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.")
MOUNT_OPTIONS = "noatime,nodev,nosuid"
BOOT_UNIT = "judge-node-disks.service"
INSTALL_PATH = "/usr/local/lib/judge-bootstrap/judge-node.pyz"
_WORK_SECONDS = 600  # mkfs and a sampled proof take seconds
_READ_ALL_SECONDS = 7200  # 7.6 TB at 1 GiB/s

_MOUNT = """\
# Written by judge-node; it is rewritten by `judge-node disks ensure`, which also starts it: at boot, and only after it
# has found the disk to be ours.
[Unit]
Description=Local disk for model weights
{extra}
[Mount]
What={what}
Where={where}
Type={fstype}
Options={options}
"""
_BOOT = """\
# Written by judge-node; it is rewritten by `judge-node disks ensure`.
# A stopped instance comes back with blank disks, and nobody runs Ansible then. What stands below RequiredBy does not
# start when this fails, so that the node is not ready instead of filling its root disk.
[Unit]
Description=Prepare the local disk for model weights
After=systemd-udevd.service local-fs.target
Before=kubelet.service containerd.service{before}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command}
TimeoutStartSec={timeout}

[Install]
WantedBy=multi-user.target
{required}"""


def unit_name(path: str) -> str:
    """Return the name that systemd demands for the mount unit of an absolute path, as `systemd-escape --path` does.

    A unit whose name and Where= differ is refused by systemd, so the name is computed, not chosen.
    """
    trimmed = "/".join(part for part in path.split("/") if part)
    if not trimmed:
        return "-.mount"
    escaped = []
    for position, byte in enumerate(trimmed.encode()):
        char = chr(byte)
        if char == "/":
            escaped.append("-")
        elif char in _PLAIN and not (char == "." and position == 0):
            escaped.append(char)
        else:
            escaped.append(f"\\x{byte:02x}")
    return "".join(escaped) + ".mount"


def mount_text(path: str, fs_uuid: str, fstype: str) -> str:
    """Return the mount unit. By UUID: NVMe names change with each boot, and a disk that came back blank must not match.

    Nothing wants it: at boot the boot unit starts it, so that no boot waits for a filesystem that is gone.
    """
    return _MOUNT.format(
        what=f"/dev/disk/by-uuid/{fs_uuid}", where=path, fstype=fstype, options=MOUNT_OPTIONS, extra=""
    )


def bind_text(path: str, volume: Volume) -> str:
    """Return the mount unit that shows our folder of an adopted filesystem at `path`."""
    return _MOUNT.format(
        what=f"{volume.path}/{ADOPTED_FOLDER}",
        where=path,
        fstype="none",
        options=f"bind,{MOUNT_OPTIONS}",
        extra=f"RequiresMountsFor={volume.path}\n",
    )


def boot_arguments(wanted: Wanted, owner: str) -> list[str]:
    """Return the arguments with which the boot unit makes the same thing true; `owner` is decided by then."""
    arguments = ["disks", "ensure", "--mount-path", wanted.mount_path, "--owner", owner]
    if wanted.device:
        arguments += ["--device", wanted.device]
    if wanted.models != (INSTANCE_STORE_MODEL,):
        arguments += ["--accept-model", *wanted.models]
    if wanted.group:
        arguments += ["--group", wanted.group]
    if wanted.read_all:
        arguments += ["--proof", "full"]
    if owner == "nodeadm":
        arguments += ["--nodeadm-path", wanted.nodeadm_path]
    for gate in wanted.gates:
        arguments += ["--gate", gate]
    return [*arguments, "--strategy", wanted.strategy, "--fstype", wanted.fstype, "--wait", f"{wanted.wait_seconds:g}"]


def read_boot_arguments(text: str) -> list[str]:
    """Return the arguments in a boot unit's text; empty when it starts another program, or none."""
    line = next((line for line in text.splitlines() if line.startswith("ExecStart=")), "")
    words = shlex.split(line[len("ExecStart=") :].replace("%%", "%").replace("$$", "$"))
    return words[1:] if words[:1] == [INSTALL_PATH] else []


def work_seconds(wanted: Wanted) -> int:
    """Return what `disks ensure` may take at most once the disks are there."""
    return _READ_ALL_SECONDS if wanted.read_all else _WORK_SECONDS


def other_gates(wanted: Wanted) -> str:
    """Return what Before= names besides kubelet and containerd, with a blank before each."""
    return "".join(f" {gate}" for gate in wanted.gates if gate not in ("kubelet.service", "containerd.service"))


def boot_text(wanted: Wanted, owner: str) -> str:
    """Return the boot unit: `disks ensure` before kubelet and containerd, bounded in time, required by the gates."""
    return _BOOT.format(
        before=other_gates(wanted),
        command=exec_start([INSTALL_PATH, *boot_arguments(wanted, owner)]),
        timeout=f"{wanted.wait_seconds + work_seconds(wanted):.0f}",
        required=f"RequiredBy={' '.join(wanted.gates)}\n" if wanted.gates else "",
    )
