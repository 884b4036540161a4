"""R3: kill -9 of a sync, at moments drawn over its time and at system calls drawn over those that touch the store.

Each kill follows from the seed and its number. (Which bytes had come by then does not, quite: threads take turns.)
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from judge_node.cache.store import OWN_FOLDER

from .models import CHUNK_BYTES, MIB, Model, pair
from .oracle import complete, listing, orphans, unverified
from .processes import Call, Ended, Job, can_trace, copy_store, draw
from .source import Site, serve

_SHARDS = (34 * MIB, 5 * MIB)
_BYTES_PER_SECOND = 80 * MIB  # a whole sync is to last long enough to be cut


@dataclass
class Outcome:
    """One kill as it went; `wrong` lists what must not be."""

    seed: int
    number: int
    where: str
    state: str = ""
    again_bytes: int = 0
    resumed_bytes: int = 0
    wrong: list[str] = field(default_factory=list)
    unverified: int = 0
    orphans: int = 0

    def __str__(self) -> str:
        return (f"seed {self.seed}, kill {self.number} at {self.where}: {self.state}, {self.again_bytes} bytes again; "
                f"{'; '.join(self.wrong) or 'as it should be'}")  # fmt: skip


class Kills:
    """A store that has the old commit, a Hub, and what a sync of the new one does when nobody kills it."""

    def __init__(self, folder: Path, seed: int, site: Site, old: Model, new: Model) -> None:
        self.folder, self.seed, self.site, self.old, self.new = folder, seed, site, old, new
        self.before = folder / "before"
        self.job = Job(new.write(folder / "new.json"), folder / "store", site.hub)
        first = Job(old.write(folder / "old.json"), self.before, site.hub).run()
        assert first.state == "complete", first
        self.seconds = self._whole().seconds
        self.calls: dict[str, list[int]] = {}
        if can_trace():
            copy_store(self.before, self.job.store)
            self.calls, ended = self.job.calls(folder / "strace.log")
            assert ended.state == "complete", ended

    def _whole(self) -> Ended:
        copy_store(self.before, self.job.store)
        ended = self.job.run()
        assert ended.state == "complete", ended
        return ended

    def play(self, number: int) -> Outcome:
        """Kill one sync, look at what a reader finds, and run again."""
        rng = random.Random(f"kill {self.seed} {number}")
        copy_store(self.before, self.job.store)
        self.site.sent.clear()
        if number % 2 and self.calls:
            call: Call = draw(self.calls, rng)
            outcome = Outcome(self.seed, number, str(call))
            ended = self.job.run_struck(call, "signal=KILL")
        else:
            share = rng.random()
            outcome = Outcome(self.seed, number, f"{share:.1%} of {self.seconds:.2f} s")
            ended = self.job.run_and_kill(share * self.seconds)
        outcome.state = ended.state
        if not ended.killed and ended.state != "complete":
            outcome.wrong.append(ended.state)
        self._look(outcome, ended.state == "complete")
        again = self.job.run()
        outcome.resumed_bytes = again.said.get("facts", {}).get("resumed_bytes", 0)
        if again.state != "complete":
            outcome.wrong.append(f"the next run did not complete: {again.state}")
        self._look(outcome, True, last=True)
        self._count(outcome)
        return outcome

    def _look(self, outcome: Outcome, new_is_there: bool, *, last: bool = False) -> None:
        found = listing(str(self.job.store))
        bad = unverified(found, [self.old, self.new])
        outcome.unverified += len(bad)
        outcome.wrong += [f"UNVERIFIED: {text}" for text in bad]
        if new_is_there and not complete(found, self.new, "main"):
            outcome.wrong.append("it said complete, and is not")
        if not complete(found, self.old):
            outcome.wrong.append("the old commit is not whole any more")
        if last:
            left = orphans(found, OWN_FOLDER)
            outcome.orphans += len(left)
            outcome.wrong += [f"left behind: {path}" for path in left]

    def _count(self, outcome: Outcome) -> None:
        for blob, data in self.new.by_blob().items():
            again = self.site.sent[blob] - (len(data) if blob not in self.old.by_blob() else 0)
            outcome.again_bytes += again
            if again > min(CHUNK_BYTES, len(data)):
                outcome.wrong.append(f"{again} bytes of {blob[:12]} were fetched again, of {len(data)}")


@contextmanager
def kills(seed: int) -> Iterator[Kills]:
    """Yield the drill; its folder goes with the block."""
    folder = Path(tempfile.mkdtemp(prefix="judge-sync-kills."))
    old, new = pair(seed, _SHARDS)
    try:
        with serve([old, new], bytes_per_second=_BYTES_PER_SECOND) as site:
            yield Kills(folder, seed, site, old, new)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
