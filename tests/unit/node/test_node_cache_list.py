"""`cache list`, and what `status` says of the models: the same store, read without changing it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from judge_node import status as status_module
from judge_node.cache.catalog import find_store, read_catalog
from judge_node.cache.listing import list_models
from judge_node.cache.pins import pin
from judge_node.cache.refs import update
from judge_node.cache.store import Store
from judge_node.cache.times import format_age
from judge_node.cache.verify import verify_all
from judge_node.cli import main
from judge_node.disks.facts import MARKER_NAME, Mount
from judge_node.disks.sysfs import System
from judge_node.last import write_last
from judge_node.result import NodeError, Result
from unit.node.model_stores import (
    DAY,
    REPO,
    Blind,
    Only,
    Quiet,
    add_foreign,
    add_model,
    break_blob,
    commit_of,
    files_of,
    running,
    tree,
)

OWN = "model-00001-of-00002.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "nvme/hub")


def listed(store: Store, **options: Any) -> Result:
    options.setdefault("processes", Quiet())
    return list_models(store.root, **options)


def rows(result: Result) -> list[list[str]]:
    table = result.message.split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table]


def test_table_says_what_it_is_how_it_is_and_why_it_is_kept(store: Store) -> None:
    add_model(store, "a", days_old=9)
    add_model(store, "b", days_old=5)
    add_model(store, "c", files_of(b"c", b"other"), revision="dev", days_old=1)
    verify_all(store.root, deep=True, processes=Quiet())
    pin(store.root, f"{REPO}@{commit_of('c')}", why="golden")
    head, *models = rows(listed(store))
    assert head == ["MODEL", "COMMIT", "STATE", "SIZE", "ALONE", "REVISION", "QUICK", "DEEP", "IN USE", "KEPT"]
    now = [f"{second} s" for second in range(3)]
    assert [[cell for cell in row if cell not in now] for row in models] == [
        [REPO, "c" * 12, "complete", "264 B", "262 B", "dev", "-", "pinned"],
        [REPO, "b" * 12, "complete", "11.0 KiB", "5.0 KiB", "main", "-", "current"],
        [REPO, "a" * 12, "complete", "11.0 KiB", "5.0 KiB", "(main)", "-", "previous"],
    ]
    assert f"{REPO} at {'c' * 12}: pinned: golden" in listed(store).message


def test_json_has_it_all(store: Store) -> None:
    add_model(store, "a", days_old=9)
    manifest = add_model(store, "b")
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    with running(sys.executable, "-c", code, commit_of("b")) as pid:
        facts = listed(store, processes=Only(pid)).facts
    found = facts["models"][1]
    assert facts["use_unknown"] is None and facts["size_on_disk"] == 2 + 2 * 5128 + 6128
    assert {key: found[key] for key in found if key not in ("published_at", "used_at", "kept")} == {
        "repo_id": REPO,
        "commit": commit_of("b"),
        "digest": manifest.digest,
        "state": "complete",
        "complete": True,
        "problems": [],
        "size_on_disk": 2 + 5128 + 6128,
        "unique_bytes": 5128,
        "shared_bytes": 6130,
        "revisions": ["main"],
        "previous_of": [],
        "quick_at": None,
        "deep_at": None,
        "check_problems": [],
        "in_use_by": [{"pid": pid, "command": "python", "pod_uid": None, "how": "names it in its arguments"}],
        "pinned": False,
        "pinned_why": None,
        "snapshot": f"models--judge-lab--tiny/snapshots/{commit_of('b')}",
    }
    json.dumps(facts)


def test_use_that_cannot_be_read_is_a_question_mark_and_no_dash(store: Store) -> None:
    add_model(store, "a")
    result = listed(store, processes=Blind())
    assert rows(result)[1][-2:] == ["?", "current"] and result.ok
    assert result.message.endswith("who uses what is unknown: this runs in a container")
    assert result.facts["models"][0]["in_use_by"] is None


def test_what_is_wrong_is_said_below(store: Store) -> None:
    manifest = add_model(store, "a")
    (store.snapshot(manifest) / OWN).unlink()
    result = listed(store)
    assert rows(result)[1][2] == "incomplete" and f"{REPO} at {'a' * 12}: {OWN} is missing" in result.message


def test_what_others_brought_and_what_is_left_over_is_said(store: Store) -> None:
    add_model(store, "a")
    add_foreign(store, "9", {"x": b"12345"}, "someone/else")
    (store.partial / ("e" * 64)).write_bytes(b"x" * 2048)
    result = listed(store)
    foreign = f"models--someone--else/snapshots/{'9' * 12}: 5 B, not brought by judge-node, and left alone"
    assert foreign in result.message.splitlines()
    assert "2.0 KiB left by syncs that were cut: the next sync goes on from it" in result.message
    assert result.facts["leftover_bytes"] == 2048


def test_list_changes_nothing(store: Store) -> None:
    add_model(store, "a")
    before = {path: path.lstat().st_mtime_ns for path in store.root.rglob("*")}
    with running(sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()", "a" * 40) as pid:
        listed(store, processes=Only(pid))
    assert {path: path.lstat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_empty_store(store: Store) -> None:
    store.own.mkdir(parents=True)
    assert listed(store).message.startswith(f"{store.root}: 0 models, 0 B on disk, ")


def test_terminal_signs_in_a_pin_do_not_reach_the_terminal(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    add_model(store, "a")
    assert main(["cache", "pin", REPO, "--store", str(store.root), "--why", "\x1b[2Jgolden"]) == 0
    assert main(["cache", "list", "--store", str(store.root)]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (47 * 3600, "47 h"),
     (48 * 3600, "2 d"), (400 * DAY, "400 d")],
)  # fmt: skip
def test_age_is_in_its_biggest_unit(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


# --- the store of this node -------------------------------------------------------------------------------------------


class Mounted(System):
    """A node on which these folders are our filesystems."""

    def __init__(self, *folders: Path) -> None:
        super().__init__()
        self._folders = folders
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MARKER_NAME).write_text('{"fs_uuid": "1-2", "serial": "AWS1"}')

    def mounts(self) -> tuple[Mount, ...]:
        return tuple(Mount(str(folder), "259:1", "/", "xfs", "/dev/nvme1n1") for folder in self._folders)


def test_store_is_found_where_our_filesystem_is_mounted(tmp_path: Path, store: Store) -> None:
    add_model(store, "a")
    assert find_store(Mounted(tmp_path / "nvme")) == store.root


@pytest.mark.parametrize("place", ["", "x", "x/y"])
def test_store_may_lie_two_folders_deep(tmp_path: Path, place: str) -> None:
    add_model(Store(tmp_path / "nvme" / place), "a")
    assert find_store(Mounted(tmp_path / "nvme")) == tmp_path / "nvme" / place


def test_several_stores_are_named_and_none_is_taken(tmp_path: Path) -> None:
    for place in ("a", "b"):
        add_model(Store(tmp_path / "nvme" / place), "a")
    with pytest.raises(NodeError) as caught:
        find_store(Mounted(tmp_path / "nvme"))
    assert (caught.value.exit_code, caught.value.message) == (
        2, f"found 2 model stores: {tmp_path}/nvme/a, {tmp_path}/nvme/b"
    )  # fmt: skip


def test_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(NodeError) as caught:
        find_store(Mounted(tmp_path / "nvme"))
    assert caught.value.reason == "MOUNT_MISSING"


# --- status -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.setattr(status_module, "CACHE_RESULT", tmp_path / "cache-result.json")
    monkeypatch.setattr(status_module, "read_result", lambda: None)
    return Mounted(tmp_path / "nvme")


def test_status_says_when_each_model_was_checked(store: Store, node: System) -> None:
    add_model(store, "a")
    assert status_module.status(node).message.splitlines()[1] == (
        f"model {REPO} at {'a' * 12}: complete, 11.0 KiB, checked never, deep never"
    )
    verify_all(store.root, processes=Quiet())
    result = status_module.status(node)
    assert result.ok and " s ago, deep never" in result.message
    assert result.facts["models"][0]["revisions"] == ["main"] and result.facts["models"][0]["quick_at"] is not None


def test_status_fails_while_a_model_is_withdrawn(store: Store, node: System) -> None:
    manifest = add_model(store, "a")
    break_blob(store, manifest, OWN)
    verify_all(store.root, deep=True, processes=Quiet())
    result = status_module.status(node)
    assert (result.ok, result.exit_code, result.reason) == (False, 1, "INTEGRITY_MISMATCH")
    assert result.message.splitlines()[-1] == (
        f"1 of 1 models are not complete: {OWN} does not have the manifest's hash"
    )
    assert result.repair == f"judge-node cache sync {store.note('withdrawn', manifest)} --store {store.root}"


def fail(store: Store, tmp_path: Path, **facts: Any) -> None:
    failed = Result(command="cache verify", ok=False, reason="INTEGRITY_MISMATCH", message="it is odd", facts=facts)
    write_last(tmp_path / "cache-result.json", failed.as_dict())


def test_status_reports_the_last_verify_that_failed(store: Store, node: System, tmp_path: Path) -> None:
    add_model(store, "a")
    fail(store, tmp_path, models=[{"repo_id": REPO, "commit": commit_of("a"), "state": "corrupt"}])
    result = status_module.status(node)
    assert (result.ok, result.reason) == (False, "INTEGRITY_MISMATCH")
    assert result.message.splitlines()[-1] == "the last `cache verify` of this boot failed: it is odd"


def test_status_is_good_again_once_a_sync_has_repaired_what_verify_found(
    store: Store, node: System, tmp_path: Path
) -> None:
    fail(store, tmp_path, models=[{"repo_id": REPO, "commit": commit_of("a"), "state": "corrupt"}])
    add_model(store, "a", days_old=-1 / DAY)
    assert status_module.status(node).ok


def test_status_reports_a_verify_that_did_not_come_as_far_as_a_model(
    store: Store, node: System, tmp_path: Path
) -> None:
    add_model(store, "a", days_old=-1 / DAY)
    fail(store, tmp_path)
    assert not status_module.status(node).ok


def test_status_fails_on_a_damaged_manifest_and_does_not_just_lack_a_model(store: Store, node: System) -> None:
    manifest = add_model(store, "a")
    store.vouch(manifest).chmod(0o644)
    store.vouch(manifest).write_bytes(b"{")
    assert read_catalog(store).damaged == (store.vouch(manifest),)
    result = status_module.status(node)
    assert (result.ok, result.reason) == (False, "MODEL_INCOMPLETE")
    assert result.message.splitlines()[-1] == (
        f"1 of 1 models are not complete: the manifest that vouches for it is damaged ({store.vouch(manifest)})"
    )


def test_update_shows_in_list_at_once(store: Store) -> None:
    add_model(store, "a", days_old=2)
    add_model(store, "b", revision=None, days_old=1)
    update(store.root, f"{REPO}@{commit_of('b')}")
    assert [row[1][0] + row[5] for row in rows(listed(store))[1:]] == ["bmain", "a(main)"]
    assert time.time() - (read_catalog(store).models[0].published_at) > 3600
    assert tree(store.root)
