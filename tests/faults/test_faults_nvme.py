"""A few of R2's drills as tests: real NVMe devices in a virtual machine, power cuts, stop and start.

All of them are `make faults-nvme`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_lab.vm import Machine, missing_packages
from nvme_drills import cuts, layouts, life, race
from nvme_drills.node import Node, machine

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        bool(os.geteuid() or missing_packages()),
        reason=f"a virtual machine needs root and {', '.join(sorted(missing_packages())) or 'nothing else'}: "
        "make vm-packages, as root",
    ),
]
LAYOUTS = {layout.name: layout for layout in layouts.layouts(seed=1)}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with machine(tmp_path_factory.mktemp("vm")) as made:
        built = layouts.build(made)
        built.start()
        built.install()
        yield built


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path / "vm") as made:
        yield made


@pytest.mark.parametrize(
    "name",
    [
        "a blank volume before a blank instance store",
        "GPT with a filesystem",
        "ext4 wiped by wipefs",
        "LUKS, open",
        "mounted in another mount namespace",
        "a blank volume, named by --device",
        "mdadm is missing",
    ],
)
def test_layout_is_answered_as_it_should_be_and_no_disk_is_changed_wrongly(node: Node, name: str) -> None:
    node.faults.clear()
    layouts.play(node, [LAYOUTS[name]])
    assert node.faults == []


def test_ext4_that_is_written_to_a_member_right_before_mdadm_is_not_lost(node: Node) -> None:
    node.faults.clear()
    (outcome,) = race.play(node, ["ext4"])
    assert node.faults == []
    assert (outcome.answer, outcome.lost) == ("ARRAY_FAILED", False)


def test_what_mdadm_does_not_see_on_a_member_ends_the_run_before_mkfs(node: Node) -> None:
    node.faults.clear()
    (outcome,) = race.play(node, ["xfs"])
    assert node.faults == []
    assert outcome.answer == "DISK_BUSY"


def test_one_blank_disk_of_two_holds_the_gate_back_until_a_person_releases_the_other(alone: Machine) -> None:
    played = life.Life(alone)
    life.play(played, ["first_run", "one_blank"])
    assert played.node.faults == []


def test_a_power_cut_during_mkfs_is_made_good_by_the_next_run(alone: Machine) -> None:
    drill = cuts.Cuts(alone)
    drill.start()
    drill.play(cuts.Cut(cuts.RAID0, cuts.POWER, cuts.MKFS, "in"))
    assert drill.node.faults == []
