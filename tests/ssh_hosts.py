"""Hosts for fault drills: real sshd on loopback ports, each in its own mount namespace, with a store that is a mount.

Nothing of the machine is changed: /usr/local/lib, /usr/local/bin and /run/judge-bootstrap are empty tmpfs inside a
host. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports import kept_port

SSHD = "/usr/sbin/sshd"
# Every process that sshd starts on a host carries it, so that what is left of a run can be counted.
MARK = "JUDGE_FAULT_HOST"


def can_run() -> bool:
    """Tell whether this machine can have such hosts."""
    return os.getuid() == 0 and Path(SSHD).exists() and shutil.which("unshare") is not None


def wait_until(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for `done`. Raises TimeoutError, naming `what`, after that many seconds."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)


def environment_of(pid: int) -> list[bytes]:
    """Return a process's environment; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def pids() -> list[int]:
    """Return all pids."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def children_of(pid: int) -> list[int]:
    """Return a process's children and theirs; none of one that has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in list(Path(f"/proc/{pid}/task").glob("*/children")):
            with contextlib.suppress(OSError):
                for child in map(int, thread.read_text().split()):
                    found += [child, *children_of(child)]
    return found


@dataclass
class Host:
    """One host: `folder` is its home and configuration, `store` the path of its own mount."""

    name: str
    folder: Path
    store: Path
    port: int
    mark: str
    holder: subprocess.Popen[bytes]
    sshd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start sshd in the host's namespaces and wait until it answers."""
        command = [*self.enter(), SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self.sshd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         start_new_session=True)
        wait_until(self.answers, 60, f"sshd of {self.name}")

    def answers(self) -> bool:
        """Tell whether something listens on the host's port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def cut(self) -> None:
        """End sshd and its sessions at once, as a crash or lost link does. What the sessions started is not touched."""
        if self.sshd is None:
            return
        sessions = [pid for pid in children_of(self.sshd.pid) if command_name(pid).startswith("sshd")]
        for pid in [self.sshd.pid, *sessions]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.sshd.wait()
        self.sshd = None

    def processes(self) -> list[int]:
        """Return what runs on the host, sshd itself aside."""
        mark = f"{MARK}={self.mark}".encode()
        return [pid for pid in pids() if mark in environment_of(pid)]

    def in_namespace(self, *command: str) -> str:
        """Run a command in the host's namespaces and return its output, past ssh."""
        return subprocess.run([*self.enter(), *command], check=True, capture_output=True, text=True).stdout

    def path(self, inside: Path) -> Path:
        """Return where a path of the host is for this process."""
        return Path(f"/proc/{self.holder.pid}/root") / inside.relative_to("/")

    def enter(self) -> list[str]:
        """Return the words that run a command in the host's namespaces."""
        return ["nsenter", "--mount", "--target", str(self.holder.pid)]


def command_name(pid: int) -> str:
    """Return a process's name; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@dataclass
class Hosts:
    """All hosts of a drill, and the inventory that names them."""

    root: Path
    inventory: Path
    hosts: list[Host] = field(default_factory=list)

    def processes(self) -> list[int]:
        """Return what runs on any host."""
        return [pid for host in self.hosts for pid in host.processes()]


@contextlib.contextmanager
def ssh_hosts(root: Path, count: int, *, env: str = "drill",
              variables: dict[str, Any] | None = None) -> Iterator[Hosts]:
    """Have `count` hosts, node-1 and so on, and an inventory folder with the environment `env` that names them.

    A host keeps its port while its sshd is down.
    """
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd does not start without it, even where it does not use it
    root.mkdir(parents=True, exist_ok=True)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / f"{key}_key")], check=True)
    found = Hosts(root, root / "inventory")
    with contextlib.ExitStack() as held:
        try:
            for index in range(1, count + 1):
                found.hosts.append(_host(root, f"node-{index}", held.enter_context(kept_port())))
            for host in found.hosts:
                host.start()
            _write_inventory(found, env, variables or {})
            yield found
        finally:
            for host in found.hosts:
                host.cut()
                for pid in [*host.processes(), host.holder.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                host.holder.wait()


def _host(root: Path, name: str, port: int) -> Host:
    folder, store = root / name, root / name / "disk"
    store.mkdir(parents=True)
    mark = f"{uuid.uuid4().hex[:8]}-{name}"
    (folder / "sshd_config").write_text("\n".join([
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {root}/host_key",
        f"AuthorizedKeysFile {root}/user_key.pub",
        "UsePAM no", "StrictModes no", "PasswordAuthentication no", "PermitRootLogin yes", "PidFile none",
        "PrintMotd no", "MaxStartups 200:30:400", "LogLevel ERROR",
        # A home of its own: root's real one has a shell start-up file that may take seconds.
        f"SetEnv HOME={folder} {MARK}={mark}", ""]))
    # Without /run/systemd a host has no systemd, and no timer of it becomes one of this machine.
    script = ("{ [ ! -d /run/systemd ] || mount -t tmpfs tmpfs /run/systemd; } && "
              "mkdir -p /run/judge-bootstrap && mount -t tmpfs tmpfs /run/judge-bootstrap && "
              "mount -t tmpfs tmpfs /usr/local/lib && mount -t tmpfs tmpfs /usr/local/bin && "
              f"mount -t tmpfs tmpfs {store} && echo ready && exec sleep infinity")
    holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    assert holder.stdout is not None
    if holder.stdout.readline() != b"ready\n":
        raise OSError(f"{name}: no mount namespace could be made")
    holder.stdout.close()
    return Host(name, folder, store, port, mark, holder)


def _write_inventory(found: Hosts, env: str, variables: dict[str, Any]) -> None:
    folder = found.inventory / env
    (folder / "group_vars").mkdir(parents=True)
    key = (found.root / "host_key.pub").read_text().split()
    (found.root / "known_hosts").write_text(
        "".join(f"[127.0.0.1]:{host.port} {key[0]} {key[1]}\n" for host in found.hosts))
    lines = ["gpu_nodes:", "  hosts:"]
    for host in found.hosts:
        lines += [f"    {host.name}:", "      ansible_host: 127.0.0.1", f"      ansible_port: {host.port}",
                  f"      model_cache_dir: {host.store}/hub", f"      nvme_mount_path: {host.store}"]
    (folder / "hosts.yml").write_text("\n".join(lines) + "\n")
    settings: dict[str, Any] = {
        "ansible_user": "root", "ansible_become": False, "ansible_python_interpreter": sys.executable,
        "ansible_ssh_private_key_file": f"{found.root}/user_key",
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={found.root}/known_hosts -o IdentitiesOnly=yes",
        **variables}
    (folder / "group_vars" / "all.yml").write_text("\n".join([
        *(f"{name}: {json.dumps(value)}" for name, value in settings.items()),
        "judge_environment:", "  production: false", "  provider: aws", "  region: us-east-1",
        f"  expected_hosts: {len(found.hosts)}", "  appconfig: null", ""]))
