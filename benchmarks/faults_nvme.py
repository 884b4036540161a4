"""R1 and R2: is anything ever formatted that holds something, and is every blank disk used?

R1 over generated nodes (nvme_layouts.py) against an oracle of its own (nvme_oracle.py), 100,000 of them, 10,000 with
SCALE=small; and R1's race, on a real disk with the real mkfs (nvme_race.py). R2 is nvme_machines.py's.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

import nvme_race
from figures import Figure, report, small
from nvme_layouts import generate
from nvme_oracle import judge


def layouts(count: int) -> list[Figure]:
    """Hold the planner against the oracle."""
    verdicts = [(seed, judge(generate(random.Random(seed)))) for seed in range(count)]
    wrong = [seed for seed, verdict in verdicts if verdict.wrong]
    odd = [seed for seed, verdict in verdicts if not verdict.ok]
    blanks = sum(verdict.blanks for _, verdict in verdicts)
    chosen = sum(verdict.chosen for _, verdict in verdicts)
    detail = {"layouts": count, "actions": dict(Counter(verdict.wanted.verb for _, verdict in verdicts))}
    return [
        Figure("R1", sum(len(verdict.wrong) for _, verdict in verdicts), "== 0",
               {"what": "disks with anything on them that would be written", "seeds": wrong[:10], **detail}),
        Figure("R1", round(100 * chosen / blanks, 3), ">= 100 %",
               {"what": "true blanks that are used", "blanks": blanks}),
        Figure("R1", len(odd), "== 0", {"what": "plans that are not what the rules say", "seeds": odd[:10]}),
    ]  # fmt: skip


def race(count: int) -> list[Figure]:
    """Let a writer come between check and mkfs."""
    if not nvme_race.can_run():
        sys.stderr.write("R1's race needs root and loop devices. Next: run it as root, where /dev/loop-control is\n")
        raise SystemExit(2)
    found = nvme_race.race(count)
    detail = {"what": f"signatures lost of {count} that came between check and mkfs", **found}
    return [Figure("R1", len(found["lost"]), "== 0", detail)]


def main() -> int:
    """Print R1 and R2."""
    from nvme_machines import figures as machines

    return report(*layouts(10_000 if small() else 100_000), *race(50 if small() else 1_000), *machines())


if __name__ == "__main__":
    sys.exit(main())
