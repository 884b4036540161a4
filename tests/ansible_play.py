"""Ansible itself, run for localhost on a play that a test writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run_play(
    folder: Path, play: Mapping[str, Any], variables: Mapping[str, Any], *flags: str
) -> subprocess.CompletedProcess[str]:
    """Run the play with variables as `-e` has them, and the checkout's ansible.cfg; its files go into `folder`."""
    (folder / "playbook.json").write_text(json.dumps(
        [{"hosts": "localhost", "connection": "local", "gather_facts": False, **play}]))
    (folder / "vars.json").write_text(json.dumps(variables))
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-e", f"@{folder / 'vars.json'}",
         str(folder / "playbook.json"), *flags],
        check=False, cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"})
