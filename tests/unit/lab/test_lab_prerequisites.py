"""Every missing piece is told at once, with the command that brings it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from judge_lab import LabError, prerequisites


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing but root is there."""
    monkeypatch.setattr(prerequisites.os, "geteuid", lambda: 0)
    monkeypatch.setattr(prerequisites.shutil, "which", lambda tool, path: None)
    monkeypatch.setattr(prerequisites, "_FILES", {"/no/such/cni/bridge": "containernetworking-plugins"})
    monkeypatch.setattr(prerequisites.runtime, "is_complete", lambda: True)


@pytest.mark.usefixtures("bare_machine")
def test_all_packages_are_in_one_apt_line() -> None:
    with pytest.raises(LabError) as caught:
        prerequisites.check()
    line = "apt-get install -y --no-install-recommends "
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(line)
    assert set(caught.value.hint.removeprefix(line).split()) >= {
        "containerd", "runc", "containernetworking-plugins", "openssh-server", "xfsprogs", "nftables", "iproute2",
    }  # fmt: skip
    assert "containerd" in caught.value.message


def test_packages_space_and_rights_are_told_together(bare_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(prerequisites.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    with pytest.raises(LabError) as caught:
        prerequisites.check()
    for part in ("not root", "not installed: ", "0.0 GiB free"):
        assert part in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("run it as root (sudo -E)")


def test_space_is_measured_where_the_folder_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setenv("JUDGE_LAB_DIR", str(tmp_path / "not" / "there" / "yet"))
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CACHE", str(tmp_path))
    monkeypatch.setattr(prerequisites.runtime, "is_complete", lambda: True)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prerequisites.shutil, "disk_usage", lambda path: asked.append(path) or usage)
    prerequisites._space()
    assert asked == [tmp_path, tmp_path]
