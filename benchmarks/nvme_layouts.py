"""Disks of a whole node, generated truth first: what is on each of them, and only then how reading the node shows it.

nvme_oracle.py says what may and must be done with them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from judge_node.disks.facts import Content, Disk, Host, Mount, MountPoint, Raid, Record, Units, Volume, Wanted

PATH = "/mnt/nvme"
NODEADM = "/mnt/k8s-disks"
STORE, EBS, OTHER = "Amazon EC2 NVMe Instance Storage", "Amazon Elastic Block Store", "KIOXIA KCD8"
GIB = 1 << 30
# What somebody may have on a disk, as blkid and wipefs name it; "raw" and "raw, little" are data that they do not know.
SOMEBODYS = {
    "ext4": ("ext4",), "xfs": ("xfs",), "btrfs": ("btrfs",), "swap": ("swap",), "ntfs": ("ntfs",), "vfat": ("vfat",),
    "LVM": ("LVM2_member",), "LUKS": ("crypto_LUKS",), "ZFS": ("zfs_member",), "multipath": ("mpath_member",),
    "md": ("linux_raid_member",), "GPT": ("PMBR", "gpt"), "MBR": ("dos",), "GPT over old ext4": ("PMBR", "ext4", "gpt"),
    "several": ("ext4", "several conflicting signatures", "xfs"), "raw": (), "raw, little": (),
    "our label and files": ("xfs",), "our label, marker of another disk": ("xfs",), "our label, torn": ("xfs",),
    "noted UUID, another label": ("xfs",), "noted UUID and files": ("xfs",), "unfinished, of another node": ("xfs",),
    "a raid of another kind with our name": ("linux_raid_member", "xfs"),
}  # fmt: skip


@dataclass
class Truth:
    """One disk. `has` is what somebody has on it, `ours` our own filesystem, `left` what a cut run of ours has left."""

    name: str
    serial: str | None
    model: str | None = STORE
    size_bytes: int = 250 * GIB
    has: str = ""
    ours: str = ""  # filesystem | new filesystem (without the marker yet)
    left: str = ""  # filesystem (not to be mounted) | traces (no superblock yet)
    use: str = ""  # mounted | mounted in another namespace | swap | held by a program | holder | partition mounted
    trouble: str = ""  # no node | read-only | read error | cannot be opened | empty slot
    root: bool = False
    mounted_at: str = ""
    marker_path: str = PATH
    fstype: str = "xfs"
    uuid: str = ""
    array: Array | None = None
    partitions: bool = False

    @property
    def blank(self) -> bool:
        """Nothing is on it, of nobody."""
        return not (self.has or self.ours or self.left or self.array)

    @property
    def network(self) -> bool:
        """EBS, by its model or by its volume id."""
        return self.model == EBS or (self.serial or "").startswith("vol")

    @property
    def usable(self) -> bool:
        """A local disk that nobody uses, and that can be read to its end and written."""
        return not (self.root or self.network or self.use or self.trouble or self.partitions)

    @property
    def devno(self) -> str:
        """Its device number, which follows the name."""
        return f"259:{int(self.name[4:-2])}"


@dataclass
class Array:
    """One array of md. `has`, `ours`, `left` and the rest as with a disk; `noted`: the run that made it was cut off."""

    name: str
    members: list[Truth]
    devices: int
    level: str = "raid0"
    our_name: bool = True
    running: bool = True
    stuck: bool = False  # inactive, but it has its members
    noted: bool = False
    has: str = ""
    ours: str = ""
    left: str = ""
    use: str = ""
    mounted_at: str = ""
    marker_path: str = PATH
    fstype: str = "xfs"
    uuid: str = ""
    fs_uuid: str = ""
    devno: str = "9:127"


@dataclass
class Layout:
    """The truth about a node, what is asked of it, and what else plays a part."""

    disks: list[Truth]
    arrays: list[Array]
    wanted: Wanted
    point: MountPoint
    record: Record = field(default_factory=Record)
    volumes: tuple[Volume, ...] = ()
    nodeadm_busy: bool = False

    def selected(self) -> list[Truth]:
        """The disks that were asked for."""
        if self.wanted.device is not None:
            return [disk for disk in self.disks if f"/dev/{disk.name}" == self.wanted.device]
        return [disk for disk in self.disks if disk.model in self.wanted.models]


# --- the truth --------------------------------------------------------------------------------------------------------


def _uuid(chance: random.Random) -> str:
    return f"{chance.getrandbits(128):032x}"


def generate(chance: random.Random) -> Layout:
    """Return one node. Every choice comes from `chance`, so that a seed is a layout."""
    disks = _some_disks(chance)
    arrays: list[Array] = []
    if chance.random() < 0.45:
        arrays = _some_arrays(chance, disks)
    wanted = _some_wanted(chance, disks)
    layout = Layout(disks, arrays, wanted, MountPoint(PATH, kind="missing"))
    _use_some(chance, layout)
    _note(chance, layout)
    layout.point = _some_point(chance, layout)
    if wanted.owner != "judge":
        layout.volumes = _adoptable(chance, layout)
        layout.nodeadm_busy = chance.random() < 0.08
    return layout


def _some_disks(chance: random.Random) -> list[Truth]:
    count = chance.choice((0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 8))
    names = [f"nvme{number}n1" for number in range(count + 3)]
    chance.shuffle(names)  # names follow the order of probing, not the slot
    serials: list[str | None] = [f"AWS{chance.getrandbits(40):010X}" for _ in range(count)]
    if count > 1 and chance.random() < 0.05:
        serials[1] = serials[0]
    if count and chance.random() < 0.05:
        serials[0] = None
    root = Truth(names.pop(), "vol0root", EBS, 20 * GIB, has="GPT", partitions=True, root=True, use="partition mounted")
    disks = [root]
    if chance.random() < 0.5:
        disks.append(Truth(names.pop(), "vol0data", EBS, 100 * GIB, has=chance.choice(("", "ext4", "xfs"))))
    if chance.random() < 0.2:
        disks.append(Truth(names.pop(), "OTHER1", OTHER, 3840 * GIB, has=chance.choice(("", "ext4", "raw"))))
    mostly_blank = chance.random() < 0.6
    for serial in serials:
        disk = Truth(names.pop(), serial, STORE, chance.choice((250 * GIB, 250 * GIB, 1900 * GIB, 1 << 43)))
        if chance.random() < 0.03:
            disk.size_bytes = 200 << 20
        if chance.random() < 0.03:
            disk.serial = "vol" + (serial or "0")
        _fill(chance, disk, 0.12 if mostly_blank else 0.6)
        disks.append(disk)
    if count and chance.random() < 0.05:  # the running system is on an instance store
        disks[0].root, disks[0].use = False, ""
        disks[-1] = replace(disks[-1], has="GPT", ours="", left="", partitions=True, root=True, use="partition mounted")
    chance.shuffle(disks)
    return disks


def _fill(chance: random.Random, disk: Truth, share: float) -> None:
    disk.uuid, disk.fstype = _uuid(chance), chance.choice(("xfs", "xfs", "ext4"))
    disk.marker_path = chance.choice((PATH, PATH, "/mnt/other"))
    dice = chance.random()
    if dice < share:
        disk.has = chance.choice(tuple(SOMEBODYS))
        disk.partitions = disk.has in ("GPT", "MBR", "GPT over old ext4") and chance.random() < 0.5
    elif dice < share + 0.06:
        disk.ours = chance.choice(("filesystem", "filesystem", "new filesystem"))
    elif dice < share + 0.14:
        disk.left = chance.choice(("filesystem", "traces"))
    if chance.random() < 0.05:
        disk.trouble = chance.choice(("no node", "read-only", "read error", "cannot be opened", "empty slot"))


def _some_arrays(chance: random.Random, disks: list[Truth]) -> list[Array]:
    free = [disk for disk in disks if disk.model == STORE and not disk.root and not disk.network]
    chance.shuffle(free)
    arrays = []
    for number in range(chance.choice((1, 1, 1, 2))):
        count = chance.choice((1, 2, 2, 3, 4))
        if len(free) < count:
            break
        members = [free.pop() for _ in range(count)]
        level = "raid10" if count > 1 and chance.random() < 0.35 else "raid0"
        devices = count if chance.random() < 0.6 else count + chance.choice((1, 1, 2))
        array = Array(f"md{127 - number}", members, devices, level, devno=f"9:{127 - number}")
        array.our_name = chance.random() < 0.7
        array.uuid, array.fs_uuid = _uuid(chance), _uuid(chance)
        array.marker_path = chance.choice((PATH, PATH, "/mnt/other"))
        array.fstype = chance.choice(("xfs", "xfs", "ext4"))
        array.noted = array.our_name and chance.random() < 0.3
        works = count >= (devices if level == "raid0" else max(1, devices // 2 + devices % 2))
        array.running = works and not (array.noted and count < devices) and chance.random() < 0.75
        array.stuck = not array.running and chance.random() < 0.4
        dice = chance.random()
        if array.noted:
            array.has = ""  # the note is written anew before the first byte of a filesystem
        elif dice < 0.45:
            array.ours = chance.choice(("filesystem", "filesystem", "new filesystem")) if array.our_name else ""
            array.has = "" if array.our_name else "xfs"
        elif dice < 0.65:
            array.has = chance.choice(("ext4", "xfs", "LVM", "raw", "our label and files"))
        elif dice < 0.75 and array.our_name:
            array.left = chance.choice(("filesystem", "traces"))
        if count > 1 and chance.random() < 0.15:  # a RAID10 of ours that works without one of its disks
            array.level, array.devices, array.our_name, array.noted = "raid10", count + 1, True, False
            array.running, array.stuck, array.has, array.left, array.ours = True, False, "", "", "filesystem"
        for member in members:
            member.has = member.ours = member.left = member.use = ""
            member.array, member.partitions = array, False
            if member.trouble in ("read-only", "empty slot"):
                member.trouble = ""
        arrays.append(array)
    return arrays


def _some_wanted(chance: random.Random, disks: list[Truth]) -> Wanted:
    models: tuple[str, ...] = (STORE,)
    if chance.random() < 0.15:
        models = chance.choice(((STORE, OTHER), (STORE, EBS), (EBS,), (OTHER,)))
    device = f"/dev/{chance.choice(disks).name}" if chance.random() < 0.15 else None
    return Wanted(
        PATH,
        fstype=chance.choice(("xfs", "xfs", "xfs", "ext4")),
        device="/dev/gone" if chance.random() < 0.01 else device,
        models=models,
        strategy=chance.choice(("RAID0", "RAID0", "RAID10", "Mount")),
        owner=chance.choice(("auto", "auto", "auto", "judge", "judge", "nodeadm")),
        nodeadm_path=NODEADM,
    )


def _use_some(chance: random.Random, layout: Layout) -> None:
    """Let something use some of what can be used, at most one of them at the mount path."""
    path_taken = False
    things: list[Truth | Array] = [disk for disk in layout.disks if disk.array is None and not disk.root]
    things += [array for array in layout.arrays if array.running]
    for thing in things:
        if isinstance(thing, Truth) and thing.trouble:
            continue
        if thing.ours:
            at = chance.choice(("", PATH, PATH, "/mnt/elsewhere", "another namespace"))
            if at == PATH and path_taken:
                at = ""
            path_taken = path_taken or at == PATH
            thing.use = {"": "", "another namespace": "mounted in another namespace"}.get(at, "mounted")
            thing.mounted_at = at if thing.use == "mounted" else ""
        elif thing.has in ("ext4", "xfs", "btrfs", "ntfs", "vfat", "noted UUID and files", "our label and files"):
            thing.use = chance.choice(("", "", "mounted", "mounted in another namespace"))
            thing.mounted_at = f"/data/{thing.name}" if thing.use == "mounted" else ""
        elif isinstance(thing, Truth) and thing.partitions:
            thing.use = chance.choice(("", "partition mounted"))
        elif isinstance(thing, Truth) and thing.has in ("LVM", "LUKS", "multipath", "md"):
            thing.use = chance.choice(("", "holder"))
        elif thing.has in ("swap", "ZFS"):
            thing.use = chance.choice(("", "swap" if thing.has == "swap" else "held by a program"))
        elif not thing.has and chance.random() < 0.05:
            thing.use = "held by a program"


def _note(chance: random.Random, layout: Layout) -> None:
    """Write the note of the last run: genuine where it has left something, or stale, or somebody's forgery."""
    things: list[Truth | Array] = [disk for disk in layout.disks if disk.left]
    things += [array for array in layout.arrays if array.left or array.noted]
    serials = tuple(disk.serial for disk in layout.disks if disk.serial)
    cut = chance.choice(things) if things else None
    for thing in things:  # one run is cut at a time: what others have left is known to nobody, so it counts as data
        if thing is cut and _has_serials(thing):
            continue
        if isinstance(thing, Array):
            thing.noted = False
        if thing.left:
            thing.has, thing.left = "raw" if thing.left == "traces" else "unfinished, of another node", ""
    if isinstance(cut, Array) and cut.noted:
        layout.record = Record(array_uuid=cut.uuid, serials=serials, disks=cut.devices)
    elif cut is not None and cut.left:
        uuid = cut.fs_uuid if isinstance(cut, Array) else cut.uuid
        layout.record = Record(fs_uuid=uuid, fstype=cut.fstype, serials=serials, disks=1)
    elif chance.random() < 0.3:
        layout.record = Record(serials=serials, disks=len(serials))
    elif chance.random() < 0.5:
        stale = [disk.uuid for disk in layout.disks if disk.ours or disk.has.startswith("noted UUID")]
        uuid = chance.choice(stale) if stale else _uuid(chance)
        layout.record = Record(fs_uuid=uuid, fstype=chance.choice(("xfs", "ext4")), serials=serials, disks=1)
        if chance.random() < 0.3:
            layout.record = Record(array_uuid=_uuid(chance), serials=serials, disks=2)


