"""Runs in the virtual machine: prints what there is to know about its disk and its units, as JSON."""

import hashlib
import json
import subprocess
from pathlib import Path

UNITS = ("judge-node-disks", "kubelet", "containerd", "nodeadm-run", "cloud-final")
STATES = ("ActiveState", "Result", "UnitFileState", "Requires", "InactiveExitTimestampMonotonic",
          "ActiveEnterTimestampMonotonic", "ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic")
PROGRAM = Path("/usr/local/lib/judge-bootstrap/judge-node.pyz")


def said(*command):
    """Return what the command prints, whatever its end."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def text(path):
    """Return a file's text, or None when there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return None


def mount(path):
    """Return what is mounted at a path, or None."""
    found = said("findmnt", "--json", "-o", "SOURCE,FSROOT,FSTYPE,OPTIONS,UUID,LABEL", path)
    return json.loads(found)["filesystems"][0] if found else None


def arrays():
    """Return {name in /dev/md: (level, serials of its disks)} of the arrays that run."""
    found = {}
    for base in Path("/sys/block").glob("md*"):
        name = said("mdadm", "--detail", "--export", f"/dev/{base.name}")
        (named,) = [line.partition("=")[2] for line in name.splitlines() if line.startswith("MD_DEVNAME=")]
        found[named] = (text(base / "md/level").strip(), sorted(
            text(disk / "device/serial").strip() for disk in base.glob("slaves/*")))
    return found


def units():
    """Return {name: {property: value}}."""
    found = said("systemctl", "show", f"--property={','.join(STATES)}", *(f"{name}.service" for name in UNITS))
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in found.split("\n\n")]
    return dict(zip(UNITS, blocks, strict=True))


print(json.dumps({
    "boot": text("/proc/sys/kernel/random/boot_id"),
    "mount": mount("/mnt/nvme"),
    "nodeadm_mount": mount("/mnt/k8s-disks/0"),
    "arrays": arrays(),
    "files": {path.name: path.stat().st_size for path in Path("/mnt/nvme").glob("*")},
    "units": units(),
    "jobs": [line.split()[1] for line in said("systemctl", "list-jobs", "--no-legend").splitlines() if line.strip()],
    "failed": [line.split()[0] for line in said(
        "systemctl", "--failed", "--no-legend", "--plain").splitlines() if line.strip()],
    "running": said("systemctl", "is-system-running").strip(),
    "cycles": [line for line in said("journalctl", "-b", "-o", "cat", "_PID=1").splitlines() if "cycle" in line],
    "journal": said("journalctl", "-b", "-o", "cat", "-u", "judge-node-disks"),
    "kubelet_saw": text("/run/kubelet-saw"),
    "nodeadm_read": json.loads(text("/run/stand-in/node-config.json") or "null"),
    "result": json.loads(text("/run/judge-bootstrap/disks-result.json") or "null"),
    "program": hashlib.sha256(PROGRAM.read_bytes()).hexdigest() if PROGRAM.exists() else None,
    "sealed": "i" in said("lsattr", "-d", "/mnt/nvme").split(" ")[0],
    "cloud_init_errors": json.loads(text("/run/cloud-init/result.json") or '{"v1": {}}')["v1"].get("errors"),
}))
