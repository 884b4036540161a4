"""`ensure` cut off: by a power cut, and by kill -9 of the parent or of its whole process group; then the next boot.

Every program that `ensure` starts goes through a wrapper, which says so on the console and can stop the world before,
in the middle of, or after one of them. Between programs judge-node itself writes (its note, the marker, units), so
other cuts come after a share of the time that a whole run takes.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from judge_lab.vm import EBS, Machine

from .node import COMMAND_SECONDS, GATE, MIB, PATH, RESULT, Node, blank_digest, tell

TOOLS = ("blkid", "wipefs", "mdadm", "mkfs.xfs", "mkfs.ext4", "systemctl", "udevadm", "chattr", "lsattr", "unshare",
         "mount")  # fmt: skip
_DISK_BYTES = 320 * MIB
_MARK = "drill-cut"
_WRAPPER = """\
#!/bin/sh
tool=${0##*/}
for real in /usr/sbin/$tool /usr/bin/$tool; do [ -x $real ] && break; done
n=$(($(cat /run/cut.n) + 1)); echo $n > /run/cut.n
echo "drill-call $n $tool $*" > /dev/ttyS0
read -r how when pattern < /run/cut.at
case "$tool $*" in $pattern) ;; *) exec $real "$@" ;; esac
stop() {
  case $how in
    power) echo drill-cut > /dev/ttyS0; [ "$1" = stay ] || sleep 600 ;;
    parent) kill -9 $PPID ;;
    group) kill -9 -$(cut -d ' ' -f 5 /proc/$PPID/stat) ;;
  esac
}
case $when in
  before) stop ;;
  in) stop stay; exec $real "$@" ;;
  after) $real "$@"; stop ;;
