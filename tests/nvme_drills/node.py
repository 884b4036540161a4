"""One virtual machine, its test disks under letters, and what was found wrong on it.

A disk that is not shown is unbound from the kernel's driver, as if it was pulled out; its image may be rewritten then,
so that dozens of layouts need one boot. Device names follow the order in which the disks are bound.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_lab import LabError
from judge_lab.vm import Disk, Machine, digest
from judge_node.bundle import build_pyz

MIB = 1 << 20
PATH = "/mnt/nvme"
GATE = "stands-for-kubelet.service"
RESULT = "/run/judge-bootstrap/disks-result.json"  # of the last run that was not killed
COMMAND_SECONDS = 900  # an emulated CPU that is shared: what takes a second on a node takes twenty
_STABLE_SECONDS, _STABLE_MOST_SECONDS = 2.0, 30.0
_LIBRARY = """
fail() { echo "drill: $*" >&2; exit 99; }
wait_for() { n=0; until eval "$1"; do n=$((n+1)); [ $n -lt 2000 ] || fail "waited in vain for $1"; sleep 0.2; done; }
ext4() { mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$@"; }
# A filesystem with a file in it; it stays mounted at the second argument.
fill() { mkdir -p "$2" && mount "$1" "$2" && dd if=/dev/urandom of="$2/data" bs=64k count=16 status=none && sync; }
byte() { printf '\\377' | dd of="$1" bs=1 seek="$2" oflag=seek_bytes conv=notrunc status=none && sync; }
"""
_CLEAR = """
exec 2>/dev/null
for tool in /usr/sbin/*.hidden; do [ -e "$tool" ] && mv "$tool" "${tool%.hidden}"; done
for pid in /run/drill-*.pid; do [ -e "$pid" ] && kill -9 "$(cat "$pid")" && rm "$pid"; done
reload=
for unit in /etc/systemd/system/mnt-* /etc/systemd/system/judge-node-disks.service; do
  [ -e "$unit" ] && systemctl stop "${unit##*/}" && reload=1
done
swapoff -a
for n in 1 2; do
  for path in $(findmnt -rno TARGET | grep -E '^/(mnt|srv|media)/' | sort -r); do umount "$path"; done
