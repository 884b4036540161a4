"""The compile caches beside the store: a directory for each model commit, image and GPU, made by the server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..files import make_directory

_NAME = re.compile(r"([0-9a-f]{12})-.+")


def tidy(folder: Path, commits: Iterable[str]) -> list[str]:
    """Make the folder, and remove the caches of commits that are not in `commits`; return the names of those removed.

    Only directories named <first 12 of a commit>-... go, never what a link leads to: servers write in here, and this is
    root. Raises OSError.
    """
    # Only when it is missing: kubelet has changed group and mode of one that is there, for the servers (fsGroup).
    make_directory(folder)
    kept = {commit[:12] for commit in commits}
    removed = []
    for path in sorted(folder.iterdir()):
        found = _NAME.fullmatch(path.name)
        if found is None or found[1] in kept or path.is_symlink() or not path.is_dir():
            continue
        shutil.rmtree(path)
        removed.append(path.name)
    return removed
