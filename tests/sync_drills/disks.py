"""R5: a disk that fills up or fails during a sync. Each point follows from the seed and its number.

Full: on a small real filesystem another writer takes all space at a drawn moment; or a drawn call on the store fails.
Failing: a drawn call, a read of a deep check among them, gives EIO, once or from then on.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_node.cache.store import OWN_FOLDER

from .models import MIB, Model, pair
from .oracle import complete, listing, orphans, unverified
from .processes import Call, Ended, Job, can_trace, copy_store, draw
from .source import Site, serve

_SHARDS = (17 * MIB, 3 * MIB)
_BYTES_PER_SECOND = 60 * MIB
_RESERVE_BYTES = 16 * MIB  # what a sync leaves free
# Not write(): a thread that tells of its file by its first one would be struck there, instead of at the store.
_FILL_CALLS = ("fallocate", "pwrite64", "mkdir", "symlink", "rename", "fsync", "ftruncate")
_EIO_CALLS = ("pwrite64", "fsync", "fdatasync", "rename", "openat", "mkdir", "symlink", "unlink", "fallocate")
_FILESYSTEMS = {"xfs": (320 * MIB, ("mkfs.xfs", "-q")), "ext4": (128 * MIB, ("mkfs.ext4", "-q", "-m", "0"))}
FILL, FULL, FAIL, FAIL_READ = "disk filled by another", "call fails for lack of space", "EIO", "EIO while verifying"
# What a sync says of a disk that is full or failing; anything else was not understood.
TYPED = ("SPACE_SHORT", "DISK_FAILED")


@dataclass
class Outcome:
    """One point as it went; `wrong` lists what must not be."""

    seed: int
    number: int
    what: str
    where: str
    state: str = ""
    unverified: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (f"seed {self.seed}, {self.what}, point {self.number} ({self.where}): {self.state}; "
                f"{'; '.join(self.wrong) or 'as it should be'}")  # fmt: skip


def can_mount() -> bool:
    """Tell whether small filesystems can be made here."""
    tools = all(shutil.which(tool) for tool in ("mkfs.xfs", "mkfs.ext4", "losetup"))
    return os.geteuid() == 0 and tools and Path("/dev/loop-control").exists()


@contextmanager
def filesystem(folder: Path, kind: str) -> Iterator[Path]:
    """Yield the mount point of a new filesystem on a loop device."""
    size_bytes, command = _FILESYSTEMS[kind]
    image, mounted = folder / f"{kind}.image", folder / kind
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run([*command, str(image)], check=True, capture_output=True)
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop,noatime", str(image), str(mounted)], check=True)
    try:
        yield mounted
    finally:
        for _ in range(50):
            if subprocess.run(["umount", str(mounted)], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        image.unlink()


class Filler:
    """Another writer on the filesystem, who takes all of it once `due_bytes` have been sent to the sync."""

    def __init__(self, site: Site, folder: Path, due_bytes: int, delay_seconds: float) -> None:
        self.path, self.done = folder / "filler", threading.Event()
        self._site, self._due, self._delay = site, due_bytes, delay_seconds
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._go, self._stop = threading.Event(), threading.Event()

    def __enter__(self) -> Filler:
        self._site.on_sent = lambda total: self._go.set() if total >= self._due else None
        if not self._due:
            self._go.set()
        self._thread.start()
        if not self._due:
            self.done.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        """Let the space go."""
        self._site.on_sent = lambda total: None
        self._stop.set()
        self._go.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def _fill(self) -> None:
        self._go.wait()
        if self._stop.wait(self._delay):
            return
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size, at = 16 * MIB, 0
            while size >= 4096:
                try:
                    os.posix_fallocate(fd, at, size)
                    at += size
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
        finally:
            os.close(fd)
            self.done.set()
        # What is freed meanwhile is taken, too.
        while not self._stop.wait(0.01):
            with suppress(OSError), self.path.open("ab") as file:
                file.write(b"\0" * 65_536)


class Disks:
    """Stores that have the old commit, and a sync of the new one that the disk comes in the way of."""

    def __init__(self, folder: Path, seed: int, site: Site, old: Model, new: Model) -> None:
        self.folder, self.seed, self.site, self.old, self.new = folder, seed, site, old, new
        self.before = folder / "before"
        self.manifests = (old.write(folder / "old.json"), new.write(folder / "new.json"))
        ended = Job(self.manifests[0], self.before, site.hub).run()
        assert ended.state == "complete", ended
        self.after = folder / "after"  # a store that has both
        copy_store(self.before, self.after)
        self._calls: dict[str, dict[str, list[int]]] = {}

    def job(self, store: Path, *options: str) -> Job:
        return Job(self.manifests[1], store, self.site.hub, options)

    def fill(self, kind: str, mounted: Path, number: int) -> Outcome:
        """Let another writer take all space at a drawn moment."""
        rng = random.Random(f"fill {kind} {self.seed} {number}")
        due = rng.choice((0, rng.randrange(self.new.size), rng.randrange(self.new.size), self.new.size - 1))
        delay = rng.uniform(0, 0.08) if due == self.new.size - 1 else 0.0
        outcome = Outcome(self.seed, number, FILL, f"{kind}, after {due} bytes and {delay:.3f} s")
        store = mounted / "store"
        ballast = mounted / "ballast"
        ballast.unlink(missing_ok=True)
        copy_store(self.before, store)
        os.sync()
        free = os.statvfs(mounted)
        wanted = self.new.size + _RESERVE_BYTES + 2 * MIB + rng.randrange(2 * MIB)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize - wanted, 1))
        self.site.sent.clear()
        job = self.job(store)
        with Filler(self.site, mounted, due, delay) as filler:
            ended = job.run()
            filler.done.wait(1)
            self._judge(outcome, store, ended, TYPED)
        self._next_run(outcome, job)
        return outcome

    def fail(self, what: str, number: int) -> Outcome:
        """Let a drawn call on the store fail: for lack of space, or with EIO."""
        rng = random.Random(f"{what} {self.seed} {number}")
        names = {FULL: _FILL_CALLS, FAIL: _EIO_CALLS, FAIL_READ: ()}[what]
        store = self.folder / "store"
        job = self.job(store, *(["--deep"] if what == FAIL_READ else []))
        calls = self._calls_of(what, job)
        call: Call = draw(calls, rng, names)
        error = rng.choice(("ENOSPC", "EDQUOT")) if what == FULL else "EIO"
        if call.name == "fallocate" and rng.random() < 0.3:
            error = "EOPNOTSUPP"  # a filesystem that cannot reserve
        # Python reads its own modules by these, too.
        lasting = call.name not in ("openat", "read") and rng.random() < 0.5
        outcome = Outcome(self.seed, number, what, f"{error} from {call}{' on' if lasting else ''}")
        self.site.sent.clear()
        copy_store(self.after if what == FAIL_READ else self.before, store)
        ended = (job.run_struck_from if lasting else job.run_struck)(call, f"error={error}")
        self._judge(outcome, store, ended, TYPED)
        self._next_run(outcome, job)
        return outcome

    def _calls_of(self, what: str, job: Job) -> dict[str, list[int]]:
        if what not in self._calls:
            copy_store(self.before, job.store)
            if what == FAIL_READ:
                assert self.job(job.store).run().state == "complete"
                copy_store(job.store, self.after)
            self._calls[what], ended = job.calls(self.folder / "strace.log", reads=what == FAIL_READ)
            assert ended.state == "complete", ended
        return self._calls[what]

    def _judge(self, outcome: Outcome, store: Path, ended: Ended, typed: tuple[str, ...]) -> None:
        """Look at the store while the disk is still full."""
        outcome.state = ended.state
        found = self._look(outcome, store)
        if ended.state == "complete":
            if not complete(found, self.new, "main"):
                outcome.wrong.append("it said complete, and is not")
        elif ended.state not in typed:
            outcome.wrong.append(f"not one of {', '.join(typed)}")
        if not complete(found, self.old):
            outcome.wrong.append("the old commit is not whole any more")

    def _next_run(self, outcome: Outcome, job: Job) -> None:
        ended = job.run()
        found = self._look(outcome, job.store)
        if ended.state != "complete" or not complete(found, self.new, "main") or not complete(found, self.old):
            outcome.wrong.append(f"the next run did not complete: {ended.state}")
        outcome.wrong += [f"left behind: {path}" for path in orphans(found, OWN_FOLDER)]

    def _look(self, outcome: Outcome, store: Path) -> dict[str, Any]:
        found = listing(str(store))
        bad = unverified(found, [self.old, self.new])
        outcome.unverified += len(bad)
        outcome.wrong += [f"UNVERIFIED: {text}" for text in bad]
        return found


@contextmanager
def disks(seed: int) -> Iterator[Disks]:
    """Yield the drill; its folder goes with the block."""
    folder = Path(tempfile.mkdtemp(prefix="judge-sync-disks."))
    old, new = pair(seed, _SHARDS)
    try:
        with serve([old, new], bytes_per_second=_BYTES_PER_SECOND) as site:
            yield Disks(folder, seed, site, old, new)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def play(drill: Disks, fills: int, fulls: int, fails: int, reads: int) -> Iterator[Outcome]:
    """Play so many points of each kind; those that need strace only where it is."""
    for kind in _FILESYSTEMS:
        if fills and can_mount():
            with filesystem(drill.folder, kind) as mounted:
                for number in range(fills // len(_FILESYSTEMS)):
                    yield drill.fill(kind, mounted, number)
    if can_trace():
        for what, count in ((FULL, fulls), (FAIL, fails), (FAIL_READ, reads)):
            for number in range(count):
                yield drill.fail(what, number)
