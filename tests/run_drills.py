"""Drills of a whole run over real ssh: a host that is cut off, Ctrl-C, kill -9. Used by the tests and by figure R9."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters import private
from judge_lab.hub import Fault, HubServer
from judge_node.cache.job import RUNS
from ssh_hosts import Host, Hosts, environment_of, pids, ssh_hosts, wait_until
from weights import HEAD_BYTES, weights

SOURCE = Path(__file__).resolve().parents[1]
REPOSITORY = "drill/tiny"
MODEL_BYTES = 1 << 20
# What takes ten minutes when it is slow: far longer than any drill waits, so that a run is always caught in the middle.
# (`fast` ends that. Six times what judge-node takes for a source that drips, so that a busy machine makes it none.)
SLOW_MODEL_BYTES, SLOW_BYTES_PER_SECOND = 8 << 20, 14_000.0
FAST_BYTES_PER_SECOND = 1e9
RUN_ID = b"JUDGE_BOOTSTRAP_RUN_ID="
# The node program gets 10 s from its module to stop; what lives on after four times that is an orphan. A sync outlives
# its run on purpose, unless the run was interrupted: it is one when the source is fast and it has not ended by then.
# (ssh's masters live for 60 s by themselves, and must have been ended before.)
ORPHAN_SECONDS = 45.0


@dataclass
class Drill:
    """Hosts, a model source that can be made slow, and the real CLI."""

    hosts: Hosts
    hub: HubServer
    state: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    # The private directories that were seen of this drill's own runs.
    folders: set[Path] = field(default_factory=set)

    def slow(self) -> None:
        """Make each download of the model take so long that a run can be caught in the middle."""
        self.hub.faults[:] = [slow_download()]

    def fast(self) -> None:
        """End the slowness, for downloads under way too."""
        for fault in self.hub.faults:
            fault.value = FAST_BYTES_PER_SECOND
        self.hub.faults.clear()

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start the CLI on the drill's environment, as a shell would."""
        environment = {**os.environ, "PYTHONPATH": str(SOURCE / "pytool"), "JUDGE_BOOTSTRAP_STATE": str(self.state),
                       "JUDGE_BOOTSTRAP_INVENTORY": str(self.hosts.inventory)}
        process = subprocess.Popen([sys.executable, "-m", "judge_bootstrap", "--env", "drill", "--json", *words],
                                   cwd=self.hosts.root, env=environment, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        self.started.append(process)
        self.hub.requests.clear()
        return process

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run the CLI to its end; return the exit code and the JSON answer."""
        return finish(self.start(*words))

    def wait_until_working(self, process: subprocess.Popen[str], seconds: float = 300.0) -> None:
        """Wait until every host fetches the model. Raises AssertionError when the CLI ends before."""
        def all_work() -> bool:
            assert process.poll() is None, f"the run ended too early: {process.communicate()}"
            self.folders |= private_directories_of(process.pid)
            return self.downloads() >= len(self.hosts.hosts)

        wait_until(all_work, seconds, "every host to fetch the model")

    def end(self) -> None:
        """End what a drill that failed left running."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)

    def sync_of(self, host: Host) -> int | None:
        """Return the process of the host's sync, running or not; None before the first."""
        for path in host.path(RUNS).glob("*/job.json"):
            return int(json.loads(path.read_text())["pid"])
        return None

    def downloads(self) -> int:
        """Return how many answers of the model's bytes the source has given since the last start of the CLI."""
        return sum(request.download_host and request.method == "GET" for request in self.hub.requests)

    def orphans(self) -> list[str]:
        """Return what still runs on a host or here for any run, once it has had time to end."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self.left(), ORPHAN_SECONDS, "the run's processes to end")
        return self.command_lines()

    def command_lines(self) -> list[str]:
        """Return the command lines of what runs now for this drill."""
        return [line for line in map(command_line, self.left()) if line]

    def left(self) -> list[int]:
        """Return the pids of what runs now on a host, or here for any run."""
        # Other runs on this machine have other state directories. ssh's masters write over their environment.
        ours = f"JUDGE_BOOTSTRAP_STATE={self.state}".encode()
        local = []
        for pid in pids():
            environment = environment_of(pid)
            started = ours in environment and any(item.startswith(RUN_ID) for item in environment)
            if started or any(f"{folder}/" in command_line(pid) for folder in self.folders):
                local.append(pid)
        return [*self.hosts.processes(), *local]

    def folders_left(self) -> set[Path]:
        """Return this drill's private directories that are still there."""
        return {folder for folder in self.folders if folder.exists()}


def private_directories_of(pid: int) -> set[Path]:
    """Return the private directories that a CLI has made."""
    found = set()
    for path in (path for parent in private.parents() for path in parent.glob(private.PREFIX + "*")):
        with contextlib.suppress(OSError, ValueError):
            if json.loads((path / private.OWNER_FILE).read_text())["pid"] == pid:
                found.add(path)
    return found


def finish(process: subprocess.Popen[str], seconds: float = 600.0) -> tuple[int, dict[str, Any]]:
    """Wait for a CLI to end; return its exit code and JSON answer. Raises AssertionError if there is none."""
    stdout, stderr = process.communicate(timeout=seconds)
    try:
        answer = json.loads(stdout)
    except ValueError:
        raise AssertionError(f"exit code {process.returncode}, no JSON but {stdout!r}; stderr:\n{stderr}") from None
    assert isinstance(answer, dict)
    return process.returncode, answer


def hear(process: subprocess.Popen[str], words: str) -> str:
    """Read what a CLI says to people until it says `words`; return it all. Raises AssertionError when it never does."""
    heard = ""
    assert process.stderr is not None
    while words not in heard:
        line = process.stderr.readline()
        assert line, f"{words!r} was never said, but:\n{heard}"
        heard += line
    return heard


def interrupt(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> None:
    """Send a signal to the CLI alone: ansible-playbook has its own session and would not get a terminal's Ctrl-C."""
    process.send_signal(number)


def slow_download() -> Fault:
    """Return the Hub's fault that makes a download of the model slow."""
    return Fault("slow", "*.safetensors", None, SLOW_BYTES_PER_SECOND)


def command_line(pid: int) -> str:
    """Return a process's command line as text; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


@contextlib.contextmanager
def drill(root: Path, count: int, *, model_bytes: int = MODEL_BYTES) -> Iterator[Drill]:
    """Have `count` hosts and a Hub with one small model."""
    model = root / "models" / REPOSITORY
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "qwen2"}')
    (model / "model.safetensors").write_bytes(weights(os.urandom(model_bytes - HEAD_BYTES)))
    with (HubServer(root / "models", "127.0.0.1", 0) as hub,
          ssh_hosts(root / "hosts", count, variables={"model_cache_repo_id": REPOSITORY,
                                                      "model_cache_hub_endpoint": hub.url}) as hosts):
        made = Drill(hosts, hub, root / "state")
        try:
            yield made
        finally:
            made.end()
