"""Several at a time: syncs of one model, readers while a branch is switched, two models on one small disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .disks import filesystem
from .models import MIB, Model, pair
from .oracle import complete, listing, unverified
from .processes import Job, finish
from .source import serve

# Reads a branch, opens the snapshot that it names, and reads every file through that one directory. Says, at the end
# of its input, how often it got files of more than one commit, and how often a file that was to be there was not.
_READER = """\
import hashlib, json, os, select, sys
root, folder, truth = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
rounds = mixed = missing = 0
seen, wrong = set(), []
while not select.select([sys.stdin], [], [], 0)[0]:
    rounds += 1
    try:
        commit = open(f"{root}/{folder}/refs/main").read()
        files = truth[commit]
        seen.add(commit)
        top = os.open(f"{root}/{folder}/snapshots/{commit}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for path, digest in files.items():
                fd = os.open(path, os.O_RDONLY, dir_fd=top)
                with os.fdopen(fd, "rb") as file:
                    if hashlib.sha256(file.read()).hexdigest() != digest:
                        mixed += 1
                        wrong.append(f"{commit[:8]} {path}: of another commit")
        finally:
            os.close(top)
    except (OSError, KeyError) as error:
        missing += 1
        wrong.append(f"{type(error).__name__} {error}")
print(json.dumps({"rounds": rounds, "mixed": mixed, "missing": missing, "commits": len(seen), "wrong": wrong[:5]}))
"""


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder of the drill's own."""
    made = Path(tempfile.mkdtemp(prefix="judge-sync-shared."))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@dataclass
class Together:
    """How many syncs of one model went at a time, and what the source sent for all of them."""

    syncs: int
    states: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    model_bytes: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return self.sent_bytes / self.model_bytes


def together(count: int, seed: int) -> Together:
    """Let so many processes sync one model into one store."""
    _, new = pair(seed, (20 * MIB, 3 * MIB))
    with folder() as made, serve([new], bytes_per_second=60 * MIB) as site:
        job = Job(new.write(made / "new.json"), made / "store", site.hub)
        started = time.monotonic()
        ended = [finish(process, started) for process in [job.start() for _ in range(count)]]
        outcome = Together(count, [one.state for one in ended], sum(site.sent.values()), new.size)
        found = listing(str(job.store))
        outcome.wrong += unverified(found, [new])
        outcome.wrong += [state for state in outcome.states if state != "complete"]
        if not complete(found, new, "main"):
            outcome.wrong.append("the model is not complete")
        fetched = [one.said.get("facts", {}).get("fetched_bytes", -1) for one in ended]
        if sum(fetched) != new.size or sum(1 for size in fetched if size) != 1:
            outcome.wrong.append(f"they say that they fetched {fetched}")
        return outcome


@dataclass
class Switched:
    """What the readers saw during so many switches."""

    switches: int
    readers: int
    rounds: int = 0
    mixed: int = 0
    missing: int = 0
    wrong: list[str] = field(default_factory=list)


def switched(count: int, seed: int, readers: int = 2) -> Switched:
    """Switch a branch between two commits while others read it."""
    from judge_node.cache.manifest import parse
    from judge_node.cache.sync import sync

    models = pair(seed, (40_000, 20_000), small_bytes=2_000)
    outcome = Switched(count, readers)
    with folder() as made, serve(list(models)) as site:
        root = made / "store"
        manifests = [parse(json.dumps(model.manifest()).encode()) for model in models]
        for manifest in manifests:
            sync(manifest, root, endpoint=site.hub, guard=lambda root: None)
        processes = [_reader(made, root, models) for _ in range(readers)]
        for number in range(count):
            answer = sync(manifests[number % 2], root, endpoint=None, sources=(site.mirror,), guard=lambda root: None)
            if not answer.changed:
                outcome.wrong.append(f"switch {number} changed nothing")
        for process in processes:
            out, errors = process.communicate(b"end\n", timeout=600)
            if process.returncode != 0:
                outcome.wrong.append(errors.decode()[-300:])
                continue
            said = json.loads(out)
            outcome.rounds += said["rounds"]
            outcome.mixed += said["mixed"]
            outcome.missing += said["missing"]
            outcome.wrong += said["wrong"]
            if said["commits"] < 2:
                outcome.wrong.append("a reader saw one commit only: the drill is broken")
    return outcome


def _reader(made: Path, root: Path, models: tuple[Model, Model]) -> subprocess.Popen[bytes]:
    import hashlib

    truth = made / "truth.json"
    truth.write_text(json.dumps({
        model.commit: {path: hashlib.sha256(data).hexdigest() for path, data in model.files.items()} for model in models
    }))  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", _READER, str(root), models[0].folder, str(truth)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


@dataclass
class Reserved:
    """Two models, and space for one: what the first and the second said."""

    first: str
    second: str
    message: str
    left: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def reserved(kind: str, seed: int) -> Reserved:
    """Start a second model while a first is on its way on a disk that has space for one of them only."""
    _, one = pair(seed, (24 * MIB, 2 * MIB))
    _, other = pair(seed + 1, (24 * MIB, 2 * MIB), repo_id="judge-drill/other")
    with folder() as made, serve([one, other], bytes_per_second=MIB // 2) as site, filesystem(made, kind) as mounted:
        found = os.statvfs(mounted)
        with (mounted / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - one.size * 3 // 2 - 16 * MIB)
        jobs = [
            Job(model.write(made / f"{name}.json"), mounted / name, site.hub)
            for name, model in (("one", one), ("other", other))
        ]
        started = time.monotonic()
        first = jobs[0].start()
        while not sum(site.sent.values()) and first.poll() is None:
            time.sleep(0.01)
        sent = sum(site.sent.values())
        second = jobs[1].run()
        busy = first.poll() is None
        site.rate = 0  # it was to last until here
        left = listing(str(jobs[1].store))
        ended = finish(first, started)
        outcome = Reserved(ended.state, second.state, str(second.said.get("message", "")), left)
        if not busy:
            outcome.wrong.append(f"the first had ended, {sent} bytes sent: the drill is broken")
        if (ended.state, second.state) != ("complete", "SPACE_SHORT"):
            outcome.wrong.append(f"the first said {ended.state}, the second {second.state}")
        if not complete(listing(str(jobs[0].store)), one, "main"):
            outcome.wrong.append("the first model is not complete")
        if "missing" not in outcome.message:
            outcome.wrong.append(f"it does not say how much is missing: {outcome.message}")
        for blob in other.by_blob():
            if site.sent[blob]:
                outcome.wrong.append(f"{site.sent[blob]} bytes of the second were fetched")
        outcome.wrong += [f"left: {path}" for path in left["files"] if not path.endswith("/lock")]
        return outcome
