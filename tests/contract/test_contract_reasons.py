"""Every reason code that any package gives is in the registry, with its meaning and repair."""

from __future__ import annotations

import re
from pathlib import Path

from judge_client import Reason
from judge_node.reasons import REASONS

ROOT = Path(__file__).parents[2]
GIVEN = re.compile(
    r"""reason\s*=\s*["']([A-Z][A-Z_]+)["']|^[A-Z_]+ = "((?:INVENTORY|HOST|NODE|INTERRUPTED)[A-Z_]*)"$""", re.MULTILINE)


def test_every_reason_given_in_the_code_is_in_the_registry() -> None:
    sources = [path.read_text() for path in (ROOT / "pytool").rglob("*.py")]
    given = {code for text in sources for pair in GIVEN.findall(text) for code in pair if code}
    assert {"LOCKED", "NODE_SILENT", "INVENTORY_EMPTY", "SOURCE_DENIED"} <= given
    assert given - set(REASONS) == set()


def test_every_reason_of_the_client_is_in_the_registry_and_is_a_failure() -> None:
    assert {str(reason) for reason in Reason} - set(REASONS) == set()
    assert {REASONS[str(reason)].exit_code for reason in Reason} == {1}
