"""P9: start-up of `judge-bootstrap --help` and `--version`, over a Python that only imports click.

Interleaved, so that whatever else the machine does strikes all three alike; the figure is a ratio of medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figures import Figure, report, small

PYTOOL = Path(__file__).resolve().parents[1] / "pytool"


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Return how long a command takes. Raises CalledProcessError when it fails."""
    started = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> int:
    """Print P9."""
    environment = {**os.environ, "PYTHONPATH": str(PYTOOL)}
    # Bytecode, as an installed program has it; otherwise the first of the interleaved runs would compile for all.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    script = Path(sys.executable).parent / "judge-bootstrap"
    program = [str(script)] if script.exists() else [sys.executable, "-m", "judge_bootstrap"]
    commands = {"click": [sys.executable, "-c", "import click"], "help": [*program, "--help"],
                "version": [*program, "--version"]}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range((10 if small() else 40) + 1):
        for name, command in commands.items():
            took = seconds(command, environment)
            if turn:  # the first turn fills the page cache
                taken[name].append(took)
    median = {name: statistics.median(times) for name, times in taken.items()}
    worst = max(median["help"], median["version"]) / median["click"]
    detail = {f"{name}_ms": round(1000 * value, 1) for name, value in median.items()} | {"runs": len(taken["click"])}
    return report(Figure("P9", round(worst, 2), "<= 2", detail))


if __name__ == "__main__":
    sys.exit(main())
