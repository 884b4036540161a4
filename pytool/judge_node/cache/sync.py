"""`judge-node cache sync`: bring one model at one commit into the store, whole and verified, or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..disks.facts import format_size
from ..files import fsync_directory, make_directory
from ..locking import locked
from ..result import NodeError, Result
from .contents import check_shards
from .manifest import File, Manifest
from .store import Store, check_not_on_root

_WORKERS = 4
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


def plan_work(store: Store, manifest: Manifest, *, deep: bool = False) -> Work:
    """Compare store and manifest by names and sizes, without reading a blob; `deep` asks for all to be hashed again."""
    problems = store.problems(manifest)
    if not problems and not deep:
        return Work((), (), publish=False, point_ref=not store.ref_is_right(manifest), kept_bytes=0)
    vouched = store.vouched_blobs(manifest.repo_id)
    fetch, recheck, kept = [], [], 0
    for file in manifest.blobs().values():
        if store.blob_size(manifest, file) != file.size:
            fetch.append(file)
            kept += min(store.partial_size(file), file.size)
        elif deep or vouched.get(file.blob) != file.size:
            recheck.append(file)
    return Work(tuple(fetch), tuple(recheck), bool(problems), not store.ref_is_right(manifest), kept)


def sync(
    manifest: Manifest,
    root: Path,
    *,
    sources: tuple[str, ...] = (),
    endpoint: str | None,
    token: str | None = None,
    connections: int = 8,
    limit_rate: int = 0,
    check: bool = False,
    deep: bool = False,
    stage: bool = False,
    lock_wait_seconds: float = 3600,
    guard: Callable[[Path], str | None] = check_not_on_root,
    retry: Any = None,
    report: Callable[[str], None] = lambda line: None,
) -> Result:
    """Bring the model into the store at `root`; a complete one costs one stat a file and no lock.

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
    work = plan_work(store, manifest, deep=deep)
    if not work:
        return Result(
            command="cache sync",
            state="complete",
            message=f"{manifest.repo_id} at {manifest.commit[:12]} is complete",
            facts=_facts(store, manifest, work),
        )
    if check:
        return _preview(store, manifest, _recheck_only(store, manifest, work), not_mounted)
    before = _before(store, manifest)
    make_directory(store.own)
    with locked(store.lock, wait_seconds=lock_wait_seconds):
        not_mounted = guard(root)
        if not_mounted:  # unmounted while we waited; with the lock file open it can no longer go away
            raise NodeError(f"{not_mounted}, wanted a mounted local disk", reason="MOUNT_MISSING")
        store.check_no_links(manifest)
        try:
            work, did = _sync_locked(store, manifest, deep, endpoint, token, retry, report)
        except NodeError as error:
            # It is pasted at three in the morning: no word in it may stand for something else.
            for word, value in (("ENDPOINT", endpoint), ("STORE", str(root))):
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


def _preview(store: Store, manifest: Manifest, work: Work, not_mounted: str | None) -> Result:
    """Return what a run would do. It works before the disk is mounted: a plan of a fresh node lists everything."""
    result = Result(command="cache sync", changed=bool(work), facts=_facts(store, manifest, work))
    lines = work.lines(manifest)
    result.state = "complete"
    if work.publish:
        result.state = "incomplete" if store.snapshot(manifest).is_dir() else "absent"
    result.message = f"would {', then '.join(lines)}" if lines else "nothing to do"
    if lines:
        result.before, result.after = _before(store, manifest), "".join(f"{line}\n" for line in lines)
    if not_mounted:
        result.facts["not_mounted"] = not_mounted
        result.message += f" (once the disk is mounted: {not_mounted} now)"
    else:
        _check_space(store, work)
    return result


