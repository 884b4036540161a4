"""`judge-node cache verify`: is what the store vouches for still so? Quick by links, sizes and headers, deep by hashes.

Where it may write, it notes when each model was checked; and when bytes are wrong, nothing vouches for the model any
more until a sync has repaired it. On a read-only mount (the init container of a pod) it only looks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import make_directory, write_file
from ..locking import locked
from ..result import EXIT_FAILED, NodeError, Result
from .catalog import COMPLETE, CORRUPT, INCOMPLETE, model_file, open_store, read_catalog, read_checked
from .contents import content_problems
from .manifest import File, Manifest
from .store import Problem, Store
from .usage import Processes, read_use

_READ_BYTES = 4 << 20
# What a disk answers for a block that it cannot read, or a filesystem for one whose checksum is wrong.
_DISK_ERRNOS = (errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO))


class Throttle:
    """Holds a reader to so many bytes a second; 0 is no limit."""

    def __init__(self, bytes_per_second: int = 0) -> None:
        self._rate = bytes_per_second
        self._started = time.monotonic()
        self.read_bytes = 0

    def take(self, count: int) -> None:
        """Count bytes that were read, and wait until they may have been."""
        self.read_bytes += count
        if self._rate:
            ahead = self.read_bytes / self._rate - (time.monotonic() - self._started)
            if ahead > 0:
                time.sleep(ahead)


@dataclass(frozen=True)
class _Found:
    """What one check found: problems, and of the blobs that were hashed those whose bytes are wrong."""

    problems: tuple[Problem, ...]
    wrong: frozenset[str]


def verify(
    manifest: Manifest, root: Path, *, deep: bool = False, limit_rate: int = 0, lock_wait_seconds: float = 600
) -> Result:
    """Return whether the store holds the model of the manifest; `state` is complete, incomplete or corrupt."""
    store = Store(root)
    problems = store.problems(manifest)
    own = store.vouched(store.vouch(manifest))
    vouched = own is not None and set(own.files) == set(manifest.files)  # another list of files says nothing of ours
    found = _check(store, manifest, problems, deep, Throttle(limit_rate), may_write=_may_write(store) and vouched)
    note = _settle(store, manifest, found, deep, lock_wait_seconds) if vouched else ""
    result = Result(
        command="cache verify",
        state=COMPLETE,
        facts={
            "repo_id": manifest.repo_id,
            "commit": manifest.commit,
            "digest": manifest.digest,
            "deep": deep,
            "store": str(root),
            "snapshot": str(store.snapshot(manifest)),
            "files": len(manifest.files),
            "size_on_disk": manifest.size,
            "problems": [problem.text for problem in found.problems],
        },
    )
    name = f"{manifest.repo_id} at {manifest.commit[:12]}"
    if not found.problems:
        result.message = f"{name} is complete ({len(manifest.files)} files, {_how(deep)})"
        return result
    worst = _worst(found.problems)
    result.ok, result.exit_code = False, EXIT_FAILED
    result.state, result.reason = _state(found.problems), worst.reason
    more = f", and {len(found.problems) - 1} more" if len(found.problems) > 1 else ""
    result.message = f"{name} is {result.state}: {worst.text}{more}{note}"
    result.repair = _repair(store, found.problems, "MANIFEST")
    return result


def verify_all(
    root: Path,
    *,
    deep: bool = False,
    limit_rate: int = 0,
    lock_wait_seconds: float = 600,
    processes: Processes | None = None,
) -> Result:
    """Check every model of the store; the ones whose deep check is the oldest come first, in case this is cut.

    Raises NodeError MOUNT_MISSING when there is no store.
    """
    store, throttle, started = open_store(root), Throttle(limit_rate), time.monotonic()
    may_write = _may_write(store)
    models = sorted(read_catalog(store).models, key=lambda model: model.checked.deep_at or 0)
    if may_write:  # as often as the timer runs, so that prune knows what was used least recently
        read_use(store, processes).note(store)
    checked: list[dict[str, Any]] = []
    problems: list[tuple[str, Problem, str]] = []
    for model in models:
        manifest, was = model.manifest, list(store.snapshot_problems(model.manifest))
        if not model.vouched and not deep:
            was.insert(0, store.problems(manifest)[0])
        found = _check(store, manifest, was, deep, throttle, may_write=may_write)
        if not any(store.note(kind, manifest).is_file() for kind in ("manifests", "withdrawn")):
            continue  # removed while it was being checked
        note = _settle(store, manifest, found, deep, lock_wait_seconds)
        if not model.vouched and deep and not found.problems and may_write:
            _vouch_again(store, manifest, lock_wait_seconds)
        checked.append(
            {
                "repo_id": manifest.repo_id,
                "commit": manifest.commit,
                "state": _state(found.problems),
                "size_on_disk": manifest.size,
                "problems": [problem.text for problem in found.problems],
            }
        )
        problems += [(model.name, problem, note) for problem in found.problems]
    for path in read_catalog(store).damaged:
        name = f"{path.parent.name} at {path.stem[:12]}"
        damaged = Problem("MODEL_INCOMPLETE", f"the manifest that vouches for it is damaged ({path})")
        problems.append((name, damaged, ""))
    result = Result(
        command="cache verify",
        state=_state([problem for _, problem, _ in problems]),
        message=f"{_count(len(checked))} complete ({_how(deep)})" if checked else "the store has no model yet",
        facts={
            "store": str(root),
            "deep": deep,
            "models": checked,
            "read_bytes": throttle.read_bytes,
            "seconds": round(time.monotonic() - started, 3),
        },
    )
    if problems:
        name, worst, note = next((p for p in problems if p[1].reason == "INTEGRITY_MISMATCH"), problems[0])
        names = len({name for name, _, _ in problems})
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        result.ok, result.exit_code, result.reason = False, EXIT_FAILED, worst.reason
        state = _state([problem for other, problem, _ in problems if other == name])
        count = f"{names} of {max(len(models), names)} models: " if len(models) > 1 else ""
        result.message = f"{count}{name} is {state}: {worst.text}{note}{more}"
        first = next((model for model in models if model.name == name), None)
        file = model_file(store, first) if first is not None else "MANIFEST"
        result.repair = _repair(store, [problem for _, problem, _ in problems], file)
    return result


def _check(
    store: Store, manifest: Manifest, problems: Iterable[Problem], deep: bool, throttle: Throttle, *, may_write: bool
) -> _Found:
    """Read the model. `problems` is what links and sizes have shown."""
    found = list(problems)
    readable = [file for file in manifest.blobs().values() if store.blob_size(manifest, file) == file.size]
    suspect: set[str] = set()
    if not found:
        contents = content_problems(store, manifest)
        suspect = {problem.path for problem in contents if problem.path}
        found += contents
    if deep:
        to_hash = readable
    elif may_write:
        # A header that is wrong is either the repository's own or damage; only the hash tells which, and damage must
        # not be vouched for.
        damaged = {file.blob for file in manifest.files if file.path in suspect}
        to_hash = [file for file in readable if file.blob in damaged]
    else:
        to_hash = []
    wrong = set()
    for file in to_hash:
        try:
            agrees = blob_agrees(store.blob(manifest, file), file, throttle)
        except FileNotFoundError:
            continue  # removed meanwhile, as the caller will see
        except OSError as error:
            found.append(Problem("INTEGRITY_MISMATCH", f"{file.path} cannot be read: {error.strerror}", file.path))
            if error.errno in _DISK_ERRNOS:
                wrong.add(file.blob)
            continue
        if not agrees:
            found.append(Problem("INTEGRITY_MISMATCH", f"{file.path} does not have the manifest's hash", file.path))
            wrong.add(file.blob)
    return _Found(tuple(dict.fromkeys(found)), frozenset(wrong))


def _settle(store: Store, manifest: Manifest, found: _Found, deep: bool, lock_wait_seconds: float) -> str:
    """Note the check, and take back the word for wrong bytes; return what is to be added to the message."""
    if not _may_write(store):
        return ""
    note = _withdraw(store, manifest, found.wrong, lock_wait_seconds) if found.wrong else ""
    now, before = time.time(), read_checked(store, manifest)
    said = {
        "quick_at": int(now),
        "deep_at": int(now) if deep else before.deep_at,
        "problems": [problem.text for problem in found.problems],
    }
    path = store.note("checked", manifest)
    with contextlib.suppress(OSError):
        make_directory(path.parent)
        write_file(path, (json.dumps(said, sort_keys=True) + "\n").encode())
    return note


def _withdraw(store: Store, manifest: Manifest, wrong: frozenset[str], lock_wait_seconds: float) -> str:
    """Let nothing vouch for the wrong bytes; hashed once more, because a sync may have repaired them meanwhile."""
    try:
        with locked(store.lock, wait_seconds=lock_wait_seconds):
            files = manifest.blobs()
            still = {name for name in wrong if not _agrees_now(store.blob(manifest, files[name]), files[name])}
            taken = store.stop_vouching(manifest.repo_id, still) if still else []
    except (NodeError, OSError) as error:
        return f" (and it is still vouched for: {error})"
    return "; no new pod is served from it until a sync has repaired it" if taken else ""


def _agrees_now(path: Path, file: File) -> bool:
    try:
        return blob_agrees(path, file, Throttle())
    except OSError:
        return False


def _vouch_again(store: Store, manifest: Manifest, lock_wait_seconds: float) -> None:
    """Every byte was found right: a sync of another commit has repaired the blob that they share."""
    with contextlib.suppress(NodeError), locked(store.lock, wait_seconds=lock_wait_seconds):
        if store.note("withdrawn", manifest).is_file() and not store.snapshot_problems(manifest):
            store.move_note("withdrawn", "manifests", manifest)


def blob_agrees(path: Path, file: File, throttle: Throttle) -> bool:
    """Return whether the bytes on the disk are those of the manifest.

    They are read past the page cache: a copy in memory would hide what happened to the disk, and reading through it
    would push out the weights that a pod is about to load. Where that is not supported, what was read is dropped.
    """
    from .hashing import Hasher

    hasher = Hasher(file)
    total = 0
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd, direct = os.open(path, flags | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd, direct = os.open(path, flags), False
    try:
        with mmap.mmap(-1, _READ_BYTES) as buffer, memoryview(buffer) as view:  # O_DIRECT wants whole pages
            while True:
                try:
                    count = os.preadv(fd, [view], total)
                except OSError as error:
                    if error.errno != errno.EINVAL or not direct:
                        raise
                    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
                    direct = False
                    continue
                hasher.update(view[:count])
                if not direct:
                    os.posix_fadvise(fd, total, count, os.POSIX_FADV_DONTNEED)
                total += count
                throttle.take(count)
                if count == 0 or total >= file.size:  # an offset behind the end is no whole block, and refused
                    break
    finally:
        os.close(fd)
    return total == file.size and hasher.agrees()


def _may_write(store: Store) -> bool:
    return os.access(store.own, os.W_OK)


def _how(deep: bool) -> str:
    return "every byte hashed" if deep else "links, sizes and headers checked"


def _count(models: int) -> str:
    return "1 model is" if models == 1 else f"{models} models are"


def _worst(problems: Iterable[Problem]) -> Problem:
    found = list(problems)
    return next((problem for problem in found if problem.reason == "INTEGRITY_MISMATCH"), found[0])


def _state(problems: Iterable[Problem]) -> str:
    found = list(problems)
    if not found:
        return COMPLETE
    return CORRUPT if _worst(found).reason == "INTEGRITY_MISMATCH" else INCOMPLETE


def _repair(store: Store, problems: Iterable[Problem], manifest: str) -> str:
    """A wrong header or hash shows in no size: a sync has to read what is there."""
    deep = any(problem.path is not None for problem in problems)
    return f"judge-node cache sync {manifest} --store {store.root}" + (" --deep" if deep else "")
