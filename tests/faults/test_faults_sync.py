"""The oracle behind the drills of `make faults-sync` sees what it is there to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from judge_node.cache.manifest import parse
from judge_node.cache.store import OWN_FOLDER
from judge_node.cache.sync import sync
from sync_drills.models import Model, pair
from sync_drills.oracle import complete, listing, orphans, unverified
from sync_drills.source import serve

SEED = 1


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
