"""A virtual machine that boots by systemd and has NVMe devices which bear EC2's names.

The lab's second kind of node is one of these on the lab's bridge; a test can have one alone, in a directory of its own:

    with Machine(folder) as machine:
        store, volume = machine.new_disk(), machine.new_disk(model=EBS)
        machine.start([machine.root, volume, store])       # the order on the PCI bus
        machine.run("mkfs.ext4 -q /dev/disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage_" + store.serial)
        machine.kill()                                     # a power cut
        before = digest(store.image)

CPUs are emulated (TCG) unless JUDGE_LAB_VM_ACCEL says otherwise: a /dev/kvm that opens is no promise that a kernel
boots on it. So a boot takes 10 to 30 s, and a time limit that is meant for real machines is short here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from judge_lab import LabError, process, qemu, ssh, vm_image
from judge_lab.process import Process
from judge_lab.vm_cloud_init import CloudInit

INSTANCE_STORE = "Amazon EC2 NVMe Instance Storage"
EBS = "Amazon Elastic Block Store"
GIB = 1024**3
HOST_SEEN_FROM_INSIDE = "10.0.2.2"  # in QEMU's own network, whose one guest is 10.0.2.15
BOOT_SECONDS = 600  # a busy machine takes ten times as long as an idle one

_DIGEST_BLOCK_BYTES = 64 * 1024
_HEX = "0123456789ABCDEF"
_SLOTS = 2  # free ones, for disks that come while the machine runs
Sector = Literal[512, 4096]


@dataclass(frozen=True)
class Disk:
    """An NVMe device with one namespace: `image` is its content, a raw and usually sparse file.

    `serial` has 20 characters at most and is a machine's only one; `model` is told to the guest to the letter.
    """

    serial: str
    image: Path
    size_bytes: int = GIB
    model: str = INSTANCE_STORE
    sector_bytes: Sector = 512
    overlay: bool = False  # the root disk: a qcow2 over the image that all machines share

    def by_id(self) -> str:
        """Return the link that udev makes of the device."""
        return f"/dev/disk/by-id/nvme-{self.model.replace(' ', '_')}_{self.serial}"

    def make_blank(self) -> None:
        """Make the image a new file of zeros that takes no space; the old one, if any, is gone."""
        self.image.parent.mkdir(parents=True, exist_ok=True)
        self.image.unlink(missing_ok=True)
        with self.image.open("wb") as file:
            file.truncate(self.size_bytes)


@dataclass(frozen=True)
class Tap:
    """A network of the host's that the machine is plugged into: `link` exists, and QEMU may open it."""

    link: str
    address: str
    network_bits: int
    gateway: str
    mac: str


