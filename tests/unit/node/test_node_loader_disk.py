"""Whether a store lies on a mounted disk, from what a container sees: recorded lines of mountinfo, and real mounts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from judge_node.disks.facts import MARKER_NAME
from judge_node.disks.sysfs import System
from judge_node.loader.disk import not_mounted

# Recorded in a pod of the lab (containerd 1.6.20, kubelet 1.36.3); {disk} is the mount path.
OVERLAY = "1163 1124 0:140 / / ro,relatime master:470 - overlay overlay rw,lowerdir=/x,upperdir=/y,workdir=/z\n"
FOLDER = (
    "1178 1163 254:1 /var/lib/judge-bootstrap/lab/nodes/node-1/fs/mnt/nvme {disk} rw,relatime master:9"
    " - ext4 /dev/vda1 rw\n"
)
DISK_ON_TOP = "1190 1178 7:11 / {disk} rw,relatime master:481 - xfs /dev/loop11 rw,attr2\n"
DISK = "1178 1163 7:11 / {disk} rw,relatime master:481 - xfs /dev/loop11 rw,attr2\n"
ADOPTED = "1178 1163 9:127 /judge-bootstrap {disk} rw,relatime master:481 - xfs /dev/md127 rw,attr2\n"


def system(folder: Path, *lines: str) -> System:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/mountinfo").write_text("".join(lines).format(disk=folder / "nvme"))
    (folder / "nvme").mkdir()
    return System(proc_root=folder / "proc")


def test_a_disk_is_a_mounted_disk(tmp_path: Path) -> None:
    assert not_mounted(tmp_path / "nvme/hub", system(tmp_path, OVERLAY, DISK)) is None


def test_a_disk_that_came_after_the_pod_is_one(tmp_path: Path) -> None:
    assert not_mounted(tmp_path / "nvme/hub", system(tmp_path, OVERLAY, FOLDER, DISK_ON_TOP)) is None


def test_the_host_s_empty_folder_is_a_mount_and_no_disk(tmp_path: Path) -> None:
    found = not_mounted(tmp_path / "nvme/hub", system(tmp_path, OVERLAY, FOLDER))
    assert found == (f"{tmp_path}/nvme is a folder of another filesystem "
                     "(/var/lib/judge-bootstrap/lab/nodes/node-1/fs/mnt/nvme of /dev/vda1): its disk is not mounted")


def test_a_pod_without_the_host_s_folder_has_no_disk(tmp_path: Path) -> None:
    found = not_mounted(tmp_path / "nvme/hub", system(tmp_path, OVERLAY))
    assert found == f"{tmp_path}/nvme/hub is on the root filesystem (overlay)"


def test_an_adopted_folder_is_one_by_its_marker_alone(tmp_path: Path) -> None:
    here = system(tmp_path, OVERLAY, ADOPTED)
    assert "its disk is not mounted" in (not_mounted(tmp_path / "nvme/hub", here) or "")
    (tmp_path / "nvme" / MARKER_NAME).write_text('{"fs_uuid": "1-2", "adopted_from": "/mnt/k8s-disks/0"}')
    assert not_mounted(tmp_path / "nvme/hub", here) is None


def test_a_marker_makes_no_disk_of_the_host_s_folder(tmp_path: Path) -> None:
    here = system(tmp_path, OVERLAY, FOLDER)
    (tmp_path / "nvme" / MARKER_NAME).write_text('{"fs_uuid": "1-2"}')
    assert not_mounted(tmp_path / "nvme/hub", here) is not None


def test_mounts_that_cannot_be_read_prove_nothing(tmp_path: Path) -> None:
    assert not_mounted(tmp_path, System(proc_root=tmp_path / "none")) == "the mounts of this node cannot be read"


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from judge_node.loader.disk import not_mounted
print(not_mounted(Path(sys.argv[2])) is None)
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts of its own")
def test_a_real_bind_of_a_folder_and_a_real_disk_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "pod").mkdir()
    package = Path(sys.modules["judge_node"].__file__ or "").parents[1]
    ask = f"{sys.executable} -c '{PROGRAM}' {package} {tmp_path}/pod/hub"
    script = (f"mount --make-rprivate / && mount --bind {tmp_path}/host {tmp_path}/pod && {ask} "
              f"&& mount -t tmpfs disk {tmp_path}/pod && {ask}")
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