esac
"""
POWER, PARENT, GROUP = "power", "parent", "group"
CASES = {
    "one disk, xfs": ("A", "--device {A}"),
    "one disk, ext4": ("A", "--device {A} --fstype ext4"),
    "RAID0": ("ABCD", ""),
    "RAID10": ("ABCD", "--strategy RAID10"),
}


@dataclass(frozen=True)
class Cut:
    """`case`, how it is cut, and where: at a program (`when`: before | in | after it) or after a share of the time.

    `program` is a pattern of the shell for its command line.
    """

    case: str
    how: str
    program: str = ""
    when: str = ""
    share: float = 0.0


@dataclass
class Outcome:
    """One cut as it went: how far ensure was, what was on the disks then, and how the next boot made it good."""

    case: str
    how: str
    reached: str
    left: str
    by: str
    seconds: float


@dataclass
class Whole:
    """A run that nobody cut: the programs it started, in order, and its seconds."""

    calls: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Cuts:
    """The machine: A to D blank, V a volume and F an instance store with somebody's data; both stay as they are."""

    def __init__(self, made: Machine) -> None:
        disks = {letter: made.new_disk(size_bytes=_DISK_BYTES) for letter in "ABCDF"}
        self.node = Node(made, {**disks, "V": made.new_disk(model=EBS, size_bytes=_DISK_BYTES)})
        self.machine = made
        self.console = made.folder / "console.log"
        self.whole: dict[str, Whole] = {}
        self.foreign: dict[str, str] = {}

    def start(self) -> None:
        """Switch on for the first time."""
        node = self.node
        node.start("VRFABCD")
        node.install()
        node.sh(f"ext4 $V; fill $V /srv/x; umount /srv/x; byte $F {random.randrange(_DISK_BYTES)}; sync")
        self.foreign = {letter: node.digests()[letter] for letter in "FV"}
        self.machine.put(_WRAPPER.encode(), "/opt/cut/wrapper")
        self.machine.run(f"cd /opt/cut && for tool in {' '.join(TOOLS)}; do ln -sf wrapper $tool; done; sync")

    def measure(self, case: str) -> Whole:
        """Run `ensure` without a cut, note the programs that it starts and its time; once for each case."""
        if case not in self.whole:
            self._fresh()
            offset, started = self._console_size(), time.monotonic()
            self._arm("- - -")
            answer = self.node.ensure(self._arguments(case), "PATH=/opt/cut:$PATH")
            if answer.code != 0:
                self.node.blame("wrong", f"{case}, not cut", str(answer))
            self.whole[case] = Whole(self._calls(offset), time.monotonic() - started)
        return self.whole[case]

    def play(self, cut: Cut) -> Outcome:
        """Cut one run off, boot, and see whether it converges; what is wrong is blamed on the node."""
        due_seconds = self.measure(cut.case).seconds * cut.share if cut.share else 0.0
        started = time.monotonic()
        self._fresh()
        self._arm(f"{cut.how} {cut.when} {cut.program}" if cut.program else "- - -")
        offset = self._console_size()
        self._cut(cut, offset, due_seconds)
        calls = self._calls(offset)
        last = calls[-1][:60] if calls else "nothing"
        place = f"{cut.when} it" if cut.when else f"{cut.share:.0%} of the time"
        of = f" of {len(self.whole[cut.case].calls)}" if cut.case in self.whole else ""
        reached = f"program {len(calls)}{of}, {last} ({place})"
        where = f"{cut.case}, {cut.how} at {reached}"
        left = self._left()
        if self.machine.running():
            self.machine.reboot()
        else:
            self.machine.start()
        self.node.booted()
        by = self._converge(cut, where)
        seconds = time.monotonic() - started
        tell(f"  {where}; left: {left}; next boot: {by} ({seconds:.0f} s)")
        return Outcome(cut.case, cut.how, reached, left, by, round(seconds, 1))

    # --- what it is made of ----------------------------------------------------------------------------------------

    def _arguments(self, case: str) -> str:
        return f"--gate {GATE} --wait 5 " + CASES[case][1].format(A=self.node.disks["A"].by_id())

    def _fresh(self) -> None:
        self.node.clear()
        self.node.blank("ABCD")
        self.node.show("VFABCD")

    def _arm(self, at: str) -> None:
        self.machine.run(f"echo 0 > /run/cut.n; echo '{at}' > /run/cut.at; sync")

    def _console_size(self) -> int:
        return self.console.stat().st_size

    def _console_from(self, offset: int) -> str:
        with self.console.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def _calls(self, offset: int) -> list[str]:
        return re.findall(r"drill-call \d+ ([^\r\n]*)", self._console_from(offset))

    def _cut(self, cut: Cut, offset: int, due_seconds: float) -> None:
        """Start `ensure` and cut it as wanted; returns when it is cut (or has ended by itself)."""
        command = f"disks ensure --mount-path {PATH} {self._arguments(cut.case)}"
        # As cloud-init starts user data: what the killed process leaves behind goes on.
        self.machine.run(
            "systemd-run --quiet --unit=first-boot --collect -p KillMode=process -E PATH=/opt/cut:$PATH "
            f"judge-node {command}"
        )
        began = time.monotonic()
        while time.monotonic() - began < COMMAND_SECONDS:
            if cut.share and time.monotonic() - began >= due_seconds:
                break
            if cut.program and cut.how == POWER and _MARK in self._console_from(offset):
                break
            if cut.program and cut.how != POWER and self._has_ended():
                if self.machine.run(f"[ -e {RESULT} ]", check=False).returncode == 0:
                    self.node.blame("wrong", str(cut), "the drill is broken: the run ended, nobody killed it")
                return
            time.sleep(0.005 if cut.how == POWER or cut.share else 0.3)
        else:
            self.node.blame("wrong", str(cut), "the drill is broken: the run was never cut")
        if cut.how == POWER:
            self.machine.kill()
        else:
            sign = "-" if cut.how == GROUP else ""
            self.machine.run(
                f"kill -9 -- {sign}$(systemctl show --property=MainPID --value first-boot)", check=False
            )

    def _has_ended(self) -> bool:
        return self.machine.run("systemctl is-active -q first-boot", check=False).returncode != 0

    def _left(self) -> str:
        """Say what the images hold now."""
        found = []
        for letter in "ABCD":
            with self.node.disks[letter].image.open("rb") as file:
                head = file.read(8192)
            what = "md" if head[4096:4100] == b"\xfc\x4e\x2b\xa9" else "xfs" if head[:4] == b"XFSB" else ""
            what = what or ("ext4" if head[1080:1082] == b"\x53\xef" else "")
            found.append(f"{letter} {what}" if what else "")
        return ", ".join(filter(None, found)) or "no signature"

    def _converge(self, cut: Cut, where: str) -> str:
        node, members = self.node, CASES[cut.case][0]
        self.machine.run("systemctl is-system-running --wait >/dev/null 2>&1", timeout=COMMAND_SECONDS, check=False)
        enabled = self.machine.run("systemctl is-enabled -q judge-node-disks.service", check=False).returncode == 0
        by = "the boot unit"
        if enabled:
            active = self.machine.run("systemctl is-active judge-node-disks.service", check=False).stdout.strip()
            if active != "active":
                journal = self.machine.run("journalctl -b -o cat -u judge-node-disks | tail -5").stdout
                node.blame("stuck", where, f"the boot unit is {active}: {journal}")
        else:
            by = "ensure from user data"
            answer = node.ensure(self._arguments(cut.case))
            if answer.code != 0:
                node.blame("stuck", where, str(answer))
        if (mounted := node.mounted()) != members:
            node.blame("stuck", where, f"{PATH} is on {mounted!r}, wanted {members!r}")
        again = node.ensure(self._arguments(cut.case))
        if again.code != 0 or again.said.get("changed") is not False:
            todo = again.said.get("facts", {}).get("steps")
            node.blame("stuck", where, f"ensure should have nothing left to do: {again}, {todo}")
        if node.machine.run(f"touch {PATH}/x && rm {PATH}/x && systemctl is-active -q {GATE}", check=False).returncode:
            node.blame("stuck", where, f"{PATH} cannot be written, or the gate is not active")
        now = node.digests()
        node.compare(where, self.foreign, now, "FV")
        untouched = "".join(letter for letter in "ABCD" if letter not in members)
        node.compare(where, dict.fromkeys(untouched, blank_digest(self.machine.folder, _DISK_BYTES)), now, untouched)
        return by


