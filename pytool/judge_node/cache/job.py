"""`judge-node cache start|follow|stop`: a sync as a process of its own, which a lost connection does not end.

What one tells the others lies in /run, for this boot: RUNS/<manifest>-<store>/
    job.json       the process: pid and start time (a pid alone may be another process by now)
    progress.json  how far the sync is, about once a second
    result.json    what it came to; there until the same job is started again
    log            what went wrong where nobody looked
    lock           held for a moment by whoever starts or stops the job
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ..files import make_directory, read_file, write_file
from ..locking import locked
from ..result import EXIT_INTERRUPTED, NodeError, Result, foreign
from ..shell import signals_deferred
from .manifest import Manifest
from .progress import progress_text

RUNS = Path("/run/judge-bootstrap/sync")
_POLL_SECONDS = 0.1
_LOCK_SECONDS = 30
_STOP_SECONDS = 10
_FILE_MOST_BYTES = 16 << 20
_LOG_TAIL_BYTES = 4096

# Does the work: is given what takes the progress (sync's on_progress), and returns the sync's result.
Work = Callable[[Callable[[dict[str, Any]], None]], Result]


class Job:
    """The sync of one manifest into one store. Its folder may be there or not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of(cls, manifest: Manifest, root: Path) -> Job:
        """Return the job that syncs this manifest into this store, running or not."""
        return cls(RUNS / f"{manifest.digest[:16]}-{_store_key(root)}")

    @classmethod
    def all_of(cls, root: Path) -> list[Job]:
        """Return the jobs of a store that this boot has seen."""
        return [cls(path) for path in sorted(RUNS.glob(f"*-{_store_key(root)}"))]

    def about(self) -> dict[str, Any]:
        """Return what the job was started with; empty when it was not."""
        return self._read("job.json") or {}

    def pid(self) -> int | None:
        """Return the job's process, or None when it has ended."""
        about = self.about()
        return about["pid"] if about and _start_ticks(about["pid"]) == about["ticks"] else None

    def start(self, manifest: Manifest, root: Path, work: Work) -> bool:
        """Start the job unless it runs; return whether it was started. Raises NodeError LOCKED."""
        make_directory(RUNS.parent)
        make_directory(self._folder, 0o700)
        about = {
            "repo_id": manifest.repo_id,
            "commit": manifest.commit,
            "digest": manifest.digest,
            "store": str(root),
            "started_at": int(time.time()),
        }
        # Whoever asks while the lock is held waits; it is held until job.json is there, even if this process is killed.
        with locked(self._folder / "lock", wait_seconds=_LOCK_SECONDS) as lock:
            if self.pid() is not None:
                return False
            for name in ("job.json", "progress.json", "result.json"):
                with contextlib.suppress(FileNotFoundError):
                    (self._folder / name).unlink()
            _import_all()
            sys.stdout.flush()
            sys.stderr.flush()
            told, tell = os.pipe()
            with signals_deferred():
                if os.fork() == 0:
                    self._be_the_job(about, work, lock=lock, tell=tell)
            os.close(tell)
            os.read(told, 1)  # until job.json is there, or the process has ended
            os.close(told)
        return True

    def follow(self, wait_seconds: float, say: Callable[[str], None] = lambda line: None) -> Result:
        """Return the job's result, or its progress when it still runs after `wait_seconds`.

        `say` gets the progress meanwhile. Raises NodeError JOB_LOST when it ended without a result.
        """
        deadline, said = time.monotonic() + wait_seconds, ""
        while True:
            pid = self.pid()  # before the result is read: it writes that before it ends
            if pid is None:
                return self._result()
            progress = self._read("progress.json")
            if progress and progress_text(progress) != said:
                said = progress_text(progress)
                say(said)
            left = deadline - time.monotonic()
            if left <= 0:
                return self._running(pid)
            time.sleep(min(left, _POLL_SECONDS))

    def stop(self) -> bool:
        """End the job; return whether it ran. TERM first: what is fetched stays, and the next run goes on from it."""
        if not self._folder.is_dir():
            return False
        with locked(self._folder / "lock", wait_seconds=_LOCK_SECONDS):
            found = self.pid()
            for number in (signal.SIGTERM, signal.SIGKILL):
                pid, deadline = self.pid(), time.monotonic() + _STOP_SECONDS
                if pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                while self.pid() is not None and time.monotonic() < deadline:
                    time.sleep(_POLL_SECONDS / 2)
            if self.pid() is not None:  # in the kernel, waiting for a disk that does not answer
                raise NodeError(
                    f"the sync (process {self.pid()}) does not end, and no signal reaches it",
                    reason="DISK_FAILED",
                    repair=f"cat /proc/{self.pid()}/stack   # what it waits for; then journalctl -k",
                )
        return found is not None

    def _running(self, pid: int) -> Result:
        about, progress = self.about(), self._read("progress.json")
        facts = {**about, "progress": progress, "progress_text": progress_text(progress)}
        result = Result(command="cache sync", state="running", facts=facts)
        result.message = f"{_name(about)} is being synced (process {pid}): {progress_text(progress)}"
        result.repair = f"judge-node cache follow MANIFEST --store {about['store']}"
        return result

    def _result(self) -> Result:
        told = self._read("result.json")
        if told is not None:
            return Result(**{field.name: told[field.name] for field in fields(Result) if field.name in told})
        about = self.about()
        if not about:
            raise NodeError("no sync of this manifest was started on this node since it booted", reason="JOB_LOST")
        log = self._log_tail()
        raise NodeError(
            f"the sync of {_name(about)} (process {about['pid']}) ended without a result"
            + (f"; its log {self._folder}/log ends: {log}" if log else ": something killed it"),
            reason="JOB_LOST",
            repair=f"judge-node cache sync MANIFEST --store {about['store']}",
            facts=about,
        )

    def _be_the_job(self, about: dict[str, Any], work: Work, *, lock: int, tell: int) -> NoReturn:
        """Do the work in this process, which is a new one, and end it."""
        try:
            os.setsid()
            os.chdir("/")
            self._redirect(keep={lock, tell})
            with contextlib.suppress(OSError):
                Path("/proc/self/comm").write_text("judge-node")
            self._write("job.json", {**about, "pid": os.getpid(), "ticks": _start_ticks(os.getpid())})
            os.close(lock)
            os.close(tell)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _interrupt)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            result = self._work(work)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._write("result.json", vars(result))
        except BaseException:  # for the log: nothing above this may go on in a second process
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(0)

    def _work(self, work: Work) -> Result:
        try:
            return work(lambda progress: self._write("progress.json", progress))
        except NodeError as error:
            return Result.of_error("cache sync", error)
        except OSError as error:
            from .failures import of_os_error

            return Result.of_error("cache sync", of_os_error(error, error.filename or "the disk"))
        except KeyboardInterrupt:
            about = self.about()
            return Result(
                command="cache sync",
                ok=False,
                reason="INTERRUPTED",
                message=f"{_name(about)}: the sync was stopped; the next goes on from here",
                repair=f"judge-node cache sync MANIFEST --store {about['store']}",
                exit_code=EXIT_INTERRUPTED,
            )

    def _redirect(self, keep: set[int]) -> None:
        """Let go of all that the starter had open: an ssh session does not end while its pipes are held."""
        log = os.open(self._folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for end, source in ((0, null), (1, null), (2, log)):
            os.dup2(source, end)
        for path in list(Path("/proc/self/fd").iterdir()):
            with contextlib.suppress(OSError):
                # A program that came through ssh is imported from memory, and there is no other copy of it.
                if int(path.name) not in {0, 1, 2, *keep} and not str(path.readlink()).startswith("/memfd:"):
                    os.close(int(path.name))
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the streams of a process, for its life
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115

    def _log_tail(self) -> str:
        try:
            lines = (self._folder / "log").read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return foreign(lines[-1]) if lines else ""

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            said = json.loads(read_file(self._folder / name, _FILE_MOST_BYTES))
        except (OSError, ValueError):
            return None
        return said if isinstance(said, dict) else None

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_file(self._folder / name, (json.dumps(content, sort_keys=True) + "\n").encode(), 0o600)


def stop(jobs: Iterable[Job], *, check: bool = False) -> Result:
    """End every sync of `jobs` that runs. None at all is no failure: what was asked for holds."""
    stopped = [job.about() for job in jobs if (job.pid() is not None if check else job.stop())]
    names = ", ".join(map(_name, stopped))
    result = Result(command="cache stop", changed=bool(stopped), facts={"stopped": stopped})
    result.state = "running" if check and stopped else "stopped"
    did = f"would stop the sync of {names}" if check else f"stopped the sync of {names}; the next goes on from here"
    result.message = did if stopped else "no sync is running"
    if stopped:
        result.before, result.after = f"syncing {names}\n", "no sync is running\n"
    return result


def _name(about: Mapping[str, Any]) -> str:
    return f"{about['repo_id']} at {about['commit'][:12]}"


def _store_key(root: Path) -> str:
    return hashlib.sha256(os.path.normpath(root).encode()).hexdigest()[:16]


def _start_ticks(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold anything. Fields 3 and 22 of proc(5); a zombie has ended, whoever reaps it.
    found = text.rpartition(")")[2].split()
    return None if found[0] in "ZX" else int(found[19])


def _import_all() -> None:
    """Import the whole program now: the file it comes from may be replaced while the job runs."""
    program = importlib.import_module(__name__.partition(".")[0])
    for module in pkgutil.walk_packages(program.__path__, f"{program.__name__}."):
        importlib.import_module(module.name)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
