"""Disk layouts: what lies on a node's disks, what `ensure` must answer, and which disks it may take.

Each is laid out with the real tools in a virtual machine. The hash of every disk is taken before `ensure`, after it,
and after a second one. Disks that are ours already may change as a mounted filesystem does: of these the UUID and a
file are compared instead.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from judge_lab.vm import EBS, INSTANCE_STORE, Disk, Machine

from . import nodeadm
from .node import MIB, PATH, Answer, Node, tell

SMALL_BYTES = 320 * MIB  # read from end to end
LARGE_BYTES = 1200 * MIB  # read by samples
TINY_BYTES = 200 * MIB  # too small for a filesystem
OTHER_MODEL = "Acme Fast Disk 2000"
NOBODY = "setpriv --reuid 65534 --regid 65534 --clear-groups"
_DATA = f"{PATH}/data"


@dataclass(frozen=True)
class Layout:
    """`disks` are shown in this order; then come `begins` (an earlier layout's disks), `blanked`, and `prepare`.

    `takes`: blank disks that ensure makes ours; `ours`: disks it finds to be ours (or to adopt), with the file
    `keeps` on them. `reason` None means that it must succeed. `members`: what is mounted in the end, in letters.
    """

    name: str
    disks: str
    prepare: str = ""
    arguments: str = ""
    prefix: str = ""
    reason: str | None = None
    code: int = 3
    state: str | None = None
    takes: str = ""
    ours: str = ""
    keeps: str = ""
    begins: str = ""
    blanked: str = ""
    saves: str = ""
    array: str = ""  # level and number of devices of what is mounted, as /sys/block/md*/md says it
    fstype: str = "xfs"
    owner: str = "judge"
    quick: bool = False


def _raw(seed: int) -> list[Layout]:
    """Return layouts with single bytes, which no signature betrays, at the edges and anywhere."""
    chance = random.Random(seed)
    places = [("the first byte", 0, True), ("the last byte", SMALL_BYTES - 1, False)]
    places += [(f"byte {at}", at, False) for at in (chance.randrange(SMALL_BYTES) for _ in range(3))]
    layouts = [
        Layout(f"a byte that is not zero: {what}", "A", f"byte $A {at}", reason="DISK_FOREIGN_DATA", state="foreign",
               quick=quick)
        for what, at, quick in places
    ]  # fmt: skip
    start = chance.randrange(LARGE_BYTES // MIB - 2)
    layouts.append(
        Layout(f"2 MiB without a signature at {start} MiB of a large disk", "L",
               f"dd if=/dev/urandom of=$L bs=1M count=2 seek={start} conv=notrunc status=none; sync",
               reason="DISK_FOREIGN_DATA", state="foreign", quick=True))  # fmt: skip
    return layouts


_NODEADM = f"dir=/mnt/k8s-disks\n{nodeadm.ARRAY}dd if=/dev/urandom of=$dir/0/data bs=64k count=16 status=none\n"
_NODEADM_TWO = """
for n in 0 1; do
  disk=$A; [ $n = 1 ] && disk=$B
  mkfs.xfs -q -K $disk && mkdir -p /mnt/k8s-disks/$n && mount $disk /mnt/k8s-disks/$n || fail mount
  dd if=/dev/urandom of=/mnt/k8s-disks/$n/data bs=64k count=16 status=none
done
"""
_CLOUD_INIT = """
ext4 $A && fill $A /media/ephemeral0
echo "$A /media/ephemeral0 auto defaults,nofail,comment=cloudconfig 0 2" >> /etc/fstab
"""
_GPT = "printf 'label: gpt\\nsize=100MiB\\n' | sfdisk -q $A && udevadm settle && wait_for '[ -b ${A}p1 ]'\n"
_PV = "pvcreate -qq -y $A\n"
_LV = _PV + "vgcreate -qq data $A && lvcreate -qq -y -Zn -L 100M -n files data && wait_for '[ -e /dev/data/files ]'\n"
_LUKS = "printf secret | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $A -\n"
_OPEN = "printf secret | cryptsetup open --key-file - $A safe\n"
_MIRROR = (
    "mdadm --create /dev/md/theirs --run --level=1 --raid-devices=2 --metadata={metadata} --assume-clean $A $B "
    "2>/dev/null && wait_for '[ -e /dev/md/theirs ]'\n"
)
_ELSEWHERE = "unshare --mount --propagation private sh -c 'echo $$ > /run/drill-ns.pid; mount '$A' /srv/x && " \
             "touch /run/drill-ns.up && exec sleep 3600' >/dev/null 2>&1 </dev/null &\n" \
             "wait_for '[ -e /run/drill-ns.up ]'; rm /run/drill-ns.up\n"  # fmt: skip


def layouts(seed: int) -> list[Layout]:
    """Return all layouts; those that save what later ones begin with come first."""
    foreign: dict[str, Any] = {"reason": "DISK_FOREIGN_DATA", "state": "foreign"}
    busy: dict[str, Any] = {"reason": "DISK_BUSY", "state": "foreign"}
    usage: dict[str, Any] = {"reason": "usage", "code": 2}
    return [
        # What may be made ours.
        Layout("one blank disk", "A", takes="A", saves="one", quick=True),
        Layout("two blank disks", "AB", takes="AB", array="raid0 2", saves="raid0", quick=True),
        Layout("four blank disks, RAID10", "ABCD", arguments="--strategy RAID10", takes="ABCD", array="raid10 4",
               saves="raid10"),
        Layout("one blank disk, ext4", "A", arguments="--fstype ext4", takes="A", fstype="ext4", saves="ext4"),
        Layout("a blank disk with sectors of 4096 bytes", "K", takes="K"),
        Layout("a blank disk that is read by samples", "L", takes="L"),
        Layout("two blank disks, strategy Mount", "AB", arguments="--strategy Mount", takes="A|B"),
        Layout("a blank volume before a blank instance store", "VA", takes="A", quick=True),
        Layout("a blank instance store before a blank volume", "AV", takes="A"),
        Layout("a blank disk beside one with ext4", "BA", "ext4 $A", takes="B"),
        Layout("a blank disk of another model, named by --device", "OV", arguments="--device $O", takes="O"),
        # What is ours.
        Layout("RAID0 of two disks of ours", "BA", begins="raid0", ours="AB", array="raid0 2", quick=True),
        Layout("RAID10 of four disks of ours", "DCBA", begins="raid10", ours="ABCD", array="raid10 4",
               arguments="--strategy RAID10"),
        Layout("RAID10 of ours with one disk come back blank", "ABCD", begins="raid10", blanked="C", ours="ABD",
               takes="C", array="raid10 4", arguments="--strategy RAID10"),
        Layout("our xfs, not mounted", "A", begins="one", ours="A"),
        Layout("our ext4, not mounted", "A", begins="ext4", ours="A", arguments="--fstype ext4", fstype="ext4"),
        Layout("our array beside a blank disk", "CAB", begins="raid0", ours="AB", array="raid0 2"),
        # What others built for us.
        Layout("nodeadm's array at /mnt/k8s-disks/0", "AB", _NODEADM, ours="AB", state="adopted", owner="nodeadm",
               keeps="/mnt/k8s-disks/0/data"),
        Layout("nodeadm's two disks, strategy Mount", "AB", _NODEADM_TWO, ours="A", state="adopted",
               owner="nodeadm", keeps="/mnt/k8s-disks/0/data"),
        Layout("a mount of cloud-init", "A", _CLOUD_INIT, ours="A", state="adopted", owner="cloud-init",
               fstype="ext4", keeps="/media/ephemeral0/data"),
        # What is somebody's.
        Layout("ext4", "A", "ext4 $A", **foreign),
        Layout("xfs", "A", "mkfs.xfs -q -K $A", **foreign),
        Layout("xfs on sectors of 4096 bytes", "K", "mkfs.xfs -q -K $K", **foreign),
        Layout("btrfs on two disks", "AB", "mkfs.btrfs -q $A $B", **foreign),
        Layout("btrfs on two disks, mounted", "BA", "mkfs.btrfs -q $A $B; btrfs device scan -q; fill $A /srv/x",
               reason="DISK_BUSY|DISK_FOREIGN_DATA", state="foreign"),
        Layout("GPT without partitions", "A", "printf 'label: gpt\\n' | sfdisk -q $A", **foreign),
        Layout("GPT with a filesystem", "A", _GPT + "ext4 ${A}p1", quick=True, **busy),
        Layout("GPT with a filesystem, its first table gone", "A",
               _GPT + "ext4 ${A}p1; dd if=/dev/zero of=$A bs=512 count=34 conv=notrunc status=none; sync; "
               "blockdev --rereadpt $A; udevadm settle", **foreign),
        Layout("MBR with a partition", "A", "printf 'label: dos\\nsize=50MiB\\n' | sfdisk -q $A; udevadm settle",
               **busy),
        Layout("MBR without partitions", "A", "printf 'label: dos\\n' | sfdisk -q $A", **foreign),
        *_raw(seed),
        Layout("ext4 wiped by wipefs", "A", "ext4 $A; fill $A /srv/x; umount /srv/x; wipefs -qa $A; sync", quick=True,
               **foreign),
        Layout("xfs wiped by wipefs", "A", "mkfs.xfs -q -K $A; fill $A /srv/x; umount /srv/x; wipefs -qa $A; sync",
               **foreign),
        Layout("ext4 whose first 16 MiB are zeros", "L", "ext4 $L; fill $L /srv/x; umount /srv/x; "
               "dd if=/dev/zero of=$L bs=1M count=16 conv=notrunc status=none; sync", **foreign),
        Layout("LVM physical volume", "A", _PV, **foreign),
        Layout("LVM with a mounted volume", "A", _LV + "ext4 /dev/data/files; fill /dev/data/files /srv/x", **busy),
        Layout("LUKS, closed", "A", _LUKS, **foreign),
        Layout("LUKS, open", "A", _LUKS + _OPEN, quick=True, **busy),
        Layout("two disks of somebody's mirror, running", "AB", _MIRROR.format(metadata="1.2"), quick=True, **busy),
        Layout("one disk of somebody's mirror, which ends with its superblock", "AB",
               _MIRROR.format(metadata="1.0") + "mdadm --stop /dev/md/theirs 2>/dev/null; udevadm settle;"
               "mdadm --zero-superblock $B", reason=None, takes="B"),
        Layout("somebody's mirror, stopped", "AB", _MIRROR.format(metadata="1.2") + "mdadm --stop -q /dev/md/theirs",
               **foreign),
        Layout("swap space in use", "A", "mkswap -q $A; swapon $A", **busy),
        Layout("swap space, not in use", "A", "mkswap -q $A", **foreign),
        Layout("mounted elsewhere", "A", "ext4 $A; fill $A /srv/x", **busy),
        Layout("mounted in another mount namespace", "A", "ext4 $A; mkdir -p /srv/x\n" + _ELSEWHERE, quick=True,
               **busy),
        Layout("device mapper over a blank disk", "A", "dmsetup create linear0 --table \"0 $(blockdev --getsz $A) "
               "linear $A 0\"", **busy),
        Layout("our label, a file, no marker", "A", "mkfs.xfs -q -K -L judge-nvme $A; fill $A /srv/x; umount /srv/x",
               **foreign),
        Layout("our filesystem with the marker of another disk", "A",
               "mkfs.xfs -q -K -L judge-nvme $A; fill $A /srv/x; uuid=$(blkid -s UUID -o value $A);"
               "echo '{\"schema\": 1, \"fs_uuid\": \"'$uuid'\", \"serial\": \"AWS00000000000000000\"}' "
               "> /srv/x/.judge-bootstrap.json; umount /srv/x", **foreign),
        Layout("a read-only disk", "A", "blockdev --setro $A", reason="DISK_UNKNOWN", state="degraded"),
        # What is ours and not as it should be.
        Layout("our RAID0 with one of two disks come back blank", "AB", begins="raid0", blanked="B",
               reason="ARRAY_INCOMPLETE", state="degraded", quick=True),
        Layout("our RAID0 with one of two disks gone", "B", begins="raid0", reason="ARRAY_INCOMPLETE",
               state="degraded"),
        Layout("our RAID10 with two blank disks, both of one mirror", "ABCD", begins="raid10", blanked="mirror",
               arguments="--strategy RAID10", reason="ARRAY_INCOMPLETE", state="degraded"),
        Layout("our xfs where ext4 is asked for", "A", begins="one", arguments="--fstype ext4", reason="FS_MISMATCH",
               state="ours"),
        Layout("our xfs, mounted elsewhere", "A", "mkdir -p /srv/x; mount $A /srv/x; sleep 5", begins="one",
               reason="MOUNT_ELSEWHERE", state="ours"),
        # What cannot be.
        Layout("RAID10 of three disks", "ABC", arguments="--strategy RAID10", reason="DISK_TOO_FEW", state="blank"),
        Layout("a disk that is too small", "T", reason="DISK_TOO_SMALL", state="blank"),
        Layout("a blank volume, alone", "V", reason="DISK_NONE", state="absent", quick=True),
        Layout("a blank volume, named by --device", "V", arguments="--device $V", reason="DISK_NOT_LOCAL",
               state="foreign", quick=True),
        Layout("a blank volume, its model accepted", "V", arguments=f"--accept-model '{EBS}'",
               reason="DISK_NOT_LOCAL", state="foreign"),
        Layout("the root disk, named by --device", "A", arguments="--device /dev/nvme0n1", **busy),
        Layout("a device that does not exist", "A", arguments="--device /dev/nvme9n1", reason="DISK_NONE",
               state="absent"),
        Layout("a partition, named by --device", "A", _GPT, arguments="--device ${A}p1", **usage),
        Layout("a file, named by --device", "A", arguments="--device /etc/passwd", **usage),
        Layout("mkfs.xfs is missing", "A", "mv /usr/sbin/mkfs.xfs /usr/sbin/mkfs.xfs.hidden", reason="TOOL_MISSING",
               code=3),
        Layout("mdadm is missing", "AB", "mv /usr/sbin/mdadm /usr/sbin/mdadm.hidden", reason="TOOL_MISSING",
               code=3, quick=True),
        Layout("blkid is missing", "A", "mv /usr/sbin/blkid /usr/sbin/blkid.hidden", reason="TOOL_MISSING", code=3),
        Layout("the mount path is a file", "A", f"touch {PATH}", reason="MOUNT_POINT_IN_USE"),
        Layout("the mount path is a link", "A", f"mkdir /srv/x; ln -s /srv/x {PATH}", **usage),
        Layout("files where the disk is to be mounted", "A", f"mkdir {PATH}; touch {PATH}/model", quick=True,
               reason="MOUNT_POINT_IN_USE"),
        Layout("something else mounted there", "A", f"mkdir {PATH}; mount -t tmpfs none {PATH}",
               reason="MOUNT_WRONG_DEVICE", state="blank"),
        Layout("a volume mounted there", "VA", f"ext4 $V; fill $V {PATH}", reason="MOUNT_WRONG_DEVICE",
               state="blank"),
        Layout("not root", "A", prefix=NOBODY, reason="NOT_ROOT", code=2),
    ]  # fmt: skip


def build(made: Machine) -> Node:
    """Return the node with all disks that the layouts use; it is switched off."""
    def disk(**options: Any) -> Disk:
        return made.new_disk(**{"size_bytes": SMALL_BYTES, **options})

    disks = {letter: disk() for letter in "ABCD"}
    disks.update(K=disk(sector_bytes=4096), L=disk(size_bytes=LARGE_BYTES), T=disk(size_bytes=TINY_BYTES),
                 V=disk(model=EBS), O=disk(model=OTHER_MODEL))  # fmt: skip
    assert disks["A"].model == INSTANCE_STORE
    return Node(made, disks)


@dataclass
class Outcome:
    """One layout as it went."""

    name: str
    answer: str
    seconds: float


def play(node: Node, chosen: Sequence[Layout]) -> list[Outcome]:
    """Play the layouts, one after the other, on a machine that runs; what is wrong is blamed on the node."""
    outcomes = []
    for number, layout in enumerate(chosen, 1):
        started = time.monotonic()
        answer = _play(node, layout)
        seconds = time.monotonic() - started
        outcomes.append(Outcome(layout.name, answer.said.get("reason") or answer.said.get("state") or "usage", seconds))
        tell(f"  {number}/{len(chosen)} {layout.name}: {outcomes[-1].answer} ({seconds:.0f} s)")
    return outcomes


def _play(node: Node, layout: Layout) -> Answer:
    node.clear()
    _lay_out(node, layout)
    data = _file_hash(node, layout)
    before = node.digests()
    answer = node.ensure(layout.arguments, layout.prefix)
    after = node.digests()
    taken = _judge_answer(node, layout, answer)
    touched = layout.ours + taken if answer.code == 0 else ""
    node.compare(layout.name, before, after, "".join(letter for letter in node.shown if letter not in touched))
    if layout.reason is None and answer.code == 0:
        _judge_success(node, layout, taken, data)
        again = node.ensure(layout.arguments, layout.prefix)
        if again.code != 0 or again.said.get("changed") is not False:
            node.blame("wrong", layout.name, f"a second ensure should change nothing: {again}")
        node.compare(f"{layout.name}, second ensure", after, node.digests(), node.shown)
        node.sh(f"touch {PATH}/x && rm {PATH}/x")
        if layout.saves:
            _save(node, layout)
    return answer


def _lay_out(node: Node, layout: Layout) -> None:
    node.blank(layout.disks)
    if layout.begins:
        folder = node.disks["A"].image.parent
        saved = [letter for letter, disk in node.disks.items() if (folder / f"{disk.serial}.{layout.begins}").exists()]
        assert saved, f"no layout before {layout.name!r} saved {layout.begins!r}"
        node.load("".join(letter for letter in saved if letter in layout.disks), layout.begins)
        blanked = layout.blanked
        if blanked == "mirror":
            blanked = _one_mirror(node, layout)
        node.blank(blanked)
    node.show(layout.disks)
    if layout.prepare:
        node.sh(layout.prepare)
        node.sh("udevadm settle")


def _one_mirror(node: Node, layout: Layout) -> str:
    """Return the two disks of a RAID10 that hold the same data: numbers 0 and 1 of it, with the near layout."""
    node.show(layout.disks)
    node.sh("wait_for 'grep -q active /proc/mdstat'; mdadm --stop --scan")
    said = {
        letter: node.sh(f"mdadm --examine ${letter} | grep -E 'Device Role' || true").split()[-1]
        for letter in layout.disks
    }
    node.hide(layout.disks)
    return "".join(letter for letter, number in said.items() if number in ("0", "1"))


def _save(node: Node, layout: Layout) -> None:
    """Keep what was made, with a file on it, for the layouts that begin with it."""
    node.sh(f"dd if=/dev/urandom of={_DATA} bs=64k count=16 status=none; sync")
    _hash_file(node, _DATA, layout.saves)
    node.clear()
    node.save(layout.disks, layout.saves)


_HASHES: dict[str, str] = {}


def _hash_file(node: Node, path: str, name: str) -> None:
    _HASHES[name] = node.sh(f"sha256sum < {path}").split()[0]


def _file_hash(node: Node, layout: Layout) -> str:
    """Return the hash of the file that must outlive ensure: as it was saved, or as it lies where it is mounted."""
    if layout.begins:
        return _HASHES[layout.begins]
    return node.sh(f"sha256sum < {layout.keeps}").split()[0] if layout.keeps else ""


def _judge_answer(node: Node, layout: Layout, answer: Answer) -> str:
    """Compare the answer with what is wanted; return the blank disks that were taken."""
    said = answer.said
    if layout.reason is None:
        state = layout.state or "ours"
        if (answer.code, said.get("state"), said.get("changed")) != (0, state, True):
            node.blame("wrong", layout.name, f"wanted {state} and changed, found {answer}")
    elif layout.reason == "usage":
        if answer.code != 2 or not re.search("--(device|mount-path)", str(said.get("message"))):
            node.blame("wrong", layout.name, f"wanted exit code 2 with the option's name, found {answer}")
    elif answer.code != layout.code or said.get("reason") not in layout.reason.split("|"):
        node.blame("wrong", layout.name, f"wanted {layout.reason} with exit code {layout.code}, found {answer}")
    elif layout.state and said.get("state") != layout.state:
        node.blame("wrong", layout.name, f"wanted the state {layout.state}, found {answer}")
    if "|" not in layout.takes:
        return layout.takes
    mounted = node.mounted()  # any one of these
    return mounted if mounted in layout.takes.split("|") else ""


def _judge_success(node: Node, layout: Layout, taken: str, data: str) -> None:
    mounted = node.mounted()
    if mounted != "".join(sorted(layout.ours + taken)):
        node.blame("wrong", layout.name, f"{PATH} is on the disks {mounted!r}, wanted {layout.ours + taken!r}")
    found = node.sh(
        f"findmnt -nro FSTYPE {PATH}; findmnt -nro OPTIONS {PATH}; stat -c '%a %u' {PATH}\n"
        f'name=$(lsblk -nro KNAME "$(findmnt -nro SOURCE {PATH})" 2>/dev/null); cat /sys/block/$name/md/level '
        "/sys/block/$name/md/raid_disks 2>/dev/null || true"
    ).split("\n")
    if found[0] != layout.fstype or "noatime" not in found[1] or found[2] != "755 0":
        node.blame("wrong", layout.name, f"{PATH} is {found[:3]}, wanted {layout.fstype}, noatime and 755 0")
    if layout.array and " ".join(found[3:5]) != layout.array:
        node.blame("wrong", layout.name, f"the array is {found[3:5]}, wanted {layout.array}")
    path = layout.keeps or (_DATA if layout.begins else "")
    if path and node.sh(f"sha256sum < {path} || true").split()[:1] != [data]:
        node.blame("changed", layout.name, f"{path} is not what it was")