def _has_serials(thing: Truth | Array) -> bool:
    disks = thing.members if isinstance(thing, Array) else [thing]
    return all(disk.serial for disk in disks)


def _some_point(chance: random.Random, layout: Layout) -> MountPoint:
    for thing in (*layout.disks, *layout.arrays):
        if thing.mounted_at == PATH:
            return MountPoint(PATH, mount=Mount(PATH, thing.devno, "/", thing.fstype, f"/dev/{thing.name}"))
    return chance.choice(
        (MountPoint(PATH, kind="missing"),) * 6
        + (MountPoint(PATH),) * 3
        + (MountPoint(PATH, sealed=True, mode=0),) * 3
        + (MountPoint(PATH, kind="other"), MountPoint(PATH, entries=3),
           MountPoint(PATH, mount=Mount(PATH, "0:44", "/", "tmpfs", "tmpfs")))
    )  # fmt: skip


def _adoptable(chance: random.Random, layout: Layout) -> tuple[Volume, ...]:
    """Mount below nodeadm's path what somebody has on selected disks, now and then."""
    found = []
    for thing in (*layout.arrays, *layout.disks):
        disks = thing.members if isinstance(thing, Array) else [thing]
        if isinstance(thing, Truth) and (thing.array or thing.trouble or thing.partitions or thing.root):
            continue
        if isinstance(thing, Array) and not thing.running:
            continue
        if thing.has in ("xfs", "ext4") and all(d in layout.selected() for d in disks) and chance.random() < 0.6:
            thing.use, thing.mounted_at = "mounted", f"{NODEADM}/{len(found)}"
            folder = chance.choice(("missing", "empty", "valid", "other"))
            found.append(Volume(thing.mounted_at, thing.devno, thing.name, thing.has, "nodeadm", folder))
    return tuple(found)


