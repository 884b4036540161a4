"""The wheel is whole: it carries the Ansible content and works from an empty environment, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel through the sdist, as a release does."""
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(CHECKOUT)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel with its dependencies in an empty environment; return that environment's bin folder."""
    root = tmp_path_factory.mktemp("empty-environment")
    venv.create(root, with_pip=True)
    install = [root / "bin" / "pip", "install", "-q", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return root / "bin"


def outside(bin_folder: Path, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": str(cwd), "LANG": "C.UTF-8",
           "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections")}
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd, env=env)


def test_the_wheel_carries_every_tracked_playbook_role_and_inventory_file(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "playbooks", "roles", "inventory"], cwd=CHECKOUT,
                             capture_output=True, text=True, check=True).stdout.split()
    content = "judge_bootstrap/_ansible/"
    packaged = {name.removeprefix(content) for name in zipfile.ZipFile(wheel).namelist() if name.startswith(content)}
    assert set(tracked) <= packaged
    assert packaged - set(tracked) == {"ansible.cfg", "requirements.yml", "judge-node.pyz"}


def test_the_wheel_carries_nothing_that_git_ignores(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if "__pycache__" in name or name.endswith(".pyc")]
    assert names == []


def test_the_installed_command_answers_its_version(installed: Path, tmp_path: Path) -> None:
    done = outside(installed, "judge-bootstrap", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[-1]) == (0, "0.1.0"), done.stderr


def test_the_installed_judge_node_answers_its_version(installed: Path, tmp_path: Path) -> None:
    done = outside(installed, "judge-node", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[-1]) == (0, "0.1.0"), done.stderr


def test_the_packaged_pyz_runs_on_its_own(installed: Path, tmp_path: Path) -> None:
    (pyz,) = installed.parent.glob("lib/python3*/site-packages/judge_bootstrap/_ansible/judge-node.pyz")
    done = subprocess.run([sys.executable, "-I", str(pyz), "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-1]) == (0, "0.1.0"), done.stderr


def test_every_packaged_playbook_passes_the_syntax_check(installed: Path, tmp_path: Path) -> None:
    (content,) = installed.parent.glob("lib/python3*/site-packages/judge_bootstrap/_ansible")
    playbooks = sorted(content.glob("playbooks/*.yml"))
    assert len(playbooks) >= 6
    env_cfg = {"ANSIBLE_CONFIG": str(content / "ansible.cfg")}
    done = subprocess.run([installed / "ansible-playbook", "--syntax-check", "-i", "localhost,", *playbooks],
                          capture_output=True, text=True, check=False, cwd=tmp_path,
                          env={**os.environ, **env_cfg, "PATH": f"{installed}:/usr/bin:/bin",
                               "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections")})
    assert done.returncode == 0, done.stdout + done.stderr
