"""Run a benchmark in namespaces of its own: what it starts, mounts and connects ends with it, after a kill -9 too.

Its / is a small tmpfs with the machine's folders bound into it. judge-node refuses a store on the root filesystem, and
so the machine's own disk can be measured as it is, without a loop device in between.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_FOLDER = "JUDGE_BENCH_FOLDER"  # set for the run inside
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"))
# Ends with the process that runs it, however that ends; and everything inside ends with it.
_UNSHARE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
            "--kill-child", "--mount-proc")
_START = r"""
root=$1; shift
mount -t tmpfs -o mode=0755,size=1m tmpfs "$root"
for entry in /*; do
  if [ -L "$entry" ]; then ln -s "$(readlink "$entry")" "$root$entry"
  elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"
  fi
done
mkdir "$root/.machine"
cd "$root"
pivot_root . .machine
umount --lazy /.machine
cd /
exec "$@"
"""


class CannotRun(Exception):
    """This machine cannot run the benchmark; the text says what was found, what is wanted and what to type."""


def enter() -> Path | None:
    """Return the folder of this run, or None outside: then `run_apart` is what to call."""
    found = os.environ.get(_FOLDER)
    if found is None:
        return None
    # The first process of a pid namespace gets no signal that it does not handle; with its end, all others end.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(130))
    return Path(found)


def need(tools: tuple[str, ...], packages: str) -> None:
    """Raise CannotRun unless every tool is there."""
    missing = [tool for tool in tools if shutil.which(tool, path=_PATH) is None]
    if missing:
        raise CannotRun(f"found no {', '.join(missing)}. Next: apt-get install {packages}")


def _parent(need_bytes: int) -> Path:
    """Return where the run's folder goes: on a disk, because a filesystem in memory has no fsync to measure."""
    for candidate in (Path(tempfile.gettempdir()), Path("/var/tmp")):
        kind = subprocess.run(["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(candidate)],
                              capture_output=True, text=True, check=False).stdout.strip()
        if kind == "tmpfs":
            continue
        free = shutil.disk_usage(candidate).free
        if free < need_bytes:
            raise CannotRun(f"found {free / 1e9:.1f} GB free at {candidate}, wanted {need_bytes / 1e9:.1f} GB. "
                            "Next: TMPDIR=/path/on/a/bigger/disk")
        return candidate
    raise CannotRun("found only tmpfs for temporary files, wanted a disk. Next: TMPDIR=/path/on/a/disk")


def run_apart(program: str, *, need_bytes: int, network: bool = False) -> int:
    """Run `program` inside, with a folder for `need_bytes` on a disk, and return its exit code; 130 when interrupted.

    `network`: with a network of its own, in which there is nothing yet. Raises CannotRun.
    """
    need(("unshare", "setpriv", "pivot_root", "findmnt"), "util-linux mount")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job would ignore the first
        signal.signal(number, _interrupted)
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(
            prefix="judge-bench.", dir=_parent(need_bytes)) as made:
        (Path(made) / "root").mkdir()
        command = [*_UNSHARE, *(["--net"] if network else []), *([] if os.getuid() == 0 else ["--map-root-user"])]
        if subprocess.run([*command, "true"], capture_output=True, check=False, env={"PATH": _PATH}).returncode != 0:
            raise CannotRun(f"found uid {os.getuid()} without the right to make namespaces, wanted root. "
                            f"Next: sudo make {Path(program).stem.replace('_', '-')}")
        # A session of its own: a terminal's Ctrl-C reaches only this process, which then ends all of them.
        process = subprocess.Popen([*command, "sh", "-euc", _START, "sh", f"{made}/root", sys.executable, program],
                                   stdin=subprocess.DEVNULL, start_new_session=True,
                                   env={**os.environ, "PATH": _PATH, _FOLDER: made})
        try:
            return process.wait()
        finally:
            _end(process)
    return 130


def _interrupted(signal_number: int, frame: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever presses twice must not stop the cleaning up
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    """End everything inside: it goes with the first process of its pid namespace, and is waited for with it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    patience = time.monotonic() + 2
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            first = int(children.read_text().split()[0])
            os.kill(first, signal.SIGTERM if time.monotonic() < patience else signal.SIGKILL)
        time.sleep(0.02)
