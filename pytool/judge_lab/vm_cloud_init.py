"""cloud-init in a virtual machine's image: Debian's package, set up so that its stages come as on Amazon Linux.

A second image has it, made of the same recipe and kept beside the first: cloud-init adds its time to every boot, also
where it has nothing to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from judge_lab import LabError

PACKAGES = ("cloud-init",)
_NOCLOUD = "var/lib/cloud/seed/nocloud"
# One data source, so that nobody looks for others. The network is the lab's own, and so are the keys. Of the modules
# those that write what was given, those that could take a disk for themselves, and those that run scripts. The stage
# between them has none, so it is left out: each stage costs an emulated CPU ten seconds.
_CONFIG = """\
datasource_list: [NoCloud]
network: {config: disabled}
disable_root: false
cloud_init_modules: [write-files, bootcmd, disk_setup, mounts]
cloud_final_modules: [scripts-per-boot, scripts-per-instance, scripts-user]
"""
_AFTER_SEED = "[Unit]\nAfter=judge-lab-seed.service\n"
# In Debian the last stage waits for all of multi-user.target, so that nothing there could wait for it, as nodeadm does.
# The template of the unit has this line for Debian and Ubuntu alone (cloud-init, systemd/cloud-final.service.tmpl).
_DEBIANS_OWN = "After=multi-user.target\n"


@dataclass(frozen=True)
class CloudInit:
    """What a machine finds as its instance's data: `user_data` as EC2 would hand it over, and what its image brings.

    `vendor_data` is a cloud-config that is applied with it; it stands for what an AMI has and the lab's image lacks.
    """

    user_data: str
    vendor_data: str = ""

    def files(self, name: str) -> dict[str, tuple[str, int]]:
        """Return {path: (content, mode)} of the data source. A machine is one instance as long as it has its name."""
        texts = {"meta-data": f"instance-id: i-{name}\n", "user-data": self.user_data, "vendor-data": self.vendor_data}
        return {f"{_NOCLOUD}/{key}": (text, 0o600) for key, text in texts.items()}


def customise(root: Path) -> None:
    """Set up cloud-init in an image's directory. Raises LabError when Debian's unit is not as it was."""
    (root / "etc/cloud/cloud.cfg.d/99-judge-lab.cfg").write_text(_CONFIG)
    units = root / "etc/systemd/system"
    (units / "cloud-init-local.service.d").mkdir()
    (units / "cloud-init-local.service.d/judge-lab.conf").write_text(_AFTER_SEED)
    (units / "cloud-config.service").symlink_to("/dev/null")
    text = (root / "lib/systemd/system/cloud-final.service").read_text()
    if _DEBIANS_OWN not in text:
        raise LabError(f"cloud-final.service has no line {_DEBIANS_OWN.strip()!r} to leave out: {text}")
    (units / "cloud-final.service").write_text(text.replace(_DEBIANS_OWN, ""))
