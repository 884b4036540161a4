"""The two systemd units: the mount, and the check at every boot."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from judge_node.cli import build_parser
from judge_node.disks.facts import Wanted
from judge_node.disks.unit import (
    BOOT_UNIT,
    bind_text,
    boot_arguments,
    boot_text,
    mount_text,
    read_boot_arguments,
    unit_name,
)
from unit.node.disk_facts import VOLUME, WANTED

GATED = replace(WANTED, gates=("kubelet.service", "vllm-proxy.service"), wait_seconds=60)


def test_unit_mounts_by_uuid_and_does_not_hold_up_the_boot() -> None:
    lines = mount_text("/mnt/nvme", "1-2-3", "xfs").splitlines()
    assert "What=/dev/disk/by-uuid/1-2-3" in lines and "Where=/mnt/nvme" in lines and "Type=xfs" in lines
    assert "Options=noatime,nodev,nosuid" in lines
    assert not any("RequiredBy" in line or "WantedBy" in line or "/dev/nvme" in line for line in lines)


def test_unit_of_an_adopted_filesystem_binds_our_folder_of_it() -> None:
    lines = bind_text("/mnt/nvme", VOLUME).splitlines()
    assert "What=/mnt/k8s-disks/0/judge-bootstrap" in lines and "Where=/mnt/nvme" in lines and "Type=none" in lines
    assert "Options=bind,noatime,nodev,nosuid" in lines and "RequiresMountsFor=/mnt/k8s-disks/0" in lines


def test_boot_unit_comes_before_kubelet_and_containerd_and_the_gates() -> None:
    assert "Before=kubelet.service containerd.service vllm-proxy.service" in boot_text(GATED, "judge").splitlines()
    assert "Before=kubelet.service containerd.service" in boot_text(WANTED, "judge").splitlines()


def test_gates_do_not_start_without_the_boot_unit() -> None:
    assert "RequiredBy=kubelet.service vllm-proxy.service" in boot_text(GATED, "judge").splitlines()
    assert "RequiredBy" not in boot_text(WANTED, "judge").split("[Install]")[1]


@pytest.mark.parametrize(("read_all", "seconds"), [(False, 660), (True, 7260)])
def test_boot_unit_is_bounded_in_time(read_all: bool, seconds: int) -> None:
    text = boot_text(replace(GATED, read_all=read_all), "judge")
    assert f"TimeoutStartSec={seconds}" in text.splitlines() and "RemainAfterExit=yes" in text.splitlines()


EVERYTHING = Wanted(
    mount_path="/mnt/models",
    fstype="ext4",
    device="/dev/disk/by-id/nvme-x",
    models=("A model", "Another one"),
    strategy="RAID10",
    nodeadm_path="/data/disks",
    read_all=True,
    group="judges",
    gates=("kubelet.service", "a@b.service"),
    wait_seconds=90,
)


@pytest.mark.parametrize("owner", ["auto", "nodeadm", "judge"])
def test_boot_unit_asks_for_what_was_asked_for(owner: str) -> None:
    said = build_parser().parse_args(boot_arguments(EVERYTHING, owner))
    assert (said.verb, said.mount_path, said.fstype, said.device) == (
        "ensure", "/mnt/models", "ext4", "/dev/disk/by-id/nvme-x"
    )  # fmt: skip
    assert (said.accept_model, said.strategy, said.owner, said.proof) == (
        ["A model", "Another one"], "RAID10", owner, "full"
    )  # fmt: skip
    assert (said.owning_group, said.gate, said.wait) == ("judges", ["kubelet.service", "a@b.service"], 90)
    assert said.nodeadm_path == ("/data/disks" if owner == "nodeadm" else "/mnt/k8s-disks")


@pytest.mark.parametrize("owner", ["auto", "nodeadm", "judge"])
def test_arguments_are_read_back_from_the_boot_unit_as_they_were_written(owner: str) -> None:
    for wanted in (WANTED, EVERYTHING, replace(EVERYTHING, models=("50% $HOME", "it's"))):
        assert read_boot_arguments(boot_text(wanted, owner)) == boot_arguments(wanted, owner)


@pytest.mark.parametrize("text", ["", "[Service]\n", "ExecStart=/bin/true disks ensure\n", "ExecStart=\n"])
def test_boot_unit_of_another_program_has_no_arguments_of_ours(text: str) -> None:
    assert read_boot_arguments(text) == []


def test_boot_unit_says_only_what_is_no_default() -> None:
    assert boot_arguments(WANTED, "judge") == [
        "disks", "ensure", "--mount-path", "/mnt/nvme", "--owner", "judge", "--strategy", "RAID0", "--fstype", "xfs",
        "--wait", "0",
    ]  # fmt: skip


def test_what_systemd_would_expand_is_escaped() -> None:
    line = next(line for line in boot_text(replace(WANTED, models=("50% $HOME",)), "judge").splitlines()
                if line.startswith("ExecStart="))  # fmt: skip
    assert "'50%% $$HOME'" in line and line.startswith("ExecStart=/usr/local/lib/judge-bootstrap/judge-node.pyz disks ")


TEXTS = {
    unit_name("/mnt/nvme-1"): mount_text("/mnt/nvme-1", "1-2-3", "xfs"),
    unit_name("/mnt/bind"): bind_text("/mnt/bind", VOLUME),
    BOOT_UNIT: boot_text(GATED, "judge"),
    "judge-node-disks-2.service": boot_text(EVERYTHING, "nodeadm"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_unit_is_accepted_by_systemd(tmp_path: Path, name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.xfail("systemd-analyze is not installed here")
    program = tmp_path / "judge-node.pyz"  # systemd wants that what it is to start is there
    program.touch(mode=0o755)
    unit = tmp_path / name
    unit.write_text(TEXTS[name].replace("/usr/local/lib/judge-bootstrap/judge-node.pyz", str(program)))
    said = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert unit.name not in said.stderr, said.stderr


def test_a_unit_that_systemd_does_not_accept_would_be_seen(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.xfail("systemd-analyze is not installed here")
    unit = tmp_path / "mnt-other.mount"
    unit.write_text(mount_text("/mnt/nvme-1", "1-2-3", "xfs"))
    said = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert unit.name in said.stderr
