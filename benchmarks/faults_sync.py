"""R3, R4 and R5: syncs that are killed, syncs from a faulty source, syncs to a disk that is full or fails.

Against an oracle of its own, which knows the true bytes of every commit (tests/sync_drills). Every point follows from
the seed; `faults_sync.py --seed N` takes another one, and `--only "KIND:SEED"` plays one case of R4 alone,
`--only kill:NUMBER`, `--only fill-xfs:NUMBER`, `--only "EIO:NUMBER"` one point of the others. R5's full and failing
disks need root; its power cuts a virtual machine.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

from figures import Figure, report, small
from judge_lab.vm import missing_packages
from nvme_drills.node import machine, tell
from sync_drills import cuts, disks, faults, kills, sharing
from sync_drills.processes import can_trace
from sync_drills.source import KINDS

_WORKERS = 4  # a faulty source mostly makes a sync wait


def killed(seed: int, count: int) -> list[Figure]:
    """R3: `count` syncs that were killed; those that ended before their kill came do not count."""
    outcomes: list[kills.Outcome] = []
    with kills.kills(seed) as drill:
        number = 0
        while sum(outcome.state == "killed" for outcome in outcomes) < count and number < 2 * count + 20:
            outcome = drill.play(number)
            outcomes.append(outcome)
            _tell_wrong(outcome)
            number += 1
    together = sharing.together(8, seed)
    switches = 200 if small() else 1_000
    switched = sharing.switched(switches, seed)
    counted = [outcome for outcome in outcomes if outcome.state == "killed"]
    wrong = [str(outcome) for outcome in outcomes if outcome.wrong]
    detail = {
        "seed": seed,
        "kills": len(counted),
        "at_system_calls": sum("%" not in outcome.where for outcome in counted),
        "most_bytes_again": max((outcome.again_bytes for outcome in counted), default=0),
        "next_run_completes": f"{sum(not outcome.wrong for outcome in outcomes)} of {len(outcomes)}",
    }
    return [
        Figure("R3", sum(outcome.unverified for outcome in outcomes), "== 0",
               {"what": "unverified bytes reachable after kill -9", **detail}),
        Figure("R3", sum(outcome.orphans for outcome in outcomes), "== 0", {"what": "orphans after the next run"}),
        Figure("R3", len(wrong), "== 0", {"what": "kills after which anything else is wrong: the old commit not whole, "
               "the next run incomplete, more than a chunk of a file fetched again", "cases": wrong[:10]}),
        Figure("R3", len(counted), f">= {count}", {"what": "syncs that were killed before their end"}),
        Figure("R3", round(together.ratio, 4), "<= 1.0", {"what": "bytes fetched by 8 syncs of one model at a time, "
               "over its size", "states": dict(Counter(together.states)), "wrong": together.wrong}),
        Figure("R3", len(together.wrong), "== 0", {"what": "of those 8: wrong"}),
        Figure("R3", switched.mixed + switched.missing + (len(switched.wrong)), "== 0",
               {"what": "files of two commits at a time, or missing, to readers during switches of a branch",
                "switches": switched.switches, "reads_of_a_whole_snapshot": switched.rounds, "wrong": switched.wrong}),
        Figure("R3", switched.rounds, f"> {switches}", {"what": "reads of a whole snapshot during these switches"}),
    ]  # fmt: skip


def _case(asked: tuple[str, int]) -> faults.Outcome:
    (outcome,) = faults.play_all([asked[0]], [asked[1]])
    return outcome


def faulty(first_seed: int, seeds: int) -> list[Figure]:
    """R4: every kind of fault with so many seeds."""
    cases = [(kind, seed) for seed in range(first_seed, first_seed + seeds) for kind in KINDS]
    outcomes = []
    # spawn: a fork would take the servers' threads' locks with it.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(_WORKERS, mp_context=context) as pool:
        for outcome in pool.map(_case, cases, chunksize=4):
            outcomes.append(outcome)
            _tell_wrong(outcome)
    lied = [text for outcome in outcomes for text in outcome.wrong if text.startswith("UNVERIFIED")]
    wrong = [str(outcome) for outcome in outcomes if outcome.wrong]
    answers: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        said = answers.setdefault(outcome.kind, {})
        said[outcome.answer] = said.get(outcome.answer, 0) + 1
    return [
        Figure("R4", len(lied), "== 0", {"what": "wrong bytes accepted", "first_seed": first_seed, "kinds": len(KINDS),
               "seeds": seeds, "struck": sum(outcome.struck > 0 for outcome in outcomes), "answers": answers}),
        Figure("R4", len(wrong), "== 0", {"what": "cases in which anything else is wrong: not survived, not typed, the "
               "old commit not served, a token elsewhere, Retry-After not kept, something left behind",
               "cases": wrong[:10]}),
    ]  # fmt: skip


def disturbed(seed: int) -> list[Figure]:
    """R5: disks that are full, disks that fail, power cuts."""
    counts = (8, 6, 8, 2) if small() else (120, 80, 80, 20)
    outcomes = []
    with disks.disks(seed) as drill:
        for outcome in disks.play(drill, *counts):
            outcomes.append(outcome)
            _tell_wrong(outcome)
    outcomes += _power(seed)
    by: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        said = by.setdefault(outcome.what, {})
        said[outcome.state] = said.get(outcome.state, 0) + 1
    wrong = [str(outcome) for outcome in outcomes if outcome.wrong]
    good = len(outcomes) - len(wrong)
    reserved = [sharing.reserved(kind, seed) for kind in ("xfs", "ext4")]
    return [
        Figure("R5", round(100 * good / len(outcomes), 2), ">= 100 %", {"what": "points after which the old model is "
               "still served and the next run completes", "seed": seed, "points": by, "cases": wrong[:10]}),
        Figure("R5", sum(outcome.unverified for outcome in outcomes), "== 0", {"what": "unverified bytes reachable"}),
        Figure("R5", sum(len(one.wrong) for one in reserved), "== 0", {"what": "wrong, of two models on a disk with "
               "space for one: the second is refused before its first byte", "said": [one.message for one in reserved],
               "wrong": [text for one in reserved for text in one.wrong]}),
    ]  # fmt: skip


def _power(seed: int) -> list[disks.Outcome]:
    folder = Path(tempfile.mkdtemp(prefix="judge-sync-vm."))
    powers, fails = (2, 1) if small() else (20, 6)
    tell(f"{powers} power cuts and {fails} failing disks in a virtual machine (seed {seed})")
    try:
        with machine(folder) as made, cuts.cuts(made, seed) as drill:
            found = [drill.play(number) for number in range(powers)]
            return found + [drill.play(number, cuts.DISK) for number in range(fails)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tell_wrong(outcome: Any) -> None:
    if outcome.wrong:
        tell(f"  WRONG {outcome}")


def _one(seed: int, what: str) -> int:
    """Play one case again, and say how it goes."""
    kind, _, number = what.rpartition(":")
    outcome: Any
    if kind in KINDS:
        outcome = _case((kind, int(number)))
    elif kind == "kill":
        with kills.kills(seed) as killing:
            outcome = killing.play(int(number))
    elif kind in (cuts.POWER, cuts.DISK):
        with tempfile.TemporaryDirectory() as folder, machine(Path(folder)) as made, cuts.cuts(made, seed) as cutting:
            outcome = cutting.play(int(number), kind)
    else:
        with disks.disks(seed) as drill:
            if kind.startswith("fill-"):
                name = kind.removeprefix("fill-")
                with disks.filesystem(drill.folder, name) as mounted:
                    outcome = drill.fill(name, mounted, int(number))
            else:
                outcome = drill.fail(kind, int(number))
    print(outcome)
    return 1 if outcome.wrong else 0


def _can_run() -> bool:
    return disks.can_mount() and can_trace() and not missing_packages() and os.geteuid() == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print R3, R4 and R5."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default: %(default)s)")
    parser.add_argument("--only", metavar="CASE:NUMBER", help="play one case alone")
    parser.add_argument("--figure", choices=("R3", "R4", "R5"), action="append", help="only this one; may be repeated")
    options = parser.parse_args(arguments)
    if not _can_run():
        sys.stderr.write("R3 to R5 need root, strace, loop devices and a virtual machine. "
                         "Next: make drill-packages vm-packages, as root\n")  # fmt: skip
        return 2
    if options.only:
        return _one(options.seed, options.only)
    started = time.monotonic()
    tell(f"seed {options.seed}")
    wanted = options.figure or ["R3", "R4", "R5"]
    figures: list[Figure] = []
    if "R3" in wanted:
        figures += killed(options.seed, 20 if small() else 200)
    if "R4" in wanted:
        figures += faulty(options.seed - 1, 4 if small() else 50)
    if "R5" in wanted:
        figures += disturbed(options.seed)
    tell(f"{time.monotonic() - started:.0f} s")
    return report(*figures)


if __name__ == "__main__":
    sys.exit(main())