def _sync_locked(
    store: Store,
    manifest: Manifest,
    deep: bool,
    endpoint: str,
    token: str | None,
    retry: Any,
    report: Callable[[str], None],
) -> tuple[Work, dict[str, int]]:
    """Do the work, and return it as it turned out to be, with the bytes that were fetched and kept."""
    from .fetch import Retry, Source  # ssl and http cost 50 ms, which a sync with nothing to do need not pay

    source = Source(endpoint, token)
    retry = retry or Retry()
    work = plan_work(store, manifest, deep=deep)  # again, now that nobody else writes
    make_directory(store.folder(manifest.repo_id) / "blobs")
    for folder in (store.partial, store.staging):
        make_directory(folder)
    rechecked = _recheck_only(store, manifest, work, retry.stop)
    _stop_vouching(store, manifest, {file.blob for file in rechecked.fetch} - {file.blob for file in work.fetch})
    work = rechecked
    _check_space(store, work)
    did = {"fetched_bytes": 0, "resumed_bytes": 0, "fetched_files": len(work.fetch)}
    if work.fetch:
        did.update(_Fetching(store, manifest, source, retry, report).run(work.fetch))
    if work.publish:
        check_shards(store, manifest)
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
    from .fetch import file_agrees

    wrong = tuple(file for file in work.recheck if not file_agrees(store.blob(manifest, file), file, stop))
    return replace(work, fetch=work.fetch + wrong, recheck=(), publish=work.publish or bool(wrong))


def _stop_vouching(store: Store, manifest: Manifest, wrong: set[str]) -> None:
    """Take back the word for every snapshot of the repository that has one of the wrong blobs, until it is repaired."""
    for other in store.all_vouched():
        if other.repo_id == manifest.repo_id and wrong & set(other.blobs()):
            store.vouch(other).unlink()
            fsync_directory(store.vouch(other).parent)


class _Fetching:
    """Several blobs at a time. The first failure stops the others; each keeps what it has."""

    def __init__(
        self, store: Store, manifest: Manifest, source: Any, retry: Any, report: Callable[[str], None]
    ) -> None:
        self._store, self._manifest, self._source, self._retry, self._report = store, manifest, source, retry, report
        self._mutex = threading.Lock()
        self._waiting: list[File] = []
        self._failure: BaseException | None = None
        self._totals = {"fetched_bytes": 0, "resumed_bytes": 0}

    def run(self, files: tuple[File, ...]) -> dict[str, int]:
        """Fetch all; return the bytes fetched and the bytes kept from earlier runs. Raises the first failure."""
        self._waiting = sorted(files, key=lambda file: file.size)  # popped from the end: the biggest first
        # daemon: at a signal the process ends at once, and a partial file is taken up by the next run.
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(_WORKERS, len(files)))]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._retry.stop.set()
            raise
        if self._failure is not None:
            raise self._failure
        return self._totals

    def _work(self) -> None:
        from .fetch import Stopped, of_os_error

        while True:
            with self._mutex:
                if self._failure is not None or not self._waiting:
                    return
                file = self._waiting.pop()
            try:
                self._one(file)
            except Stopped:
                return
            except BaseException as error:  # handed to the main thread, which raises it
                with self._mutex:
                    if self._failure is None:
                        self._failure = of_os_error(error, file.path) if isinstance(error, OSError) else error
                self._retry.stop.set()
                return

    def _one(self, file: File) -> None:
        from .fetch import Download

        partial, blob = self._store.partial / file.blob, self._store.blob(self._manifest, file)
        download = Download(
            self._source, self._source.url(self._manifest, file), file, partial, self._retry, self._count
        )
        download.run()
        partial.rename(blob)
        fsync_directory(blob.parent)
        with self._mutex:
            self._totals["resumed_bytes"] += download.resumed_bytes
        self._report(f"{file.path}: {format_size(file.size)} verified")

    def _count(self, count: int) -> None:
        with self._mutex:
            self._totals["fetched_bytes"] += count


def _check_space(store: Store, work: Work) -> None:
    """Raise NodeError SPACE_SHORT before the first byte when the rest of the model does not fit."""
    existing = store.root
    while not existing.exists():
        existing = existing.parent
    found = os.statvfs(existing)
    free, needed = found.f_bavail * found.f_frsize, work.fetch_bytes
    if needed > 0 and needed + _RESERVE_BYTES > free:
        raise NodeError(
            f"{store.root} has {format_size(free)} free, wanted {format_size(needed)}"
            f" and {format_size(_RESERVE_BYTES)} of reserve",
            reason="SPACE_SHORT",
            repair=f"du -sh {store.root}/*   # remove models that nothing serves",
        )


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
        "fetched_bytes": 0,
        "resumed_bytes": 0,
        "fetched_files": 0,
    }


def _before(store: Store, manifest: Manifest) -> str:
    """Return what is there now, in one line."""
    problems = store.problems(manifest)
    return f"{problems[0].text}\n" if problems else f"{manifest.repo_id}: links and sizes are complete\n"
