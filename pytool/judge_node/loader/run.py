"""The loop: look, say on the Node how it is, bring what is missing, look again.

Nothing is remembered that the disk or the Node does not say as well, so it can end at any moment and start anew.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..cache.catalog import COMPLETE, CORRUPT
from ..cache.failures import Retry, Stopped, of_os_error
from ..cache.manifest import Manifest
from ..cache.progress import progress_text
from ..cache.store import Store
from ..cache.sync import plan_work, sync
from ..cache.tokens import LazyToken, read_token
from ..result import EXIT_FAILED, EXIT_OK, NodeError, Result
from .checks import Checks, Verdict
from .compile_cache import tidy
from .disk import not_mounted
from .models import Folder, Models
from .node import FAILED, SYNCING, Report

POLL_SECONDS = 3.0
PROGRESS_SECONDS = 10.0
_TIDY_SECONDS = 3600.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 300.0
_LOCK_SECONDS, _LOCK_SECONDS_ONCE = 10.0, 3600.0


class Tells(Protocol):
    """What takes the reports (Reporter)."""

    def report(self, report: Report) -> bool:
        """Say it; return whether that worked."""


@dataclass(frozen=True)
class Settings:
    """What the command line says. Spans in seconds, rates in bytes a second (0: no limit)."""

    models: Path
    store: Path
    node: str
    sources: tuple[str, ...] = ()
    endpoint: str | None = None
    token_file: str | None = None
    connections: int = 8
    limit_rate: int = 0
    verify_quick_seconds: float | None = None
    verify_deep_seconds: float | None = None
    compile_cache: Path | None = None


@dataclass(frozen=True)
class _Failed:
    """The last failure to bring a model, and when (monotonic seconds) it is worth another attempt."""

    count: int
    retry_at: float
    reason: str | None
    message: str


class _Changed(Exception):
    """Another model is wanted by now: what is being fetched is not waited for."""


class Loader:
    """Keeps the models of one node. step() is one look with what follows from it."""

    def __init__(
        self,
        settings: Settings,
        reporter: Tells,
        log: Callable[[str], None],
        *,
        guard: Callable[[Path], str | None] = not_mounted,
        make_retry: Callable[[], Retry] = Retry,
        progress_seconds: float = PROGRESS_SECONDS,
        first_pause_seconds: float = _FIRST_PAUSE_SECONDS,
    ) -> None:
        self._settings, self._reporter, self._log, self._guard = settings, reporter, log, guard
        self._make_retry, self._progress_seconds = make_retry, progress_seconds
        self._first_pause_seconds = first_pause_seconds
        self._folder = Folder(settings.models)
        self._models: Models | None = None
        self._unusable: NodeError | None = None
        self._checks = Checks(
            settings.store, settings.node, settings.verify_quick_seconds, settings.verify_deep_seconds
        )
        self._failed: dict[str, _Failed] = {}
        self._lock_seconds = _LOCK_SECONDS
        self._tidied: tuple[float, frozenset[str]] | None = None

    def run(self, poll_seconds: float = POLL_SECONDS) -> None:
        """Go on until the process is told to end (KeyboardInterrupt)."""
        while True:
            if not self.step():
                time.sleep(poll_seconds)

    def once(self) -> Result:
        """Bring the wanted model, say on the Node how that went, and return it. Raises NodeError."""
        self._lock_seconds = _LOCK_SECONDS_ONCE
        models = self._models = self._folder.read()
        wanted = models.wanted
        result = Result(command="loader run", facts={"repo_id": wanted.repo_id, "commit": wanted.commit})
        verdicts: Mapping[str, Verdict] = {}
        problem = self._guard(self._settings.store)
        if problem is not None:
            result.reason, result.message = "MOUNT_MISSING", f"{problem}, wanted a mounted local disk"
        else:
            verdicts = self._checks.look(models.listed())
            if not verdicts[wanted.commit].complete:
                self._bring_wanted(models, verdicts, verdicts[wanted.commit])
                verdicts = self._checks.look(models.listed())
            self._tidy_compile_cache(verdicts)
            verdict, failed = verdicts[wanted.commit], self._failed.get(wanted.commit)
            result.state, result.reason = verdict.state, failed.reason if failed else verdict.reason
            result.message = failed.message if failed else verdict.text or _complete(wanted)
        result.ok = result.state == COMPLETE
        result.exit_code = EXIT_OK if result.ok else EXIT_FAILED
        told = self._report(models, verdicts, COMPLETE if result.ok else FAILED, result.reason, result.message)
        if result.ok and not told:
            result.ok, result.exit_code = False, EXIT_FAILED
            result.message += ", but its Node cannot be told"
        return result

    def step(self) -> bool:
        """Look once and do what is due; return whether something was done: then it is worth looking again at once."""
        models = self._read_models()
        if models is None:
            return False
        problem = self._guard(self._settings.store)
        if problem is not None:
            self._checks.forget()
            message = f"{problem}, wanted a mounted local disk (judge-node disks ensure on the node)"
            self._report(models, {}, FAILED, "MOUNT_MISSING", message)
            return False
        verdicts = self._checks.look(models.listed())
        self._tidy_compile_cache(verdicts)
        wanted = verdicts[models.wanted.commit]
        if not wanted.complete:
            return self._bring_wanted(models, verdicts, wanted)
        done = self._point_branch(models)
        return self._bring_next(models, verdicts) or done

    def _read_models(self) -> Models | None:
        """Return what is wanted now. What cannot be read is reported, and the last that could be stays in force."""
        if self._folder.changed() or self._models is None:
            try:
                self._models, self._unusable = self._folder.read(), None
            except NodeError as error:
                self._unusable = error
            else:
                self._failed.clear()
                names = ", ".join(f"{m.repo_id} at {m.commit[:12]}" for m in self._models.listed())
                self._log(f"wanted: {names}")
        if self._unusable is not None and self._models is None:
            self._reporter.report(
                Report(FAILED, reason=self._unusable.reason or "MANIFEST_UNUSABLE", message=self._unusable.message)
            )
        return self._models

    def _bring_wanted(self, models: Models, verdicts: Mapping[str, Verdict], verdict: Verdict) -> bool:
        failed = self._failed.get(models.wanted.commit)
        if failed is not None:
            self._report(models, verdicts, FAILED, failed.reason, failed.message)
            if time.monotonic() < failed.retry_at:
                return False
        elif verdict.state == CORRUPT:
            self._report(models, verdicts, CORRUPT, verdict.reason, verdict.text)
            self._report(models, verdicts, SYNCING, message=f"repairing {_name(models.wanted)}")
        else:
            self._report(models, verdicts, SYNCING, message=f"fetching {_name(models.wanted)}")

        def on_progress(progress: dict[str, Any], percent: int) -> None:
            text = f"{_name(models.wanted)}: {progress_text(progress)}"
            self._report(models, verdicts, SYNCING, message=text, percent=percent)

        failed = self._sync(models.wanted, verdict, on_progress)
        if failed is not None and failed.reason == "LOCKED":  # whoever has the lock is bringing it
            self._failed.pop(models.wanted.commit)
            self._report(models, verdicts, SYNCING, failed.reason, failed.message)
            return False
        return True

    def _bring_next(self, models: Models, verdicts: Mapping[str, Verdict]) -> bool:
        """Say that the wanted model is complete, and bring the one that will be wanted next beside it."""
        following = models.next
        verdict = None if following is None else verdicts[following.commit]
        if following is None or verdict is None or verdict.complete:
            self._report(models, verdicts, COMPLETE, message=_complete(models.wanted))
            return False
        failed = self._failed.get(following.commit)
        if failed is not None:
            self._report(models, verdicts, COMPLETE, failed.reason, f"next, {_name(following)}: {failed.message}")
            if time.monotonic() < failed.retry_at:
                return False
        states = {**verdicts, following.commit: Verdict(following, SYNCING)}
        if failed is None:
            self._report(models, states, COMPLETE, message=f"fetching next, {_name(following)}")

        def on_progress(progress: dict[str, Any], percent: int) -> None:
            text = f"next, {_name(following)}: {progress_text(progress)}"
            self._report(models, states, COMPLETE, message=text)

        return self._sync(following, verdict, on_progress, stage=True) is None

    def _point_branch(self, models: Models) -> bool:
        """Have the branch name the wanted commit, for tools that ask by branch; a model staged before needs it."""
        if not plan_work(Store(self._settings.store), models.wanted):
            self._failed.pop(models.wanted.commit, None)
            return False
        failed = self._failed.get(models.wanted.commit)
        if failed is not None and time.monotonic() < failed.retry_at:
            return False
        return self._sync(models.wanted, Verdict(models.wanted, COMPLETE), lambda progress, percent: None) is None

    def _sync(
        self,
        manifest: Manifest,
        verdict: Verdict,
        on_progress: Callable[[dict[str, Any], int], None],
        *,
        stage: bool = False,
    ) -> _Failed | None:
        """Bring one model; return how it failed, or None when it did not."""
        settings, said_at = self._settings, 0.0

        def progressed(progress: dict[str, Any]) -> None:
            nonlocal said_at
            if self._folder.changed():
                raise _Changed
            now = time.monotonic()
            # Not before bytes come: an attempt after a failure would take back what was said of that.
            if progress["fetched_bytes"] and now - said_at >= self._progress_seconds:
                said_at = now
                here = manifest.size - progress["bytes"] + progress["bytes_done"]
                on_progress(progress, 100 * here // manifest.size if manifest.size else 100)

        try:
            result = sync(
                manifest,
                settings.store,
                sources=settings.sources,
                endpoint=settings.endpoint,
                token=_token(settings.token_file),
                connections=settings.connections,
                limit_rate=settings.limit_rate,
                deep=verdict.read_all,
                stage=stage,
                lock_wait_seconds=self._lock_seconds,
                guard=self._guard,
                retry=self._make_retry(),
                report=self._log,
                on_progress=progressed,
            )
        except (_Changed, Stopped):
            self._log(f"{_name(manifest)}: stopped, because another model is wanted now; what is fetched is kept")
            return None
        except NodeError as error:
            return self._note(manifest, error)
        except OSError as error:
            return self._note(manifest, of_os_error(error, str(settings.store)))
        finally:
            self._checks.forget()
        self._failed.pop(manifest.commit, None)
        if result.changed:
            self._log(result.message)
        return None

    def _note(self, manifest: Manifest, error: NodeError) -> _Failed:
        """Remember a failure, with a pause that grows; jitter, because all nodes lose the same source at once."""
        before = self._failed.get(manifest.commit)
        count = before.count + 1 if before else 1
        pause = min(self._first_pause_seconds * 2 ** min(count - 1, 16), _LONGEST_PAUSE_SECONDS)
        pause *= 0.5 + random.random() / 2
        failed = _Failed(count, time.monotonic() + pause, error.reason or "MODEL_INCOMPLETE", error.message)
        self._failed[manifest.commit] = failed
        self._log(f"{_name(manifest)}: {failed.reason}: {error.message}; next attempt in {pause:.0f} s")
        return failed

    def _report(
        self,
        models: Models,
        verdicts: Mapping[str, Verdict],
        state: str,
        reason: str | None = None,
        message: str = "",
        percent: int | None = None,
    ) -> bool:
        if self._unusable is not None:  # in front: it is why a new model does not come
            message = f"{self._unusable.message}; in force is still: {message}"
            reason = reason or self._unusable.reason or "MANIFEST_UNUSABLE"
        return self._reporter.report(
            Report(
                state=state,
                repo_id=models.wanted.repo_id,
                wanted=models.wanted.commit,
                reason=reason,
                message=message,
                percent=percent if percent is not None else 100 if state == COMPLETE else 0,
                commits={commit: verdict.state for commit, verdict in verdicts.items()},
            )
        )

    def _tidy_compile_cache(self, verdicts: Mapping[str, Verdict]) -> None:
        folder, commits, now = self._settings.compile_cache, frozenset(verdicts), time.monotonic()
        if folder is None:
            return
        if self._tidied is not None and self._tidied[1] == commits and now - self._tidied[0] < _TIDY_SECONDS:
            return
        self._tidied = (now, commits)
        try:
            removed = tidy(folder, commits)
        except OSError as error:
            self._log(f"compile caches: {error.filename}: {error.strerror}")
            return
        if removed:
            self._log(f"compile caches of models that are gone, removed: {', '.join(removed)}")


def _token(name: str | None) -> LazyToken | None:
    """Return what reads the token's file, anew at each sync: a Secret may come, or be renewed, while this runs.

    It is read when the Hub is asked: what a mirror has needs no token.
    """

    def read() -> str:
        try:
            return str(read_token(name))
        except NodeError as error:
            raise NodeError(error.message, reason="TOKEN_UNAVAILABLE", repair=error.repair) from None

    return LazyToken(read) if name else None


def _name(manifest: Manifest) -> str:
    return f"{manifest.repo_id} at {manifest.commit[:12]}"


def _complete(manifest: Manifest) -> str:
    return f"{_name(manifest)} is complete"
