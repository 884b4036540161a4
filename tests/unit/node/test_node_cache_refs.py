"""`cache update`, `rollback`, `pin` and `unpin`: a branch moves at once or not at all, and the way back stays."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from judge_node.cache.catalog import read_catalog
from judge_node.cache.pins import pin, unpin
from judge_node.cache.refs import rollback, update
from judge_node.cache.store import Store
from judge_node.locking import locked
from judge_node.result import NodeError
from unit.node.model_stores import REPO, add_foreign, add_model, break_blob, commit_of, files_of, tree

OWN = "model-00001-of-00002.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store whose main is a, and which has b staged."""
    found = Store(tmp_path / "hub")
    add_model(found, "a")
    add_model(found, "b", revision=None)
    return found


def at(store: Store, letter: str) -> str:
    return f"{REPO}@{commit_of(letter)}"


def points(store: Store, revision: str = "main") -> tuple[str | None, str | None]:
    """Return the letters of where the revision points, and of where it did before."""
    here, before = store.refs(REPO).get(revision), store.previous(REPO).get(revision)
    return here and here[0], before and before[0]


def test_update_points_the_branch_at_the_staged_commit_and_remembers_the_one_before(store: Store) -> None:
    result = update(store.root, at(store, "b"))
    assert result.changed and points(store) == ("b", "a")
    assert (store.folder(REPO) / "refs/main").read_bytes() == commit_of("b").encode(), "as the Hub's tools write it"
    assert result.before == f"main: {commit_of('a')}\n" and result.after == f"main: {commit_of('b')}\n"
    assert result.facts["snapshot"] == str(store.folder(REPO) / "snapshots" / commit_of("b"))


def test_second_update_changes_nothing_and_keeps_the_way_back(store: Store) -> None:
    update(store.root, at(store, "b"))
    before = tree(store.root)
    result = update(store.root, at(store, "b"))
    assert not result.changed and result.message == f"main of {REPO} points at {'b' * 12} already"
    assert tree(store.root) == before


def test_update_by_the_first_digits(store: Store) -> None:
    update(store.root, f"{REPO}@{'b' * 7}")
    assert points(store) == ("b", "a")


def test_update_of_another_branch_leaves_main(store: Store) -> None:
    update(store.root, at(store, "b"), revision="refs/pr/1")
    assert points(store) == ("a", None) and points(store, "refs/pr/1") == ("b", None)


def test_check_changes_nothing(store: Store) -> None:
    before = tree(store.root)
    assert update(store.root, at(store, "b"), check=True).message == f"main of {REPO} would point at {'b' * 12}"
    assert tree(store.root) == before
    update(store.root, at(store, "b"))
    before = tree(store.root)
    assert rollback(store.root, REPO, check=True).changed
    assert tree(store.root) == before


def test_rollback_goes_back_and_a_second_one_forth(store: Store) -> None:
    update(store.root, at(store, "b"))
    assert rollback(store.root, REPO).facts["commit"] == commit_of("a") and points(store) == ("a", "b")
    assert rollback(store.root, REPO).facts["commit"] == commit_of("b") and points(store) == ("b", "a")


def refused(store: Store, action: Any, *arguments: Any, **options: Any) -> NodeError:
    before = tree(store.root)
    for check in (True, False):
        with pytest.raises(NodeError) as caught:
            action(store.root, *arguments, check=check, **options)
    assert tree(store.root) == before
    return caught.value


def test_rollback_without_an_earlier_commit_is_refused(store: Store) -> None:
    error = refused(store, rollback, REPO)
    assert (error.reason, error.exit_code) == ("MODEL_INCOMPLETE", 1)
    assert error.message == f"there is no earlier commit to which main of {REPO} could go back"


def test_rollback_to_what_was_removed_is_refused(store: Store) -> None:
    update(store.root, at(store, "b"))
    for path in store.manifests.rglob(f"{commit_of('a')}.json"):
        path.unlink()
    assert refused(store, rollback, REPO).message == f"{store.root} has no model {at(store, 'a')}"


def test_update_to_what_is_not_here_names_the_sync_that_brings_it(store: Store) -> None:
    error = refused(store, update, at(store, "c"))
    assert error.reason == "MODEL_INCOMPLETE"
    assert (error.repair or "").startswith(f"judge-node cache sync MANIFEST --stage --store {store.root}")


def test_update_to_what_others_brought_is_refused(store: Store) -> None:
    add_foreign(store, "9", files_of(b"9"))
    assert refused(store, update, at(store, "9")).reason == "MODEL_INCOMPLETE"


@pytest.mark.parametrize("damage", ["link", "header", "withdrawn"])
def test_branch_never_moves_to_what_is_not_whole(store: Store, damage: str) -> None:
    manifest = next(m for m in store.all_vouched() if m.commit == commit_of("b"))
    if damage == "link":
        (store.snapshot(manifest) / OWN).unlink()
    if damage == "header":
        break_blob(store, manifest, OWN, 0)
    if damage == "withdrawn":
        store.stop_vouching(REPO, {next(file.blob for file in manifest.files if file.path == OWN)})
    wanted = "MODEL_INCOMPLETE" if damage == "link" else "INTEGRITY_MISMATCH"
    assert refused(store, update, at(store, "b")).reason == wanted


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (REPO, {}),
        (f"{REPO}@xyz", {}),
        (f"{REPO}@{'b' * 40}", {"revision": "../../x"}),
        (f"{REPO}@{'b' * 40}", {"revision": ".main"}),
        (f"{REPO}@{'b' * 40}", {"revision": "b" * 40}),
        (f"{REPO}@{'b' * 40}", {"revision": ""}),
    ],
)
def test_wrong_usage_of_update(store: Store, name: str, options: dict[str, str]) -> None:
    assert refused(store, update, name, **options).exit_code == 2


