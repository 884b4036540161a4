"""The ranges of bytes that a cut fetch left, and the journal that says which they are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from judge_node.cache.journal import Journal, Ranges, read

BOOT, OTHER = "0000-1", "0000-2"


def test_ranges_agree_with_a_set_of_bytes() -> None:
    rng = random.Random(5)
    for _ in range(300):
        ranges, bytes_there = Ranges(), set()
        for _ in range(rng.randrange(12)):
            start = rng.randrange(60)
            end = start + rng.randrange(12)
            ranges.add(start, end)
            bytes_there |= set(range(start, end))
        size = rng.randrange(1, 80)
        missing = [position for start, end in ranges.missing(size) for position in range(start, end)]
        assert missing == [position for position in range(size) if position not in bytes_there]
        assert ranges.total == len(bytes_there)
        for position in range(75):
            end_of = ranges.end_of(position)
            assert (end_of is not None) == (position in bytes_there)
            if end_of is not None:
                assert end_of not in bytes_there and set(range(position, end_of)) <= bytes_there


def kept(path: Path, boot: str = BOOT, size: int = 100) -> list[tuple[int, int]]:
    """Return what is there, by what is missing of it."""
    ranges = Ranges()
    for start, end in read(path, size, boot).missing(size):
        ranges.add(start, end)
    return ranges.missing(size)


def write(path: Path, boot: str = BOOT) -> Journal:
    return Journal(path, 100, boot)


def test_in_the_same_boot_everything_that_was_written_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    log = write(path)
    log.have(0, 10)
    log.have(50, 60)
    log.close()
    assert kept(path) == [(0, 10), (50, 60)]


def test_after_another_boot_only_what_was_made_durable_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    log = write(path)
    log.have(0, 10)
    durable = log.length
    log.have(50, 60)
    log.safe(durable)
    log.close()
    assert kept(path, OTHER) == [(0, 10)]


def test_bytes_of_an_earlier_boot_do_not_come_back_with_the_next_ones(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    log = write(path)
    log.have(0, 10)
    log.close()
    log = write(path, OTHER)
    log.have(20, 30)
    log.safe(log.length)
    log.close()
    assert kept(path, OTHER) == kept(path) == [(20, 30)]


def test_a_line_that_was_cut_is_dropped_and_the_next_process_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    log = write(path)
    log.have(0, 10)
    log.have(10, 20)
    log.close()
    path.write_bytes(path.read_bytes()[:-2])
    log = write(path)
    log.have(70, 80)
    log.close()
    assert kept(path) == [(0, 10), (70, 80)]


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"have 0 10\n", b"boot x!\nhave 0 10\n", b"boot 1\nhave 9 5\n",
                                     b"boot 0000-1\nhave 0 101\n", b"boot 0000-1\nhave 0 1e9\n", b"\xff\xfe" * 99])
def test_a_journal_that_is_none_vouches_for_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    assert kept(path) == []


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    log = write(real)
    log.have(0, 10)
    log.close()
    (tmp_path / "journal").symlink_to(real)
    assert kept(tmp_path / "journal") == []


def test_starting_over_forgets_everything(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    log = write(path)
    log.have(0, 10)
    log.forget()
    log.have(5, 6)
    log.close()
    assert kept(path) == [(5, 6)]
