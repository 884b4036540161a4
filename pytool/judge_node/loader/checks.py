"""Which models of the store are verified: looked at all the time, checked quickly and deeply now and then.

A look costs one lstat a file. The quick check reads headers, the deep one every byte, at a rate that leaves the disk to
what serves from it, and beside the loop, which has to see a new manifest meanwhile.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..cache.catalog import COMPLETE, CORRUPT, INCOMPLETE, read_checked
from ..cache.failures import of_os_error
from ..cache.manifest import Manifest
from ..cache.store import Problem, Store
from ..cache.times import DEEP_LIMIT_RATE
from ..cache.verify import verify
from ..result import NodeError, Result

_LOCK_SECONDS = 30.0


@dataclass(frozen=True)
class Verdict:
    """What is known of one model. `read_all`: names and sizes are right, so a sync has to read what is there."""

    manifest: Manifest
    state: str
    reason: str | None = None
    text: str = ""
    read_all: bool = False

    @property
    def complete(self) -> bool:
        """Whether pods may be served from it."""
        return self.state == COMPLETE


@dataclass(frozen=True)
class _Known:
    """A verdict of a check; `stamp` says of which bytes, `at` (monotonic seconds) when."""

    verdict: Verdict
    stamp: int
    at: float


class Checks:
    """The verdicts on one store. Spans in seconds; None: there is no such check beside the first quick one."""

    def __init__(self, root: Path, node: str, quick_seconds: float | None, deep_seconds: float | None) -> None:
        self._root, self._quick_seconds = root, quick_seconds
        # A fleet that was filled together would otherwise read all its disks in the same minute.
        self._deep_seconds = deep_seconds and deep_seconds * (1 + zlib.crc32(node.encode()) % 100 / 400)
        self._known: dict[str, _Known] = {}
        self._thread: threading.Thread | None = None
        self._deep_found: _Known | None = None

    def look(self, listed: Iterable[Manifest]) -> dict[str, Verdict]:
        """Return {commit: verdict} of the models that are listed and of all others that the store vouches for."""
        store = Store(self._root)
        manifests = {manifest.commit: manifest for manifest in listed}
        for manifest in store.all_vouched():
            manifests.setdefault(manifest.commit, manifest)
        self._collect()
        found = {commit: self._verdict(store, manifest) for commit, manifest in manifests.items()}
        self._known = {commit: known for commit, known in self._known.items() if commit in found}
        if self._deep_seconds is not None and self._thread is None:
            self._start_deep(store, found)
        return found

    def forget(self) -> None:
        """Verify all anew at the next look: a sync has written, or the disk is another one."""
        self._known.clear()

    def _verdict(self, store: Store, manifest: Manifest) -> Verdict:
        problems = store.problems(manifest)
        if problems:
            self._known.pop(manifest.commit, None)
            return _of_problems(manifest, problems, read_checked(store, manifest).problems)
        known, stamp = self._known.get(manifest.commit), _stamp(store, manifest)
        if known is not None and known.stamp == stamp and known.verdict.manifest == manifest:
            due = self._quick_seconds is not None and time.monotonic() - known.at >= self._quick_seconds
            # What was found wrong stays wrong until a sync has been there: a quick check does not see all of it.
            if not due or not known.verdict.complete:
                return known.verdict
        verdict = self._check(manifest, deep=False)
        self._known[manifest.commit] = _Known(verdict, stamp, time.monotonic())
        return verdict

    def _check(self, manifest: Manifest, *, deep: bool) -> Verdict:
        rate = DEEP_LIMIT_RATE if deep else 0
        try:
            result = verify(manifest, self._root, deep=deep, limit_rate=rate, lock_wait_seconds=_LOCK_SECONDS)
        except NodeError as error:
            return Verdict(manifest, INCOMPLETE, error.reason, error.message)
        except OSError as error:
            failure = of_os_error(error, str(self._root))
            return Verdict(manifest, CORRUPT, failure.reason, failure.message, read_all=True)
        return _of_result(manifest, result)

    def _start_deep(self, store: Store, found: dict[str, Verdict]) -> None:
        for verdict in found.values():
            if verdict.complete and time.time() >= self._deep_due_at(store, verdict.manifest):
                # daemon: it only reads, and must not keep a process that was told to end.
                arguments = (verdict.manifest, _stamp(store, verdict.manifest))
                self._thread = threading.Thread(target=self._deep, args=arguments, daemon=True)
                self._thread.start()
                return

    def _deep_due_at(self, store: Store, manifest: Manifest) -> float:
        """Return when (epoch seconds). A sync has hashed every byte, too; the notes outlive this process."""
        came = store.vouch(manifest).lstat().st_mtime
        return max(came, read_checked(store, manifest).deep_at or 0.0) + (self._deep_seconds or 0.0)

    def _deep(self, manifest: Manifest, stamp: int) -> None:
        verdict = self._check(manifest, deep=True)
        self._deep_found = _Known(verdict, stamp, time.monotonic())

    def _collect(self) -> None:
        if self._thread is None or self._thread.is_alive():
            return
        self._thread = None
        if self._deep_found is not None:
            self._known[self._deep_found.verdict.manifest.commit] = self._deep_found
        self._deep_found = None


def _stamp(store: Store, manifest: Manifest) -> int:
    """Return when the store began to vouch for the model: a sync that has brought it anew began anew."""
    try:
        return store.vouch(manifest).lstat().st_mtime_ns
    except OSError:
        return 0


def _of_problems(manifest: Manifest, problems: list[Problem], noted: tuple[str, ...]) -> Verdict:
    """Return the verdict on what names and sizes show; `noted` is what the last check has found."""
    worst = next((problem for problem in problems if problem.reason == "INTEGRITY_MISMATCH"), problems[0])
    if worst.reason != "INTEGRITY_MISMATCH":
        return Verdict(manifest, INCOMPLETE, worst.reason, worst.text)
    return Verdict(manifest, CORRUPT, worst.reason, noted[0] if noted else worst.text)


def _of_result(manifest: Manifest, result: Result) -> Verdict:
    if result.ok:
        return Verdict(manifest, COMPLETE)
    return Verdict(manifest, result.state or INCOMPLETE, result.reason, result.message, read_all=True)
