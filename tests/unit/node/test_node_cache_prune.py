"""`cache prune` and `cache rm`: what goes, in which order, and above all what never goes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from judge_node.cache import prune as prune_module
from judge_node.cache import removal
from judge_node.cache.catalog import read_catalog
from judge_node.cache.pins import pin
from judge_node.cache.prune import Goal, plan_prune, prune, reclaimable_bytes, rm
from judge_node.cache.store import Store, blobs_linked
from judge_node.cache.usage import Use, User
from judge_node.locking import locked
from judge_node.result import NodeError, Result
from unit.node.model_stores import (
    DAY,
    REPO,
    Blind,
    Only,
    Quiet,
    add_foreign,
    add_model,
    commit_of,
    file_of,
    files_of,
    running,
    tree,
)

ALL = Goal(max_bytes=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hub")


def do_prune(store: Store, goal: Goal = ALL, **options: Any) -> Result:
    options.setdefault("processes", Quiet())
    return prune(store.root, goal, **options)


def do_rm(store: Store, name: str, **options: Any) -> Result:
    options.setdefault("processes", Quiet())
    return rm(store.root, name, **options)


def letters(store: Store) -> str:
    """Return the models that are whole: vouched for, and complete."""
    return "".join(sorted(m.manifest.commit[0] for m in read_catalog(store).models if m.state == "complete"))


def old_models(store: Store, count: int = 5) -> None:
    """Add a, b, c ...: the last is current, the one before previous, the first the oldest."""
    for number in range(count):
        add_model(store, "abcdef"[number], days_old=60 - 10 * number)


# --- what goes --------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first_and_no_more_than_has_to(store: Store) -> None:
    old_models(store)
    size = read_catalog(store).size_bytes
    result = do_prune(store, Goal(max_bytes=size - 5129))
    assert (result.ok, result.changed, letters(store)) == (True, True, "cde")
    assert result.message == "removed 2 models: 10.0 KiB freed"
    assert read_catalog(store).size_bytes <= size - 5129
    assert [line.partition(" (")[0] for line in result.before.splitlines()] == [
        f"{REPO} at {'a' * 12}",
        f"{REPO} at {'b' * 12}",
    ]


def test_one_that_was_seen_in_use_later_goes_later(store: Store) -> None:
    old_models(store)
    Use(users={(REPO, commit_of("a")): ()}).note(store)
    do_prune(store, Goal(max_bytes=read_catalog(store).size_bytes - 5129), now=time.time() + 3600)
    assert letters(store) == "ade"


def test_snapshot_goes_with_its_own_blobs_and_its_notes_and_nothing_else(store: Store) -> None:
    old_models(store)
    before = tree(store.root)
    manifest = next(m for m in store.all_vouched() if m.commit == commit_of("a"))
    (store.own / "checked" / "models--judge-lab--tiny").mkdir(parents=True)
    store.note("checked", manifest).write_text("{}")
    do_prune(store, Goal(unused_for_seconds=55 * DAY))
    own = {f"models--judge-lab--tiny/blobs/{file.blob}" for file in manifest.files if "00001" in file.path}
    gone = {name for name in before if commit_of("a") in name} | own
    assert tree(store.root) == {name: data for name, data in before.items() if name not in gone} and len(gone) == 5


def test_unused_for_removes_what_nobody_used_so_long_and_stops_there(store: Store) -> None:
    old_models(store)
    result = do_prune(store, Goal(unused_for_seconds=45 * DAY))
    assert (result.ok, letters(store), result.facts["short_bytes"]) == (True, "cde", 0)
    assert do_prune(store, Goal(unused_for_seconds=45 * DAY)).message == "nothing to remove"


def test_unused_for_says_what_is_kept_although_nobody_used_it(store: Store) -> None:
    old_models(store)
    assert do_prune(store, Goal(unused_for_seconds=25 * DAY)).message == (
        f"removed 3 models: 15.0 KiB freed; {REPO} at {'d' * 12} is kept (previous: main can be rolled back to it)"
    )


def test_keep_free_is_measured_on_the_filesystem(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old_models(store)
    monkeypatch.setattr(prune_module, "free_bytes", lambda root: 1000)
    assert do_prune(store, Goal(keep_free_bytes=1000)).message == "nothing to remove"
    assert do_prune(store, Goal(keep_free_bytes=1001)).message == "removed 1 model: 5.0 KiB freed"
    assert letters(store) == "bcde"


def test_shared_blob_counts_only_when_the_last_of_its_models_goes(store: Store) -> None:
    for letter in "ab":
        add_model(store, letter, revision=None)
    add_model(store, "c", files_of(b"other", b"not shared"))
    size = read_catalog(store).size_bytes
    result = do_prune(store)
    freed = [entry["freed_bytes"] for entry in result.facts["removed"]]
    assert freed[0] == 5128 and freed[1] == 5128 + 6128
    assert result.facts["freed_bytes"] == sum(freed) == size - read_catalog(store).size_bytes


def test_check_says_what_would_go_and_changes_nothing(store: Store) -> None:
    old_models(store)
    before = tree(store.root)
    result = do_prune(store, check=True)
    assert result.changed and result.message.startswith("would remove 3 models: 15.0 KiB, and ")
    assert tree(store.root) == before


def test_second_prune_has_nothing_to_do(store: Store) -> None:
    old_models(store)
    do_prune(store)
    before = tree(store.root)
    result = do_prune(store)
    assert (result.changed, tree(store.root)) == (False, before)


def test_goal_that_cannot_be_reached_is_a_failure_that_says_what_is_kept(store: Store) -> None:
    old_models(store, 2)
    result = do_prune(store)
    assert (result.ok, result.exit_code, result.reason, result.state) == (False, 1, "SPACE_SHORT", "short")
    assert f"{REPO} at {'a' * 12} is kept (previous: main can be rolled back to it)" in result.message
    assert f"{REPO} at {'b' * 12} is kept (current: main)" in result.message


# --- what never goes --------------------------------------------------------------------------------------------------


def test_current_and_previous_stay(store: Store) -> None:
    old_models(store)
    do_prune(store)
    assert letters(store) == "de"


def test_pinned_stays(store: Store) -> None:
    old_models(store)
    pin(store.root, f"{REPO}@{commit_of('a')}", why="golden")
    assert "is kept (pinned: golden)" in do_prune(store).message
    assert letters(store) == "ade"


def test_pin_that_cannot_be_read_holds(store: Store) -> None:
    old_models(store)
    pin(store.root, f"{REPO}@{commit_of('a')}")
    next((store.own / "pins").rglob("*.json")).write_bytes(b"\xff")
    do_prune(store)
    assert "a" in letters(store)


def test_last_published_one_stays_where_no_branch_points(store: Store) -> None:
    add_model(store, "a", revision=None, days_old=60)
    add_model(store, "b", revision=None, days_old=50)
    do_prune(store)
    assert letters(store) == "b"


def test_one_that_came_minutes_ago_stays(store: Store) -> None:
    old_models(store, 2)
    add_model(store, "f", revision=None, days_old=0)
    result = do_prune(store)
    assert "f" in letters(store) and "it came or was used minutes ago" in result.message


def test_one_in_use_stays(store: Store) -> None:
    old_models(store)
    blob = store.folder(REPO) / "snapshots" / commit_of("b") / "model-00001-of-00002.safetensors"
    code = "import sys; f = open(sys.stdin.readline().strip()); print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin and process.stdout
        process.stdin.write(f"{blob}\n")
        process.stdin.flush()
        process.stdout.readline()
        result = do_prune(store, processes=Only(process.pid))
        assert letters(store) == "bde"
        assert f"is kept (in use: process {process.pid} (python) has a file of it open)" in result.message
    finally:
        process.kill()
        process.communicate()


def test_nothing_goes_when_use_cannot_be_read(store: Store) -> None:
    old_models(store)
    before = tree(store.root)
    for check in (True, False):
        with pytest.raises(NodeError) as caught:
            do_prune(store, processes=Blind(), check=check)
        assert (caught.value.reason, caught.value.exit_code) == ("USE_UNKNOWN", 3)
        assert caught.value.message == (
            "nothing was deleted, because it is unknown what is in use: this runs in a container"
        )
    assert tree(store.root) == before


def test_goal_that_is_reached_already_needs_no_knowledge_of_use(store: Store) -> None:
    old_models(store)
    assert do_prune(store, Goal(max_bytes=1 << 40), processes=Blind()).message == "nothing to remove"


def test_snapshot_of_others_and_its_blobs_stay(store: Store) -> None:
    old_models(store)
    foreign = add_foreign(store, "9", {"README.md": b"theirs", **files_of(b"a" * 5000)})
    other = add_foreign(store, "8", {"x": b"y"}, "someone/else")
    do_prune(store)
    assert letters(store) == "de"
    assert [path.read_bytes() for path in sorted(foreign.iterdir())] == [
        b"theirs", *(data for _, data in sorted(files_of(b"a" * 5000).items()))
    ]  # fmt: skip
    assert (other / "x").read_bytes() == b"y"


def test_blob_that_a_download_of_others_has_not_linked_yet_stays(store: Store) -> None:
    old_models(store, 2)
    blob = store.folder(REPO) / "blobs" / ("f" * 64)
    blob.write_bytes(b"theirs")
    os.utime(blob, (0, 0))
    do_prune(store)
    assert blob.exists()


def test_link_in_place_of_a_folder_is_not_followed(store: Store, tmp_path: Path) -> None:
    old_models(store)
    blobs = store.folder(REPO) / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    with pytest.raises(NodeError, match="is a symbolic link"):
        do_prune(store, Goal(unused_for_seconds=DAY))
    assert tree(tmp_path / "elsewhere") == before


def test_one_that_comes_into_use_at_the_last_moment_is_put_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old_models(store)
    before = tree(store.root)
    looks = iter([Use(), Use(users={(REPO, commit_of("a")): (User(1, "vllm", None, "has it in memory"),)})])
    monkeypatch.setattr(prune_module, "read_use", lambda *_: next(looks))
    with pytest.raises(NodeError) as caught:
        do_prune(store, Goal(unused_for_seconds=55 * DAY))
    assert caught.value.reason == "MODEL_IN_USE"
    assert tree(store.root) == before


def test_while_a_sync_runs_nothing_goes(store: Store) -> None:
    old_models(store)
    with locked(store.lock, wait_seconds=0), pytest.raises(NodeError) as caught:
        do_prune(store, lock_wait_seconds=0)
    assert caught.value.reason == "LOCKED" and letters(store) == "abcde"


def test_generated_stores_lose_nothing_that_is_needed(tmp_path: Path) -> None:
    for seed in range(25):
        rng = random.Random(seed)
        store = Store(tmp_path / str(seed))
        shards = [bytes([number]) * rng.randrange(1, 3000) for number in range(5)]
        content = {}
        for letter in "abcdef"[: rng.randrange(2, 7)]:
            content[letter] = files_of(rng.choice(shards) + letter.encode() * rng.randrange(2), rng.choice(shards))
            revision = rng.choice(["main", "main", "dev", None])
            add_model(store, letter, content[letter], revision=revision, days_old=rng.uniform(0.1, 90))
        if rng.random() < 0.5:
            content["9"] = files_of(rng.choice(shards), rng.choice(shards))
            add_foreign(store, "9", content["9"])
        models = {m.manifest.commit[0]: m for m in read_catalog(store).models}
        pinned = {letter for letter in models if rng.random() < 0.2}
        for letter in pinned:
            pin(store.root, f"{REPO}@{commit_of(letter)}")
        used = {letter for letter in models if rng.random() < 0.2}
        use = Use(users={(REPO, commit_of(letter)): (User(1, "x", None, "uses it"),) for letter in used})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prune_module, "read_use", lambda *_, use=use: use)
            size = read_catalog(store).size_bytes
            goal = rng.choice([ALL, Goal(unused_for_seconds=30 * DAY), Goal(max_bytes=size // 2)])
            planned = plan_prune(read_catalog(store), use, goal, free_bytes=0, now=time.time())
            do_prune(store, goal)
        needed = pinned | used | ({"9"} & set(content))
        needed |= {letter for letter, m in models.items() if m.current or m.previous or m.newest}
        for letter in needed:
            snapshot = store.folder(REPO) / "snapshots" / commit_of(letter)
            assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == content[letter], (seed, letter)
        left = read_catalog(store)
        assert size - left.size_bytes == planned.freed_bytes, seed
        assert set(left.blob_bytes["models--judge-lab--tiny"]) == blobs_linked(store.folder(REPO)), seed
        assert all(model.state == "complete" for model in left.models), seed


# --- what cut runs left -----------------------------------------------------------------------------------------------


def leftovers(store: Store, days_old: float) -> tuple[Path, Path]:
    """Return a partial file, and a blob that was complete when its sync was cut."""
    partial, blob = store.partial / ("e" * 64), store.folder(REPO) / "blobs" / ("d" * 64)
    for path in (partial, blob):
        path.write_bytes(b"x" * 1000)
        os.utime(path, (time.time() - days_old * DAY,) * 2)
    blob.chmod(0o444)
    return partial, blob


def test_what_a_cut_sync_left_days_ago_goes_before_any_model(store: Store) -> None:
    old_models(store)
    partial, blob = leftovers(store, 2)
    result = do_prune(store, Goal(max_bytes=read_catalog(store).size_bytes - 2000))
    assert letters(store) == "abcde" and not partial.exists() and not blob.exists()
    assert result.message == "removed 0 models and what cut syncs left (2 files): 2.0 KiB freed"


def test_what_a_sync_left_today_is_what_the_next_one_goes_on_from(store: Store) -> None:
    old_models(store)
    partial, blob = leftovers(store, 0.5)
    do_prune(store)
    assert partial.exists() and blob.exists()


class Cut(Exception):
    """The power went."""


@pytest.mark.parametrize("after", range(40))
def test_removal_that_is_cut_anywhere_serves_nothing_half_and_is_finished_by_the_next(
    store: Store, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_models(store, 3)
    wanted = tree(store.root)
    whole = {name for name in wanted if commit_of("a") in name}
    with monkeypatch.context() as patch:
        left = [after]

        def cutting(real: Any) -> Any:
            def step(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Cut
                return real(*arguments, **options)

            return step

        for name in ("unlink", "rename", "replace", "rmdir", "fsync", "mkdir"):
            patch.setattr(os, name, cutting(getattr(os, name)))
        patch.setattr(shutil, "rmtree", cutting(shutil.rmtree))
        try:
            do_prune(store, Goal(unused_for_seconds=55 * DAY))
            done = True
        except Cut:
            done = False
    found = tree(store.root)
    snapshot = {name for name in found if f"snapshots/{commit_of('a')}" in name}
    assert snapshot in (set(), {name for name in whole if "/snapshots/" in name}), "half a snapshot can be seen"
    assert letters(store) in ("abc", "bc")
    if not snapshot:
        assert letters(store) == "bc", "a snapshot that is gone is vouched for"
    do_prune(store, Goal(unused_for_seconds=55 * DAY))
    assert letters(store) == "bc" and not list(store.removing.rglob("*.json"))
    assert set(read_catalog(store).blob_bytes["models--judge-lab--tiny"]) == blobs_linked(store.folder(REPO))
    assert done or after < 39, "more steps than were cut"


def test_model_that_a_sync_brought_back_after_a_cut_removal_stays(store: Store) -> None:
    old_models(store, 3)
    model = next(m for m in read_catalog(store).models if m.manifest.commit == commit_of("a"))
    removal.take_away(store, model)
    add_model(store, "a", revision=None)
    removal.finish_all(store)
    assert letters(store) == "abc"


def test_cut_removal_of_what_is_in_use_by_now_is_kept_but_not_vouched_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_models(store, 3)
    removal.take_away(store, next(m for m in read_catalog(store).models if m.manifest.commit == commit_of("a")))
    use = Use(users={(REPO, commit_of("a")): (User(1, "vllm", None, "has it in memory"),)})
    monkeypatch.setattr(prune_module, "read_use", lambda *_: use)
    do_prune(store)
    assert {m.manifest.commit[0]: m.state for m in read_catalog(store).models}["a"] == "corrupt"
    assert (store.folder(REPO) / "snapshots" / commit_of("a")).is_dir()


def test_what_could_be_freed_is_told_for_a_sync_that_lacks_space(store: Store) -> None:
    assert reclaimable_bytes(store, Quiet()) == 0
    old_models(store)
    assert reclaimable_bytes(store, Quiet()) == 3 * 5128
    assert reclaimable_bytes(store, Blind()) is None


# --- rm ---------------------------------------------------------------------------------------------------------------


def test_rm_removes_the_one_that_is_named(store: Store) -> None:
    old_models(store)
    result = do_rm(store, f"{REPO}@{commit_of('b')[:7]}")
    assert (result.changed, result.state, letters(store)) == (True, "absent", "acde")
    assert result.message == f"removed {REPO} at {'b' * 12}: 5.0 KiB"


def test_rm_of_a_repository_with_one_model_needs_no_commit(store: Store) -> None:
    add_model(store, "a")
    do_rm(store, REPO, current=True)
    assert not store.folder(REPO).exists() and not any(store.manifests.iterdir())


def test_rm_of_what_is_not_here_is_done_already(store: Store) -> None:
    add_model(store, "a")
    result = do_rm(store, f"{REPO}@{commit_of('f')}")
    assert (result.ok, result.changed, result.message) == (
        True, False, f"{REPO}@{commit_of('f')} is not in {store.root}"
    )  # fmt: skip


def test_rm_check_changes_nothing(store: Store) -> None:
    old_models(store)
    before = tree(store.root)
    assert do_rm(store, f"{REPO}@{commit_of('a')}", check=True).message == f"would remove {REPO} at {'a' * 12}: 5.0 KiB"
    assert tree(store.root) == before


def refused(store: Store, name: str, **options: Any) -> NodeError:
    before = tree(store.root)
    for check in (True, False):
        with pytest.raises(NodeError) as caught:
            do_rm(store, name, check=check, **options)
    assert tree(store.root) == before
    return caught.value


def test_rm_of_several_asks_for_one(store: Store) -> None:
    old_models(store, 2)
    error = refused(store, REPO)
    assert (error.exit_code, error.message) == (2, f"{REPO} means 2 models: {'a' * 12}, {'b' * 12}")
    assert error.repair == f"name one, as {REPO}@COMMIT"


def test_rm_of_the_current_one_wants_it_said(store: Store) -> None:
    old_models(store, 2)
    error = refused(store, f"{REPO}@{commit_of('b')}")
    assert (error.reason, error.exit_code) == ("MODEL_KEPT", 3) and "is the current one of main" in error.message
    do_rm(store, f"{REPO}@{commit_of('b')}", current=True)
    assert letters(store) == "a" and store.refs(REPO) == {}, "a branch must not point at what is gone"


def test_rm_of_a_pinned_one_is_refused_with_why(store: Store) -> None:
    old_models(store, 3)
    pin(store.root, f"{REPO}@{commit_of('a')}", why="golden")
    error = refused(store, f"{REPO}@{commit_of('a')}", current=True)
    assert error.reason == "MODEL_KEPT" and error.message == f"{REPO} at {'a' * 12} is pinned (golden)"


def test_rm_of_one_in_use_is_refused_with_who(store: Store) -> None:
    old_models(store, 3)
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    with running(sys.executable, "-c", code, commit_of("a")) as pid:
        error = refused(store, f"{REPO}@{commit_of('a')}", processes=Only(pid))
    assert (error.reason, error.exit_code) == ("MODEL_IN_USE", 3)
    assert error.message == f"{REPO} at {'a' * 12} is in use: process {pid} (python) names it in its arguments"


def test_rm_is_refused_when_use_cannot_be_read(store: Store) -> None:
    old_models(store, 3)
    assert refused(store, f"{REPO}@{commit_of('a')}", processes=Blind()).reason == "USE_UNKNOWN"


def test_rm_of_what_others_brought_is_refused(store: Store) -> None:
    add_model(store, "a")
    add_foreign(store, "9", {"x": b"y"}, "someone/else")
    error = refused(store, "someone/else")
    assert error.reason == "MODEL_KEPT" and "was not brought by judge-node" in error.message


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b/c", "a/b@xyz", "a/b@12", "a/b@" + "a" * 41])
def test_name_that_is_none_is_wrong_usage(store: Store, name: str) -> None:
    add_model(store, "a")
    assert refused(store, name).exit_code == 2


def test_store_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NodeError) as caught:
        do_prune(Store(tmp_path / "nothing"))
    assert caught.value.reason == "MOUNT_MISSING" and "there is no model store at" in caught.value.message


def test_withdrawn_model_can_be_removed(store: Store) -> None:
    manifest = add_model(store, "a", revision=None)
    add_model(store, "b")
    store.stop_vouching(REPO, {file_of("model-00001-of-00002.safetensors", b"x").blob} | set(manifest.blobs()))
    do_rm(store, f"{REPO}@{commit_of('a')}")
    assert not list(store.withdrawn.rglob(f"{commit_of('a')}.json"))
