"""DESIGN.md section 2: which package may import which."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PYTOOL = Path(__file__).parents[2] / "pytool"
OURS = {"judge_bootstrap", "judge_node", "judge_client", "judge_lab"}
ALLOWED_OURS = {
    "judge_bootstrap": {"judge_bootstrap", "judge_node", "judge_client"},
    "judge_node": {"judge_node"},
    "judge_client": {"judge_client"},
    "judge_lab": OURS,
}
# The only module of the CLI that may start the lab.
LAB_DOOR = "judge_bootstrap/cli/lab.py"


def imported_names(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, relative imports left out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def sources(package: str) -> list[Path]:
    return sorted((PYTOOL / package).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_package_imports_only_the_siblings_that_the_design_allows(package: str) -> None:
    files = sources(package)
    assert files, f"{package} has no sources"
    wrong = {}
    for path in files:
        allowed = ALLOWED_OURS[package] | ({"judge_lab"} if str(path).endswith(LAB_DOOR) else set())
        if extra := (imported_names(path) & OURS) - allowed:
            wrong[str(path.relative_to(PYTOOL))] = sorted(extra)
    assert wrong == {}


def test_judge_node_imports_nothing_beyond_the_standard_library() -> None:
    allowed = set(sys.stdlib_module_names) | {"judge_node"}
    wrong = {str(path.relative_to(PYTOOL)): sorted(extra)
             for path in sources("judge_node") if (extra := imported_names(path) - allowed)}
    assert wrong == {}


def test_judge_node_is_written_in_python_3_9_syntax() -> None:
    for path in sources("judge_node"):
        ast.parse(path.read_text(), filename=str(path), feature_version=(3, 9))
