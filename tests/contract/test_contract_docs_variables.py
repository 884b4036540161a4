"""docs/variables.md says what the schema and the roles say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_docs_variables_are_what_the_generator_writes() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "pytool")}
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "variables_doc.py"), "--check"], env=environ,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
