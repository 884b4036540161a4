"""`judge-node cache sync`: bring one model at one commit into the store, whole and verified, or not at all."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disks.facts import format_size
from ..files import make_directory
from ..locking import locked
from ..result import NodeError, Result
from .contents import check_contents
from .manifest import File, Manifest
from .store import Store, check_not_on_root

if TYPE_CHECKING:
    from .failures import Retry
    from .sources import Source, Token

# Kept free: the filesystem's own bookkeeping, and a disk that is full to the last byte cannot even be repaired well.
_RESERVE_BYTES = 16 << 20


@dataclass(frozen=True)
class Work:
    """What a sync has to do. `recheck` are blobs that are there but that nothing vouches for: hashed, not fetched."""

    fetch: tuple[File, ...]
    recheck: tuple[File, ...]
    publish: bool
    point_ref: bool
    kept_bytes: int

    def __bool__(self) -> bool:
        return bool(self.fetch or self.recheck or self.publish or self.point_ref)

    @property
    def fetch_bytes(self) -> int:
        """Bytes still to come over the network."""
        return sum(file.size for file in self.fetch) - self.kept_bytes

    def lines(self, manifest: Manifest) -> list[str]:
        """Return the steps in words."""
        short = manifest.commit[:12]
        found = [f"fetch {file.path} ({format_size(file.size)})" for file in self.fetch]
        found += [f"check the hash of {file.path}, which is here already" for file in self.recheck]
        if self.publish:
            found.append(f"publish snapshot {manifest.repo_id} at {short}")
        if self.point_ref:
            found.append(f"point {manifest.revision} at {short}")
        return found


def plan_work(store: Store, manifest: Manifest, *, deep: bool = False, stage: bool = False) -> Work:
    """Compare store and manifest by names and sizes, without reading a blob; `deep` asks for all to be hashed again."""
    problems = store.problems(manifest)
    point_ref = not stage and not store.ref_is_right(manifest)
    if not problems and not deep:
        return Work((), (), publish=False, point_ref=point_ref, kept_bytes=0)
    vouched = store.vouched_blobs(manifest.repo_id)
    fetch, recheck, kept = [], [], 0
    for file in manifest.blobs().values():
        if store.blob_size(manifest, file) != file.size:
            fetch.append(file)
            kept += _kept_bytes(store, file)
        elif deep or vouched.get(file.blob) != file.size:
            recheck.append(file)
    return Work(tuple(fetch), tuple(recheck), bool(problems), point_ref, kept)


def _kept_bytes(store: Store, file: File) -> int:
    partial = store.partial / file.blob
    if not partial.exists():
        return 0
    from .journal import boot_id
    from .partial import kept_bytes

    return kept_bytes(partial, file, boot_id())


def sync(
    manifest: Manifest,
    root: Path,
    *,
    sources: tuple[str, ...] = (),
    endpoint: str | None,
    token: Token = None,
    connections: int = 8,
    limit_rate: int = 0,
    check: bool = False,
    deep: bool = False,
    stage: bool = False,
    lock_wait_seconds: float = 3600,
    guard: Callable[[Path], str | None] = check_not_on_root,
    retry: Retry | None = None,
    report: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> Result:
    """Bring the model into the store at `root`; a complete one costs one stat a file and no lock.

    `sources` are the mirrors, asked before the Hub at `endpoint`; `stage` leaves the branch where it is. About once a
    second `on_progress` gets how far the fetch is (bytes, files, speed, what limits it).
    Raises NodeError: SOURCE_*, INTEGRITY_MISMATCH, SPACE_SHORT, MOUNT_MISSING, DISK_FAILED, LOCKED. `guard` says why
    the store must not be written to, or None.
    """
    store = Store(root)
    not_mounted = guard(root)
    if not_mounted and not check:
        raise NodeError(
            f"{not_mounted}, wanted a mounted local disk",
            reason="MOUNT_MISSING",
            repair=f"judge-node disks ensure --mount-path {root.parent}",
        )
    store.check_no_links(manifest)
    work = plan_work(store, manifest, deep=deep, stage=stage)
    if not work:
        return nothing_to_do(store, manifest)
    from .sources import make_sources  # ssl and http cost 50 ms, which a sync with nothing to do need not pay

    found = make_sources(sources, endpoint, token)  # wrong usage is told before anything is made
    if check:
        names = [source.name for source in found]
        return _preview(store, manifest, _recheck_only(store, manifest, work), not_mounted, names)
    before = before_and_after(store, manifest, work)[0]
    make_directory(store.own)
    with locked(store.lock, wait_seconds=lock_wait_seconds):
        not_mounted = guard(root)
        if not_mounted:  # unmounted while we waited; with the lock file open it can no longer go away
            raise NodeError(f"{not_mounted}, wanted a mounted local disk", reason="MOUNT_MISSING")
        store.check_no_links(manifest)
        try:
            fetching = _Fetching(found, connections, limit_rate, retry, report, on_progress)
            work, did = _sync_locked(store, manifest, fetching, deep=deep, stage=stage)
        except NodeError as error:
            # It is pasted at three in the morning: no word in it may stand for something else.
            for word, value in (("ENDPOINT", endpoint or sources[0]), ("STORE", str(root))):
                error.repair = error.repair.replace(word, value) if error.repair else None
            raise
    result = Result(command="cache sync", state="complete", facts={**_facts(store, manifest, work), **did})
    result.changed = bool(work.fetch or work.publish or work.point_ref)
    if result.changed:
        result.before, result.after = before, "".join(f"{line}\n" for line in work.lines(manifest))
    result.message = (
        f"{manifest.repo_id} at {manifest.commit[:12]} is complete: "
        f"{format_size(did['fetched_bytes'])} fetched, {format_size(did['resumed_bytes'])} kept from before"
    )
    return result


def nothing_to_do(store: Store, manifest: Manifest) -> Result:
    """Return the answer for a model that is complete already."""
    return Result(
        command="cache sync",
        state="complete",
        message=f"{manifest.repo_id} at {manifest.commit[:12]} is complete",
        facts=_facts(store, manifest, Work((), (), publish=False, point_ref=False, kept_bytes=0)),
    )


@dataclass(frozen=True)
class _Fetching:
    """What a fetch needs to know, apart from what to fetch."""

    sources: list[Source]
    connections: int
    limit_rate: int
    retry: Retry | None
    report: Callable[[str], None]
    on_progress: Callable[[dict[str, Any]], None]


def _preview(
    store: Store, manifest: Manifest, work: Work, not_mounted: str | None, names: list[str]
) -> Result:
    """Return what a run would do. It works before the disk is mounted: a plan of a fresh node lists everything.

    `names` are those of the sources.
    """
    result = Result(command="cache sync", changed=bool(work), facts=_facts(store, manifest, work))
    lines = work.lines(manifest)
    result.before, result.after = before_and_after(store, manifest, work)
    result.state = "complete"
    if work.publish:
        result.state = "incomplete" if store.snapshot(manifest).is_dir() else "absent"
    result.message = f"would {', then '.join(lines)}" if lines else "nothing to do"
    if work.fetch:
        result.facts["from"] = names
        files = f"{len(work.fetch)} file{'s' if len(work.fetch) > 1 else ''}"
        result.message = f"would fetch {files}, {format_size(work.fetch_bytes)}, from {', then '.join(names)}"
        result.after = f"{result.message.removeprefix('would ')}:\n{result.after}"
    if not_mounted:
        result.facts["not_mounted"] = not_mounted
        result.message += f" (once the disk is mounted: {not_mounted} now)"
    else:
        _check_space(store, work)
    return result


def _sync_locked(
    store: Store, manifest: Manifest, fetching: _Fetching, *, deep: bool, stage: bool
) -> tuple[Work, dict[str, Any]]:
    """Do the work, and return it as it turned out to be, with the bytes that were fetched and kept."""
    from .failures import Retry
    from .fetch import Fetch

    retry = fetching.retry or Retry()
    for folder in (store.partial, store.staging):
        make_directory(folder)
    store.clean(keep=set(manifest.blobs()))
    work = plan_work(store, manifest, deep=deep, stage=stage)  # again, now that nobody else writes
    make_directory(store.folder(manifest.repo_id) / "blobs")
    rechecked = _recheck_only(store, manifest, work, retry.stop)
    store.stop_vouching(manifest.repo_id, {f.blob for f in rechecked.fetch} - {f.blob for f in work.fetch})
    work = rechecked
    did: dict[str, Any] = {**_NOTHING_FETCHED, "fetched_files": len(work.fetch)}
    if work.fetch:
        _check_space(store, work)
        _reserve(store, work)
        started = time.monotonic()
        totals = Fetch(
            store,
            manifest,
            fetching.sources,
            retry,
            connections=fetching.connections,
            limit_rate=fetching.limit_rate,
            report=fetching.report,
            on_progress=fetching.on_progress,
        ).run(work.fetch)
        did.update(vars(totals), seconds=round(time.monotonic() - started, 3))
    if work.publish:
        check_contents(store, manifest)
        store.publish(manifest)
    left = store.snapshot_problems(manifest)
    if left:
        raise NodeError(f"after the sync, {left[0].text}", reason=left[0].reason)
    if work.point_ref:
        store.point_ref(manifest)
    store.clean()
    return work, did


def _recheck_only(store: Store, manifest: Manifest, work: Work, stop: threading.Event | None = None) -> Work:
    """Hash the blobs that nothing vouches for; those that are wrong are fetched. Reads only."""
    if not work.recheck:
        return work
    from .hashing import file_agrees

    wrong = tuple(file for file in work.recheck if not file_agrees(store.blob(manifest, file), file, stop))
    return replace(work, fetch=work.fetch + wrong, recheck=(), publish=work.publish or bool(wrong))


def _check_space(store: Store, work: Work) -> None:
    """Raise NodeError SPACE_SHORT before the first byte when the rest of the model does not fit."""
    existing = store.root
    while not existing.exists():
        existing = existing.parent
    found = os.statvfs(existing)
    free = found.f_bavail * found.f_frsize
    needed = sum(file.size - _reserved_bytes(store, file) for file in work.fetch)
    if needed > 0 and needed + _RESERVE_BYTES > free:
        raise _space_short(store, needed, free)


def _reserved_bytes(store: Store, file: File) -> int:
    """Return what an earlier run has reserved for a file already."""
    try:
        return min(file.size, (store.partial / file.blob).lstat().st_blocks * 512)
    except OSError:
        return 0


def _space_short(store: Store, needed: int, free: int) -> NodeError:
    from .prune import reclaimable_bytes

    missing, freed = needed + _RESERVE_BYTES - free, reclaimable_bytes(store)
    prunable = "cannot tell what it would free" if freed is None else f"would free {format_size(freed)}"
    return NodeError(
        f"{store.root} has {format_size(free)} free, wanted {format_size(needed)} and {format_size(_RESERVE_BYTES)} of"
        f" reserve: {format_size(missing)} are missing, and `cache prune` {prunable}",
        reason="SPACE_SHORT",
        repair=f"judge-node cache prune --store {store.root} --keep-free {needed + _RESERVE_BYTES} --check",
    )


def _reserve(store: Store, work: Work) -> None:
    """Take the space of all files before the first byte comes, so that no other sync on this disk can count on it.

    Raises NodeError SPACE_SHORT when it is not there; then nothing of what this call took is left.
    """
    from .partial import journal_path

    taken: list[Path] = []
    for file in work.fetch:
        partial = store.partial / file.blob
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            status = os.fstat(fd)
            if status.st_size != file.size:
                taken.append(partial)
                os.ftruncate(fd, 0)
                journal_path(partial).unlink(missing_ok=True)
            if file.size and status.st_blocks * 512 < file.size:
                os.posix_fallocate(fd, 0, file.size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                for path in taken:
                    path.unlink()
                found = os.statvfs(store.root)
                needed = sum(other.size - _reserved_bytes(store, other) for other in work.fetch)
                raise _space_short(store, needed, found.f_bavail * found.f_frsize) from None
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        finally:
            os.close(fd)


_NOTHING_FETCHED: dict[str, Any] = {
    "fetched_bytes": 0,
    "resumed_bytes": 0,
    "fetched_files": 0,
    "sources": {},
    "limited_by": None,
    "seconds": 0.0,
}


def _facts(store: Store, manifest: Manifest, work: Work) -> dict[str, Any]:
    return {
        "repo_id": manifest.repo_id,
        "revision": manifest.revision,
        "commit": manifest.commit,
        "digest": manifest.digest,
        "size_on_disk": manifest.size,
        "store": str(store.root),
        "snapshot": str(store.snapshot(manifest)),
        "to_fetch": [file.path for file in work.fetch],
        "to_fetch_bytes": work.fetch_bytes,
        **_NOTHING_FETCHED,
    }


def before_and_after(store: Store, manifest: Manifest, work: Work) -> tuple[str, str]:
    """Return what is there now and what the work does, as texts for a diff; both are empty when there is none."""
    if not work:
        return "", ""
    problems = store.problems(manifest)
    before = problems[0].text if problems else f"{manifest.repo_id}: links and sizes are complete"
    return f"{before}\n", "".join(f"{line}\n" for line in work.lines(manifest))
