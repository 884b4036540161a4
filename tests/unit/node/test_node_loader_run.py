"""The loader's loop over a real store and a real HTTP server: what it says on the Node, and in which order."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_node.cache.failures import Retry
from judge_node.cache.manifest import Manifest, parse
from judge_node.cache.store import Store
from judge_node.cache.sync import sync
from judge_node.loader import run as run_module
from judge_node.loader.node import Report
from judge_node.loader.run import Loader, Settings
from judge_node.locking import locked
from unit.node.fake_hub import FakeHub, Fault, manifest_of, serve
from unit.node.model_stores import break_blob
from weights import weights

_RANDOM = random.Random(5)
SHARD = "model-00001-of-00002.safetensors"
FILES = {
    "config.json": b"{}",
    SHARD: weights(_RANDOM.randbytes(300_000)),
    "model-00002-of-00002.safetensors": weights(_RANDOM.randbytes(50_000)),
}
OWN_OF_OTHER = "other.safetensors"
OTHER_FILES = {"config.json": b"{}", SHARD: FILES[SHARD], OWN_OF_OTHER: weights(_RANDOM.randbytes(60_000))}
A, B = "a" * 40, "b" * 40


def manifest(commit: str = A, files: dict[str, bytes] = FILES) -> Manifest:
    return parse(json.dumps({**manifest_of(files), "commit": commit}).encode())




class Notes:
    """Takes reports, as the Node does: what is said twice is noted once."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._before: Report | None = None

    def report(self, report: Report) -> bool:
        if self._before != report:
            self.reports.append(report)
        self._before = report
        return True

    def clear(self) -> None:
        self.reports.clear()

    @property
    def last(self) -> Report:
        return self.reports[-1]

    def states(self) -> list[tuple[str, str | None]]:
        found = [(report.state, report.reason) for report in self.reports]
        return [state for index, state in enumerate(found) if index == 0 or found[index - 1] != state]


