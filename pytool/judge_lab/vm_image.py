"""The image that the lab's virtual machines boot from: a small Debian of the host's own release, built once.

It is put together from the host's own apt sources, as a directory, and becomes a disk by `mke2fs -d`: no loop device,
no boot loader. QEMU loads the kernel itself. What a boot does not need is masked, because every unit costs time on an
emulated CPU.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from judge_lab import LabError, vm_cloud_init
from judge_lab.layout import cache_dir
from judge_lab.locking import one_at_a_time
from judge_lab.process import run

ROOT_PARTITION_UUID = "6c8f1d0a-2f4e-4b57-9a55-0c3c6d1e7a10"
_SEED = Path(__file__).parent / "vm-seed.sh"
_OS_RELEASE = Path("/etc/os-release")
_APT = Path("/etc/apt")
_MIB = 1024**2
_ROOT_BYTES = 2048 * _MIB  # sparse: about 500 MiB of it are used
_PARTITION_START_BYTES = _MIB

_PACKAGES = (
    "systemd-sysv", "dbus", "udev", "kmod", "linux-image-cloud-amd64",
    "openssh-server", "iproute2", "python3", "sudo", "util-linux",
    # What holds a disk, or says what is on it.
    "nvme-cli", "e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "mdadm", "lvm2", "cryptsetup-bin", "fdisk",
    "gdisk",
)  # fmt: skip
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_MASKED = (
    "apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "systemd-tmpfiles-clean.timer", "mdcheck_start.timer", "mdcheck_continue.timer",
    "mdmonitor-oneshot.timer",
    "nvmefc-boot-connections.service", "nvmf-autoconnect.service", "lvm2-monitor.service",
    "getty@tty1.service", "serial-getty@ttyS0.service", "systemd-pstore.service",
    "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount", "dev-mqueue.mount", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
)  # fmt: skip
# Starts when somebody asks for it over D-Bus, as `shutdown -r` does, and not at each boot.
_ON_DEMAND = "usr/lib/systemd/system/multi-user.target.wants/systemd-logind.service"
_SEED_UNIT = """\
[Unit]
Description=Keys and network of this lab machine
DefaultDependencies=no
After=systemd-remount-fs.service
Before=network-pre.target ssh.service shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/judge-lab-seed

[Install]
WantedBy=sysinit.target
"""
_SSHD = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 200:30:400
MaxSessions 100
"""
_LZ4_MAGIC = b"\x02\x21\x4c\x18"


@dataclass(frozen=True)
class Image:
    """What a machine boots from: kernel and initrd as QEMU takes them, and the raw root disk, which nobody writes."""

    kernel: Path
    initrd: Path
    root: Path


def ensure(report: Callable[[str], None], *, cloud_init: bool = False) -> Image:
    """Return the image, built if the cache has none of this recipe and this Debian release (a minute or two).

    With `cloud_init` it is the other one, which has that, too.
    Raises LabError when the host is no Debian, or when the build fails (with the end of its log).
    """
    suite = debian_suite()
    folder = cache_dir() / "vm" / _recipe(suite, cloud_init)
    image = Image(folder / "vmlinux", folder / "initrd", folder / "root.raw")
    if folder.exists():
        return image
    with one_at_a_time(folder.parent):
        if not folder.exists():
            which = f"Debian {suite}{' with cloud-init' if cloud_init else ''}"
            report(f"Building the virtual machines' image ({which}, once; it takes a minute or two)")
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as staging:
                _build(suite, Path(staging), cloud_init)
                shutil.rmtree(Path(staging) / "rootfs")
                Path(staging).replace(folder)
                Path(staging).mkdir()  # for the context manager to remove
            folder.chmod(0o755)
    return image


def debian_suite() -> str:
    """Return the codename of the host's Debian release. Raises LabError on another system."""
    found = dict(line.split("=", 1) for line in _OS_RELEASE.read_text().splitlines() if "=" in line)
    name, suite = found.get("ID", "").strip('"'), found.get("VERSION_CODENAME", "").strip('"')
    if name != "debian" or not suite:
        raise LabError(
            f"this is {found.get('PRETTY_NAME', 'an unknown system')}, wanted Debian: the virtual machines' image is "
            "made of the host's own packages",
            hint="judge-bootstrap lab up (without --vm) runs on other systems too",
        )
    return suite


