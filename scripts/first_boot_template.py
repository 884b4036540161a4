"""Write terraform/modules/user-data/templates/first-boot.sh.tftpl from what `judge-node disks user-data` prints.

    python scripts/first_boot_template.py           write it
    python scripts/first_boot_template.py --check   exit 1 when it is not what would be written

The script is printed with marks in the place of values, and the marks become Terraform's variables. What differs
between the two owners becomes a condition, line by line.
"""

from __future__ import annotations

import sys

from generated import ROOT, write_or_check

sys.path.insert(0, str(ROOT / "pytool"))

from judge_node.disks.facts import Wanted
from judge_node.disks.user_data import first_boot

TEMPLATE = ROOT / "terraform" / "modules" / "user-data" / "templates" / "first-boot.sh.tftpl"
# Any number that nothing else in the script is or begins with.
WAIT_SECONDS = 54_000
MARKS = {
    "https://judge-node-url": "${judge_node.url}",
    "judge-node-sha256": "${judge_node.sha256}",
    "/nvme-mount-path": "${nvme_mount_path}",
    "/nvme-nodeadm-path": "${nvme_nodeadm_path}",
    "nvme-strategy": "${nvme_strategy}",
    "nvme-fstype": "${nvme_fstype}",
}


def script(owner: str) -> str:
    """Return the template's text for one owner."""
    wanted = Wanted(
        mount_path="/nvme-mount-path",
        nodeadm_path="/nvme-nodeadm-path",
        strategy="nvme-strategy",
        fstype="nvme-fstype",
        owner=owner,
        gates=("kubelet.service",),
        wait_seconds=WAIT_SECONDS,
    )
    text = first_boot(wanted, "https://judge-node-url", "judge-node-sha256")
    text = text.replace("${", "$${").replace("%{", "%%{")
    for mark, value in MARKS.items():
        if mark != "/nvme-nodeadm-path" or owner == "nodeadm":
            assert mark in text, f"{mark} is not in the script for {owner}"
        text = text.replace(mark, value)
    timeout = next(line for line in text.splitlines() if line.startswith("TimeoutStartSec=")).partition("=")[2]
    assert text.count(f"--wait {WAIT_SECONDS}\n") == 1, "the seconds to wait are not in the arguments"
    text = text.replace(f"--wait {WAIT_SECONDS}\n", "--wait ${nvme_wait_seconds}\n")
    return text.replace(f"={timeout}\n", f"=${{nvme_wait_seconds + {int(timeout) - WAIT_SECONDS}}}\n")


def template() -> str:
    """Return both as one."""
    lines = []
    for judge, nodeadm in zip(script("judge").splitlines(), script("nodeadm").splitlines(), strict=True):
        both = f'%{{ if nvme_owner == "nodeadm" }}{nodeadm}%{{ else }}{judge}%{{ endif }}'
        lines.append(judge if judge == nodeadm else both)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, {TEMPLATE: template()}))
