"""The local environment as a user drives it: the real command, and other ways to look at what it did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_lab import layout
from judge_lab import state as lab_state

CHECKOUT = Path(__file__).resolve().parents[2]
_STATES: list[Path] = []  # of every Cli


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    json: dict[str, Any]
    stderr: str

    def changed_tasks(self) -> set[tuple[str, str]]:
        """Return (host, task) of everything that a run changed, or that a plan says it would."""
        return {(change["host"], change["task"]) for change in self.json["changes"]}


@dataclass
class Cli:
    """`judge-bootstrap --env local --json`, with a state folder of its own."""

    state: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Note whose runs are ours."""
        _STATES.append(self.state)

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command; it runs on."""
        # Ansible gives ssh 10 s to connect, and sudo 12 s to answer: a busy machine or an emulated CPU may take longer.
        env = {**os.environ, "JUDGE_BOOTSTRAP_STATE": str(self.state), "ANSIBLE_TIMEOUT": "120", **self.variables,
               **variables}
        program = Path(sys.executable).parent / "judge-bootstrap"
        return subprocess.Popen([program, "--env", "local", "--json", *words], cwd=CHECKOUT, env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __call__(self, *words: str, **variables: str) -> Answer:
        """Run a command to its end."""
        return finish(self.start(*words, **variables))


def finish(process: subprocess.Popen[str], seconds: float = 3600) -> Answer:
    """Wait for a command and read its one JSON object; the time only bounds one that hangs."""
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert stdout.count("\n") == 1, f"wanted one JSON object on stdout, found {stdout!r}; stderr:\n{stderr}"
    return Answer(process.returncode, json.loads(stdout), stderr)


def on_node(address: str, command: str) -> str:
    """Run a shell command on a lab node over ssh; return what it printed. Raises CalledProcessError."""
    lab = Path(os.environ.get("JUDGE_LAB_DIR", "/var/lib/judge-bootstrap/lab"))
    done = subprocess.run(["ssh", "-i", lab / "ssh/id_ed25519", "-o", f"UserKnownHostsFile={lab}/ssh/known_hosts",
                           "-o", "IdentitiesOnly=yes", f"root@{address}", command],
                          capture_output=True, text=True, check=True)
    return done.stdout


def run_processes() -> list[int]:
    """Return the pids on this machine, the lab's nodes included, that belong to a run of a Cli of this process.

    Other suites may run at the same time, with states and hosts of their own.
    """
    state = lab_state.load(layout.current())
    nodes = {node.process.pid for node in state.nodes.values() if node.process} if state else set()
    states = [f"JUDGE_BOOTSTRAP_STATE={path}".encode() for path in _STATES]
    found = []
    for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
        folder = Path("/proc", str(pid))
        try:
            environ, command = (folder / "environ").read_bytes().split(b"\0"), (folder / "cmdline").read_bytes()
            name = (folder / "comm").read_bytes().strip()
            here = any(word in environ for word in states) and b"JUDGE_BOOTSTRAP_RUN_ID=" in b"\n".join(environ)
            if here or ((name == b"judge-node" or b"AnsiballZ" in command) and nodes.intersection(_ancestors(pid))):
                found.append(pid)
        except OSError:
            continue  # gone meanwhile
    return found


def _ancestors(pid: int) -> Iterator[int]:
    """Return the pids of a process's parent, its parent, and so on. Raises OSError when one of them has ended."""
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid
