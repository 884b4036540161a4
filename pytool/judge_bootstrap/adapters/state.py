"""What the CLI remembers between runs, one folder per environment: the lock, and the last good AppConfig document."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_bootstrap.core.documents import LARGEST_DOCUMENT_BYTES, InvalidDocument, read_json_object
from judge_bootstrap.core.errors import UsageProblem

ENV_VAR = "JUDGE_BOOTSTRAP_STATE"
_SCHEMA = 1


def state_dir(env: str) -> Path:
    """Return the environment's state folder (not made yet): $JUDGE_BOOTSTRAP_STATE, else below the XDG state home.

    Raises UsageProblem for a user without a home directory, as a container's numeric user often is.
    """
    override = os.environ.get(ENV_VAR)
    if override:
        return Path(override).absolute() / env
    try:
        home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError as error:
        raise UsageProblem(f"HOME is not set, and user {os.getuid()} has no home directory to keep the lock in",
                           hint="export HOME=DIR, a folder that is yours (Ansible needs one too)") from error
    return Path(home) / "judge-bootstrap" / env


@dataclass(frozen=True)
class LastGood:
    """An AppConfig document that was valid when it was fetched (`fetched_at`: seconds since the epoch)."""

    origin: str
    version: str
    fetched_at: float
    document: dict[str, Any]


class LastGoodFile:
    """The last good document as a file: mode 0600, replaced as a whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "appconfig.json"

    def read(self) -> LastGood | None:
        """Return the copy; None when there is none or it cannot be read (it is a help, never an obstacle)."""
        try:
            found = read_json_object(_read_regular(self.path))
            if found["schema"] != _SCHEMA or not isinstance(found["document"], dict):
                return None
            return LastGood(str(found["origin"]), str(found["version"]), float(found["fetched_at"]), found["document"])
        except (OSError, InvalidDocument, KeyError, TypeError, ValueError, OverflowError):
            return None

    def write(self, copy: LastGood) -> None:
        """Replace the copy. Raises OSError when the folder cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = {"schema": _SCHEMA, "origin": copy.origin, "version": copy.version,
                   "fetched_at": copy.fetched_at, "document": copy.document}
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".appconfig-")  # 0600 from the first byte
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _read_regular(path: Path) -> bytes:
    """Return a file's bytes, one more than a document may have at most. Raises OSError; for a pipe too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(LARGEST_DOCUMENT_BYTES + 1)
