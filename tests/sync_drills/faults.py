"""R4: a source that lies, breaks off, stalls and refuses. Each case follows from its kind and seed, and runs alone."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_node.cache import partial
from judge_node.cache.failures import Retry
from judge_node.cache.manifest import parse
from judge_node.cache.store import OWN_FOLDER
from judge_node.cache.sync import sync
from judge_node.result import NodeError

from .models import Model, pair
from .oracle import complete, listing, orphans, unverified
from .source import KINDS, TOKEN, Plan, Site, serve

ONCE, SEVERAL, ALWAYS, MIRROR = "once", "several times", "always", "mirror only"
MODES = (ONCE, SEVERAL, ALWAYS, MIRROR)
# What goes away by itself and leaves no wrong byte behind has to be survived; so has what is odd but right.
SURVIVED = frozenset({
    "truncates", "200 to a range", "206 of another range", "stalls", "drips", "resets", "signed address expires",
    "429, seconds", "429, date", "5xx", "chunked", "no length, cut", "redirect to another host", "refuses connections",
    "not HTTP", "headers without end",
})  # fmt: skip
# Odd, but every byte comes: these have to be survived even when they never end.
HARMLESS = frozenset({"200 to a range", "chunked", "redirect to another host"})
SECONDS = 240.0  # no case takes longer
_CHUNK_BYTES = 256 << 10  # so that a small model has ranges
_SHARDS = (900_000, 600_000, 600_000)


@dataclass
class Outcome:
    """One case as it went; `wrong` lists what must not be."""

    kind: str
    seed: int
    mode: str
    answer: str = ""
    struck: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        wrong = "; ".join(self.wrong) or "as it should be"
        return f"{self.kind}:{self.seed}, {self.mode}: {self.answer}; {wrong}"


@functools.lru_cache(maxsize=4)
def _models(seed: int) -> tuple[Model, Model]:
    return pair(seed, _SHARDS, small_bytes=5_000)


@contextlib.contextmanager
def _small_chunks() -> Iterator[None]:
    before = partial.CHUNK_BYTES
    partial.CHUNK_BYTES = _CHUNK_BYTES
    try:
        yield
    finally:
        partial.CHUNK_BYTES = before


def plan_of(kind: str, seed: int, old: Model, new: Model) -> tuple[Plan, str]:
    """Return what strikes, and how long."""
    rng = random.Random(f"plan {kind} {seed}")
    mode = MODES[seed % len(MODES)]
    files = None
    if rng.random() < 0.5:
        fetched = sorted(path for path, data in new.files.items() if data != old.files.get(path))
        files = frozenset(rng.sample(fetched, rng.randint(1, 3)))
    times = {ONCE: 1, SEVERAL: rng.randint(2, 4), ALWAYS: None, MIRROR: None}[mode]
    places = frozenset({"mirror"}) if mode == MIRROR else frozenset({"hub", "blobs"})
    skip = rng.randrange(6) if files is None and mode != ALWAYS else 0
    return Plan(kind=kind, seed=seed, places=places, files=files, times=times, skip=skip, other=old), mode


def play(kind: str, seed: int, folder: Path) -> Outcome:
    """Play one case: a sync of a new commit over an old one while the source is faulty; then one when it is well."""
    old, new = _models(seed % 3)
    plan, mode = plan_of(kind, seed, old, new)
    outcome = Outcome(kind, seed, mode)
    rng = random.Random(f"run {kind} {seed}")
    root = folder / f"{KINDS.index(kind)}-{seed}"
    shutil.copytree(_prepared(seed % 3, folder), root, symlinks=True)
    started = time.monotonic()
    with serve([old, new]) as site, _small_chunks():
        site.plan = plan
        connections = rng.choice((1, 2, 8))
        outcome.answer = _run(site, new, root, connections, rng, mode == MIRROR, outcome.wrong)
        outcome.struck = plan.struck
        found = _look(root, old, new, outcome)
        if outcome.answer == "complete":
            if not complete(found, new, "main"):
                outcome.wrong.append("it said complete, and is not")
            outcome.wrong += [f"left behind: {path}" for path in orphans(found, OWN_FOLDER)]
        elif not complete(found, old, "main"):
            outcome.wrong.append("the old commit is no longer served")
        elif plan.struck and (mode == MIRROR or kind in HARMLESS or (kind in SURVIVED and mode != ALWAYS)):
            outcome.wrong.append("it should have been survived")
        site.heal()
        again = _run(site, new, root, connections, rng, False, outcome.wrong)
        found = _look(root, old, new, outcome)
        if again != "complete" or not complete(found, new, "main"):
            outcome.wrong.append(f"the next run did not complete: {again}")
        outcome.wrong += [f"left behind: {path}" for path in orphans(found, OWN_FOLDER)]
        outcome.wrong += [f"token sent to {place}" for place in site.leaks]
        outcome.wrong += [f"Retry-After not kept: {text}" for text in site.hasty]
    outcome.seconds = round(time.monotonic() - started, 2)
    shutil.rmtree(root)
    return outcome


def _look(root: Path, old: Model, new: Model, outcome: Outcome) -> dict[str, Any]:
    found = listing(str(root))
    outcome.wrong += [f"UNVERIFIED: {text}" for text in unverified(found, [old, new])]
    return found


def _run(
    site: Site, model: Model, root: Path, connections: int, rng: random.Random, mirror: bool, wrong: list[str]
) -> str:
    """Sync once; return "complete" or the reason code."""
    retry = Retry(attempts=6, first_wait_seconds=0.02, longest_wait_seconds=5.0, timeout_seconds=0.5, stall_seconds=0.5,
                  stall_bytes=4096, random=rng.random)  # fmt: skip
    watchdog = threading.Timer(SECONDS, retry.stop.set)
    watchdog.start()
    try:
        answer = sync(
            parse(_json(model)), root, endpoint=site.hub, sources=(site.mirror,) if mirror else (), token=TOKEN,
            connections=connections, guard=lambda root: None, retry=retry, lock_wait_seconds=0,
        )  # fmt: skip
        if TOKEN in answer.as_json():
            wrong.append("the token is in the answer")
        return str(answer.state)
    except NodeError as error:
        if TOKEN in error.message or "Signature=" in error.message:
            wrong.append("a secret is in the message")
        if error.reason is None or not error.message or "\n" in error.message:
            wrong.append(f"not a typed failure of one line: {error.message!r}")
        return str(error.reason)
    except Exception as error:
        wrong.append(f"traceback: {''.join(traceback.format_exception(error)[-3:])}")
        return type(error).__name__
    finally:
        if not watchdog.is_alive():
            wrong.append(f"it took more than {SECONDS:.0f} seconds")
        watchdog.cancel()


def _json(model: Model) -> bytes:
    import json

    return json.dumps(model.manifest()).encode()


def _prepared(which: int, folder: Path) -> Path:
    """Return a store that has the old commit; made once."""
    root = folder / f"old-{which}"
    if not root.exists():
        old, new = _models(which)
        with serve([old, new]) as site:
            sync(parse(_json(old)), root, endpoint=site.hub, guard=lambda root: None)
    return root


def play_all(kinds: Iterable[str], seeds: Iterable[int]) -> Iterator[Outcome]:
    """Play all kinds with all seeds."""
    seeds = list(seeds)
    folder = Path(tempfile.mkdtemp(prefix="judge-sync-faults.", dir=os.environ.get("JUDGE_DRILL_DIR")))
    try:
        for kind in kinds:
            for seed in seeds:
                yield play(kind, seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
