"""Fetch blobs: many ranges at a time, hashed while they stream, resumed where an earlier process stopped.

Each file has a keeper (a thread that hashes its bytes in order and makes it durable); the connections are shared by all
files. A byte is written once and hashed from the memory it came in: nothing that was just hashed is read back.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..disks.facts import format_size
from ..files import fsync_directory
from ..result import NodeError
from . import journal, partial
from .failures import Retry, Stopped, Transient, of_os_error
from .hashing import READ_BYTES, Hasher
from .http import Connections
from .manifest import File, Manifest
from .meter import Limiter, Spent, limited_by
from .partial import Partial, journal_path
from .sources import Body, Source
from .store import Store

# So many pieces may wait in memory for the hash; beyond it, the hash reads the file, whose bytes are in memory too.
_POOL_PIECES = 96
# Some filesystems take one block of memory as large as one write, and large ones are slow to come by in a virtual
# machine: on ext4 (Linux 6.18), 3 GB cost 1 s of CPU in writes of 32 KiB, 1 to 3 s in 64 KiB, and 3 s in 1 MiB.
_WRITE_BYTES = 32 << 10
_SAVE_BYTES = 64 << 20  # so much of each file may be lost by a power cut
_KEEPERS = 4
_TICK_SECONDS = 1.0


@dataclass
class Totals:
    """What a fetch did, in bytes; `sources` by name."""

    fetched_bytes: int = 0
    resumed_bytes: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    limited_by: str | None = None


class _Streamed(Exception):
    """The source sends the whole file whatever is asked: its other connections have to end first."""


class Fetch:
    """Brings files of one manifest into the store, each whole and verified under its name. To be run once."""

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        sources: Sequence[Source],
        retry: Retry,
        *,
        connections: int = 8,
        limit_rate: int = 0,
        report: Callable[[str], None] = lambda line: None,
        on_progress: Callable[[dict[str, Any]], None] = lambda progress: None,
    ) -> None:
        self._store, self._manifest, self._sources, self._retry = store, manifest, sources, retry
        self._most_connections, self._report, self._on_progress = connections, report, on_progress
        self._limiter = Limiter(limit_rate) if limit_rate else None
        self._boot = journal.boot_id()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # told when there may be another range to ask for, or the end
        self._ends = threading.Condition()
        self._living: list[str] = []
        self._waiting: deque[File] = deque()
        self._active: list[Partial] = []
        self._dead: set[int] = set()
        self._pool: deque[memoryview] = deque()
        self._made_pieces = 0
        self._failure: BaseException | None = None
        self._ended = False
        self._totals = Totals()
        self._spent: list[Spent] = []
        self._connections: list[Connections] = []
        self._done_files = self._done_bytes = 0

    def run(self, files: Sequence[File]) -> Totals:
        """Fetch all. Raises the first failure; what is there of the other files stays for the next run."""
        self._waiting.extend(sorted(files, key=lambda file: file.size, reverse=True))
        requests = sum(1 + file.size // partial.CHUNK_BYTES for file in files)
        for _ in range(min(_KEEPERS, len(files))):
            self._start("keeper", self._keep_files)
        for _ in range(min(self._most_connections, requests)):
            self._start("connection", self._connect)
        self._start("saver", self._save)
        try:
            self._watch(files)
        except BaseException:
            self._retry.stop.set()
            raise
        finally:
            with self._lock:
                self._ended = True
                self._wake_all()
            for connections in self._connections:
                connections.interrupt()
            # The store's lock is let go after this: nobody may still write then.
            self._wait_for_end(self._retry.timeout_seconds)
        if self._failure is not None:
            raise self._failure
        self._totals.fetched_bytes = sum(spent.fetched_bytes for spent in self._spent)
        return self._totals

    def _start(self, kind: str, work: Callable[[Spent], None]) -> None:
        spent = Spent()
        self._spent.append(spent)
        self._living.append(kind)

        def guarded() -> None:
            try:
                work(spent)
            except Stopped:
                pass
            except BaseException as error:  # handed to the main thread, which raises it
                self._fail(error)
            finally:
                with self._ends:
                    self._living.remove(kind)
                    self._ends.notify_all()

        # daemon: a thread that hangs in the kernel must not keep a process that was told to end.
        threading.Thread(target=guarded, name=kind, daemon=True).start()

    def _wait_for_end(self, seconds: float, kind: str | None = None) -> bool:
        """Wait for the threads of a kind; return whether they have ended.

        Not by join(): when a signal handler raises in it, Python takes the thread for ended (bpo-45274).
        """
        deadline = time.monotonic() + seconds
        with self._ends:
            while self._living if kind is None else kind in self._living:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._ends.wait(left)
        return True

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = of_os_error(error, str(self._store.root)) if isinstance(error, OSError) else error
            self._retry.stop.set()
            self._wake_all()

    def _wake_all(self) -> None:
        self._changed.notify_all()
        for kept in self._active:
            kept.arrived.notify_all()

    # The keepers: each takes one file after the other.

    def _keep_files(self, spent: Spent) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._failure is not None or self._retry.stop.is_set():
                    return
                file = self._waiting.popleft()
                blob = self._store.blob(self._manifest, file)
                kept = Partial(file, blob, self._store.partial / file.blob, self._lock)
                self._totals.resumed_bytes += kept.open(self._boot)
                kept.source = next((i for i in range(len(self._sources)) if i not in self._dead), 0)
                self._active.append(kept)
                self._changed.notify_all()
            try:
                self._keep(kept, spent)
            except OSError as error:
                raise of_os_error(error, file.path) from None
            finally:
                with self._lock:
                    self._active.remove(kept)
                    kept.close()
            self._report(f"{file.path}: {format_size(file.size)} verified")

    def _keep(self, kept: Partial, spent: Spent) -> None:
        """Hash a file while it comes, and make it durable under its name."""
        again = False
        while not self._hash(kept, spent):
            error = NodeError(
                f"{kept.file.path}: the bytes of {self._sources[kept.source].name} do not have the manifest's hash; "
                "nothing of it was kept",
                reason="INTEGRITY_MISMATCH",
                repair="check the mirror or proxy, or resolve the manifest again",
            )
            with self._lock:
                # Kept bytes may be zeros after a power cut, and bytes of two sources do not say which one lies: then
                # once more from the same source. A proxy can hiccup, so the last source gets a second try, too.
                if not kept.mixed:
                    if kept.source + 1 < len(self._sources):
                        kept.refused.append(error)
                        kept.source += 1
                    elif again:
                        kept.partial.unlink()
                        journal_path(kept.partial).unlink(missing_ok=True)
                        raise _all_refused([*kept.refused, error])
                    else:
                        again = True
                kept.forget()
                self._changed.notify_all()
        started = time.monotonic()
        os.fchmod(kept.fd, 0o444)
        os.fsync(kept.fd)
        kept.partial.rename(kept.blob)
        fsync_directory(kept.blob.parent)
        journal_path(kept.partial).unlink(missing_ok=True)
        spent.disk += time.monotonic() - started
        with self._lock:
            self._done_files += 1
            self._done_bytes += kept.file.size

    def _hash(self, kept: Partial, spent: Spent) -> bool:
        hasher, position, size = Hasher(kept.file), 0, kept.file.size
        while position < size:
            with self._lock:
                piece, end = self._await(kept, position)
            started = time.monotonic()
            if piece is not None:
                buffer, count = piece
                hasher.update(buffer[:count])
                self._pool.append(buffer)
            else:
                data = os.pread(kept.fd, min(end - position, READ_BYTES), position)
                if not data:
                    raise NodeError(f"{kept.partial} became shorter while it was written", reason="DISK_FAILED")
                hasher.update(data)
                count = len(data)
            position += count
            spent.hash += time.monotonic() - started
        return hasher.agrees()

    def _await(self, kept: Partial, position: int) -> tuple[tuple[memoryview, int] | None, int]:
        """Wait for the bytes at `position`: in memory, or in the file up to the end that is returned."""
        while True:
            if self._retry.stop.is_set():
                raise Stopped
            if kept.failure is not None:
                raise kept.failure
            piece = kept.pieces.pop(position, None)
            end = kept.written.end_of(position)
            if piece is not None:
                return piece, position
            if end is not None:
                return None, min([end, *(start for start in kept.pieces if start > position)])
            kept.arrived.wait(_TICK_SECONDS)

    # The connections: each takes one range after the other, of any file.

    def _connect(self, spent: Spent) -> None:
        connections = Connections(self._retry.timeout_seconds)
        with self._lock:
            self._connections.append(connections)
        own = memoryview(bytearray(partial.PIECE_BYTES))
        try:
            while True:
                with self._lock:
                    job = self._next_job()
                if job is None:
                    return
                kept, start, end = job
                try:
                    self._bring(_Range(kept, start, end, own), connections, spent)
                except (NodeError, OSError) as error:  # the file's keeper raises it
                    with self._lock:
                        kept.failure = of_os_error(error, kept.file.path) if isinstance(error, OSError) else error
                        kept.arrived.notify_all()
        finally:
            connections.close()

    def _next_job(self) -> tuple[Partial, int, int] | None:
        while not self._ended and not self._retry.stop.is_set():
            # The file with the fewest connections first: small ones do not wait behind a big one.
            for kept in sorted(self._active, key=lambda kept: kept.in_flight):
                found = kept.next_range()
                if found is not None:
                    return kept, *found
            self._changed.wait(_TICK_SECONDS)
        return None

    def _bring(self, job: _Range, connections: Connections, spent: Spent) -> None:
        """Bring a range, from whichever source has it."""
        failures, kept = 0, job.kept
        try:
            while job.position < job.end:
                before, index = job.position, kept.source
                source = self._sources[index]
                try:
                    source.pause(self._retry)
                    self._read(job, source, connections, spent)
                except _Streamed:
                    return
                except Transient as problem:
                    failures = 1 if job.position - before >= self._retry.stall_bytes else failures + 1
                    try:
                        seconds = self._retry.after(problem, failures)
                    except NodeError as error:
                        # An answer that is of other bytes says something of this file only.
                        self._refuse(kept, index, error, dead=problem.attempts is None)
                        failures = 0
                        continue
                    if problem.wait_seconds is None:
                        self._retry.wait(seconds)
                    else:
                        source.busy(seconds)  # all connections wait, this one too
                except NodeError as error:
                    self._refuse(kept, index, error, dead=False)
                    failures = 0
        finally:
            with self._lock:
                kept.give_back(job.position, job.end)
                self._changed.notify_all()

    def _refuse(self, kept: Partial, index: int, error: NodeError, *, dead: bool) -> None:
        """Go on with the next source. Raises NodeError when there is none."""
        with self._lock:
            if dead:
                self._dead.add(index)
            if kept.source != index:
                return  # another connection was faster
            kept.refused.append(error)
            if index + 1 == len(self._sources):
                raise _all_refused(kept.refused)
            kept.source, kept.mixed = index + 1, True

    def _read(self, job: _Range, source: Source, connections: Connections, spent: Spent) -> None:
        started = time.monotonic()
        body = source.open(connections, self._manifest, job.kept.file, job.position, job.end)
        spent.network += time.monotonic() - started
        try:
            if (body.start, body.end) != (job.position, job.end):
                with self._lock:
                    job.kept.streamed = True
                    if job.kept.in_flight > 1:
                        raise _Streamed
                job.end = body.end
            self._receive(job, body, source.name, spent)
        finally:
            body.close(whole=job.position == body.end)

    def _receive(self, job: _Range, body: Body, name: str, spent: Spent) -> None:
        """Take the body in pieces. A piece that is not full when the source fails is kept, too."""
        position, watch, came = body.start, time.monotonic(), 0
        while position < body.end:
            buffer = self._buffer(job.own)
            room = min(partial.PIECE_BYTES, body.end - position)
            filled = 0
            try:
                while filled < room:
                    now = time.monotonic()
                    if now - watch >= self._retry.stall_seconds:
                        if came < self._retry.stall_bytes:
                            raise Transient(f"{body.name} brought {came} bytes in {now - watch:.0f} seconds")
                        watch, came = now, 0
                    most = room - filled
                    if self._limiter is not None:
                        most = min(most, max(4096, self._limiter.rate // 16))
                    count = body.readinto(buffer[filled : filled + most])
                    spent.network += time.monotonic() - now
                    if not count:
                        raise Transient(f"{body.name} ended at byte {position + filled} of {job.kept.file.size}")
                    filled, came = filled + count, came + count
                    spent.fetched_bytes += count
                    if self._limiter is not None:
                        waited = self._limiter.take(count, self._retry)
                        spent.limit += waited
                        if waited:
                            watch, came = time.monotonic(), 0
                    if self._retry.stop.is_set():
                        raise Stopped
            finally:
                if filled:
                    with self._lock:
                        self._totals.sources[name] = self._totals.sources.get(name, 0) + filled
                    self._write(job, buffer, position, filled, spent)
                elif buffer is not job.own:
                    self._pool.append(buffer)
            position += filled

    def _buffer(self, own: memoryview) -> memoryview:
        """Return a buffer that may wait for the hash, or the connection's own when too many wait already."""
        try:
            return self._pool.popleft()
        except IndexError:
            if self._made_pieces >= _POOL_PIECES:
                return own
            self._made_pieces += 1
            return memoryview(bytearray(partial.PIECE_BYTES))

    def _write(self, job: _Range, buffer: memoryview, start: int, count: int, spent: Spent) -> None:
        started, kept = time.monotonic(), job.kept
        with self._lock:
            wanted = [(max(a, start), b) for a, b in kept.written.missing(start + count) if b > start]
        for first, last in wanted:
            done = first
            while done < last:
                done += os.pwrite(kept.fd, buffer[done - start : min(done + _WRITE_BYTES, last) - start], done)
        spent.disk += time.monotonic() - started
        with self._lock:
            for first, last in wanted:
                kept.written.add(first, last)
                if kept.log is not None:
                    kept.log.have(first, last)
                kept.unsaved_bytes += last - first
            job.position = max(job.position, start + count)
            if buffer is not job.own:
                # Only what is in the file is in the hash, so only a piece that was written whole is hashed from memory.
                if wanted == [(start, start + count)]:
                    kept.pieces[start] = (buffer, count)
                else:
                    self._pool.append(buffer)
            kept.arrived.notify_all()

    # Beside them: what is durable, and how far it is.

    def _save(self, spent: Spent) -> None:
        """Make what has come durable now and then, so that a power cut costs little."""
        while True:
            with self._lock:
                if self._ended or self._retry.stop.is_set():
                    return
                found = next((f for f in self._active if f.log is not None and f.unsaved_bytes >= _SAVE_BYTES), None)
                if found is None or found.log is None:
                    self._changed.wait(_TICK_SECONDS)
                    continue
                length, found.unsaved_bytes = found.log.length, 0
                data, log = os.dup(found.fd), os.dup(found.log.fileno())
            try:
                os.fdatasync(data)
                with self._lock:
                    if found.log is not None and found.log.length >= length:
                        found.log.safe(length)
                os.fdatasync(log)
            finally:
                os.close(data)
                os.close(log)

    def _watch(self, files: Sequence[File]) -> None:
        """Wait for the keepers, and tell how far they are."""
        started, total = time.monotonic(), sum(file.size for file in files)
        before_bytes, before_time, before = 0, started, Spent()
        limits: dict[str | None, float] = {}
        ended = False
        while not ended:
            ended = self._wait_for_end(_TICK_SECONDS, "keeper")
            now = time.monotonic()
            with self._lock:
                done = self._done_bytes + sum(kept.written.total for kept in self._active)
                names = [self._sources[kept.source].name for kept in self._active]
                waiting_hash = sum(len(kept.pieces) for kept in self._active) >= _POOL_PIECES // 2
            spent = Spent(*(sum(values) for values in zip(*(vars(s).values() for s in self._spent))))
            fetched = spent.fetched_bytes
            by = limited_by(before, spent, waiting_hash=waiting_hash)
            limits[by] = limits.get(by, 0.0) + now - before_time
            speed = (fetched - before_bytes) / max(now - before_time, 0.001)
            left = total - done
            self._on_progress(
                {
                    "files_done": self._done_files,
                    "files": len(files),
                    "bytes_done": done,
                    "bytes": total,
                    "fetched_bytes": fetched,
                    "bytes_per_second": round(speed),
                    "limited_by": by,
                    "elapsed_seconds": round(now - started, 1),
                    "eta_seconds": round(left / speed, 1) if speed > 0 else None,
                    "source": names[0] if names else None,
                }
            )
            before_bytes, before_time, before = fetched, now, spent
        self._totals.limited_by = max(limits, key=lambda by: limits[by]) if limits else None


class _Range:
    """A range that a connection is bringing; `position` is how far it is, `own` the connection's buffer."""

    def __init__(self, kept: Partial, start: int, end: int, own: memoryview) -> None:
        self.kept, self.position, self.end, self.own = kept, start, end, own


def _all_refused(errors: Sequence[NodeError]) -> NodeError:
    """Return one error for all sources: the last one's, with what the others said."""
    if len(errors) == 1:
        return errors[0]
    said = "; before it, ".join(error.message for error in reversed(errors))
    return NodeError(said, reason=errors[-1].reason, repair=errors[-1].repair)