def apt_sources(suite: str) -> list[Path]:
    """Return the host's source files that name the release. Raises LabError if there are none."""
    candidates = [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))]
    found = [
        path
        for path in candidates
        if path.suffix in (".list", ".sources") and path.is_file() and suite in path.read_text().split()
    ]
    if not found:
        raise LabError(f"no file under {_APT} names {suite} as a source of packages", hint="apt-get update shows them")
    return found


def _recipe(suite: str, cloud_init: bool) -> str:
    content = [Path(__file__).read_bytes(), _SEED.read_bytes(), suite.encode()]
    if cloud_init:
        content.append(Path(vm_cloud_init.__file__).read_bytes())
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]


def _build(suite: str, folder: Path, cloud_init: bool) -> None:
    root = folder / "rootfs"
    run(
        "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory",
        "--aptopt=APT::Install-Recommends false",
        *(f"--aptopt={setting}" for setting in _apt_settings()),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        f"--include={','.join(_PACKAGES + (vm_cloud_init.PACKAGES if cloud_init else ()))}",
        suite, root, *apt_sources(suite),
        timeout_seconds=1800,
    )  # fmt: skip
    _customise(root)
    if cloud_init:
        vm_cloud_init.customise(root)
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (initrd,) = (root / "boot").glob("initrd.img-*")
    unpack_kernel(kernel, folder / "vmlinux")
    shutil.copyfile(initrd, folder / "initrd")
    _make_disk(root, folder / "root.raw")


def _apt_settings() -> list[str]:
    """Return how the host's apt reaches its sources (proxy, checks of dates): mmdebstrap does not read that itself."""
    dump = run("apt-config", "dump", "--no-empty", "--format", '%f "%v";%n', "Acquire", check=False).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check", "Acquire::Retries", "Acquire::ForceIPv")
    return [line for line in dump.splitlines() if line.startswith(wanted)]


def _customise(root: Path) -> None:
    units = root / "etc/systemd/system"
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (root / _ON_DEMAND).unlink()
    (units / "judge-lab-seed.service").write_text(_SEED_UNIT)
    (units / "sysinit.target.wants").mkdir(exist_ok=True)
    (units / "sysinit.target.wants/judge-lab-seed.service").symlink_to("../judge-lab-seed.service")
    seed = root / "usr/local/sbin/judge-lab-seed"
    shutil.copyfile(_SEED, seed)
    seed.chmod(0o755)
    (root / "etc/ssh/sshd_config.d/judge-lab.conf").write_text(_SSHD)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()  # each machine gets its own
    (root / "etc/machine-id").write_text("")
    # apt is of no use in there, and its cache is a tenth of the image.
    for folder in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / folder, ignore_errors=True)
    for stamp in ("etc/.updated", "var/.updated"):
        (root / stamp).touch()  # or every first boot would rebuild what the build has just built


def unpack_kernel(compressed: Path, target: Path) -> None:
    """Write the kernel without its compression, which an emulated CPU would take seconds to undo.

    A kernel that is not packed by lz4 is copied as it is; QEMU boots that, too.
    """
    content = compressed.read_bytes()
    start = content.find(_LZ4_MAGIC)
    if start >= 0:
        # lz4 complains of what follows the packed kernel in the file, after it has written all of it.
        done = subprocess.run(["lz4", "-dc"], input=content[start:], capture_output=True, check=False)
        if done.stdout.startswith(b"\x7fELF"):
            content = done.stdout
    target.write_bytes(content)


def _make_disk(root: Path, disk: Path) -> None:
    """Make a GPT disk with one ext4 partition, as an EC2 root volume has."""
    with disk.open("wb") as file:
        file.truncate(_ROOT_BYTES)
    size_bytes = _ROOT_BYTES - 2 * _PARTITION_START_BYTES  # the last MiB holds the second partition table
    table = f"label: gpt\nstart={_PARTITION_START_BYTES // 512}, size={size_bytes // 512}, uuid={ROOT_PARTITION_UUID}\n"
    run("sfdisk", "--quiet", disk, stdin=table.encode())
    run(
        "mke2fs", "-q", "-F", "-t", "ext4", "-d", root,
        # Inode tables now, or a thread would write them in every machine.
        "-E", f"offset={_PARTITION_START_BYTES},root_owner=0:0,lazy_itable_init=0",
        disk, f"{size_bytes // 1024}k",
    )  # fmt: skip
