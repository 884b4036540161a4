"""The journal: what was appended is there after a kill at any byte, whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from judge_client.batch import journal as journal_module
from judge_client.batch.journal import Journal
from judge_client.batch.problems import BatchStopped
from judge_client.errors import InputProblem
from judge_client.verdict import Status

BINDING = {"input_sha256": "ab", "votes": 1}
RECORDS = [(0, Status.SCORED, None, False, 1, b'{"id": "zero \xc3\xa4 with spaces"}'),
           (3, Status.ERROR, "SERVER_TIMEOUT", False, 5, b'{"id": "three"}'),
           (1, Status.UNSCORED, "REPLY_TRUNCATED", True, 1, b'{"id": "one"}')]


def _written(path: Path) -> list[int]:
    """Write a journal, and return its size after each of its lines."""
    journal = Journal.open(path, 5)
    journal.begin(BINDING)
    sizes = [path.stat().st_size]
    for record in RECORDS:
        journal.append(*record)
        sizes.append(path.stat().st_size)
    journal.close()
    return sizes


def _lines(journal: Journal) -> dict[int, bytes]:
    return {index: journal.line(index) for index in range(5) if journal.has(index)}


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    _written(tmp_path / "j")
    journal = Journal.open(tmp_path / "j", 5)
    assert journal.binding == BINDING
    assert _lines(journal) == {0: RECORDS[0][5], 1: RECORDS[2][5], 3: RECORDS[1][5]}
    assert +journal.tally == {(Status.SCORED, None): 1, (Status.ERROR, "SERVER_TIMEOUT"): 1,
                              (Status.UNSCORED, "REPLY_TRUNCATED"): 1}
    assert (journal.done, journal.suspects, journal.requests) == (3, 1, 7)
    assert (journal.first(Status.SCORED), journal.first(Status.UNSCORED)) == (0, 1)
    journal.close()


def test_a_journal_that_was_cut_at_any_byte_holds_every_whole_record_and_goes_on(tmp_path: Path) -> None:
    sizes = _written(tmp_path / "j")
    whole = (tmp_path / "j").read_bytes()
    for size in range(sizes[0], len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        journal = Journal.open(path, 5)
        kept = max(number for number, end in enumerate(sizes) if end <= size)
        assert set(_lines(journal)) == {record[0] for record in RECORDS[:kept]}, size
        journal.append(4, Status.SCORED, None, False, 1, b"{}")
        journal.close()
        journal = Journal.open(path, 5)
        assert set(_lines(journal)) == {4, *(record[0] for record in RECORDS[:kept])}, size
        journal.close()
        path.unlink()


def test_a_record_that_was_damaged_is_dropped_with_all_after_it(tmp_path: Path) -> None:
    sizes = _written(tmp_path / "j")
    damaged = bytearray((tmp_path / "j").read_bytes())
    for position in range(sizes[1], sizes[2]):
        path = tmp_path / "damaged"
        changed = damaged.copy()
        changed[position] ^= 1
        path.write_bytes(changed)
        journal = Journal.open(path, 5)
        assert set(_lines(journal)) == {0}, position
        assert path.stat().st_size == sizes[1]
        journal.close()
        path.unlink()


def test_zeros_that_a_power_cut_leaves_are_dropped(tmp_path: Path) -> None:
    _written(tmp_path / "j")
    with (tmp_path / "j").open("ab") as file:
        file.write(bytes(4096))
    journal = Journal.open(tmp_path / "j", 5)
    assert set(_lines(journal)) == {0, 1, 3}
    journal.close()


def test_a_later_record_of_an_item_replaces_an_earlier_one(tmp_path: Path) -> None:
    _written(tmp_path / "j")
    journal = Journal.open(tmp_path / "j", 5)
    journal.append(1, Status.SCORED, None, False, 2, b'{"id": "one again"}')
    journal.close()
    journal = Journal.open(tmp_path / "j", 5)
    assert journal.line(1) == b'{"id": "one again"}'
    assert journal.tally[Status.SCORED, None] == 2
    assert (journal.done, journal.suspects) == (3, 0)
    journal.close()


def test_items_that_ended_so_can_be_forgotten(tmp_path: Path) -> None:
    _written(tmp_path / "j")
    journal = Journal.open(tmp_path / "j", 5)
    assert journal.forget([Status.ERROR]) == 1
    assert set(_lines(journal)) == {0, 1}
    assert (journal.done, journal.tally[Status.ERROR, "SERVER_TIMEOUT"]) == (2, 0)
    journal.close()


def test_canaries_are_kept_beside_the_items(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j", 5)
    journal.begin(BINDING)
    journal.append_canary(Status.SCORED, None, 2, {"name": "good", "score": 9})
    journal.close()
    journal = Journal.open(tmp_path / "j", 5)
    assert journal.canaries == [{"name": "good", "score": 9}]
    assert (journal.done, journal.requests) == (0, 2)
    journal.close()


def test_one_process_at_a_time_has_it(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j", 5)
    journal.begin(BINDING)
    code = ("import sys; from pathlib import Path; from judge_client.batch.journal import Journal\n"
            "from judge_client.errors import InputProblem\n"
            "try: Journal.open(Path(sys.argv[1]), 5)\n"
            "except InputProblem as problem: print(problem.reason)\n")
    argv = [sys.executable, "-c", code, str(tmp_path / "j")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout == "OUTPUT_IN_USE\n"
    with pytest.raises(InputProblem, match="another process writes"):
        Journal.open(tmp_path / "j", 5)
    journal.close()
    Journal.open(tmp_path / "j", 5).close()


@pytest.mark.parametrize("content", [
    b"notes of mine\n", b'{"schema": 99, "items": 3}\nmore\n', b"{}\n", b'{"schema": 1'])
def test_a_file_that_is_no_journal_of_ours_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    journal = Journal.open(tmp_path / "j", 5)
    assert journal.binding
    assert "input_sha256" not in journal.binding
    journal.close()
    assert (tmp_path / "j").read_bytes() == content


def test_a_full_disk_leaves_whole_records_and_their_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = _written(tmp_path / "j")
    journal = Journal.open(tmp_path / "j", 5)
    written = []

    def write(fd: int, data: bytes) -> int:
        """Take ten bytes, then no more."""
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(os.pwrite(fd, bytes(data)[:10], sizes[-1]))
        return 10

    with monkeypatch.context() as patched:
        patched.setattr(journal_module.os, "write", write)
        with pytest.raises(BatchStopped, match="j cannot be written: No space left on device") as caught:
            journal.append(4, Status.SCORED, None, False, 1, b"{}")
    assert caught.value.reason == "OUTPUT_UNWRITABLE"
    assert not journal.has(4)
    assert (tmp_path / "j").stat().st_size == sizes[-1]
    journal.append(4, Status.SCORED, None, False, 1, b"{}")
    journal.close()
    journal = Journal.open(tmp_path / "j", 5)
    assert set(_lines(journal)) == {0, 1, 3, 4}
    journal.close()


def test_a_journal_is_filled_whole_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j", 5)

    def records() -> object:
        yield RECORDS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.replace(BINDING, records())  # type: ignore[arg-type]
    journal.close()
    assert list(tmp_path.iterdir()) == []
    journal = Journal.open(tmp_path / "j", 5)
    journal.replace(BINDING, RECORDS)
    with pytest.raises(InputProblem, match="another process writes"):
        Journal.open(tmp_path / "j", 5)
    journal.close()
    journal = Journal.open(tmp_path / "j", 5)
    assert (journal.binding, set(_lines(journal))) == (BINDING, {0, 1, 3})
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BatchStopped, match="No such file") as caught:
        Journal.open(tmp_path / "no" / "j", 5)
    assert f"mkdir -p {tmp_path / 'no'}" in str(caught.value.hint)
