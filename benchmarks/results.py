"""Run the named figure programs and put their JSON lines, with date and machine, into benchmarks/RESULTS.md."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
_ROW = re.compile(r"\| `make ([a-z-]+)` \|")


def machine() -> str:
    """Describe the machine in one line: processor, cores, memory, kernel."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    software = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {software}"


def run(target: str) -> tuple[list[dict[str, object]], int]:
    """Run one figure program; return its figures and its exit code."""
    program = HERE / f"{target.replace('-', '_')}.py"
    done = subprocess.run([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"figure"')], done.returncode


def kept_rows(text: str, targets: list[str]) -> list[str]:
    """Return the rows of an earlier results file that are of other targets: a full run of all takes hours."""
    return [line for line in text.splitlines()
            if (found := _ROW.search(line)) is not None and found[1] not in targets]


def main(targets: list[str]) -> int:
    rows, failed, today = [], [], f"{datetime.now(UTC):%Y-%m-%d}"
    results = HERE / "RESULTS.md"
    for target in targets:
        figures, code = run(target)
        if code or not figures:
            failed.append(target)
        rows += [f"| {figure['figure']} | {figure['value']} | {figure['goal']} | {'yes' if figure['ok'] else '**no**'} "
                 f"| {today} | `make {target}` | `{json.dumps(figure.get('detail', {}))}` |" for figure in figures]
    rows += kept_rows(results.read_text() if results.exists() else "", targets)
    text = "\n".join([
        "# Results of the last full runs", "",
        "Written by `make figures` (`make figures FIGURES=bench-sync` runs one of them anew), "
        f"SCALE={os.environ.get('SCALE', 'full')},",
        f"on {machine()}.", "",
        "| figure | value | goal | met | date | command | detail |", "| --- | --- | --- | --- | --- | --- | --- |",
        *sorted(rows, key=lambda row: row.split("|")[6]), ""])
    results.write_text(text)
    if failed:
        sys.stderr.write(f"Short of their goal, or without a figure: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