done
vgchange -qq -an
dmsetup remove_all
# A member that is let go makes udev start the array again, so it gets no say until the disks are gone.
udevadm settle; udevadm control --stop-exec-queue
mdadm --stop --scan
cd /etc/systemd/system && rm -rf mnt-* judge-node-disks.service ./*.wants/judge-node-disks.service \
  ./*.requires/judge-node-disks.service
rm -rf /var/lib/judge-node /run/judge-bootstrap /usr/local/lib/judge-bootstrap /.aws
[ -e /etc/mdadm/mdadm.conf.kept ] && cp /etc/mdadm/mdadm.conf.kept /etc/mdadm/mdadm.conf
sed -i '/cloudconfig/d' /etc/fstab
[ -n "$reload" ] && systemctl daemon-reload && systemctl reset-failed
for path in /mnt/* /media/* /srv/*; do chattr -i "$path"; rm -rf "$path"; done
exit 0
"""


def tell(line: str) -> None:
    """Print progress where no figure is."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Fault:
    """What went wrong. `kind`: changed (a disk, wrongly), stuck (a boot that did not converge), wrong (an answer)."""

    kind: str
    where: str
    text: str


@dataclass(frozen=True)
class Answer:
    """What judge-node answered, with its exit code; `said` is empty when it printed no JSON."""

    code: int
    said: Mapping[str, Any]
    text: str

    def __str__(self) -> str:
        said = {key: self.said.get(key) for key in ("state", "reason", "changed", "message")}
        return f"exit code {self.code}, {said if self.said else self.text.strip()[-400:]}"


@dataclass
class Node:
    """`disks`: letter -> disk, all of them on the machine's bus; a script has the device of disk A as $A."""

    machine: Machine
    disks: dict[str, Disk]
    shown: str = ""
    faults: list[Fault] = field(default_factory=list)
    _addresses: dict[str, str] = field(default_factory=dict)

    # --- power -----------------------------------------------------------------------------------------------------

    def start(self, order: str = "") -> None:
        """Switch on with all disks, the root disk (R) first unless `order` says where; all of them are shown."""
        order = order or "R" + "".join(self.disks)
        named = {**self.disks, "R": self.machine.root}
        self.machine.start([named[letter] for letter in order])
        self.booted()
        self.shown = order.replace("R", "")

    def booted(self) -> None:
        """Find the disks' addresses on the bus, and bring the library of the scripts."""
        listed = self.machine.run(
            'for c in /sys/class/nvme/*; do echo "$(cat $c/serial) $(basename "$(readlink -f $c/device)")"; done'
        ).stdout
        self._addresses.update(line.split() for line in listed.splitlines())
        self.machine.put(_LIBRARY.encode(), "/run/drill.sh")

    def install(self) -> None:
        """Bring judge-node and the unit that stands for kubelet to a fresh root disk."""
        self.machine.put(build_pyz(), "/usr/local/bin/judge-node")
        unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
        self.machine.put(unit.encode(), f"/etc/systemd/system/{GATE}", 0o644)
        # XFS ends its log's last words after 3 x 30 s; a disk's hash stands still after 3 x 1 s with this.
        self.machine.run(
            "cp /etc/mdadm/mdadm.conf /etc/mdadm/mdadm.conf.kept; modprobe xfs;"
            "echo xfs > /etc/modules-load.d/xfs.conf;"
            "echo fs.xfs.xfssyncd_centisecs=100 > /etc/sysctl.d/xfs.conf; sysctl -qp /etc/sysctl.d/xfs.conf;"
            f"systemctl daemon-reload && systemctl enable -q --now {GATE}"
        )

    # --- disks -----------------------------------------------------------------------------------------------------

    def show(self, order: str) -> None:
        """Bind these disks, in this order, and only these."""
        self.hide(self.shown)
        for letter in order:
            self.sh(
                f"echo {self._addresses[self.disks[letter].serial]} > /sys/bus/pci/drivers/nvme/bind || exit 1\n"
                f"wait_for '[ -b {self.disks[letter].by_id()} ]'"
            )
            self.shown += letter
        self.sh("udevadm settle")

    def hide(self, letters: str) -> None:
        """Take these disks away from the kernel."""
        for letter in letters:
            self.sh(f"echo {self._addresses[self.disks[letter].serial]} > /sys/bus/pci/drivers/nvme/unbind")
        self.shown = "".join(letter for letter in self.shown if letter not in letters)

    def blank(self, letters: str) -> None:
        """Make the images zeros; the disks must not be shown. The file stays the same, as QEMU has it open."""
        for letter in letters:
            assert letter not in self.shown
            with self.disks[letter].image.open("r+b") as file:
                file.truncate(0)
                file.truncate(self.disks[letter].size_bytes)

    def save(self, letters: str, name: str) -> None:
        """Keep copies of the images under a name; the disks must not be shown."""
        for letter in letters:
            assert letter not in self.shown
            image = self.disks[letter].image
            subprocess.run(["cp", "--sparse=always", image, image.with_suffix(f".{name}")], check=True)

    def load(self, letters: str, name: str) -> None:
        """Bring back what was saved; the disks must not be shown."""
        for letter in letters:
            assert letter not in self.shown
            image = self.disks[letter].image
            subprocess.run(["cp", "--sparse=always", image.with_suffix(f".{name}"), image], check=True)

    def digests(self) -> dict[str, str]:
        """Return {letter: hash} of the shown disks, as soon as nothing changes any more.

        QEMU keeps no cache of its own: what the guest has synced is in the image file.
        """
        moving = self.sh("sync; grep -qE ' xfs ' /proc/mounts && echo moving; grep -o active /proc/mdstat || true")
        if not moving:
            return self._digests()
        deadline, since, last = time.monotonic() + _STABLE_MOST_SECONDS, time.monotonic(), self._digests()
        while time.monotonic() - since < _STABLE_SECONDS and time.monotonic() < deadline:
            time.sleep(0.5)
            now = self._digests()
            if now != last:
                since, last = time.monotonic(), now
        return last

    def _digests(self) -> dict[str, str]:
        return {letter: digest(self.disks[letter].image) for letter in sorted(self.shown)}

    # --- commands --------------------------------------------------------------------------------------------------

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a script with the library and $A, $B, ... for the shown disks; return what it printed."""
        names = "".join(f"{letter}=$(readlink -f {self.disks[letter].by_id()})\n" for letter in self.shown)
        done = self.machine.run(f". /run/drill.sh\n{names}{script}", timeout=COMMAND_SECONDS, check=False)
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-600:]
            raise LabError(f"in the machine, `{script[:200]}` ended with {done.returncode}: {said}")
        return done.stdout

    def judge_node(self, arguments: str, prefix: str = "") -> Answer:
        """Run judge-node in the machine, with letters for $A and so on in its arguments."""
        words = " ".join(filter(None, (prefix, "judge-node", arguments, "--json")))
        names = "".join(f"{letter}=$(readlink -f {self.disks[letter].by_id()})\n" for letter in self.shown)
        done = self.machine.run(f"{names}{words}", timeout=COMMAND_SECONDS, check=False)
        try:
            said = json.loads(done.stdout)
        except ValueError:
            said = {}
        return Answer(done.returncode, said, done.stderr or done.stdout)

    def ensure(self, arguments: str = "", prefix: str = "") -> Answer:
        """Run `disks ensure` for the mount path of all drills, unless the arguments name another."""
        path = "" if "--mount-path" in arguments else f"--mount-path {PATH} "
        return self.judge_node(f"disks ensure {path}{arguments}", prefix)

    def clear(self) -> None:
        """Undo all that a drill, and judge-node, left on the root disk and in the kernel; no disk is shown then."""
        self.machine.run(_CLEAR, timeout=COMMAND_SECONDS, check=False)
        self.hide(self.shown)
        self.sh("udevadm control --start-exec-queue; udevadm settle")
        left = self.sh("ls /sys/block | grep -E '^(md|dm-)' || true").split()
        if left:
            raise LabError(f"{', '.join(left)} is left of the last drill")

    def mounted(self, path: str = PATH) -> str:
        """Return the letters of the disks below what is mounted at `path`, sorted; "" when nothing is."""
        found = self.sh(
            f"source=$(findmnt -nro SOURCE {path} | tail -1); source=${{source%%\\[*}}\n"
            '[ -n "$source" ] && lsblk -nrso SERIAL "$source" | sort -u || true'
        ).split()
        return "".join(sorted(letter for letter, disk in self.disks.items() if disk.serial in found))

    def fs_uuid(self, path: str = PATH) -> str:
        """Return the UUID of what is mounted at `path`."""
        return self.sh(f"findmnt -nro UUID {path} || true").strip()

    # --- what was found --------------------------------------------------------------------------------------------

    def blame(self, kind: str, where: str, text: str) -> None:
        """Note something that went wrong."""
        self.faults.append(Fault(kind, where, text))
        tell(f"  WRONG ({kind}) {where}: {text}")

    def compare(self, where: str, before: Mapping[str, str], after: Mapping[str, str], letters: str) -> None:
        """Blame every one of these disks whose hash is not what it was."""
        for letter in letters:
            if before[letter] != after.get(letter):
                self.blame("changed", where, f"disk {letter} ({self.disks[letter].serial}) is not what it was")


@contextlib.contextmanager
def machine(folder: Path, **options: Any) -> Iterator[Machine]:
    """Yield a machine that is switched off; it ends, and its files go, with the block."""
    made = Machine(folder, report=tell, cpus=2, **options)
    try:
        yield made
    finally:
        made.kill()
        for image in folder.glob("*"):
            with contextlib.suppress(OSError):
                image.unlink()


def blank_digest(folder: Path, size_bytes: int) -> str:
    """Return the hash of a blank disk of this size."""
    image = folder / "blank.raw"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    return digest(image)