# --- how reading the node shows it ------------------------------------------------------------------------------------


def render(layout: Layout) -> Host:
    """Return the facts of the node, as discover.py reads them."""
    selected = layout.selected()
    names = {disk.name for disk in selected}
    return Host(
        disks=tuple(_disk(disk, layout) for disk in selected),
        arrays=tuple(_array(array, layout) for array in layout.arrays
                     if (array.running or array.stuck) and {member.name for member in array.members} <= names),
        others=tuple(_disk(disk, layout) for disk in layout.disks if disk.name not in names),
        mount_point=layout.point,
        record=layout.record,
        volumes=layout.volumes,
        nodeadm_busy=layout.nodeadm_busy,
        units=Units(mount_name="mnt-nvme.mount"),
    )  # fmt: skip


def _disk(disk: Truth, layout: Layout) -> Disk:
    number = disk.devno.split(":")[1]
    shown = Disk(
        name=disk.name,
        devno=disk.devno,
        node=None if disk.trouble == "no node" else f"/dev/{disk.name}",
        size_bytes=0 if disk.trouble == "empty slot" else disk.size_bytes,
        model=disk.model,
        serial=disk.serial,
        controller=f"nvme{number}",
        read_only=disk.trouble == "read-only",
        partitions=(f"{disk.name}p1",) if disk.partitions else (),
        root=disk.root,
    )
    if disk.use in ("mounted", "partition mounted"):
        place = "/" if disk.root else disk.mounted_at or f"/data/{disk.name}"
        shown = replace(shown, mounts=(Mount(place, disk.devno, "/", disk.fstype, f"/dev/{disk.name}"),))
    if disk.use == "swap":
        shown = replace(shown, swap=(f"/dev/{disk.name}",))
    if shown.node is None or disk.root or disk.partitions or shown.swap or not shown.size_bytes:
        return shown
    array = disk.array
    if array is not None and (array.running or array.stuck):
        kind = f"{array.name} ({array.level})"
        return replace(shown, holders=(array.name,), membership=(kind,), content=_content(disk, layout, blocks=False))
    if disk.use == "holder":
        content = _content(disk, layout, blocks=False)
        return replace(shown, holders=("dm-0",), membership=("dm-0 (LVM)",), content=content)
    if disk.trouble == "cannot be opened":
        return replace(shown, content=Content(error="it cannot be opened: No medium found"))
    held = disk.use in ("mounted", "mounted in another namespace", "held by a program")
    return replace(shown, held=held, content=_content(disk, layout, blocks=not held))


