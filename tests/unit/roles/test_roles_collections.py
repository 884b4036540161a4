"""The set-up step takes exactly the collections that requirements.yml names, and nothing when they are there."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import ROOT, load


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    return load("scripts/fetch_collections.py")


@pytest.fixture
def requirements(tmp_path: Path) -> Callable[[str], Path]:
    def write(version: str) -> Path:
        path = tmp_path / "requirements.yml"
        path.write_text(f"# ansible wheel: 1.2.3\ncollections:\n  - {{name: good.one, version: {version}}}\n")
        return path

    return write


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with one wanted collection and one that is not, where pip would have put it."""
    path = tmp_path / "cache" / "wheels" / "ansible-1.2.3-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("good/one", "good/other"):
            prefix = f"ansible_collections/{name}"
            archive.writestr(f"{prefix}/MANIFEST.json", json.dumps({"collection_info": {"version": "2.0.0"}}))
            archive.writestr(f"{prefix}/plugins/modules/x.py", "X = 1\n")
            archive.writestr(f"{prefix}/tests/big.py", "")
    return path


def test_exactly_the_named_collections_are_unpacked(
    script: ModuleType, requirements: Callable[[str], Path], wheel: Path, tmp_path: Path
) -> None:
    target = tmp_path / ".collections"
    assert script.ensure(requirements("2.0.0"), target) is True
    found = sorted(str(p.relative_to(target)) for p in target.rglob("*.*") if p.suffix in (".py", ".json"))
    assert found == ["ansible_collections/good/one/MANIFEST.json", "ansible_collections/good/one/plugins/modules/x.py"]


def test_a_second_time_does_nothing_and_needs_no_wheel(
    script: ModuleType, requirements: Callable[[str], Path], wheel: Path, tmp_path: Path
) -> None:
    script.ensure(requirements("2.0.0"), tmp_path / ".collections")
    wheel.unlink()
    assert script.ensure(requirements("2.0.0"), tmp_path / ".collections") is False


def test_another_version_in_the_wheel_is_refused_and_leaves_what_was_there(
    script: ModuleType, requirements: Callable[[str], Path], wheel: Path, tmp_path: Path
) -> None:
    target = tmp_path / ".collections"
    script.ensure(requirements("2.0.0"), target)
    with pytest.raises(SystemExit, match=r"has good.one 2.0.0, requirements.yml wants 3.0.0"):
        script.ensure(requirements("3.0.0"), target)
    assert (target / "ansible_collections/good/one/MANIFEST.json").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".collections.")] == []


def test_requirements_without_the_wheels_version_say_what_to_add(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "requirements.yml"
    path.write_text("collections: []\n")
    with pytest.raises(SystemExit, match="no line '# ansible wheel: X.Y.Z'"):
        script.ensure(path, tmp_path / ".collections")


def test_the_projects_own_requirements_can_be_read(script: ModuleType) -> None:
    version, wanted = script.read_requirements(ROOT / "requirements.yml")
    assert version.split(".")[0].isdigit()
    assert sorted(wanted) == ["amazon.aws", "kubernetes.core"]
