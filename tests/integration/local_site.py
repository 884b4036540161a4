"""The local environment as a user drives it: the real command, and other ways to look at what it did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]


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

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command; it runs on."""
        env = {**os.environ, "JUDGE_BOOTSTRAP_STATE": str(self.state), **self.variables, **variables}
        program = Path(sys.executable).parent / "judge-bootstrap"
        return subprocess.Popen([program, "--env", "local", "--json", *words], cwd=CHECKOUT, env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __call__(self, *words: str, **variables: str) -> Answer:
        """Run a command to its end."""
        return finish(self.start(*words, **variables))


def finish(process: subprocess.Popen[str], seconds: float = 900) -> Answer:
    """Wait for a command and read its one JSON object."""
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
    """Return the pids on this machine, the lab's nodes included, that belong to a run of the CLI."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environ, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            name = (entry / "comm").read_bytes().strip()
        except OSError:
            continue
        if b"JUDGE_BOOTSTRAP_RUN_ID=" in environ or name == b"judge-node" or b"AnsiballZ" in command:
            found.append(int(entry.name))
    return found
