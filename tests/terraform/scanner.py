"""checkov, in an environment of its own: it pins boto3 and much else to versions that are not ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terraform.tool import CHECKOUT

VERSION = "3.3.30"
CONFIG = CHECKOUT / "terraform" / ".checkov.yaml"


@dataclass(frozen=True)
class Scan:
    """What was found. `failed` and `skipped` say `CHECK RESOURCE`, and `skipped` the reason as well."""

    resources: int
    passed: int
    failed: list[str]
    skipped: dict[str, str]


def ensure_checkov() -> Path:
    """Return the program, installed if it is not there yet: about 30 s and 290 MB, once."""
    cache = Path(os.environ.get("JUDGE_BOOTSTRAP_CACHE") or Path.home() / ".cache" / "judge-bootstrap")
    target = cache / f"checkov-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    if not (target / ".complete").exists():
        shutil.rmtree(target, ignore_errors=True)  # what a cut installation left
        target.parent.mkdir(parents=True, exist_ok=True)
        _run(sys.executable, "-m", "venv", str(target))
        _run(str(target / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check",
             f"checkov=={VERSION}")
        (target / ".complete").touch()
    return target / "bin" / "checkov"


def scan(program: Path, folder: Path) -> Scan:
    """Hold a folder of modules against every check of checkov."""
    done = subprocess.run([program, "--config-file", CONFIG, "-d", folder, "-o", "json"], env=_environ(),
                          capture_output=True, text=True, timeout=1200, check=False, cwd=folder)
    assert done.returncode in (0, 1) and done.stdout.strip(), f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    found = json.loads(done.stdout)
    if "results" not in found:  # nothing to look at
        return Scan(0, 0, [], {})
    summary, results = found["summary"], found["results"]
    assert summary["parsing_errors"] == 0, results["parsing_errors"]
    return Scan(summary["resource_count"], summary["passed"], [_line(item) for item in results["failed_checks"]],
                {_line(item): item["check_result"].get("suppress_comment") or "" for item in results["skipped_checks"]})


def _line(item: dict[str, Any]) -> str:
    """Return the check and the resource, called alike whether a module is looked at by itself or as its caller's."""
    return f"{item['check_id']} {re.sub(r'^(module[.][^.]+[.])+', '', item['resource'])}"


def _environ() -> dict[str, str]:
    """Return an environment in which it finds no one's account and writes nothing to anyone's home."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(("AWS_", "BC_", "CKV_", "CHECKOV_", "PRISMA_", "TF_"))} | {"LOG_LEVEL": "ERROR"}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
