"""What the lab needs of the machine. Every missing piece is told at once, with the command that brings it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from judge_lab import LabError, runtime
from judge_lab.layout import cache_dir, lab_dir

_TOOLS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "mkfs.xfs": "xfsprogs",
    "chattr": "e2fsprogs",
    "nft": "nftables",
    "ip": "iproute2",
    "modprobe": "kmod",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setsid": "util-linux",
    "losetup": "mount",
}
_FILES = {
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/lib/cni/host-local": "containernetworking-plugins",
    "/usr/bin/python3": "python3",
    "/usr/lib/x86_64-linux-gnu/libnuma.so.1": "libnuma1",  # the CPU build of vLLM
}
_FILESYSTEMS = ("xfs", "overlay")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GIB = 1024**3


def check() -> None:
    """Raise one LabError that names everything missing: rights, packages, kernel parts and space."""
    problems = _system()
    packages = sorted(missing_packages())
    if packages:
        problems.append(f"not installed: {', '.join(packages)}")
    problems += _space()
    if problems:
        hints = [f"apt-get install -y --no-install-recommends {' '.join(packages)}"] if packages else []
        if os.geteuid() != 0:
            hints.append("run it as root (sudo -E)")
        raise LabError("the lab cannot run here: " + "; ".join(problems), hint="; then ".join(hints) or None)


def missing_packages() -> set[str]:
    """Return the Debian packages that bring what is missing."""
    missing = {package for tool, package in _TOOLS.items() if shutil.which(tool, path=_PATH) is None}
    missing |= {package for file, package in _FILES.items() if not Path(file).exists()}
    if "python3" not in missing and not runtime.is_complete():
        probe = subprocess.run(["/usr/bin/python3", "-c", "import ensurepip, venv"], capture_output=True, check=False)
        if probe.returncode != 0:
            missing.add("python3-venv")
    return missing


def _system() -> list[str]:
    problems = []
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        problems.append(f"this is {platform.system()} on {platform.machine()}, wanted Linux on x86_64")
    if os.geteuid() != 0:
        return [*problems, "not root (it makes namespaces, mounts and loop devices)"]
    known = Path("/proc/filesystems").read_text().split()
    for name in _FILESYSTEMS:
        if name not in known and subprocess.run(["modprobe", name], capture_output=True, check=False).returncode != 0:
            problems.append(f"this kernel has no {name} filesystem")
    if not Path("/dev/loop-control").exists():
        problems.append("no /dev/loop-control (loop devices)")
    return problems


def _space() -> list[str]:
    wanted = {cache_dir(): 1 * _GIB if runtime.is_complete() else 6 * _GIB, lab_dir(): 2 * _GIB}
    problems = []
    for folder, needed in wanted.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            problems.append(f"{free / _GIB:.1f} GiB free for {folder}, wanted {needed / _GIB:.0f} GiB")
    return problems