def test_link_in_place_of_refs_is_not_followed(store: Store, tmp_path: Path) -> None:
    refs = store.folder(REPO) / "refs"
    refs.rename(tmp_path / "elsewhere")
    refs.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in refused(store, update, at(store, "b")).message
    assert (tmp_path / "elsewhere/main").read_text() == commit_of("a")


def test_update_waits_for_who_has_the_store(store: Store) -> None:
    with locked(store.lock, wait_seconds=0), pytest.raises(NodeError) as caught:
        update(store.root, at(store, "b"), lock_wait_seconds=0)
    assert caught.value.reason == "LOCKED" and points(store) == ("a", None)


def test_nothing_but_the_branches_ever_lies_below_refs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else lies there is a branch to the Hub's tools, and a half-written one makes them ignore the model."""
    refs = store.folder(REPO) / "refs"
    seen = set()
    for number in range(12):
        with monkeypatch.context() as patch:
            left = [number]
            for name in ("fsync", "rename", "replace"):
                real = getattr(os, name)

                def step(*arguments: Any, real: Any = real, left: list[int] = left) -> Any:
                    left[0] -= 1
                    if left[0] < 0:
                        raise KeyboardInterrupt
                    return real(*arguments)

                patch.setattr(os, name, step)
            with contextlib.suppress(KeyboardInterrupt):
                update(store.root, at(store, "ab"[number % 2]))
        seen |= {path.name for path in refs.rglob("*")}
        assert points(store)[0] in ("a", "b")
    assert seen == {"main"}


def test_reader_during_200_switches_sees_one_whole_model_each_time(store: Store) -> None:
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        """Read as a program does that asks by branch: the ref once, then the snapshot that it names."""
        while not stop.is_set():
            try:
                commit = (store.folder(REPO) / "refs/main").read_text()
                folder = store.folder(REPO) / "snapshots" / commit
                found = {path.name: path.read_bytes() for path in folder.iterdir()}
            except OSError as error:
                wrong.append(repr(error))
                return
            if found != files_of(commit[:1].encode() * 5000):
                wrong.append(commit)
            seen.add(commit)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(200):
            update(store.root, at(store, "ba"[number % 2]))
            if wrong:
                break
    finally:
        stop.set()
        reader.join()
    assert wrong == [] and seen == {commit_of("a"), commit_of("b")}


# --- pins -------------------------------------------------------------------------------------------------------------


def pinned(store: Store) -> dict[str, str | None]:
    return {model.manifest.commit[0]: model.pinned for model in read_catalog(store).models}


def test_pin_is_noted_with_why_and_when(store: Store) -> None:
    result = pin(store.root, at(store, "a"), why="the golden  baseline\nneeds it")
    assert result.changed and pinned(store) == {"a": "the golden baseline needs it", "b": None}
    said = json.loads((store.own / "pins/models--judge-lab--tiny" / f"{commit_of('a')}.json").read_text())
    assert sorted(said) == ["at", "why"]


def test_pin_of_what_is_pinned_changes_nothing_unless_it_says_another_why(store: Store) -> None:
    pin(store.root, at(store, "a"), why="first")
    before = tree(store.root)
    assert not pin(store.root, at(store, "a"), why="first").changed and not pin(store.root, at(store, "a")).changed
    assert tree(store.root) == before
    assert pin(store.root, at(store, "a"), why="second").changed and pinned(store)["a"] == "second"


def test_unpin_takes_it_off_and_means_the_pinned_one_of_several(store: Store) -> None:
    pin(store.root, at(store, "a"))
    assert unpin(store.root, REPO).changed and pinned(store) == {"a": None, "b": None}
    assert not unpin(store.root, at(store, "a")).changed


def test_unpin_of_what_is_not_here_is_done_already(store: Store) -> None:
    result = unpin(store.root, "judge-lab/other")
    assert (result.ok, result.changed, result.state) == (True, False, "absent")


def test_pin_and_unpin_check_change_nothing(store: Store) -> None:
    before = tree(store.root)
    assert pin(store.root, at(store, "a"), check=True).changed and tree(store.root) == before
    pin(store.root, at(store, "a"))
    before = tree(store.root)
    assert unpin(store.root, REPO, check=True).changed and tree(store.root) == before


def test_pin_of_what_is_not_here_is_refused_and_says_what_is(store: Store) -> None:
    error = refused(store, pin, "judge-lab/other")
    assert (error.exit_code, error.message) == (2, f"{store.root} has no model judge-lab/other; it has {REPO}")


def test_pin_of_several_asks_for_one(store: Store) -> None:
    assert refused(store, pin, REPO).message == f"{REPO} means 2 models: {'a' * 12}, {'b' * 12}"


def test_why_is_short(store: Store) -> None:
    assert refused(store, pin, at(store, "a"), why="x" * 501).message == "--why has 501 signs, wanted at most 500"
