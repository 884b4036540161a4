"""R2: disks changed wrongly, boots that do not converge and wrong answers, on virtual machines with real NVMe devices.

Four parts, each on a machine of its own: disk layouts and the race for a RAID's members, a node's life, and runs cut
off. `SCALE=small` plays a part of each. Runs alone, or as the second half of `make faults-nvme`. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

from figures import Figure, report, small
from judge_lab import LabError
from judge_lab.vm import Machine, require_tools
from nvme_drills import cuts, layouts, life, race
from nvme_drills.node import Fault, machine, tell

SMALL_CUTS = 3


@contextlib.contextmanager
def _machine(what: str) -> Iterator[Machine]:
    tell(what)
    folder = Path(tempfile.mkdtemp(prefix="judge-nvme."))
    try:
        with machine(folder) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _layouts(seed: int, faults: list[Fault]) -> dict[str, Any]:
    chosen = [layout for layout in layouts.layouts(seed) if layout.quick or not small()]
    with _machine(f"{len(chosen)} disk layouts, and races for RAID members (seed {seed})") as made:
        node = layouts.build(made)
        node.start()
        node.install()
        try:
            played = layouts.play(node, chosen)
            raced = race.play(node, list(race.ANSWERS) if small() else list(race.WRITERS))
        finally:
            faults += node.faults
    return {"layouts": {item.name: item.answer for item in played},
            "races": {item.writer: item.answer for item in raced},
            "not_counted": [f"{item.writer}, written between the last look and mdadm, which is blind to it: damaged"
                            for item in raced if item.lost and item.writer not in race.SEEN]}


def _life(faults: list[Fault]) -> dict[str, Any]:
    names = life.QUICK if small() else life.STEPS
    with _machine(f"{len(names)} steps of a node's life") as made:
        played = life.Life(made)
        try:
            steps = life.play(played, names)
        finally:
            faults += played.node.faults
    return {"life": {step.name: round(step.seconds) for step in steps}}


def _cuts(seed: int, faults: list[Fault]) -> dict[str, Any]:
    # A cut takes minutes where the CPU is shared: each small run plays others of them.
    chosen = random.Random(seed).sample(cuts.QUICK, SMALL_CUTS) if small() else list(cuts.ALL)
    with _machine(f"{len(chosen)} runs cut off") as made:
        played = cuts.Cuts(made)
        try:
            played.start()
            outcomes = cuts.play(played, chosen)
        finally:
            faults += played.node.faults
    return {"cuts": [asdict(outcome) for outcome in outcomes]}


def figures() -> list[Figure]:
    """Play all parts. Raises LabError, with the command that brings it, when something needed is not there."""
    require_tools()
    if os.geteuid() != 0:
        raise LabError("R2 needs root: the disks get EC2's names in QEMU's memory", hint="sudo -E make faults-nvme")
    seed, started, faults = random.randrange(1_000_000), time.monotonic(), list[Fault]()
    detail: dict[str, Any] = {"seed": seed}
    for part in (lambda: _layouts(seed, faults), lambda: _life(faults), lambda: _cuts(seed, faults)):
        try:
            detail.update(part())
        except LabError as error:  # a part that breaks must not hide what the others find
            faults.append(Fault("wrong", "the drill itself", str(error)))
            tell(f"  BROKEN: {error}")
    # First, so that who reads the beginning of a long line sees them.
    detail = {"faults": [asdict(fault) for fault in faults], "seconds": round(time.monotonic() - started), **detail}
    what = "disks changed wrongly, boots that did not converge, wrong answers"
    counted = {kind: sum(fault.kind == kind for fault in faults) for kind in ("changed", "stuck", "wrong")}
    return [Figure("R2", len(faults), "== 0", {"what": what, **counted, **detail})]


def main() -> int:
    """Print R2."""
    # A drill that is stopped ends its machine and removes its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return report(*figures())
    except KeyboardInterrupt:
        return 130
    except LabError as error:
        sys.stderr.write(f"{error}\nNext: {error.hint}\n" if error.hint else f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
