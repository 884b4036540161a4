"""A few of R3's, R4's and R5's drills as tests, and that the oracle behind them sees what it is there to see.

All of them are `make faults-sync`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judge_lab.vm import missing_packages
from judge_node.cache.manifest import parse
from judge_node.cache.store import OWN_FOLDER
from judge_node.cache.sync import sync
from nvme_drills.node import machine
from sync_drills import cuts, disks, faults, kills, sharing
from sync_drills.models import Model, pair
from sync_drills.oracle import complete, listing, orphans, unverified
from sync_drills.processes import can_trace
from sync_drills.source import KINDS, serve

SEED = 1
needs_strace = pytest.mark.skipif(not can_trace(), reason="strace is missing or may not trace: make drill-packages")
needs_mounts = pytest.mark.skipif(
    not disks.can_mount(), reason="small filesystems need root and loop devices: make drill-packages, as root"
)
needs_machine = pytest.mark.skipif(
    bool(os.geteuid() or missing_packages()),
    reason=f"a virtual machine needs root and {', '.join(sorted(missing_packages())) or 'nothing else'}: "
    "make vm-packages, as root",
)


# --- the oracle ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models() -> tuple[Model, Model]:
    return pair(SEED, (40_000, 20_000), small_bytes=500)


@pytest.fixture
def store(models: tuple[Model, Model], tmp_path: Path) -> Path:
    import json

    root = tmp_path / "store"
    with serve(list(models)) as site:
        for model in models:
            sync(parse(json.dumps(model.manifest()).encode()), root, endpoint=site.hub, guard=lambda root: None)
    return root


def snapshot(root: Path, model: Model) -> Path:
    return root / model.folder / "snapshots" / model.commit


def test_oracle_finds_nothing_wrong_with_a_store_that_was_synced(store: Path, models: tuple[Model, Model]) -> None:
    found = listing(str(store))
    assert (unverified(found, models), orphans(found, OWN_FOLDER)) == ([], [])
    assert [complete(found, model) for model in models] == [True, True]
    assert complete(found, models[1], "main")
    assert not complete(found, models[0], "main")


def flip(root: Path, model: Model) -> None:
    blob = (snapshot(root, model) / "config.json").resolve()
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)


def unlink(root: Path, model: Model) -> None:
    (snapshot(root, model) / "merges.txt").unlink()


def dangle(root: Path, model: Model) -> None:
    (snapshot(root, model) / "vocab.json").resolve().unlink()


def add(root: Path, model: Model) -> None:
    (snapshot(root, model) / "more.json").write_text("{}")


def mislead(root: Path, model: Model) -> None:
    (root / model.folder / "refs" / "main").write_text("f" * 40)


def half_publish(root: Path, model: Model) -> None:
    (root / model.folder / "snapshots" / ("e" * 40)).mkdir()


def misname(root: Path, model: Model) -> None:
    blobs = root / model.folder / "blobs"
    name = (snapshot(root, model) / "config.json").resolve().name
    (snapshot(root, model) / "config.json").unlink()
    (blobs / name).write_text("unlinked, and not what its name says")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip, "config.json reads as"),
        (unlink, "merges.txt is missing"),
        (dangle, "vocab.json reads as [-1, 'No such file or directory']"),
        (add, "more.json is not of the commit"),
        (mislead, "of which there is no snapshot"),
        (half_publish, "is no commit on the Hub"),
        (misname, "blobs/"),
    ],
)
def test_oracle_finds_unverified_bytes(
    store: Path, models: tuple[Model, Model], harm: Callable[[Path, Model], None], said: str
) -> None:
    harm(store, models[1])
    assert any(said in text for text in unverified(listing(str(store)), models))


@pytest.mark.parametrize(
    "left",
    [
        "{folder}/blobs/1234",
        "{folder}/refs/.main.tmp",
        "{own}/partial/abc",
        "{own}/manifests/{folder}/.x.json.tmp",
        "{own}/manifests/{folder}/0000000000000000000000000000000000000000.json",
        "stray",
    ],
)
def test_oracle_finds_orphans(store: Path, models: tuple[Model, Model], left: str) -> None:
    path = left.format(folder=models[1].folder, own=OWN_FOLDER)
    (store / path).write_text("left")
    assert orphans(listing(str(store)), OWN_FOLDER) == [path]


# --- R3 --------------------------------------------------------------------------------------------------------------


@needs_strace
def test_kill_9_leaves_nothing_unverified_and_no_orphans_and_costs_a_chunk_at_most() -> None:
    with kills.kills(SEED) as drill:
        outcomes = [drill.play(number) for number in range(8)]
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []
    assert sum(outcome.state == "killed" for outcome in outcomes) >= 6


def test_eight_syncs_of_one_model_at_a_time_fetch_it_once() -> None:
    outcome = sharing.together(8, SEED)
    assert (outcome.wrong, outcome.ratio) == ([], 1.0)


def test_readers_during_switches_never_see_two_commits_nor_miss_a_file() -> None:
    outcome = sharing.switched(200, SEED)
    assert (outcome.mixed, outcome.missing, outcome.wrong) == (0, 0, [])
    assert outcome.rounds > 200


# --- R4 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_wrong_byte_is_accepted_from_a_source_that(kind: str, tmp_path: Path) -> None:
    # Another way of being struck for each, so that all ways are among them.
    outcome = faults.play(kind, 4 + KINDS.index(kind) % len(faults.MODES), tmp_path)
    assert outcome.wrong == [], str(outcome)


# --- R5 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drill() -> Iterator[disks.Disks]:
    with disks.disks(SEED) as made:
        yield made


@needs_mounts
@pytest.mark.root
@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_disk_filled_by_another_leaves_the_old_model_and_the_next_run_completes(drill: disks.Disks, kind: str) -> None:
    with disks.filesystem(drill.folder, kind) as mounted:
        outcomes = [drill.fill(kind, mounted, number) for number in range(2)]
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []


@needs_strace
@pytest.mark.parametrize("what", [disks.FULL, disks.FAIL, disks.FAIL_READ])
def test_call_on_the_store_that_fails_leaves_the_old_model_and_the_next_run_completes(
    drill: disks.Disks, what: str
) -> None:
    outcomes = [drill.fail(what, number) for number in range(3)]
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []


@needs_mounts
@pytest.mark.root
@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_second_model_is_refused_before_its_first_byte_when_the_first_has_the_space(kind: str) -> None:
    outcome = sharing.reserved(kind, SEED)
    assert outcome.wrong == []
    assert outcome.second == "SPACE_SHORT"


@needs_machine
@pytest.mark.root
def test_power_cut_and_a_disk_that_fails_leave_the_old_model_and_the_next_run_completes(tmp_path: Path) -> None:
    with machine(tmp_path / "vm") as made, cuts.cuts(made, SEED) as cutting:
        outcomes = [cutting.play(0), cutting.play(0, cuts.DISK)]
    assert [str(outcome) for outcome in outcomes if outcome.wrong] == []
