"""What is to be written on a generated node, from the rules in words; and the planner held against it.

`expected()` knows the truth and these rules, and nothing of judge.py and plan.py:

- What was asked for by device, or else by model, is all that may be used; never the root disk, never EBS.
- Ours comes first: it is used as it is. Of several that is ours which is mounted at the mount path, or else whose
  marker names it. When that does not single one out, or it lacks what it needs, nothing is made. A RAID10 of ours that
  works without a disk gets a blank one.
- Then what nodeadm or cloud-init built, unless judge owns the disks. While nodeadm is at work, or owns them, nothing is
  made.
- Then blank disks: RAID0 takes all, RAID10 all but at least four, Mount the first by serial number. One that is too
  small, or anything in the way at the mount path, and nothing is made.
- What a run of ours, cut off, has left is erased where its note proves it: then nothing else is done in this round.
"""

from __future__ import annotations

from dataclasses import dataclass

from judge_node.disks.plan import ADD, CREATE, ERASE, FORMAT, plan_layout
from judge_node.result import NodeError
from nvme_layouts import PATH, Array, Layout, Truth, render


@dataclass(frozen=True)
class Action:
    """What is written: nothing | format | create | add | erase, on which disks (or the array, by its name)."""

    verb: str
    names: frozenset[str] = frozenset()


NOTHING = Action("nothing")


def expected(layout: Layout) -> Action:
    """Return what is to be written on this node."""
    wanted, selected = layout.wanted, layout.selected()
    if not selected or wanted.owner == "nodeadm":
        return NOTHING
    ours = _what_is_ours(layout, selected)
    if len(ours) > 1:
        mounted = [one for one in ours if one.mounted_at == PATH and _filesystem_seen(one, selected)]
        named = [one for one in ours if one.marker_path == PATH and one.ours == "filesystem"
                 and _filesystem_seen(one, selected)]  # fmt: skip
        ours = mounted or named or ours
    if len(ours) > 1:
        return NOTHING
    if ours:
        return _use_ours(ours[0], layout, selected)
    if wanted.owner == "auto" and (layout.volumes or layout.nodeadm_busy):
        return NOTHING
    return _use_blank(layout, selected)


def _what_is_ours(layout: Layout, selected: list[Truth]) -> list[Truth | Array]:
    found: list[Truth | Array] = [
        disk for disk in selected
        if disk.ours and not (disk.network or disk.root or disk.trouble) and disk.use != "mounted in another namespace"
    ]  # fmt: skip
    return found + [array for array in layout.arrays if array.our_name and _seen(array, selected)]


def _seen(array: Array, selected: list[Truth]) -> list[Truth]:
    """The members that were asked for and can be read."""
    return [disk for disk in array.members if disk in selected and not (disk.trouble or disk.network)]


def _filesystem_seen(one: Truth | Array, selected: list[Truth]) -> bool:
    return isinstance(one, Truth) or (
        one.running and len(_seen(one, selected)) == len(one.members) and one.use != "mounted in another namespace"
    )


def _way_is_free(layout: Layout) -> bool:
    point = layout.point
    return point.mount is None and point.kind != "other" and point.entries == 0


def _use_ours(one: Truth | Array, layout: Layout, selected: list[Truth]) -> Action:
    if isinstance(one, Truth):
        return NOTHING
    seen = _seen(one, selected)
    if not one.running:
        if one.stuck and not all(disk in selected for disk in one.members):
            return NOTHING
        if one.noted and len(seen) < one.devices:
            return Action("erase", frozenset(disk.name for disk in seen))
        return NOTHING
    if len(seen) < len(one.members) or one.has or (one.use and not one.mounted_at):
        return NOTHING
    free = _way_is_free(layout)
    if one.ours:
        here = one.mounted_at == PATH
        if one.fstype != layout.wanted.fstype or not (here or (free and not one.mounted_at)):
            return NOTHING
        missing = one.devices - len(one.members) if one.level == "raid10" else 0
        blank = [disk for disk in selected if disk.usable and (disk.blank or disk.left == "traces")]
        spares = sorted(blank, key=_order)[:missing]
        return Action("add", frozenset(disk.name for disk in spares)) if spares else NOTHING
    if one.left == "filesystem":
        return Action("erase", frozenset([one.name]))
    return Action("format", frozenset([one.name])) if free else NOTHING


def _order(disk: Truth) -> tuple[str, str]:
    return disk.serial or "", disk.name


def _use_blank(layout: Layout, selected: list[Truth]) -> Action:
    chosen = sorted((disk for disk in selected if disk.usable and (disk.blank or disk.left)), key=_order)
    if layout.wanted.strategy == "Mount":
        chosen = chosen[:1]
    if not chosen or (layout.wanted.strategy == "RAID10" and len(chosen) < 4):
        return NOTHING
    if any(disk.size_bytes < 300 << 20 for disk in chosen) or not _way_is_free(layout):
        return NOTHING
    half_made = [disk for disk in chosen if disk.left == "filesystem"]
    if half_made:
        return Action("erase", frozenset(disk.name for disk in half_made))
    return Action("format" if len(chosen) == 1 else "create", frozenset(disk.name for disk in chosen))


@dataclass
class Verdict:
    """What one layout showed. `wrong` are the written disks that have anything on them."""

    wanted: Action
    planned: Action
    wrong: list[str]

    @property
    def blanks(self) -> int:
        """How many blank disks the rules say are used."""
        return len(self.wanted.names) if self.wanted.verb in ("format", "create", "add") else 0

    @property
    def chosen(self) -> int:
        """How many of these the planner uses, in the same way."""
        same = self.blanks and self.planned.verb == self.wanted.verb
        return len(self.wanted.names & self.planned.names) if same else 0

    @property
    def ok(self) -> bool:
        """The planner does what the rules say, and nothing that has anything on it is written."""
        return self.wanted == self.planned and not self.wrong


def planned(layout: Layout) -> Action:
    """Return what the planner would write."""
    try:
        plan = plan_layout(render(layout), layout.wanted)
    except NodeError as error:
        assert error.reason and error.repair
        return NOTHING
    steps = {step.name for step in plan.steps}
    if ERASE in steps:
        return Action("erase", frozenset(disk.name for disk in plan.erase))
    if CREATE in steps:
        return Action("create", frozenset(disk.name for disk in plan.members))
    if FORMAT in steps:
        assert plan.target is not None
        return Action("format", frozenset([plan.target.name]))
    return Action("add", frozenset(disk.name for disk in plan.spares)) if ADD in steps else NOTHING


def judge(layout: Layout) -> Verdict:
    """Return what the planner makes of a layout, beside what the rules say."""
    done = planned(layout)
    return Verdict(expected(layout), done, _wrong(layout, done))


def _wrong(layout: Layout, done: Action) -> list[str]:
    """Return the written disks on which is anything but what a run of ours, cut off, has left there."""
    things: dict[str, Truth | Array] = {thing.name: thing for thing in (*layout.disks, *layout.arrays)}
    found = []
    for name in done.names:
        thing = things[name]
        member = isinstance(thing, Truth) and thing.array is not None and not (
            done.verb == "erase" and thing.array.noted and not (thing.array.has or thing.array.ours)
        )  # fmt: skip
        lost = thing.has or thing.ours or member or thing.use or (isinstance(thing, Truth) and not thing.usable)
        if lost or (done.verb == "erase" and not thing.left and not _is_noted_member(thing)):
            found.append(name)
    return found


def _is_noted_member(thing: Truth | Array) -> bool:
    return isinstance(thing, Truth) and thing.array is not None and thing.array.noted
