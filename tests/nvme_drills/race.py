"""Somebody writes to a disk between judge-node's last look at it and mdadm.

mdadm is replaced by a script that lets the writer in right before the real one begins, which is the worst moment there
is: every check of judge-node's own lies behind it, and only mdadm's are left. mdadm (4.2) looks for ext, partition
tables and md, and nothing of these may be lost. It is blind to the others: there its superblock is written over what
came in these milliseconds. That is told, not counted; what is counted is that judge-node sees it and goes no
further.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from .node import PATH, RESULT, Node, blank_digest, tell

SEEN = ("ext4", "a partition table", "somebody's md member")
# mdadm sees the one and refuses; of the other judge-node itself finds that the array is not blank.
ANSWERS = {"ext4": "ARRAY_FAILED", "xfs": "DISK_BUSY"}
WRITERS = {
    "ext4": "mkfs.ext4 -q -F $victim",
    "xfs": "mkfs.xfs -q -f $victim",
    "a partition table": "printf 'label: gpt\\nsize=50MiB\\n' | sfdisk -q $victim",
    "swap space": "mkswap -q $victim",
    "LUKS": "printf secret | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $victim -",
    "LVM": "pvcreate -qq -y $victim",
    "btrfs": "mkfs.btrfs -q -f $victim",
    "somebody's md member": "mdadm --create /dev/md/theirs --run --level=1 --raid-devices=2 --metadata=1.2 $victim "
    "missing; mdadm --stop /dev/md/theirs",
}
_MDADM = """\
#!/bin/sh
case "$*" in *--create*judge-nvme*) ;; *) exec /usr/sbin/mdadm "$@" ;; esac
for victim in "$@"; do :; done
(. /run/race.writer) >/run/race.log 2>&1 </dev/null
sync
touch /run/race.ready
until [ -e /run/race.go ]; do sleep 0.1; done
exec /usr/sbin/mdadm "$@"
"""


@dataclass
class Outcome:
    """One race as it went: how judge-node ended, and whether what was written is still there."""

    writer: str
    answer: str
    lost: bool
    seconds: float


def play(node: Node, writers: Sequence[str]) -> list[Outcome]:
    """Race each of these writers on a machine that runs; a loss is blamed on the node."""
    node.machine.put(_MDADM.encode(), "/opt/race/mdadm")
    outcomes = []
    for writer in writers:
        started = time.monotonic()
        answer, lost = _play(node, writer)
        outcomes.append(Outcome(writer, answer, lost, round(time.monotonic() - started, 1)))
        tell(f"  {writer} written before mdadm: {answer}{', LOST' if lost else ''} ({outcomes[-1].seconds:.0f} s)")
    return outcomes


def _play(node: Node, writer: str) -> tuple[str, bool]:
    where = f"race of RAID0 with a writer of {writer}"
    node.clear()
    node.blank("AB")
    node.show("AB")
    node.machine.put(WRITERS[writer].encode(), "/run/race.writer")
    node.sh(
        "rm -f /run/race.ready /run/race.go\n"
        f"rm -f {RESULT}\n"
        "systemd-run --quiet --unit=race --collect -E PATH=/opt/race:$PATH "
        f"judge-node disks ensure --mount-path {PATH}"
    )
    node.sh("wait_for '[ -e /run/race.ready ] || ! systemctl is-active -q race'")
    before = node.digests()
    node.sh("touch /run/race.go; wait_for '! systemctl is-active -q race'")
    after = node.digests()
    reason = node.sh(
        f"python3 -c 'import json; r = json.load(open(\"{RESULT}\")); "
        "print(r[\"reason\"] or r[\"state\"])'"
    ).strip()
    blank, lost = blank_digest(node.machine.folder, node.disks["A"].size_bytes), False
    for letter in "AB":
        # The victim is the one that is not blank at the moment before mdadm.
        if before[letter] != blank and before[letter] != after[letter]:
            lost = True
            if writer in SEEN:
                node.blame("changed", where, f"what was written to disk {letter} is not what it was; {reason}")
    if reason != ANSWERS.get(writer, reason):
        node.blame("wrong", where, f"wanted {ANSWERS[writer]}, found {reason}")
    if reason == "ours":
        node.blame("changed", where, "a filesystem was made over what was written")
    if before["A"] == before["B"]:
        node.blame("wrong", where, "the drill is broken: nothing was written")
    return reason, lost

