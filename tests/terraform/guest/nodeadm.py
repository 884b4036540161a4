#!/usr/bin/python3
"""A stand-in for `nodeadm init --skip config`, which runs in the virtual machine at every boot. It says that it is one.

As nodeadm does, it reads the NodeConfig out of the instance's user data, builds the local storage that is asked for
there, and starts containerd and kubelet, waiting for each until it is active.
"""

import email
import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

USER_DATA = Path("/var/lib/cloud/instance/user-data.txt")
READ = Path("/run/stand-in/node-config.json")


def main():
    """Do what nodeadm would."""
    print("This is a stand-in for nodeadm", flush=True)
    parts = email.message_from_bytes(USER_DATA.read_bytes()).walk()
    (part,) = [part for part in parts if part.get_content_type() == "application/node.eks.aws"]
    config = yaml.safe_load(part.get_payload(decode=True))
    READ.parent.mkdir(exist_ok=True)
    READ.write_text(json.dumps(config))
    storage = config["spec"].get("instance", {}).get("localStorage")
    if storage:
        if storage["strategy"] != "RAID0":
            sys.exit(f"this stand-in can build RAID0 only, not {storage['strategy']}")
        path = storage.get("mountPath", "/mnt/k8s-disks")
        subprocess.run(["bash", "/usr/local/lib/stand-in/local-storage.sh", path], check=True)
    for unit in ("containerd", "kubelet"):
        subprocess.run(["systemctl", "start", "--no-block", unit], check=True)
        READ.with_name(f"asked-for-{unit}").touch()
        while subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode:
            time.sleep(0.25)
        print(f"{unit} is running", flush=True)


main()