class Bench:
    """A node's store, its folder of manifests, a Hub, and loaders over them."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self.folder, self.hub, self.notes = folder, hub, Notes()
        self.lines: list[str] = []
        self.store = folder / "nvme" / "hub"
        self.store.parent.mkdir()
        self.models = folder / "models"
        self.models.mkdir()
        self.problem: str | None = None

    def want(self, **manifests: Manifest | None) -> None:
        for name, found in manifests.items():
            path = self.models / f"{name}.json"
            if found is None:
                path.unlink()
            else:
                path.write_bytes(found.canonical())

    def loader(self, *, notes: Notes | None = None, **options: Any) -> Loader:
        own = {key: options.pop(key) for key in ("first_pause_seconds", "progress_seconds") if key in options}
        settings = Settings(**{"models": self.models, "store": self.store, "node": "node-1", "endpoint": self.hub.url,
                               **options})
        return Loader(settings, notes or self.notes, self.lines.append, guard=lambda root: self.problem,
                      make_retry=lambda: Retry(attempts=2, first_wait_seconds=0.001), **own)

    def sync(self, wanted: Manifest, **options: Any) -> None:
        sync(wanted, self.store, endpoint=self.hub.url, guard=lambda root: None, **options)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serve({**OTHER_FILES, **FILES}) as hub:
        made = Bench(tmp_path, hub)
        made.want(wanted=manifest())
        yield made


def steps(loader: Loader, most: int = 10) -> None:
    for _ in range(most):
        if not loader.step():
            return
    raise AssertionError(f"still busy after {most} steps")


@contextlib.contextmanager
def as_soon_as(holds: Callable[[], bool], then: Callable[[], object]) -> Iterator[None]:
    """Do something beside the block when something holds; after a minute without it, anyway."""

    def watch() -> None:
        give_up = time.monotonic() + 60
        while not holds() and time.monotonic() < give_up:
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    thread.join()


def until(holds: Any, loader: Loader, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    loader.step()
    while not holds():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.01)
        loader.step()


# --- warming a node ---------------------------------------------------------------------------------------------------


def test_a_blank_disk_is_reported_first_then_filled_then_free(bench: Bench) -> None:
    steps(bench.loader())
    first, last = bench.notes.reports[0], bench.notes.last
    assert (first.state, first.ready, first.percent) == ("syncing", frozenset(), 0)
    assert (last.state, last.ready, last.reason, last.percent) == ("complete", {A}, None, 100)
    assert Store(bench.store).refs(manifest().repo_id) == {"main": A}


def test_a_complete_model_is_said_without_asking_the_hub(bench: Bench) -> None:
    bench.sync(manifest())
    asked = len(bench.hub.asked)
    steps(bench.loader())
    assert (bench.notes.states(), len(bench.hub.asked)) == ([("complete", None)], asked)


def test_when_nothing_changes_nothing_new_is_said(bench: Bench) -> None:
    loader = bench.loader()
    steps(loader)
    said = len(bench.notes.reports)
    for _ in range(5):
        assert not loader.step()
    assert len(bench.notes.reports) == said


def test_a_disk_that_is_not_mounted_is_waited_for_and_never_written_to(bench: Bench) -> None:
    bench.problem, loader = "/mnt/nvme is a folder", bench.loader(compile_cache=bench.folder / "nvme/vllm-cache")
    steps(loader)
    assert (bench.notes.last.state, bench.notes.last.reason) == ("failed", "MOUNT_MISSING")
    assert list(bench.store.parent.iterdir()) == []
    bench.problem = None
    steps(loader)
    assert bench.notes.last.ready == {A}


def test_a_disk_that_goes_away_takes_the_label_with_it(bench: Bench) -> None:
    loader = bench.loader()
    steps(loader)
    shutil.rmtree(bench.store)
    bench.problem = "gone"
    loader.step()
    assert (bench.notes.last.ready, bench.notes.last.reason) == (frozenset(), "MOUNT_MISSING")


def test_progress_is_said_with_a_percentage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("judge_node.cache.fetch._TICK_SECONDS", 0.02)
    bench.hub.faults[SHARD] = [Fault(body="drip", at=200_000)]
    loader = bench.loader(progress_seconds=0.0)

    def is_on_its_way() -> bool:
        return any(0 < (report.percent or 0) < 100 for report in bench.notes.reports)

    with as_soon_as(is_on_its_way, bench.hub.go_on.set):
        steps(loader)
    percents = [report.percent for report in bench.notes.reports if report.state == "syncing"]
    assert percents == sorted(percents)
    assert any(0 < percent < 100 for percent in percents)
    assert any("of" in report.message and "%" in report.message for report in bench.notes.reports)


# --- other models -----------------------------------------------------------------------------------------------------


def test_next_is_brought_beside_the_wanted_one_which_stays_complete(bench: Bench) -> None:
    bench.want(next=manifest(B, OTHER_FILES))
    steps(bench.loader())
    assert bench.notes.last.ready == {A, B}
    assert Store(bench.store).refs(manifest().repo_id) == {"main": A}
    complete = bench.notes.reports.index(next(r for r in bench.notes.reports if r.state == "complete"))
    assert {report.state for report in bench.notes.reports[complete:]} == {"complete"}


def test_next_is_not_begun_before_the_wanted_one_is_complete(bench: Bench) -> None:
    bench.want(next=manifest(B, OTHER_FILES))
    bench.hub.faults[SHARD] = [Fault(403)]
    bench.loader().step()
    assert B not in bench.notes.last.ready
    assert OWN_OF_OTHER not in {asked.path for asked in bench.hub.asked}


def test_a_next_that_cannot_be_had_leaves_the_node_free_and_says_why(bench: Bench) -> None:
    files = {**FILES, "tokenizer.json": b"not on the hub"}
    bench.want(next=manifest(B, files))
    steps(bench.loader())
    bench.notes.clear()
    loader = bench.loader()
    steps(loader)
    loader.step()
    assert (bench.notes.last.state, bench.notes.last.reason) == ("complete", "SOURCE_NOT_FOUND")
    assert bench.notes.last.ready == {A}


def test_previous_is_verified_and_never_fetched(bench: Bench) -> None:
    bench.want(previous=manifest(B, OTHER_FILES))
    steps(bench.loader())
    assert (bench.notes.last.ready, dict(bench.notes.last.commits)) == ({A}, {A: "complete", B: "incomplete"})
    bench.sync(manifest(B, OTHER_FILES), stage=True)
    notes = Notes()
    steps(bench.loader(notes=notes))
    assert notes.last.ready == {A, B}


def test_the_same_commit_in_all_three_files_is_one_model(bench: Bench) -> None:
    bench.want(next=manifest(), previous=manifest())
    steps(bench.loader())
    assert dict(bench.notes.last.commits) == {A: "complete"}


def test_a_commit_that_is_on_the_disk_and_in_no_file_keeps_its_label(bench: Bench) -> None:
    bench.sync(manifest(B, OTHER_FILES), stage=True)
    steps(bench.loader())
    assert bench.notes.last.ready == {A, B}


def test_another_wanted_model_is_taken_up_without_a_restart(bench: Bench) -> None:
    loader = bench.loader()
    steps(loader)
    bench.want(wanted=manifest(B, OTHER_FILES), previous=manifest())
    bench.notes.clear()
    steps(loader)
    assert (bench.notes.reports[0].wanted, bench.notes.reports[0].ready) == (B, {A})
    assert (bench.notes.last.state, bench.notes.last.ready) == ("complete", {A, B})
    assert Store(bench.store).refs(manifest().repo_id) == {"main": B}


def test_a_staged_model_that_becomes_wanted_is_free_at_once_and_gets_the_branch(bench: Bench) -> None:
    bench.want(next=manifest(B, OTHER_FILES))
    loader = bench.loader()
    steps(loader)
    bench.want(wanted=manifest(B, OTHER_FILES), next=None)
    bench.notes.clear()
    steps(loader)
    assert {report.state for report in bench.notes.reports} == {"complete"}
    assert Store(bench.store).refs(manifest().repo_id) == {"main": B}


def test_a_fetch_is_left_when_another_model_is_wanted_meanwhile(
        bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("judge_node.cache.fetch._TICK_SECONDS", 0.02)
    bench.hub.faults[SHARD] = [Fault(body="hang", at=100_000)]
    small = manifest(B, {"config.json": b"{}"})
    with as_soon_as(lambda: bench.hub.sent_bytes(SHARD) >= 100_000, lambda: bench.want(wanted=small)):
        steps(bench.loader())
    assert (bench.notes.last.wanted, bench.notes.last.ready) == (B, {B})
    assert any("stopped, because another model is wanted now" in line for line in bench.lines)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_source_that_refuses_is_said_with_its_reason_and_tried_again(bench: Bench) -> None:
    bench.hub.faults[SHARD] = [Fault(403), Fault(403)]
    loader = bench.loader(first_pause_seconds=0.01)
    until(lambda: bench.notes.last.state == "complete", loader)
    states = bench.notes.states()
    assert (states[:2], states[-1]) == ([("syncing", None), ("failed", "SOURCE_DENIED")], ("complete", None))


def test_the_pauses_between_attempts_grow_and_have_an_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(run_module.time, "monotonic", lambda: now)
    monkeypatch.setattr(run_module.random, "random", lambda: 1.0)
    bench.want(wanted=manifest(files={**FILES, "tokenizer.json": b"not on the hub"}))
    loader = bench.loader()
    attempts = []
    for second in range(1300):
        now = 1000.0 + second
        before = len(bench.lines)
        loader.step()
        if any("next attempt" in line for line in bench.lines[before:]):
            attempts.append(second)
    pauses = [after - before for before, after in zip(attempts, attempts[1:], strict=False)]
    assert pauses == [10, 20, 40, 80, 160, *[300] * (len(pauses) - 5)]
    assert len(pauses) > 6


def test_a_sync_of_somebody_else_is_waited_for_and_is_no_failure(
        bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_LOCK_SECONDS", 0.01)
    bench.sync(manifest(B, {"config.json": b"{}"}), stage=True)
    loader = bench.loader()
    with locked(Store(bench.store).lock, wait_seconds=1):
        assert not loader.step()
        assert not loader.step()
    assert bench.notes.last.state == "syncing" and bench.notes.last.reason == "LOCKED"
    steps(loader)
    assert A in bench.notes.last.ready


def test_what_a_mirror_has_needs_no_token(bench: Bench) -> None:
    mirror = f"{bench.hub.url}/{{repo_id}}/resolve/{{commit}}/{{path}}"
    loader = bench.loader(token_file=str(bench.folder / "token"), sources=(mirror,), endpoint="http://127.0.0.1:1")
    steps(loader)
    assert A in bench.notes.last.ready


def test_a_token_file_that_is_not_there_yet_is_said(bench: Bench) -> None:
    loader = bench.loader(token_file=str(bench.folder / "token"), first_pause_seconds=0.01)
    loader.step()
    loader.step()
    assert (bench.notes.last.state, bench.notes.last.reason) == ("failed", "TOKEN_UNAVAILABLE")
    (bench.folder / "token").write_text("hf_planted\n")
    until(lambda: bench.notes.last.state == "complete", loader)
    assert "hf_planted" not in repr(bench.notes.reports) + repr(bench.lines)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", None])
def test_a_wanted_that_is_no_manifest_is_said_and_taints(bench: Bench, text: bytes | None) -> None:
    (bench.models / "wanted.json").unlink() if text is None else (bench.models / "wanted.json").write_bytes(text)
    steps(bench.loader())
    assert (bench.notes.last.state, bench.notes.last.reason, bench.notes.last.ready) == (
        "failed", "MANIFEST_UNUSABLE", frozenset())
    assert "wanted.json" in bench.notes.last.message


def test_a_manifest_that_is_broken_later_changes_nothing_and_is_said(bench: Bench) -> None:
    loader = bench.loader()
    steps(loader)
    (bench.models / "wanted.json").write_bytes(b"{")
    steps(loader)
    assert (bench.notes.last.state, bench.notes.last.reason, bench.notes.last.ready) == (
        "complete", "MANIFEST_UNUSABLE", {A})
    bench.want(wanted=manifest())
    steps(loader)
    assert bench.notes.last.reason is None


# --- verified again ---------------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_is_seen_at_the_next_look_and_fetched_again(bench: Bench) -> None:
    loader = bench.loader()
    steps(loader)
    store, wanted = Store(bench.store), manifest()
    store.blob(wanted, next(f for f in wanted.files if f.path == SHARD)).unlink()
    bench.notes.clear()
    steps(loader)
    assert bench.notes.states() == [("syncing", None), ("complete", None)]
    assert bench.notes.reports[0].ready == frozenset()


def test_corrupt_weights_are_found_by_the_deep_timer_and_repaired(bench: Bench) -> None:
    loader = bench.loader(verify_deep_seconds=0.2)
    steps(loader)
    break_blob(Store(bench.store), manifest(), SHARD)
    bench.notes.clear()
    until(lambda: ("corrupt", "INTEGRITY_MISMATCH") in bench.notes.states() and bench.notes.last.ready, loader)
    assert bench.notes.states() == [("corrupt", "INTEGRITY_MISMATCH"), ("syncing", None), ("complete", None)]
    corrupt = next(report for report in bench.notes.reports if report.state == "corrupt")
    assert corrupt.ready == frozenset() and corrupt.message
    assert (bench.store / f"models--judge-lab--tiny/snapshots/{A}/{SHARD}").read_bytes() == FILES[SHARD]


def test_a_header_that_is_wrong_is_found_by_the_quick_timer(bench: Bench) -> None:
    loader = bench.loader(verify_quick_seconds=0.05)
    steps(loader)
    break_blob(Store(bench.store), manifest(), SHARD, at=0)
    bench.notes.clear()
    time.sleep(0.1)
    steps(loader)
    assert bench.notes.states() == [("corrupt", "INTEGRITY_MISMATCH"), ("syncing", None), ("complete", None)]


def test_without_timers_only_what_sizes_show_is_seen(bench: Bench) -> None:
    loader = bench.loader()
    steps(loader)
    break_blob(Store(bench.store), manifest(), SHARD, at=0)
    steps(loader)
    assert bench.notes.states()[-1] == ("complete", None)


def test_a_corrupt_next_loses_its_label_and_the_node_stays_free(bench: Bench) -> None:
    bench.want(next=manifest(B, OTHER_FILES))
    loader = bench.loader(verify_deep_seconds=0.2)
    steps(loader)
    break_blob(Store(bench.store), manifest(B, OTHER_FILES), OWN_OF_OTHER)
    bench.notes.clear()
    until(lambda: any(B not in report.ready for report in bench.notes.reports), loader)
    until(lambda: B in bench.notes.last.ready, loader)
    assert all(A in report.ready and report.state == "complete" for report in bench.notes.reports)


def test_the_deep_check_is_not_due_again_after_a_restart(bench: Bench) -> None:
    steps(bench.loader(verify_deep_seconds=3600))
    bench.hub.asked.clear()
    loader = bench.loader(verify_deep_seconds=3600)
    steps(loader)
    assert loader._checks._thread is None


# --- the compile caches -----------------------------------------------------------------------------------------------


def test_compile_caches_of_models_that_are_gone_go_and_nothing_else(bench: Bench) -> None:
    caches = bench.folder / "nvme/vllm-cache"
    steps(bench.loader(compile_cache=caches))
    assert caches.stat().st_mode & 0o7777 == 0o755
    kept = [f"{A[:12]}-12345678-t4", "c" * 12, "C" * 12 + "-x", "lost+found", "c" * 40 + "-x"]
    for name in (*kept, f"{B[:12]}-12345678-t4"):
        (caches / name / "torch").mkdir(parents=True)
    (caches / ("d" * 12 + "-file")).write_text("")
    (bench.folder / "elsewhere").mkdir()
    (bench.folder / "elsewhere" / "precious").write_text("")
    (caches / ("e" * 12 + "-link")).symlink_to(bench.folder / "elsewhere")
    caches.chmod(0o2775)
    steps(bench.loader(compile_cache=caches))
    assert sorted(path.name for path in caches.iterdir()) == sorted([*kept, "d" * 12 + "-file", "e" * 12 + "-link"])
    assert (bench.folder / "elsewhere" / "precious").exists()
    assert caches.stat().st_mode & 0o7777 == 0o2775


def test_a_cache_that_cannot_be_removed_is_logged_and_the_model_comes_all_the_same(
        bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("judge_node.loader.compile_cache.shutil.rmtree", refused)
    (bench.folder / "nvme/vllm-cache" / f"{B[:12]}-x").mkdir(parents=True)
    steps(bench.loader(compile_cache=bench.folder / "nvme/vllm-cache"))
    assert any(line.startswith("compile caches: ") and "Permission denied" in line for line in bench.lines)
    assert bench.notes.last.ready == {A}


# --- once -------------------------------------------------------------------------------------------------------------


def test_once_brings_the_wanted_model_and_no_other(bench: Bench) -> None:
    bench.want(next=manifest(B, OTHER_FILES))
    result = bench.loader().once()
    assert (result.ok, result.exit_code, result.state) == (True, 0, "complete")
    assert bench.notes.last.ready == {A}


@pytest.mark.parametrize(("fault", "reason"), [(Fault(403), "SOURCE_DENIED"), (Fault(404), "SOURCE_NOT_FOUND")])
def test_once_says_on_the_node_and_with_its_exit_code_that_it_failed(
        bench: Bench, fault: Fault, reason: str) -> None:
    bench.hub.faults[SHARD] = [fault] * 9
    result = bench.loader().once()
    assert (result.exit_code, result.reason) == (1, reason)
    assert (bench.notes.last.state, bench.notes.last.reason) == ("failed", reason)


def test_once_does_not_wait_for_a_disk(bench: Bench) -> None:
    bench.problem = "no disk"
    result = bench.loader().once()
    assert (result.exit_code, result.reason, bench.notes.last.reason) == (1, "MOUNT_MISSING", "MOUNT_MISSING")
    assert list(bench.store.parent.iterdir()) == []
