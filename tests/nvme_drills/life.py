"""A node's life: reboots, renamed devices, stop and start, disks that are late, blank, fewer, or somebody else's.

Two instance stores (A, B) in one RAID0, a volume (V) that nobody may touch, and a unit that stands for kubelet. The
steps follow each other on one root disk, as they do on a node.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from judge_lab.vm import EBS, Disk, Machine, digest

from .node import GATE, MIB, PATH, RESULT, Node, tell

ARGUMENTS = f"--gate {GATE} --wait 10"
_BOOT_UNIT = "judge-node-disks.service"
_LATE_SECONDS = 8
_LATE = """\
[Unit]
DefaultDependencies=no
Before={boot_unit} sysinit.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for c in /sys/class/nvme/*; do [ "$(cat $c/serial)" = {serial} ] && basename "$(readlink -f $c/device)" > /run/late; done; cat /run/late > /sys/bus/pci/drivers/nvme/unbind'
ExecStartPost=/bin/sh -c '(sleep {seconds}; cat /run/late > /sys/bus/pci/drivers/nvme/bind) >/dev/null 2>&1 &'
KillMode=none
[Install]
WantedBy=sysinit.target
"""  # noqa: E501 - a unit's lines cannot be folded


@dataclass(frozen=True)
class Seen:
    """The node as it stands after a boot."""

    disks: str
    fs_uuid: str
    marker: str  # inode and time of change
    data: str
    units: str
    boot_unit: str
    gate: str
    result: dict[str, Any]


@dataclass
class Step:
    """One step as it went."""

    name: str
    seconds: float


class Life:
    """The machine and what it should still have. `kept` is what the last boot showed; `volume` V's hash."""

    def __init__(self, made: Machine) -> None:
        size_bytes = 320 * MIB
        disks = {letter: made.new_disk(size_bytes=size_bytes) for letter in "AB"}
        self.node = Node(made, {**disks, "V": made.new_disk(model=EBS, size_bytes=size_bytes)})
        self.machine, self.where = made, "first run"
        self.kept: Seen | None = None
        self.volume = ""

    # --- steps, in order -------------------------------------------------------------------------------------------

    def first_run(self) -> None:
        """Two blank disks become one array, and the gate was not disturbed."""
        node = self.node
        node.start("VRAB")
        node.install()
        node.sh("ext4 $V; fill $V /srv/x; umount /srv/x; sync")
        self.volume = digest(node.disks["V"].image)
        answer = node.ensure(ARGUMENTS)
        if answer.code != 0:
            self._wrong(f"wanted exit code 0, found {answer}")
        node.sh(f"dd if=/dev/urandom of={PATH}/data bs=64k count=16 status=none; sync")
        self.kept = self._look()
        self._expect_ready(self.kept, "AB")

    def reboot(self) -> None:
        """Nothing changes."""
        self._reboot()
        self._expect_same()

    def renamed(self) -> None:
        """Nothing changes when the devices come in another order, the root disk among them."""
        self._off()
        self.node.start("BVRA")
        self._expect_same()

    def stale_mdadm_conf(self) -> None:
        """A line for an array that is gone under our array's name, and no assembly by udev: nothing changes."""
        conf = "AUTO -all\nARRAY /dev/md/judge-nvme UUID=01234567:89abcdef:01234567:89abcdef name=any:judge-nvme\n"
        self.machine.put(conf.encode(), "/etc/mdadm/mdadm.conf", 0o644)
        self._reboot()
        self._expect_same()
        self.machine.run("cp /etc/mdadm/mdadm.conf.kept /etc/mdadm/mdadm.conf")

    def late(self) -> None:
        """A disk that appears seconds after the others is waited for: nothing changes."""
        unit = _LATE.format(boot_unit=_BOOT_UNIT, serial=self.node.disks["B"].serial, seconds=_LATE_SECONDS)
        self.machine.put(unit.encode(), "/etc/systemd/system/late-disk.service", 0o644)
        self.machine.run("systemctl daemon-reload; systemctl enable -q late-disk.service")
        self._reboot()
        seen = self._expect_same()
        if not self.machine.run("cat /run/late", check=False).stdout.strip():
            self._wrong(f"the drill is broken: the disk was not late ({seen.disks})")
        self.machine.run("systemctl disable -q late-disk.service")

    def unmounted_by_hand(self) -> None:
        """Where it was mounted nobody can write, and the next boot mounts it again."""
        self.machine.run(f"systemctl stop {GATE}; umount {PATH}")
        self._expect_unwritable()
        self._reboot()
        self._expect_same()

    def initrd(self) -> None:
        """With an initrd, which assembles arrays before anything of ours runs: nothing changes."""
        self._off()
        self.machine.initrd = True
        self.node.start("RABV")
        self._expect_same()
        self._off()
        self.machine.initrd = False

    def both_blank(self) -> None:
        """Stopped and started: two other, blank disks become ready by themselves, before the gate."""
        self._off()
        self._renew("AB")
        self.node.start("AVRB")
        self._expect_anew("AB")

    def one_blank(self) -> None:
        """One of two blank: refused, in plain sight; release and ensure mend it."""
        self._off()
        self._renew("B")
        before = {letter: digest(self.node.disks[letter].image) for letter in "AB"}
        self.node.start("RAVB")
        self._expect_failed("ARRAY_INCOMPLETE")
        self._expect_unwritable()
        self.node.compare(self.where, before, self.node.digests(), "AB")
        answer = self.node.judge_node(f"disks release $A --serial {self.node.disks['A'].serial}")
        if answer.code != 0:
            self._wrong(f"release: {answer}")
        answer = self.node.ensure(ARGUMENTS)
        if answer.code != 0:
            self._wrong(f"ensure after release: {answer}")
        self._expect_anew("AB")

    def somebody_elses(self) -> None:
        """Stopped and started: one blank disk, and one with a copy of the volume's filesystem, UUID and all."""
        self._off()
        self._renew("AB")
        shutil.copyfile(self.node.disks["V"].image, self.node.disks["B"].image)
        before = {"B": digest(self.node.disks["B"].image)}
        self.node.start("RVAB")
        self._expect_anew("A")
        self.node.compare(self.where, before, self.node.digests(), "B")

    def foreign_data_on_a_member(self) -> None:
        """Between two boots somebody puts a filesystem on one disk of our array: refused, and nothing is lost."""
        self._off()
        self._renew("AB")
        self.node.start("RVAB")
        self._expect_anew("AB")
        self._off()
        shutil.copyfile(self.node.disks["V"].image, self.node.disks["B"].image)
        before = {letter: digest(self.node.disks[letter].image) for letter in "AB"}
        self.node.start("RVAB")
        self._expect_failed("ARRAY_INCOMPLETE|DISK_FOREIGN_DATA")
        self._expect_unwritable()
        self.node.compare(self.where, before, self.node.digests(), "AB")

    def fewer(self) -> None:
        """Another instance type, with one disk: it is made ready after the wait for the second one."""
        self._off()
        self._renew("A")
        gone = self.node.disks.pop("B")
        self.node.start("RAV")
        self._expect_anew("A")
        self.node.disks["B"] = gone

    def more(self) -> None:
        """And back to one with two disks: what is ours stays, the blank one is left alone."""
        self._off()
        kept = self.kept
        self._renew("B")
        before = {"B": digest(self.node.disks["B"].image)}
        self.node.start("RBAV")
        self.kept = kept
        self._expect_same()
        self.node.compare(self.where, before, self.node.digests(), "B")

    # --- what the steps are made of --------------------------------------------------------------------------------

    def _wrong(self, text: str) -> None:
        self.node.blame("wrong", self.where, text)

    def _reboot(self) -> None:
        self.machine.reboot()
        self.node.booted()

    def _off(self) -> None:
        self.machine.poweroff()

    def _renew(self, letters: str) -> None:
        for letter in letters:
            disk: Disk = self.machine.replace_by_blank(self.node.disks[letter])
            self.node.disks[letter] = disk

    def _look(self) -> Seen:
        """Wait until the boot is over, and look at all that matters."""
        lines = self.machine.run(
            "systemctl is-system-running --wait >/dev/null 2>&1\n"
            f"findmnt -nro UUID {PATH} || echo\n"
            f"stat -c '%i %Y' {PATH}/.judge-bootstrap.json 2>/dev/null || echo\n"
            f"[ -e {PATH}/data ] && sha256sum < {PATH}/data || echo\n"
            "cd /etc/systemd/system; ls -l --time-style=full-iso mnt-nvme.mount judge-node-disks.service 2>/dev/null "
            "| sha256sum\n"
            f"systemctl is-active {_BOOT_UNIT}\nsystemctl is-active {GATE}\n"
            f"cat {RESULT} 2>/dev/null || echo '{{}}'",
            timeout=900,
            check=False,
        ).stdout.split("\n")
        return Seen(self.node.mounted(), *lines[:6], json.loads(lines[6]))

    def _expect_ready(self, seen: Seen, disks: str) -> None:
        """Blame what is not as it should be on a node that is ready; V is what it always was."""
        if (seen.disks, seen.boot_unit, seen.gate) != (disks, "active", "active"):
            said = {key: seen.result.get(key) for key in ("reason", "message")}
            self.node.blame(
                "stuck",
                self.where,
                f"wanted {disks} mounted, the boot unit and the gate active; found {seen.disks!r}, {seen.boot_unit}, "
                f"{seen.gate}, {said}",
            )
        self.node.compare(self.where, {"V": self.volume}, self.node.digests(), "V")

    def _expect_same(self) -> Seen:
        seen, kept = self._look(), self.kept
        assert kept is not None
        self._expect_ready(seen, kept.disks)
        if (seen.fs_uuid, seen.marker, seen.data) != (kept.fs_uuid, kept.marker, kept.data):
            self.node.blame("changed", self.where, f"the filesystem was {kept}, now it is {seen}")
        if seen.units != kept.units:
            self._wrong("the units were written anew although nothing changed")
        return seen

    def _expect_anew(self, disks: str) -> None:
        seen = self._look()
        self._expect_ready(seen, disks)
        if self.kept is not None and seen.fs_uuid == self.kept.fs_uuid:
            self._wrong(f"blank disks have the old filesystem {seen.fs_uuid}")
        again = self.node.ensure(ARGUMENTS)
        if again.code != 0 or again.said.get("changed") is not False:
            self._wrong(f"a second ensure should change nothing: {again}")
        self.node.sh(f"dd if=/dev/urandom of={PATH}/data bs=64k count=16 status=none; sync")
        self.kept = self._look()

    def _expect_failed(self, reasons: str) -> None:
        seen = self._look()
        journal = self.machine.run(f"journalctl -b -o cat -u {_BOOT_UNIT}", check=False).stdout
        if seen.boot_unit != "failed" or seen.gate == "active" or seen.disks:
            self._wrong(f"wanted the boot unit failed and the gate held back, found {seen}")
        if seen.result.get("reason") not in reasons.split("|") or str(seen.result.get("reason")) not in journal:
            self._wrong(f"wanted {reasons}, in the result and the journal; found {seen.result}; {journal[-300:]}")
        self.node.compare(self.where, {"V": self.volume}, self.node.digests(), "V")

    def _expect_unwritable(self) -> None:
        done = self.machine.run(f"touch {PATH}/x", check=False)
        if done.returncode == 0:
            self._wrong(f"{PATH} can be written although nothing is mounted there")


QUICK = ("first_run", "both_blank", "one_blank")
STEPS = ("first_run", "reboot", "renamed", "stale_mdadm_conf", "late", "unmounted_by_hand", "initrd", "both_blank",
         "one_blank", "somebody_elses", "foreign_data_on_a_member", "fewer", "more")  # fmt: skip


def play(life: Life, names: Sequence[str]) -> list[Step]:
    """Play the steps in order on one machine."""
    steps = []
    for name in names:
        step: Callable[[], None] = getattr(life, name)
        life.where, started = name.replace("_", " "), time.monotonic()
        step()
        steps.append(Step(life.where, time.monotonic() - started))
        tell(f"  {life.where} ({steps[-1].seconds:.0f} s)")
    return steps
