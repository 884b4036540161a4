"""Where a disk is read to prove that it is blank: places inside the disk, without a gap that could hold much."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_node.disks import places

MIB = 1 << 20
SIZES = st.integers(places.COMPLETE_BYTES + 1, 16 << 40)


def gaps(found: list[tuple[int, int]]) -> list[int]:
    """Return the lengths of what lies between the ranges, which may overlap."""
    between, end = [], 0
    for offset, length in sorted(found):
        between.append(offset - end)
        end = max(end, offset + length)
    return between


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 1 << 46))
def test_all_that_is_read_lies_within_the_disk_in_slices_of_at_most_1_mib(size: int) -> None:
    found = list(places.ranges(size))
    assert all(offset >= 0 and 0 < length <= MIB and offset + length <= size for offset, length in found)


@settings(max_examples=30, deadline=None)
@given(SIZES)
def test_both_edges_of_16_mib_are_read_in_full(size: int) -> None:
    found = list(places.ranges(size))
    for start in range(0, 16 * MIB, MIB):
        assert (start, MIB) in found and (size - 16 * MIB + start, MIB) in found


@settings(max_examples=30, deadline=None)
@given(SIZES)
def test_every_stretch_longer_than_two_parts_is_hit(size: int) -> None:
    part = size // 4096
    assert max(gaps(list(places.ranges(size)))) <= 2 * part + 4096


@settings(max_examples=30, deadline=None)
@given(SIZES)
def test_there_are_4096_samples_of_64_kib_one_in_each_part(size: int) -> None:
    samples = list(places.ranges(size))[-4096:]
    part = (size - 32 * MIB) / 4096
    for index, (offset, length) in enumerate(samples):
        assert length == 64 << 10 and offset % 4096 == 0
        assert 16 * MIB + index * part - 8192 <= offset and offset + length <= 16 * MIB + (index + 1) * part + 8192


def test_samples_are_elsewhere_each_time() -> None:
    size = 250 << 30
    first, second = (set(list(places.ranges(size))[-4096:]) for _ in range(2))
    assert len(first & second) < 100, "chance puts one in 1,000 at the same place"


@pytest.mark.parametrize("size", [1, 4095, MIB, 3 * MIB + 5, 512 * MIB])
def test_a_small_disk_is_read_from_end_to_end(size: int) -> None:
    found = list(places.ranges(size))
    assert sum(length for _, length in found) == size and gaps(found) == [0] * len(found)


@pytest.mark.parametrize("size", [512 * MIB + 1, 8 << 30])
def test_the_complete_proof_leaves_no_gap(size: int) -> None:
    found = list(places.ranges(size, complete=True))
    assert sum(length for _, length in found) == size and gaps(found) == [0] * len(found)


def test_what_is_read_of_a_big_disk_is_less_than_350_mib() -> None:
    assert sum(length for _, length in places.ranges(7_500 * 10**9)) < 350 * MIB


def test_second_group_of_4_16_or_32_is_read_wide_and_every_quarter() -> None:
    size = 320 << 30
    found = set(places.survivors(size))
    for group in range(1, 32):
        spread = MIB if group in (1, 2, 8, 16, 24) else 64 << 10
        assert (group * (10 << 30) - spread, 2 * spread) in found, group


GROUP = 128 * MIB  # of ext4 with blocks of 4 KiB


@pytest.mark.parametrize(
    ("groups", "backups"), [(82, [1, 3, 5, 7, 9, 25, 27, 49, 81]), (81, [1, 3, 5, 7, 9, 25, 27, 49])]
)
def test_ext_backups_are_in_groups_1_and_the_powers_of_3_5_and_7(groups: int, backups: list[int]) -> None:
    assert list(places.ext_backups(groups * GROUP, (4096,))) == [number * GROUP for number in backups]


def test_ext_backups_are_looked_for_with_all_three_block_sizes_on_the_disk_and_in_its_first_partition() -> None:
    assert list(places.ext_backups(GROUP)) == [
        *(number * 8 * MIB for number in (1, 3, 5, 7, 9)), 32 * MIB, 96 * MIB
    ]  # fmt: skip
    found = {offset for offset, _ in places.survivors(2 * GROUP)}
    assert {8 * MIB, 32 * MIB, GROUP, 9 * MIB, 33 * MIB, GROUP + MIB} <= found


def test_groups_of_xfs_on_a_disk_of_4_tib_and_more_are_read_as_far_as_a_partition_shifts_them() -> None:
    tib = 1 << 40
    found = set(places.survivors(7 * tib))
    for number in range(1, 7):
        assert (number * (tib - 4096), MIB + 4096) in found


def test_share_of_data_that_the_samples_bound_is_the_one_that_is_documented() -> None:
    assert 0.9983**places.SAMPLE_COUNT < 0.001
    assert "0.17 %" in (places.__doc__ or "") and f"{places.SAMPLE_COUNT:,}" in (places.__doc__ or "")
