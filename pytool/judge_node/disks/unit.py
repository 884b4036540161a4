"""The systemd mount unit, and the rules by which systemd names it after its path."""

from __future__ import annotations

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.")
MOUNT_OPTIONS = "noatime,nodev,nosuid"


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


def unit_text(path: str, fs_uuid: str, fstype: str) -> str:
    """Return the mount unit. By UUID: NVMe names change with each boot, and a disk that came back blank must not match.

    It is wanted, not required, by multi-user.target: after stop and start the filesystem is gone, and the node must
    still come up far enough to be repaired.
    """
    return f"""\
# Written by judge-node; it is rewritten by `judge-node disks ensure`.
[Unit]
Description=Local disk for model weights
Before=kubelet.service containerd.service

[Mount]
What=/dev/disk/by-uuid/{fs_uuid}
Where={path}
Type={fstype}
Options={MOUNT_OPTIONS}

[Install]
WantedBy=multi-user.target
"""
