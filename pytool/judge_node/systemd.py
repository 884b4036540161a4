"""What outlives a run on a node with systemd: units, and the program that they start."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from .files import make_directory, write_file

UNIT_FOLDER = Path("/etc/systemd/system")
SYSTEMD_RUNS = Path("/run/systemd/system")  # sd_booted(3)


def unit_text(path: Path) -> str | None:
    """Return the text of a unit, or None when it is not there."""
    try:
        return path.read_text()
    except OSError:
        return None


def exec_start(argv: Sequence[str]) -> str:
    """Return the command line of a unit: quoted, and with what systemd would expand (% and $) doubled."""
    return " ".join(map(shlex.quote, argv)).replace("%", "%%").replace("$", "$$")


def own_program() -> bytes | None:
    """Return this program's file (judge-node.pyz), or None when it runs from its sources."""
    archive = getattr(globals().get("__loader__"), "archive", None)
    return Path(archive).read_bytes() if archive else None


def is_installed(path: Path) -> bool:
    """Return whether this very program is at `path`; run from its sources, any program there will do."""
    program = own_program()
    try:
        return path.read_bytes() == program if program else path.exists()
    except OSError:
        return False


def install(path: Path) -> None:
    """Put this program where units start it."""
    program = own_program()
    if program is None:
        from .bundle import build_pyz

        program = build_pyz()
    make_directory(path.parent)
    write_file(path, program, 0o755)
