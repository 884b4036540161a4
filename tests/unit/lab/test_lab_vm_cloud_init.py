"""cloud-init in a virtual machine: the second image, and what an instance is given at its start. Needs no QEMU."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from judge_lab import LabError, ssh, vm_cloud_init, vm_image
from judge_lab.vm import Machine
from judge_lab.vm_cloud_init import CloudInit

SEED = "var/lib/cloud/seed/nocloud"
IMAGE = vm_image.Image(Path("vmlinux"), Path("initrd"), Path("root.raw"))


def seed_of(machine: Machine) -> dict[str, tuple[str, int]]:
    """Return {path: (content, mode)} of what the guest unpacks."""
    machine.folder.mkdir(exist_ok=True)
    for key in (machine.key, machine.host_key):
        ssh.ensure_key(key, machine.name)
    found = {}
    with tarfile.open(fileobj=BytesIO(machine._seed())) as tar:
        for entry in tar:
            content = tar.extractfile(entry)
            assert content is not None
            found[entry.name] = (content.read().decode(), entry.mode)
    return found


def image_directory(tmp_path: Path, cloud_final: str) -> Path:
    """Make as much of an image's directory as is changed."""
    for folder in ("etc/cloud/cloud.cfg.d", "etc/systemd/system", "lib/systemd/system"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lib/systemd/system/cloud-final.service").write_text(cloud_final)
    return tmp_path


def test_the_image_with_cloud_init_is_another_one_than_the_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CACHE", str(tmp_path))
    monkeypatch.setattr(vm_image, "debian_suite", lambda: "bookworm")
    monkeypatch.setattr(vm_image, "_build", lambda suite, folder, cloud_init: (folder / "rootfs").mkdir())
    said: list[str] = []
    with_it, without = vm_image.ensure(said.append, cloud_init=True), vm_image.ensure(said.append)
    assert with_it.root.parent != without.root.parent
    assert ["with cloud-init" in line for line in said] == [True, False]
    assert vm_image.ensure(said.append, cloud_init=True) == with_it
    assert len(said) == 2, "what is in the cache is not built again"


def test_what_concerns_cloud_init_alone_leaves_the_other_image_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {cloud_init: vm_image._recipe("bookworm", cloud_init) for cloud_init in (True, False)}
    changed = tmp_path / "vm_cloud_init.py"
    changed.write_text("# another set-up\n")
    monkeypatch.setattr(vm_cloud_init, "__file__", str(changed))
    assert vm_image._recipe("bookworm", True) != before[True]
    assert vm_image._recipe("bookworm", False) == before[False]


def test_cloud_init_finds_the_user_data_and_what_the_image_brings(tmp_path: Path) -> None:
    given = CloudInit("#!/bin/sh\nuser\n", "#cloud-config\n{}\n")
    found = seed_of(Machine(tmp_path / "vm", name="node-1", cloud_init=given))
    assert found[f"{SEED}/user-data"] == ("#!/bin/sh\nuser\n", 0o600)
    assert found[f"{SEED}/vendor-data"] == ("#cloud-config\n{}\n", 0o600)
    assert found[f"{SEED}/meta-data"] == ("instance-id: i-node-1\n", 0o600)


def test_a_machine_without_user_data_has_no_data_source(tmp_path: Path) -> None:
    assert not [name for name in seed_of(Machine(tmp_path / "vm")) if "cloud" in name]


@pytest.mark.parametrize(("reaches_host", "restrict"), [(False, "restrict=on"), (True, "restrict=off")])
def test_a_machine_reaches_this_host_only_if_that_is_wanted(
    tmp_path: Path, reaches_host: bool, restrict: str
) -> None:
    command = Machine(tmp_path / "vm", reaches_host=reaches_host)._command(IMAGE)
    assert restrict in next(word for word in command if word.startswith("user,")).split(",")


def test_the_last_stage_waits_for_no_other_unit_of_the_boot(tmp_path: Path) -> None:
    root = image_directory(tmp_path, "[Unit]\nAfter=cloud-config.service\nAfter=multi-user.target\nBefore=x\n")
    vm_cloud_init.customise(root)
    changed = (root / "etc/systemd/system/cloud-final.service").read_text()
    assert changed == "[Unit]\nAfter=cloud-config.service\nBefore=x\n"


def test_a_last_stage_that_is_not_as_it_was_is_refused(tmp_path: Path) -> None:
    root = image_directory(tmp_path, "[Unit]\nAfter=cloud-config.service\n")
    with pytest.raises(LabError, match=r"no line 'After=multi-user.target' to leave out"):
        vm_cloud_init.customise(root)