class Machine:
    """One virtual machine in `folder`; all of its files lie there, and another process finds it again by that.

    Without `tap` its only network is ssh from this host, on a loopback port; with `reaches_host` it also reaches what
    listens on this host's loopback, at HOST_SEEN_FROM_INSIDE. `key` is the operator's ssh key and `host_key` the
    machine's; those that are not given are made. `cloud_init` is what an instance is given at its start, and makes it
    boot from the image that has cloud-init. `mark` is the lab that the process belongs to.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "vm",
        tap: Tap | None = None,
        key: Path | None = None,
        host_key: Path | None = None,
        memory_mib: int = 512,
        cpus: int = 1,
        initrd: bool = False,
        cloud_init: CloudInit | None = None,
        reaches_host: bool = False,
        mark: Path | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.name, self.tap = folder.absolute(), name, tap
        self.key = key or self.folder / "id_ed25519"
        self.host_key = host_key or self.folder / "ssh_host_ed25519_key"
        self.memory_mib, self.cpus, self.initrd = memory_mib, cpus, initrd
        self.cloud_init, self.reaches_host = cloud_init, reaches_host
        self.mark, self.report = mark or self.folder, report
        self.process: Process | None = None
        self.disks: list[Disk] = []
        self.port = 22
        self._plugged = 0  # since the machine was started by this object
        self._load()
        self.root = Disk(f"vol{_digits(self.name)}", self.folder / "root.qcow2", model=EBS, overlay=True)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def address(self) -> str:
        return self.tap.address if self.tap else "127.0.0.1"

    def running(self) -> bool:
        return self.process is not None and self.process.alive()

    # --- disks ---------------------------------------------------------------------------------------------------

    def new_disk(
        self, *, model: str = INSTANCE_STORE, size_bytes: int = GIB, sector_bytes: Sector = 512, serial: str = ""
    ) -> Disk:
        """Return a new blank disk in the machine's folder; its serial begins as EC2's do (AWS, vol) unless given."""
        serial = serial or new_serial(model)
        disk = Disk(serial, self.folder / f"{serial}.raw", size_bytes, model, sector_bytes)
        disk.make_blank()
        return disk

    def replace_by_blank(self, disk: Disk) -> Disk:
        """Return the disk that takes this one's place when an instance was stopped: blank, and another device.

        The old image is gone. Raises LabError while the machine runs.
        """
        self._refuse_running("replace a disk")
        disk.image.unlink(missing_ok=True)
        return self.new_disk(model=disk.model, size_bytes=disk.size_bytes, sector_bytes=disk.sector_bytes)

    def forget_root(self) -> None:
        """Make the root disk as the image has it, at the next start. Raises LabError while the machine runs."""
        self._refuse_running("replace the root disk")
        self.root.image.unlink(missing_ok=True)

    def plug(self, disk: Disk) -> None:
        """Give the running machine one more disk, as one that is slow to appear; returns when the guest has it.

        There is room for two. Raises LabError when there is none left or when the guest does not see the disk.
        """
        number = len(self.disks)
        _refuse_ambiguous([*self.disks, disk])
        assert self.process is not None
        with qemu.control(self.folder) as control:
            control("stop")  # the guest must not ask for the model before it is right
            try:
                control.human(f"drive_add 0 {_drive(disk, number)}")
                if said := control.human(f"device_add {_device(disk, number)},bus=slot{self._plugged}").strip():
                    raise LabError(f"QEMU did not take the disk {disk.serial}: {said}")
                qemu.name_disks(self.process, {disk.serial: disk.model})
            finally:
                control("cont")
        self._plugged += 1
        self.disks = [*self.disks, disk]
        self._save()
        deadline = time.monotonic() + BOOT_SECONDS
        while disk.serial not in self.kernel_names():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} did not see {disk.serial} {BOOT_SECONDS} s after it was plugged in")
            time.sleep(0.3)

    # --- power ---------------------------------------------------------------------------------------------------

    def start(self, disks: Sequence[Disk] | None = None, *, wait_seconds: float | None = BOOT_SECONDS) -> None:
        """Switch the machine on with these disks, in this order; `root` comes first where it is not among them.

        Without `disks` it has those of last time. Waits for ssh, unless `wait_seconds` is None, and then makes sure
        that the guest sees the disks under their names. Raises LabError when it runs already, when two disks have one
        serial, when QEMU does not start, or when the guest does not come up.
        """
        self._refuse_running("start it")
        wanted = list(self.disks if disks is None else disks)
        if self.root not in wanted:
            wanted.insert(0, self.root)
        _refuse_ambiguous(wanted)
        require_tools()
        image = vm_image.ensure(self.report, cloud_init=self.cloud_init is not None)
        self.folder.mkdir(parents=True, exist_ok=True)
        for key in (self.key, self.host_key):
            ssh.ensure_key(key, self.name)
        if not self.root.image.exists():
            process.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image.root, self.root.image)
        seed = self.folder / "seed.tar"
        seed.touch(mode=0o600)  # the machine's host key is in it
        seed.write_bytes(self._seed())
        (self.folder / "known_hosts").write_text(f"{self.name} {_public(self.host_key)}\n")
        (self.folder / "qemu.log").unlink(missing_ok=True)
        (self.folder / qemu.SOCKET).unlink(missing_ok=True)
        self.disks, self._plugged = wanted, 0
        self.process = process.spawn(
            self._command(image), log=self.folder / "qemu.log", mark=self.mark, cwd=self.folder
        )
        self._save()
        try:
            self._begin()
        except BaseException:
            self.kill()
            raise
        if wait_seconds is not None:
            self.wait_ssh(wait_seconds)
            self.check_disks()

    def kill(self) -> None:
        """End QEMU at once, as a power cut does: what the guest had not written to its disks is lost."""
        if self.process is not None:
            process.end([self.process])
        self.process = None
        self._hang_up()
        self._save()

    def poweroff(self, seconds: float = 120) -> None:
        """Shut the guest down, and kill what has not ended by then (as EC2 does when a stop takes too long)."""
        if self.running():
            with contextlib.suppress(LabError):
                self.run("systemctl poweroff", check=False, timeout=30)
            deadline = time.monotonic() + seconds
            while self.running() and time.monotonic() < deadline:
                time.sleep(0.1)
        self.kill()

    def stop(self, seconds: float = 120) -> None:
        """Do what an EC2 stop does: shut down, and come back with other, blank instance stores; volumes keep theirs."""
        self.poweroff(seconds)
        self.disks = [self.replace_by_blank(disk) if disk.model == INSTANCE_STORE else disk for disk in self.disks]
        self._save()

    def reboot(self, seconds: float = BOOT_SECONDS) -> None:
        """Reboot the guest and wait until its next boot answers by ssh."""
        before = self.boot_id()
        self.run("systemctl reboot", check=False)
        self.wait_ssh(seconds, not_boot=before)

    def remove(self) -> None:
        """End the machine and remove its folder with all disks in it."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- the guest -----------------------------------------------------------------------------------------------

    def wait_ssh(self, seconds: float = BOOT_SECONDS, *, not_boot: str = "") -> str:
        """Wait until ssh answers, from another boot than `not_boot`, and return the boot id.

        Raises LabError with the end of the console when it does not in time or when QEMU ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            if self._greets():
                with contextlib.suppress(LabError):
                    found = self.boot_id(timeout=30)  # by then it may be on its way down
                    if found and found != not_boot:
                        return found
                self._hang_up()
            if not self.running():
                raise LabError(f"{self.name} ended before ssh answered: {self._last_words()}", hint=self._look_at())
            if time.monotonic() > deadline:
                raise LabError(
                    f"waited {seconds:.0f} s in vain for ssh on {self.name}: {self._last_words()}", hint=self._look_at()
                )
            time.sleep(0.3)

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = 600,
        check: bool = True,
        stdin: bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script, or a list of words as they are, as root in the guest; `timeout` is in seconds.

        Raises LabError when it fails (with `check`), takes too long, or the guest does not answer (code 255, with
        `check`).
        """
        script = command if isinstance(command, str) else shlex.join(command)
        done = self._ssh(script, timeout, stdin)
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-1000:]
            raise LabError(f"on {self.name}, `{script[:200]}` ended with {done.returncode}: {said}")
        return subprocess.CompletedProcess(
            script, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def put(self, content: Path | bytes, target: str, mode: int = 0o755) -> None:
        """Write a file in the guest; it appears whole or not at all."""
        where = shlex.quote(target)
        data = content if isinstance(content, bytes) else content.read_bytes()
        self.run(
            f'mkdir -p "$(dirname {where})" && cat >{where}.new && chmod {mode:o} {where}.new && '
            f"mv {where}.new {where}",
            stdin=data,
        )

    def get(self, path: str) -> bytes:
        """Return the content of a file in the guest; raises LabError if it cannot be read."""
        done = self._ssh(f"cat {shlex.quote(path)}", 600, None)
        if done.returncode != 0:
            raise LabError(f"on {self.name}: {done.stderr.decode(errors='replace').strip()[-300:]}")
        return done.stdout

    def boot_id(self, timeout: float = 600) -> str:
        """Return what tells this boot of the guest from the one before."""
        return self.run("cat /proc/sys/kernel/random/boot_id", timeout=timeout).stdout.strip()

    def kernel_names(self) -> dict[str, str]:
        """Return {serial: /dev/nvmeXn1} as the guest numbers them at this boot."""
        listed = self.run('cd /sys/class/nvme && for c in *; do echo "$(cat $c/serial) /dev/${c}n1"; done').stdout
        return dict(line.split() for line in listed.splitlines())

    def check_disks(self) -> None:
        """Raise LabError unless the guest sees exactly the machine's disks, each under its model."""
        listed = self.run('for c in /sys/class/nvme/*; do echo "$(cat $c/serial) $(cat $c/model)"; done').stdout
        rows = (line.split(maxsplit=1) for line in listed.splitlines())
        seen = {row[0]: row[1].rstrip() if len(row) > 1 else "" for row in rows if row}
        wanted = {disk.serial: disk.model for disk in self.disks}
        if seen != wanted:
            raise LabError(
                f"{self.name} sees the NVMe devices {seen}, wanted {wanted}",
                hint="qemu-system-x86_64 --version: 7.2 is known to work",
            )

    def ssh_command(self) -> list[str]:
        """Return the ssh command that reaches the guest, for tools that want one; run it in `folder`."""
        return [
            "ssh", "-F", "/dev/null", "-i", str(self.key), "-p", str(self.port),
            "-o", f"UserKnownHostsFile={self.folder}/known_hosts", "-o", f"HostKeyAlias={self.name}",
            "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR",
        ]  # fmt: skip

    # --- inside ----------------------------------------------------------------------------------------------------

    def _ssh(self, script: str, timeout: float, stdin: bytes | None) -> subprocess.CompletedProcess[bytes]:
        # One connection for all commands: each handshake costs an emulated CPU more than most commands do. Its socket
        # is named relative to the folder, because a path to a socket may not be long.
        shared = ["-o", "ControlMaster=auto", "-o", "ControlPath=ssh", "-o", "ControlPersist=600"]
        try:
            return subprocess.run(
                [*self.ssh_command(), *shared, f"root@{self.address}", script],
                input=stdin if stdin is not None else b"",
                capture_output=True,
                check=False,
                timeout=timeout,
                cwd=self.folder,
                env={**process.base_environment(), process.MARK: str(self.mark)},
            )
        except subprocess.TimeoutExpired as err:
            raise LabError(f"on {self.name}, `{script[:200]}` did not end in {timeout:.0f} s") from err

    def _hang_up(self) -> None:
        """End the shared connection, which may lead to a guest that is gone."""
        if (self.folder / "ssh").exists():
            subprocess.run(
                ["ssh", "-F", "/dev/null", "-o", "ControlPath=ssh", "-O", "exit", "root@machine"],
                cwd=self.folder,
                capture_output=True,
                check=False,
                timeout=20,
            )
            (self.folder / "ssh").unlink(missing_ok=True)

    def _greets(self) -> bool:
        """Say whether an ssh server speaks at the address; QEMU's own forwarding accepts long before there is one."""
        try:
            with socket.create_connection((self.address, self.port), timeout=3) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _begin(self) -> None:
        """Wait until QEMU is there, give its disks their names, and let the guest run."""
        assert self.process is not None
        deadline = time.monotonic() + 120
        while True:
            try:
                with qemu.control(self.folder) as control:
                    qemu.name_disks(self.process, {disk.serial: disk.model for disk in self.disks})
                    control("cont")
                    if self.tap is None:
                        self.port = _forwarded_port(control.human("info usernet"))
                        self._save()
                return
            except OSError:
                if not self.process.alive():
                    raise LabError(
                        f"QEMU did not start {self.name}: {self._last_words()}", hint=self._look_at()
                    ) from None
                if time.monotonic() > deadline:
                    raise LabError(f"QEMU of {self.name} did not answer in 120 s", hint=self._look_at()) from None
                time.sleep(0.05)

    def _command(self, image: vm_image.Image) -> list[str]:
        words = [
            "qemu-system-x86_64", "-name", self.name, "-M", "q35",
            *_accelerator(), "-m", str(self.memory_mib), "-smp", str(self.cpus),
            "-nodefaults", "-no-user-config", "-display", "none", "-S",
            "-qmp", f"unix:{qemu.SOCKET},server=on,wait=off",
            "-serial", "file:console.log",
            "-kernel", str(image.kernel),
            "-append", f"root=PARTUUID={vm_image.ROOT_PARTITION_UUID} rw rootwait console=ttyS0 quiet mitigations=off "
            f"net.ifnames=0 systemd.hostname={self.name}",
            "-fw_cfg", "name=opt/judge-lab/seed,file=seed.tar",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip
        if self.initrd:
            words += ["-initrd", str(image.initrd)]
        for number, disk in enumerate(self.disks):
            words += ["-drive", _drive(disk, number), "-device", _device(disk, number)]
        for number in range(_SLOTS):
            words += ["-device", f"pcie-root-port,id=slot{number},chassis={number + 1}"]
        if self.tap:
            words += ["-netdev", f"tap,id=n0,ifname={self.tap.link},script=no,downscript=no"]
            return [*words, "-device", f"virtio-net-pci,netdev=n0,romfile=,mac={self.tap.mac}"]
        # Unless it is wanted, nothing of the host or beyond is reached from inside. Ssh has a free port of the host.
        restrict = "off" if self.reaches_host else "on"
        words += ["-netdev", f"user,id=n0,restrict={restrict},hostfwd=tcp:127.0.0.1:0-:22"]
        return [*words, "-device", "virtio-net-pci,netdev=n0,romfile="]

    def _seed(self) -> bytes:
        """Return the tar that vm-seed.sh unpacks in the guest at each boot."""
        if self.tap:
            network = f"ADDRESS={self.tap.address}/{self.tap.network_bits}\nGATEWAY={self.tap.gateway}\n"
        else:
            network = f"ADDRESS=10.0.2.15/24\nGATEWAY={HOST_SEEN_FROM_INSIDE}\n"
        files = {
            "root/.ssh/authorized_keys": (f"{_public(self.key)}\n", 0o600),
            "etc/ssh/ssh_host_ed25519_key": (self.host_key.read_text(), 0o600),
            "etc/ssh/ssh_host_ed25519_key.pub": (f"{_public(self.host_key)}\n", 0o644),
            "run/judge-lab/network": (network, 0o644),
        }
        if self.cloud_init:
            files |= self.cloud_init.files(self.name)
        buffer = BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, (text, mode) in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(text.encode()), mode
                tar.addfile(entry, BytesIO(text.encode()))
        return buffer.getvalue()

    def _refuse_running(self, what: str) -> None:
        if self.running():
            raise LabError(f"{self.name} runs, wanted it switched off to {what}")

    def _last_words(self) -> str:
        texts = []
        for log in ("qemu.log", "console.log"):
            with contextlib.suppress(FileNotFoundError):
                texts += (self.folder / log).read_text(errors="replace").splitlines()[-5:]
        return " | ".join(text.strip() for text in texts)[-800:] or "it said nothing"

    def _look_at(self) -> str:
        return f"less {self.folder}/console.log"

    def _save(self) -> None:
        if not self.folder.exists():
            return
        content = {
            "process": asdict(self.process) if self.process else None,
            "port": self.port,
            "disks": [{**asdict(disk), "image": str(disk.image)} for disk in self.disks],
        }
        staging = self.folder / "machine.json.new"
        staging.write_text(json.dumps(content, indent=1))
        staging.replace(self.folder / "machine.json")

    def _load(self) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            content = json.loads((self.folder / "machine.json").read_text())
            self.process = Process(**content["process"]) if content["process"] else None
            self.port = content["port"]
            self.disks = [Disk(**{**disk, "image": Path(disk["image"])}) for disk in content["disks"]]


def digest(image: Path) -> str:
    """Return a hash of a raw image's content: a hole and written zeros are the same, and holes cost no time."""
    found = hashlib.sha256(str(image.stat().st_size).encode())
    zeros = bytes(_DIGEST_BLOCK_BYTES)
    with image.open("rb", buffering=0) as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            except OSError:  # no data after this
                return found.hexdigest()
            # Blocks lie on a fixed grid, so that where an extent begins makes no difference.
            at -= at % _DIGEST_BLOCK_BYTES
            while at < end:
                block = os.pread(file.fileno(), _DIGEST_BLOCK_BYTES, at)
                if block != zeros[: len(block)]:
                    found.update(at.to_bytes(8, "big") + block)
                at += _DIGEST_BLOCK_BYTES


def new_serial(model: str) -> str:
    """Return a serial as EC2 gives them: vol and 17 digits for a volume, AWS and 17 for anything else."""
    if model == EBS:
        return "vol" + secrets.token_hex(9)[:17]
    return "AWS" + "".join(secrets.choice(_HEX) for _ in range(17))


def missing_packages() -> set[str]:
    """Return the Debian packages that bring what a machine needs and this host lacks."""
    path = process.base_environment()["PATH"]
    return {package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None}


def require_tools() -> None:
    """Raise LabError, with the command that brings them, if this host lacks what a machine needs."""
    if missing := sorted(missing_packages()):
        raise LabError(
            f"a virtual machine cannot run here: not installed: {', '.join(missing)}",
            hint=f"make vm-packages, or apt-get install -y --no-install-recommends {' '.join(missing)}",
        )


TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "sfdisk": "fdisk",
    "lz4": "lz4",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}


def _drive(disk: Disk, number: int) -> str:
    file = str(disk.image).replace(",", ",,")
    # The host's page cache outlives QEMU's end: what the guest flushed is safe without waiting for a disk.
    return f"file={file},if=none,id=d{number},format={'qcow2' if disk.overlay else 'raw'},cache=unsafe,discard=unmap"


def _device(disk: Disk, number: int) -> str:
    sector = disk.sector_bytes
    return (
        f"nvme,id=n{number},drive=d{number},serial={disk.serial},logical_block_size={sector},"
        f"physical_block_size={sector}"
    )


def _accelerator() -> list[str]:
    if os.environ.get("JUDGE_LAB_VM_ACCEL", "tcg") == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi,tb-size=128", "-cpu", "qemu64"]


def _refuse_ambiguous(disks: Sequence[Disk]) -> None:
    serials = [disk.serial for disk in disks]
    for serial in serials:
        if not re.fullmatch("[A-Za-z0-9]{1,20}", serial) or serials.count(serial) > 1:
            raise LabError(f"found the serials {', '.join(serials)}, wanted 1 to 20 letters or digits, each once")


def _forwarded_port(usernet: str) -> int:
    found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", usernet)
    if not found:
        raise LabError(f"QEMU forwards no port to ssh, it said: {usernet.strip()[-300:]}")
    return int(found[1])


def _public(key: Path) -> str:
    return " ".join(key.with_name(f"{key.name}.pub").read_text().split()[:2])


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:17]
