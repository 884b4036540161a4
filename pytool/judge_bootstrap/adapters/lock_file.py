"""The lock file on disk: read as a whole, and replaced as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from judge_bootstrap.core.errors import BootstrapError, UsageProblem
from judge_bootstrap.core.model_lock import LOCK_AGAIN, check_agrees, read_lock

_LARGEST_BYTES = 16 << 20


def load_lock(path: Path) -> dict[str, Any]:
    """Return the manifest in the lock file. Raises BootstrapError for one that is missing, edited or none at all."""
    try:
        # A pipe or a device would never end; a lock file is a file that was committed.
        if not path.is_file():
            raise FileNotFoundError(2, "no such file")
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise BootstrapError(f"the lock file {path} cannot be read: {said}", reason="LOCK_FILE_UNUSABLE",
                             hint=f"{LOCK_AGAIN}   # writes it") from error
    return read_lock(content, str(path))


def load_lock_of(path: Path, repo_id: str, revision: str) -> dict[str, Any]:
    """Return the manifest in the lock file of this model. Raises BootstrapError as load_lock, or for another model."""
    manifest = load_lock(path)
    check_agrees(manifest, str(path), repo_id, revision)
    return manifest


def write_lock(path: Path, text: str) -> None:
    """Write the lock file by one rename. Raises UsageProblem where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        staged = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # It holds no secret and is committed: the mode of any other file, not mkstemp's 0600.
            umask = os.umask(0)
            os.umask(umask)
            staged.chmod(0o666 & ~umask)
            staged.replace(path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageProblem(f"the lock file {path} cannot be written: {error.strerror}",
                           hint="give --out FILE, in a folder that is yours") from error


def place_of(name: str, inventory_dir: Path) -> Path:
    """Return where the lock file of an environment lies: a relative name lies beside the environment's folder.

    Not in it: Ansible takes every file there for an inventory, and fails at one that is none.
    """
    return inventory_dir.parent / Path(name).expanduser()