def _array(array: Array, layout: Layout) -> Disk:
    shown = Disk(
        name=array.name,
        devno=array.devno,
        node=f"/dev/{array.name}",
        size_bytes=sum(disk.size_bytes for disk in array.members) if array.running else 0,
        members=tuple(disk.name for disk in array.members),
        level=array.level,
        active=array.running,
        degraded=array.devices - len(array.members) if array.level == "raid10" else 0,
    )
    if not array.running:
        return shown
    if array.use == "mounted":
        shown = replace(shown, mounts=(Mount(array.mounted_at, array.devno, "/", array.fstype, f"/dev/{array.name}"),))
    held = bool(array.use)
    return replace(shown, held=held, content=_content(array, layout, blocks=not held))


_MARKERS = {
    "our label and files": "missing", "noted UUID and files": "missing", "our label, torn": "unreadable",
    "our label, marker of another disk": "mismatch", "unfinished, of another node": "unreadable",
}  # fmt: skip


def _content(thing: Truth | Array, layout: Layout, *, blocks: bool) -> Content:
    """Return what blkid, wipefs, the marker and, with `blocks`, the blocks themselves tell."""
    uuid = thing.fs_uuid if isinstance(thing, Array) else thing.uuid
    if isinstance(thing, Truth) and thing.trouble in ("read error", "cannot be opened"):
        return Content(error="it cannot be read: Input/output error")
    if isinstance(thing, Truth) and thing.array is not None:
        array = thing.array
        name = "judge-nvme" if array.our_name else "0"
        return Content(("linux_raid_member",), "linux_raid_member", f"any:{name}", "0-0",
                       Raid(array.uuid, name, array.level, array.devices))  # fmt: skip
    hidden = thing.use == "mounted in another namespace"
    ours = Content((thing.fstype,), thing.fstype, "judge-nvme", uuid)
    if thing.ours:
        marker = None if hidden else "valid" if thing.ours == "filesystem" else "empty"
        return replace(ours, marker=marker, marker_mount_path=thing.marker_path if marker == "valid" else None)
    if thing.left == "filesystem":
        return replace(ours, marker="unreadable" if blocks else None)
    if thing.left == "traces":
        return Content(nonzero_at=4096, unfinished=True, sampled_bytes=256 << 20) if blocks else Content()
    if not thing.has:
        return Content(sampled_bytes=256 << 20) if blocks else Content()
    if thing.has.startswith("raw"):
        return Content(nonzero_at=1 << 20, sampled_bytes=2 << 20) if blocks else Content()
    if thing.has == "noted UUID, another label":
        return Content((thing.fstype,), thing.fstype, "data", uuid)
    if thing.has in _MARKERS:
        return replace(ours, marker=None if hidden else _MARKERS[thing.has])
    signatures = SOMEBODYS[thing.has]
    raid = Raid("c" * 32, "judge-nvme" if "our name" in thing.has else "0", "raid0", 1)
    is_md = "linux_raid_member" in signatures
    known = signatures[0] if len(signatures) == 1 and thing.has not in ("GPT", "MBR") else None
    return Content(signatures, known, "data", "5-5", raid if is_md else None)