XFS, EXT4, RAID0, RAID10 = CASES
CREATE, MKFS = "mdadm --create *", "mkfs.*"
# What CI plays: the moments at which a disk becomes another thing.
QUICK = (
    Cut(XFS, POWER, MKFS, "in"),
    Cut(RAID0, POWER, CREATE, "in"),
    Cut(RAID0, POWER, MKFS, "in"),
    Cut(EXT4, PARENT, MKFS, "in"),
    Cut(XFS, GROUP, "systemctl reenable *", "after"),
)
# The shares stand for whatever is done then: the reading, and judge-node's own writing, included.
ALL = (
    *QUICK,
    Cut(XFS, GROUP, MKFS, "in"),
    Cut(XFS, POWER, "systemctl start *", "in"),
    Cut(XFS, PARENT, share=0.80),
    Cut(EXT4, POWER, MKFS, "in"),
    Cut(EXT4, POWER, "chattr *", "after"),
    Cut(EXT4, GROUP, share=0.25),
    Cut(EXT4, POWER, share=0.65),
    Cut(RAID0, PARENT, CREATE, "in"),
    Cut(RAID0, POWER, MKFS, "after"),
    Cut(RAID0, GROUP, "systemctl daemon-reload", "before"),
    Cut(RAID0, POWER, share=0.50),
    Cut(RAID10, POWER, CREATE, "in"),
    Cut(RAID10, POWER, CREATE, "after"),
    Cut(RAID10, GROUP, MKFS, "in"),
    Cut(RAID10, POWER, "systemctl restart *", "before"),
    Cut(RAID10, PARENT, share=0.90),
)


def play(cuts: Cuts, chosen: Iterable[Cut]) -> list[Outcome]:
    """Play the cuts on a machine that is on."""
    return [cuts.play(cut) for cut in chosen]
