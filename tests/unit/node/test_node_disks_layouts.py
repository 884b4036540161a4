"""The planner against an oracle that was written apart from it, over generated nodes (R1 does it 10,000 times)."""

from __future__ import annotations

import random
from collections import Counter

import nvme_layouts
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvme_layouts import SOMEBODYS, Layout, Truth, generate, render
from nvme_oracle import Action, judge


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 1 << 32))
def test_planner_writes_what_the_rules_say_and_nothing_that_holds_anything(seed: int) -> None:
    verdict = judge(generate(random.Random(seed)))
    assert verdict.wrong == []
    assert verdict.planned == verdict.wanted


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    return [generate(random.Random(seed)) for seed in range(1500)]


def test_every_kind_of_content_use_and_trouble_is_generated(layouts: list[Layout]) -> None:
    disks = [disk for layout in layouts for disk in layout.disks]
    assert {disk.has for disk in disks} == {"", *SOMEBODYS}
    assert {disk.use for disk in disks} >= {
        "mounted", "mounted in another namespace", "swap", "held by a program", "holder", "partition mounted"
    }  # fmt: skip
    assert {disk.trouble for disk in disks} == {
        "", "no node", "read-only", "read error", "cannot be opened", "empty slot"
    }  # fmt: skip
    assert {disk.left for disk in disks} == {"", "filesystem", "traces"}
    assert {disk.ours for disk in disks} == {"", "filesystem", "new filesystem"}


def test_every_strategy_owner_and_state_of_arrays_is_generated(layouts: list[Layout]) -> None:
    wanted = {(layout.wanted.strategy, layout.wanted.owner) for layout in layouts}
    assert len(wanted) == 9
    arrays = [array for layout in layouts for array in layout.arrays]
    assert len({(array.our_name, array.running) for array in arrays}) == 4
    assert any(layout.volumes for layout in layouts) and any(layout.nodeadm_busy for layout in layouts)
    records = [layout.record for layout in layouts]
    assert any(r.fs_uuid for r in records) and any(r.array_uuid for r in records)


def test_every_action_is_wanted_now_and_then(layouts: list[Layout]) -> None:
    counted = Counter(judge(layout).wanted.verb for layout in layouts)
    assert set(counted) == {"nothing", "format", "create", "add", "erase"} and min(counted.values()) >= 3


def two_blanks() -> Layout:
    generated = (generate(random.Random(seed)) for seed in range(1000))
    layout = next(found for found in generated if judge(found).wanted.verb == "create")
    assert judge(layout).ok
    return layout


@pytest.mark.parametrize("content", ["ext4", "raw", "our label, torn"])
def test_a_planner_that_took_a_disk_with_data_would_be_seen(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    layout = two_blanks()
    chosen = next(disk for disk in layout.disks if disk.name in judge(layout).wanted.names)
    real = nvme_layouts._disk

    def shown_blank(disk: Truth, of: Layout) -> object:
        return real(disk if disk is not chosen else Truth(**{**vars(disk), "has": ""}), of)

    chosen.has = content
    monkeypatch.setattr(nvme_layouts, "_disk", shown_blank)
    assert judge(layout).wrong == [chosen.name]


def test_a_planner_that_left_a_blank_disk_out_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = two_blanks()
    blanks = judge(layout).wanted.names
    monkeypatch.setattr("nvme_oracle.planned", lambda layout: Action("create", frozenset(sorted(blanks)[1:])))
    assert not judge(layout).ok and (judge(layout).chosen, judge(layout).blanks) == (len(blanks) - 1, len(blanks))


def test_the_same_seed_is_the_same_node() -> None:
    assert [render(generate(random.Random(seed))) for seed in range(20)] == [
        render(generate(random.Random(seed))) for seed in range(20)
    ]
