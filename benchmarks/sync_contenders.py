"""Who brings the model, how each is called, and what a run of it cost.

Every rival gets its best: no progress bars, no update check, preallocation for aria2c, curl with a process a shard.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sync_model import REPO_ID, SHARDS

ROOT = Path(__file__).resolve().parents[1]
# What runs the program on a node, as ansible.cfg names it; where there is none, the one that this runs on.
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else str(Path(sys.executable).resolve())
FOLDER = "hub/models--" + REPO_ID.replace("/", "--")  # below the target: the store's, and that of HF_HOME
_SNAPSHOT = "import sys, huggingface_hub as h; h.snapshot_download(sys.argv[1], max_workers=8)"


@dataclass(frozen=True)
class Cost:
    """What one run took. The processors' seconds are those of the run's processes alone, not the server's."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Contender:
    """One way to bring the model below a target folder, which is there and empty."""

    name: str
    command: Callable[[Path], list[str]]
    hub_layout: bool
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, target: Path, prefix: Iterable[str] = ()) -> subprocess.Popen[bytes]:
        """Start it, in a session of its own; what it says goes to `target`.log."""
        # Not this process's environment: a proxy or a token of the machine must reach none of them.
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(target), "HF_HOME": str(target),
                       **self.environment}
        with Path(f"{target}.log").open("wb") as log:
            return subprocess.Popen([*prefix, *self.command(target)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    env=environment, start_new_session=True, cwd=target)

    def run(self, target: Path, prefix: Iterable[str] = ()) -> Cost:
        """Run it to its end. Raises RuntimeError, with what it said, when it fails."""
        started = time.perf_counter()
        cpu_seconds = self.finish(self.start(target, prefix), target)
        return Cost(time.perf_counter() - started, cpu_seconds)

    def finish(self, process: subprocess.Popen[bytes], target: Path) -> float:
        """Wait for its end, and return its processor seconds. Raises RuntimeError, with what it said, when it fails."""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said = Path(f"{target}.log").read_text(errors="replace").strip()
            raise RuntimeError(f"{self.name} ended with {process.returncode}: {said[-1500:]}")
        return usage.ru_utime + usage.ru_stime

    def check(self, target: Path, manifest: dict[str, Any]) -> None:
        """Raise RuntimeError unless every file of the manifest is there with its size."""
        folder = target / FOLDER / "snapshots" / manifest["commit"] if self.hub_layout else target
        for file in manifest["files"]:
            path = folder / file["path"]
            found = path.stat().st_size if path.exists() else None
            if found != file["size"]:
                raise RuntimeError(f"{self.name} left {path} with {found} bytes, wanted {file['size']}")


def written_bytes(pid: int) -> int:
    """Return how many bytes a process has written by system calls."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


def build_program(path: Path) -> Path:
    """Write judge-node.pyz as nodes get it, and return its path."""
    subprocess.run([sys.executable, "-m", "judge_node", "program", "--out", str(path)], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   env={**os.environ, "PYTHONPATH": str(ROOT / "pytool")})
    return path


def ours(program: Path, manifest: Path, *options: str) -> Contender:
    """Return `judge-node cache sync`, with its checks of every hash and its fsyncs."""
    return Contender("ours", lambda target: [PYTHON, str(program), "cache", "sync", str(manifest), "--store",
                                             str(target / "hub"), "--json", *options], hub_layout=True)


def hf(hub: str) -> Contender:
    """Return `hf download`, of the environment that runs this."""
    return Contender("hf", lambda target: [str(Path(sys.executable).with_name("hf")), "download", REPO_ID],
                     hub_layout=True, environment=_hf_environment(hub))


def snapshot_download(hub: str) -> Contender:
    """Return huggingface_hub.snapshot_download with 8 workers."""
    return Contender("snapshot", lambda target: [sys.executable, "-c", _SNAPSHOT, REPO_ID], hub_layout=True,
                     environment=_hf_environment(hub))


def _hf_environment(hub: str) -> dict[str, str]:
    return {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def curl_and_sync(hub: str, manifest: dict[str, Any]) -> Contender:
    """Return what nothing that fetches and keeps can beat by much: curl and an fsync of its files, no hash."""
    def command(target: Path) -> list[str]:
        urls = _urls(hub, manifest)
        parts = [{SHARDS[0]: urls.pop(SHARDS[0])}, urls]  # the small files go with the smaller shard
        lines = ["set -e"]
        for number, part in enumerate(parts):
            arguments = [word for path, url in part.items() for word in ("-o", path, url)]
            lines.append(f"curl -sSfL {shlex.join(arguments)} & pid{number}=$!")
        lines += [f"wait $pid{number}" for number in range(len(parts))]
        lines.append(shlex.join(["sync", *(file["path"] for file in manifest["files"])]))
        return ["sh", "-c", "\n".join(lines)]
    return Contender("curl_sync", command, hub_layout=False)


def aria2c(hub: str, manifest: dict[str, Any]) -> Contender:
    """Return aria2c with 4 connections a file, 4 files at a time."""
    def command(target: Path) -> list[str]:
        listing = Path(f"{target}.aria2")
        listing.write_text("".join(f"{url}\n out={path}\n" for path, url in _urls(hub, manifest).items()))
        return ["aria2c", "--no-conf", "-q", "-x4", "-s4", "-j4", "--file-allocation=falloc", "-d", str(target),
                "-i", str(listing)]
    return Contender("aria2c", command, hub_layout=False)


def _urls(hub: str, manifest: dict[str, Any]) -> dict[str, str]:
    return {file["path"]: f"{hub}/{REPO_ID}/resolve/{manifest['commit']}/{file['path']}" for file in manifest["files"]}


def new_target(path: Path) -> Path:
    """Return an empty folder in the place of whatever is there, on a disk that has nothing left to write."""
    remove_target(path)
    path.mkdir()
    subprocess.run(["sync", "--file-system", str(path)], check=True)
    return path


def remove_target(path: Path) -> None:
    """Remove a target with what lies beside it."""
    shutil.rmtree(path, ignore_errors=True)
    for suffix in (".log", ".aria2"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def kill_half_way(contender: Contender, target: Path, total_bytes: int) -> int:
    """Start it, kill -9 it once it has written half of the bytes, and return how many it had written.

    It is stopped first, so that the number is exact. Raises RuntimeError when it ends before that.
    """
    process = contender.start(target)
    try:
        while written_bytes(process.pid) < total_bytes // 2:
            if process.poll() is not None:
                raise RuntimeError(f"{contender.name} ended with {process.returncode} before it had written half: "
                                   + Path(f"{target}.log").read_text(errors="replace")[-1000:])
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        return written_bytes(process.pid)
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill -9 it and what it started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def write_manifest(path: Path, manifest: dict[str, Any]) -> Path:
    """Write a manifest for `judge-node cache sync`, and return its path."""
    path.write_text(json.dumps(manifest))
    return path
