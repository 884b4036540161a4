"""Mutation test of the guard: what decides that a disk is blank is changed in every way mutmut knows; do tests see it?

The modules that decide, and of probe.py what reads signatures, blocks and markers; with the tests that need no root.
docs/mutation.md explains what survives. About 25 minutes on two cores: `make mutation-nvme`, not part of `make test`.
"""

from __future__ import annotations

import fnmatch
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from figures import Figure, report

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/mutation"
MODULES = ("judge", "places", "plan", "probe", "unfinished")
MUTANTS = ("judge_node.disks.judge.*", "judge_node.disks.places.*", "judge_node.disks.plan.*",
           "judge_node.disks.unfinished.*", "judge_node.disks.probe.x_read_*", "judge_node.disks.probe.x_judge_marker*")
TESTS = ("test_node_plan", "test_node_facts", *(f"test_node_disks_{name}" for name in (
    "adopt", "arrays", "judge", "layouts", "places", "probe", "survivors", "unfinished")))  # fmt: skip
# mutmut finds modules below `src` only, and mutates files where they lie: so it works on a copy.
CONFIG = f"""\
[tool.pytest.ini_options]
pythonpath = ["src", "tests", "benchmarks"]
addopts = ["--import-mode=importlib"]
markers = ["root: needs root and loop devices"]

[tool.mutmut]
source_paths = ["src"]
only_mutate = {json.dumps([f"src/judge_node/disks/{name}.py" for name in MODULES])}
also_copy = ["benchmarks"]
pytest_add_cli_args_test_selection = {json.dumps([f"tests/unit/node/{name}.py" for name in TESTS])}
"""
# A changed loop may fill a list for ever: the machine must outlive that.
MOST_MEMORY_BYTES = 2 << 30
SURVIVED, TIMED_OUT = 0, (36, 24, -24, 152, 255)


def copy() -> None:
    """Lay out the copy that is mutated."""
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree(ROOT / "pytool/judge_node", WORK / "src/judge_node", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "benchmarks"):
        shutil.copytree(ROOT / name, WORK / name, ignore=shutil.ignore_patterns("__pycache__"))
    (WORK / "pyproject.toml").write_text(CONFIG)


def outcomes() -> dict[str, int | None]:
    """Return each mutant's exit code as mutmut noted it."""
    found: dict[str, int | None] = {}
    for path in sorted((WORK / "mutants/src").rglob("*.meta")):
        found.update(json.loads(path.read_text())["exit_code_by_key"])
    return {key: code for key, code in found.items() if any(fnmatch.fnmatch(key, name) for name in MUTANTS)}


def main() -> int:
    """Run it and print the share of mutants that the tests kill."""
    mutmut = Path(sys.executable).with_name("mutmut")
    copy()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    argv = ["nice", str(mutmut), "run", "--max-children", str(os.cpu_count() or 1), *MUTANTS]
    with (WORK / "run.log").open("wb") as log:
        subprocess.run(argv, cwd=WORK, stdout=log, stderr=subprocess.STDOUT, check=False)
    codes = outcomes()
    survivors = [key for key, code in codes.items() if code == SURVIVED]
    odd = {key: code for key, code in codes.items() if code not in (SURVIVED, 1, 3, *TIMED_OUT)}
    if not codes or odd:
        sys.stderr.write(f"{len(odd)} of {len(codes)} mutants were not tested; see {WORK / 'run.log'}\n")
        return 2
    for key in survivors:
        shown = subprocess.run([str(mutmut), "show", key], cwd=WORK, capture_output=True, text=True, check=False).stdout
        changed = [line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        sys.stderr.write(f"survived: {key}\n" + "".join(f"    {line}\n" for line in changed))
    by_module = Counter(key.split(".")[2] for key in codes)
    killed = 100 * (1 - len(survivors) / len(codes))
    detail = {"what": "mutants of the guard that the tests kill", "mutants": len(codes), "survivors": len(survivors),
              "modules": dict(by_module)}  # fmt: skip
    return report(Figure("R1", round(killed, 1), ">= 95 %", detail))


if __name__ == "__main__":
    sys.exit(main())
