"""Where environments lie. Standard library only: `--help` and tab completion use this."""

from __future__ import annotations

import os
import re
from pathlib import Path

from judge_bootstrap.content import content_root
from judge_bootstrap.core.errors import UsageProblem

INVENTORY_VARIABLE = "JUDGE_BOOTSTRAP_INVENTORY"
# The name becomes a folder of the state directory too: nothing that leads elsewhere.
ENVIRONMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)


def inventory_roots(override: Path | None = None) -> list[Path]:
    """Return the folders that may hold environments, best first.

    That is `override` or $JUDGE_BOOTSTRAP_INVENTORY alone where given, else ./inventory and the program's own. Raises
    UsageProblem for a given one that is not there.
    """
    variable = os.environ.get(INVENTORY_VARIABLE)
    named = override or (Path(variable) if variable else None)
    if named is not None:
        if not named.is_dir():
            raise UsageProblem(f"the inventory folder {str(named)!a} is not there",
                               hint=f"name a folder with environments in it, or unset {INVENTORY_VARIABLE}")
        return [named.absolute()]
    return [place for place in (Path("inventory").absolute(), content_root() / "inventory") if place.is_dir()]


def known_environments(override: Path | None = None) -> list[str]:
    """Return the names of the environments that there are, sorted."""
    return sorted({entry.name for root in inventory_roots(override) for entry in root.iterdir()
                   if ENVIRONMENT_NAME.fullmatch(entry.name) and (entry / "group_vars").is_dir()})


def folder_of(name: str, override: Path | None = None) -> Path:
    """Return the folder of an environment that is known.

    The first of that name, whole or not: going on to the program's own would be another cluster.
    """
    return next(root / name for root in inventory_roots(override) if (root / name).is_dir())


def short_name(path: Path) -> str:
    """Return the path as people type it: relative where it lies below the working directory or the content."""
    for root in (Path.cwd(), content_root()):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(path)
