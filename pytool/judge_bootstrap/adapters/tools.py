"""What is installed on the operator's machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import yaml

from judge_bootstrap.content import content_root
from judge_bootstrap.core.checks import Tools
from judge_bootstrap.core.redact import without_our_tokens

_ANSIBLE = ("ansible-playbook", "ansible-inventory")

# Ansible refuses to start under LC_ALL=C (cron, CI) and under a locale that is not installed (ssh brings the laptop's).
# And its English is what we read.
LOCALE: dict[str, str] = {"LC_ALL": "C.UTF-8"} if sys.platform == "linux" else {}


def read_tools() -> Tools:
    """Return the tools found beside this program and in PATH, and the collections where Ansible looks for them."""
    wanted = _wanted_collections(content_root() / "requirements.yml")
    work_dir = tempfile.gettempdir()
    return Tools(python=platform.python_version(),
                 programs={**{name: _ansible(name) for name in _ANSIBLE}, "ssh": _ssh()},
                 collections={name: _collection(name, collection_paths()) for name in wanted},
                 wanted_collections=wanted, work_dir=work_dir, free_bytes=_free_bytes(work_dir),
                 install_collections=install_collections())


def install_collections() -> str:
    """Return the command that installs the Ansible collections for this installation, as it is typed from anywhere."""
    root = content_root()
    if (root / "Makefile").is_file():
        return "make setup, or ansible-galaxy collection install -r requirements.yml"
    galaxy = "ansible-galaxy" if shutil.which("ansible-galaxy") else str(Path(sys.executable).parent / "ansible-galaxy")
    return f"{galaxy} collection install -r {root / 'requirements.yml'}"


def search_path() -> str:
    """Return PATH with this program's own folder first: a virtual environment need not be activated."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def collection_paths() -> list[Path]:
    """Return where Ansible looks for collections, in its order."""
    given = os.environ.get("ANSIBLE_COLLECTIONS_PATH") or "~/.ansible/collections:/usr/share/ansible/collections"
    places = [os.path.expanduser(place) for place in given.split(os.pathsep) if place]  # noqa: PTH111 - it never raises
    return [content_root() / ".collections", *map(Path, places)]


def _ansible(name: str) -> str | None:
    if shutil.which(name, path=search_path()) is None:
        return None
    try:
        return f"ansible-core {metadata.version('ansible-core')}"
    except metadata.PackageNotFoundError:
        return "of an unknown version"


def _ssh() -> str | None:
    program = shutil.which("ssh", path=search_path())
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-V"], env=without_our_tokens(os.environ), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace", timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stderr or done.stdout).strip().split(",")[0] or None


def _wanted_collections(requirements: Path) -> dict[str, str]:
    try:
        document = yaml.safe_load(requirements.read_text(encoding="utf-8"))
        return {item["name"]: str(item["version"]) for item in document["collections"]}
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return {}


def _collection(name: str, places: Iterable[Path]) -> str | None:
    for place in places:
        manifest = place / "ansible_collections" / name.replace(".", "/") / "MANIFEST.json"
        try:
            return str(json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]["version"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return None


def _free_bytes(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
