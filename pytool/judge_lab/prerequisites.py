"""What the lab needs of the machine. Every missing piece is told at once, with the command that brings it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from judge_lab import LabError, runtime, vm, vm_image
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
_VM_TOOLS = {"ip": "iproute2", "setsid": "util-linux", "losetup": "mount", "chattr": "e2fsprogs"}
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
    _refuse("the lab", [*_system(), *_kernel()], missing_packages(), _space())


def check_vm() -> None:
    """Raise one LabError that names everything missing for a lab of virtual machines."""
    problems = _system()
    try:
        vm_image.debian_suite()
    except LabError as error:
        problems.append(error.message)
    if not Path("/dev/net/tun").exists():
        problems.append("no /dev/net/tun (their network)")
    missing = _missing(_VM_TOOLS) | vm.missing_packages()
    space = _short_of({cache_dir(): 2 * _GIB, lab_dir(): 2 * _GIB})
    _refuse("the lab's virtual machines", problems, missing, space)


def _refuse(what: str, problems: list[str], missing: set[str], space: list[str]) -> None:
    """Raise LabError if there are problems, missing packages or a lack of space."""
    packages = sorted(missing)
    if packages:
        problems = [*problems, f"not installed: {', '.join(packages)}"]
    problems = [*problems, *space]
    if problems:
        hints = [f"apt-get install -y --no-install-recommends {' '.join(packages)}"] if packages else []
        if os.geteuid() != 0:
            hints.append("run it as root (sudo -E)")
        raise LabError(f"{what} cannot run here: " + "; ".join(problems), hint="; then ".join(hints) or None)


def missing_packages() -> set[str]:
    """Return the Debian packages that bring what is missing for a lab of namespaces."""
    missing = _missing(_TOOLS)
    missing |= {package for file, package in _FILES.items() if not Path(file).exists()}
    if "python3" not in missing and not runtime.is_complete():
        probe = subprocess.run(["/usr/bin/python3", "-c", "import ensurepip, venv"], capture_output=True, check=False)
        if probe.returncode != 0:
            missing.add("python3-venv")
    return missing


def _missing(tools: dict[str, str]) -> set[str]:
    return {package for tool, package in tools.items() if shutil.which(tool, path=_PATH) is None}


def _system() -> list[str]:
    problems = []
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        problems.append(f"this is {platform.system()} on {platform.machine()}, wanted Linux on x86_64")
    if os.geteuid() != 0:
        problems.append("not root (it makes namespaces, mounts and devices)")
    return problems


def _kernel() -> list[str]:
    """Return what the kernel lacks of what namespace nodes need; only root can load the missing parts."""
    if os.geteuid() != 0:
        return []
    problems = []
    known = Path("/proc/filesystems").read_text().split()
    for name in _FILESYSTEMS:
        if name not in known and subprocess.run(["modprobe", name], capture_output=True, check=False).returncode != 0:
            problems.append(f"this kernel has no {name} filesystem")
    if not Path("/dev/loop-control").exists():
        problems.append("no /dev/loop-control (loop devices)")
    return problems


def _space() -> list[str]:
    return _short_of({cache_dir(): 1 * _GIB if runtime.is_complete() else 6 * _GIB, lab_dir(): 2 * _GIB})


def _short_of(wanted: dict[Path, int]) -> list[str]:
    """Return a sentence for each folder whose filesystem has fewer free bytes than wanted."""
    problems = []
    for folder, needed in wanted.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            problems.append(f"{free / _GIB:.1f} GiB free for {folder}, wanted {needed / _GIB:.0f} GiB")
    return problems
