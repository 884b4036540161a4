"""Hosts with one blank disk each: real sshd on loopback ports, in mount and process namespaces. Needs root.

A host has its own /dev and sees one block device, its loop device: no disk of the machine, and no other host's, can be
named or found. /run, /mnt, /var/lib and /usr/local of the machine are covered, systemd among them, so nothing that a
host installs or mounts reaches the machine; all of it ends with the host's first process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MOUNT_PATH = "/mnt/nvme"
TOOLS = ("sshd", "ssh", "ssh-keygen", "unshare", "nsenter", "losetup", "mkfs.xfs", "mkfs.ext4", "blkid")
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"))
# Two block devices' worth of /dev, and /sys/block as the kernel would show it on a machine with this one disk.
_INIT = r"""
set -eu
folder=$1 loop=$2 minor=$3
mount --make-rprivate /
mount -t proc proc /proc
mkdir -p "$folder/dev/pts"
mount -t tmpfs -o mode=0755 tmpfs "$folder/dev"
mkdir "$folder/dev/pts" "$folder/dev/shm"
while read -r file mode major number; do mknod -m "$mode" "$folder/dev/$file" c "$major" "$number"; done <<NODES
null 666 1 3
zero 666 1 5
full 666 1 7
random 666 1 8
urandom 666 1 9
tty 666 5 0
NODES
mknod -m 660 "$folder/dev/$loop" b 7 "$minor"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$folder/dev/pts"
ln -s pts/ptmx "$folder/dev/ptmx"
ln -s /proc/self/fd "$folder/dev/fd"
mount --move "$folder/dev" /dev
mount -t tmpfs tmpfs /sys/block
ln -s "../devices/virtual/block/$loop" "/sys/block/$loop"
for covered in /run /mnt /var/lib /usr/local/lib /usr/local/bin; do mount -t tmpfs -o mode=0755 tmpfs "$covered"; done
mkdir /run/sshd
# Ours alone: the machine's root may have a start-up file that every ssh command would read.
if [ -e ~/.bashrc ]; then mount --bind /dev/null ~/.bashrc; fi
exec "$(command -v sshd)" -D -e -f "$folder/sshd_config"
"""


class CannotRun(Exception):
    """This machine cannot have such hosts; the text says what is missing and what to type."""


def check_machine() -> None:
    """Raise CannotRun when this machine cannot have such hosts."""
    if os.getuid() != 0:
        raise CannotRun(f"found uid {os.getuid()}, wanted root for loop devices and namespaces. "
                        "Next: sudo make bench-nvme")
    missing = [tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None]
    if missing:
        raise CannotRun(f"found no {', '.join(missing)}. Next: "
                        "apt-get install openssh-server openssh-client util-linux xfsprogs e2fsprogs")


def run(*command: str | Path) -> str:
    """Run a command and return its stdout. Raises RuntimeError, with what it said, when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, env={**os.environ, "PATH": _PATH})
    if done.returncode != 0:
        line = " ".join(map(str, command))
        raise RuntimeError(f"`{line}` ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def image_parent(need_bytes: int) -> str | None:
    """Return a folder in memory that has room for that much, so that the machine's disk is not measured; else None."""
    shared = Path("/dev/shm")
    with contextlib.suppress(OSError):
        available = next(int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines()
                         if line.startswith("MemAvailable:"))
        if min(available // 2, shutil.disk_usage(shared).free) >= need_bytes:
            return str(shared)
    return None


@contextlib.contextmanager
def loop_device(image: Path, size_bytes: int) -> Iterator[str]:
    """Have a loop device over a new sparse file, and neither of them afterwards."""
    with image.open("xb") as disk:
        disk.truncate(size_bytes)
    device = ""
    try:
        device = run("losetup", "--find", "--show", image).strip()
        yield device
    finally:
        if device:
            detach(device, image)
        image.unlink()


def detach(device: str, image: Path) -> None:
    """Detach the image's loop device and wait until it is: the last mount may end a moment after its namespace.

    Only as long as the device is the image's: once free, it may be given to somebody else's file at any moment.
    """
    deadline = time.monotonic() + 60
    backing = Path(f"/sys/block/{Path(device).name}/loop/backing_file")
    while time.monotonic() < deadline:
        try:
            if backing.read_text().strip() != str(image):
                return
        except OSError:
            return
        subprocess.run(["losetup", "--detach", device], capture_output=True, check=False, env={"PATH": _PATH})
        time.sleep(0.02)


@dataclass
class Host:
    """One host: its name, where its sshd listens, its disk, and the first process of its namespaces."""

    name: str
    folder: Path
    image: Path
    device: str
    port: int
    holder: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the host with a blank disk; `answers` tells when it can be reached."""
        # The old filesystem's blocks go back to the system; what is read of them from now on is zero.
        with self.image.open("r+b") as disk:
            size = self.image.stat().st_size
            disk.truncate(0)
            disk.truncate(size)
        run("blockdev", "--flushbufs", self.device)
        minor = os.minor(Path(self.device).stat().st_rdev)
        # In a session of its own: a terminal's Ctrl-C must not end the hosts under a run that cleans up.
        with (self.folder / "log").open("wb") as log:
            self.holder = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", _INIT, "host", str(self.folder),
                 Path(self.device).name, str(minor)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={"PATH": _PATH, "HOME": str(Path.home()), "LANG": "C.UTF-8"})

    def answers(self) -> bool:
        """Tell whether sshd listens. Raises RuntimeError when the host has ended."""
        if self.holder is not None and self.holder.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {(self.folder / 'log').read_text().strip()[-500:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def first_process(self) -> int:
        """Return the pid, as the machine counts, of the first process in the host's namespaces."""
        assert self.holder is not None
        return int(Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()[0])

    def stop(self) -> None:
        """End the host with every process and mount it has."""
        if self.holder is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.holder.send_signal(signal.SIGKILL)  # unshare forwards no signal; --kill-child does the rest
        self.holder.wait()
        self.holder = None


@dataclass
class Hosts:
    """All hosts, and what reaches them."""

    folder: Path
    hosts: list[Host] = field(default_factory=list)

    @property
    def key(self) -> Path:
        """Return the private key that opens every host."""
        return self.folder / "user_key"

    @property
    def known_hosts(self) -> Path:
        """Return the file with the hosts' public keys."""
        return self.folder / "known_hosts"

    def renew(self) -> None:
        """Give every host a blank disk and nothing installed, as new instances have, and wait until all answer."""
        for host in self.hosts:
            host.stop()
        for host in self.hosts:
            wait_until_free(host.device)
            host.start()
        deadline = time.monotonic() + 300
        while not all(host.answers() for host in self.hosts):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not every sshd answers; see {self.folder}/*/log")
            time.sleep(0.05)


def wait_until_free(device: str) -> None:
    """Wait until nothing holds the device: a mount goes a moment after the last process of its namespace."""
    deadline = time.monotonic() + 120
    while True:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{device} stays busy: {error.strerror}") from None
            time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Return that many different TCP ports that are free now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def disk_hosts(count: int, disk_bytes: int, used_bytes: int) -> Iterator[Hosts]:
    """Have `count` hosts with blank disks of that size; `used_bytes` is what a filesystem writes to one."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="judge-bench.")))
        images = Path(stack.enter_context(tempfile.TemporaryDirectory(
            prefix="judge-bench.", dir=image_parent(count * used_bytes))))
        for key in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / f"{key}_key")
        made = Hosts(folder)
        for index, port in enumerate(free_ports(count), 1):
            own = folder / f"node-{index}"
            (own / "dev").mkdir(parents=True)
            image = images / f"disk-{index}.img"
            device = stack.enter_context(loop_device(image, disk_bytes))
            host = Host(f"node-{index}", own, image, device, port)
            (own / "sshd_config").write_text("\n".join([
                f"Port {host.port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host_key",
                f"AuthorizedKeysFile {folder}/user_key.pub", "StrictModes no", "UsePAM no", "PermitRootLogin yes",
                "PasswordAuthentication no", "PidFile none", "PrintMotd no", "MaxStartups 200:30:400", ""]))
            made.hosts.append(host)
            stack.callback(host.stop)
        kind, public = (folder / "host_key.pub").read_text().split()[:2]
        made.known_hosts.write_text("".join(f"[127.0.0.1]:{host.port} {kind} {public}\n" for host in made.hosts))
        yield made
