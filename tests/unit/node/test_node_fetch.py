"""The fetch engine with small chunks: ranges side by side, several sources, limits, and what survives which fault."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_node.cache import fetch, partial
from judge_node.cache.failures import Retry
from judge_node.cache.manifest import parse
from judge_node.cache.sync import sync
from judge_node.result import NodeError, Result
from unit.node.fake_hub import COMMIT, REPO, FakeHub, Fault, manifest_of, serve
from weights import weights

KIB = 1 << 10
_RANDOM = random.Random(7)
BIG, SMALL = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    BIG: weights(_RANDOM.randbytes(1_000_000)),
    SMALL: weights(_RANDOM.randbytes(300_000)),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "CHUNK_BYTES", 128 * KIB)
    monkeypatch.setattr(partial, "PIECE_BYTES", 16 * KIB)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve(dict(FILES)) as server:
        yield server


@pytest.fixture
def mirror() -> Iterator[FakeHub]:
    with serve(dict(FILES)) as server:
        yield server


def run(hub: FakeHub | None, store: Path, files: dict[str, bytes] | None = None, **options: Any) -> Result:
    options.setdefault("retry", Retry(first_wait_seconds=0.001))
    manifest = parse(json.dumps(manifest_of(FILES if files is None else files)).encode())
    endpoint = hub.url if hub else None
    return sync(manifest, store / "hub", endpoint=endpoint, guard=lambda root: None, **options)


def template(mirror: FakeHub) -> str:
    return mirror.url + "/{repo_id}/resolve/{commit}/{path}"


def snapshot(store: Path) -> dict[str, bytes]:
    root = store / "hub/models--judge-lab--tiny/snapshots" / COMMIT
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_a_big_file_is_fetched_in_ranges_that_cover_it_once(hub: FakeHub, tmp_path: Path) -> None:
    result = run(hub, tmp_path)
    assert snapshot(tmp_path) == FILES
    spans = sorted(tuple(map(int, (text or "").removeprefix("bytes=").split("-"))) for text in hub.ranges(BIG))
    assert len(spans) == 8
    assert [first for first, _ in spans] == [0, *(last + 1 for _, last in spans[:-1])]
    assert result.facts["fetched_bytes"] == sum(map(len, FILES.values()))


def test_connections_are_used_again(hub: FakeHub, tmp_path: Path) -> None:
    run(hub, tmp_path, connections=2)
    assert len(hub.asked) == 12
    assert len(hub.clients) <= 2  # one alone, where it was done before the other began


@pytest.mark.parametrize("connections", [1, 2, 8, 64])
def test_any_number_of_connections_brings_the_same_bytes(hub: FakeHub, tmp_path: Path, connections: int) -> None:
    run(hub, tmp_path, connections=connections)
    assert snapshot(tmp_path) == FILES


def test_without_memory_for_the_hash_the_file_is_hashed_from_the_disk(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_POOL_PIECES", 0)
    run(hub, tmp_path)
    assert snapshot(tmp_path) == FILES


def test_a_source_without_ranges_sends_a_big_file_once(hub: FakeHub, tmp_path: Path) -> None:
    hub.knows_range = False
    result = run(hub, tmp_path, {BIG: FILES[BIG]})
    assert snapshot(tmp_path) == {BIG: FILES[BIG]}
    # The connections that asked beside the first one hang up when they see it.
    assert result.facts["fetched_bytes"] < 1.5 * len(FILES[BIG])


def test_a_source_that_loses_its_ranges_half_way_is_finished(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[BIG] = [Fault(), Fault(), Fault(body="truncate", at=50_000), Fault()]
    threading.Timer(0.01, lambda: setattr(hub, "knows_range", False)).start()
    run(hub, tmp_path)
    assert snapshot(tmp_path) == FILES


def test_a_mirror_is_asked_first_and_the_hub_not_at_all(hub: FakeHub, mirror: FakeHub, tmp_path: Path) -> None:
    result = run(hub, tmp_path, sources=(template(mirror),))
    assert snapshot(tmp_path) == FILES
    assert hub.asked == []
    assert result.facts["sources"] == {mirror.url: result.facts["fetched_bytes"]}


def test_a_mirror_without_fields_is_asked_for_blobs(hub: FakeHub, tmp_path: Path) -> None:
    blob = hashlib.sha256(FILES[BIG]).hexdigest()
    with serve({f"/base/{REPO}/blobs/{blob}": FILES[BIG]}) as mirror:
        run(None, tmp_path, {BIG: FILES[BIG]}, sources=(f"{mirror.url}/base/",))
    assert snapshot(tmp_path) == {BIG: FILES[BIG]}


def test_what_a_mirror_lacks_comes_from_the_hub(hub: FakeHub, mirror: FakeHub, tmp_path: Path) -> None:
    del mirror.files[SMALL]
    run(hub, tmp_path, sources=(template(mirror),))
    assert snapshot(tmp_path) == FILES
    assert {asked.path for asked in hub.asked} == {SMALL}


def test_a_mirror_with_wrong_bytes_costs_a_fetch_and_no_more(hub: FakeHub, mirror: FakeHub, tmp_path: Path) -> None:
    mirror.files[SMALL] = bytes(len(FILES[SMALL]))
    run(hub, tmp_path, sources=(template(mirror),))
    assert snapshot(tmp_path) == FILES
    assert hub.sent_bytes(SMALL) == len(FILES[SMALL])


def test_a_mirror_of_another_commit_is_seen_by_its_size(hub: FakeHub, mirror: FakeHub, tmp_path: Path) -> None:
    mirror.files[BIG] = FILES[BIG] + b"!"
    result = run(hub, tmp_path, sources=(template(mirror),))
    assert snapshot(tmp_path) == FILES
    assert result.facts["sources"][hub.url] == len(FILES[BIG])


def test_one_stale_file_does_not_make_a_mirror_useless(hub: FakeHub, mirror: FakeHub, tmp_path: Path) -> None:
    files = {**FILES, **{f"tokenizer_{number}.json": b"{}" + b" " * number for number in range(9)}}
    hub.files, mirror.files = dict(files), {**files, BIG: FILES[BIG] + b"!"}
    run(hub, tmp_path, files, sources=(template(mirror),), connections=1)
    assert {asked.path for asked in hub.asked} == {BIG}


def test_a_mirror_that_dies_half_way_keeps_what_it_brought(hub: FakeHub, mirror: FakeHub, tmp_path: Path) -> None:
    mirror.faults[BIG] = [Fault(), Fault(), *[Fault(status=500)] * 99]
    retry = Retry(attempts=2, first_wait_seconds=0.001)
    run(hub, tmp_path, {BIG: FILES[BIG]}, sources=(template(mirror),), retry=retry)
    assert snapshot(tmp_path) == {BIG: FILES[BIG]}
    assert hub.sent_bytes(BIG) == len(FILES[BIG]) - 2 * 128 * KIB


def test_a_mirror_that_is_not_there_is_not_asked_for_every_file(hub: FakeHub, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        waits = 0

        class Counting(Retry):
            def wait(self, seconds: float) -> None:
                nonlocal waits
                waits += 1

        run(hub, tmp_path, sources=(nobody,), retry=Counting(attempts=3), connections=1)
    assert snapshot(tmp_path) == FILES
    assert waits <= 2 * len(FILES)


def test_when_no_source_has_it_all_are_named(hub: FakeHub, mirror: FakeHub, tmp_path: Path) -> None:
    del mirror.files[BIG], hub.files[BIG]
    with pytest.raises(NodeError) as caught:
        run(hub, tmp_path, sources=(template(mirror),))
    assert caught.value.reason == "SOURCE_NOT_FOUND"
    assert mirror.url in caught.value.message and hub.url in caught.value.message


def test_a_folder_is_a_source(tmp_path: Path) -> None:
    folder = tmp_path / "brought" / REPO
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    result = run(None, tmp_path, sources=(f"{tmp_path}/brought/{{repo_id}}/{{path}}",))
    assert snapshot(tmp_path) == FILES
    assert result.facts["sources"] == {f"{tmp_path}/brought": result.facts["fetched_bytes"]}


@pytest.mark.parametrize("damage", ["missing", "short", "wrong"])
def test_a_damaged_folder_is_passed_over(hub: FakeHub, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "brought"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    broken = folder / BIG
    {"missing": broken.unlink, "short": lambda: broken.write_bytes(FILES[BIG][:-1]),
     "wrong": lambda: broken.write_bytes(FILES[BIG][:-1] + b"?")}[damage]()
    run(hub, tmp_path, sources=(f"file://{folder}/{{path}}",))
    assert snapshot(tmp_path) == FILES
    assert {asked.path for asked in hub.asked} == {BIG}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ftp://mirror/{path}", "wanted a URL such as"),
        ("mirror/{path}", "wanted a URL such as"),
        ("https://mirror/{revision}/{path}", "has the field {revision}"),
        ("https://mirror/{repo_id}", "gives every file the same address"),
        ("https://mirror/{path", "has the field"),
        ("https://user:pw@mirror/{path}", "secrets do not belong in arguments"),
    ],
)
def test_an_unusable_source_is_wrong_usage(hub: FakeHub, tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(NodeError, match=message) as caught:
        run(hub, tmp_path, sources=(source,))
    assert caught.value.exit_code == 2
    assert not (tmp_path / "hub").exists()


def test_without_any_source_there_is_nothing_to_ask(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="no source to fetch from"):
        run(None, tmp_path)


def test_a_token_is_asked_for_when_the_hub_is(hub: FakeHub, mirror: FakeHub, tmp_path: Path) -> None:
    asked: list[int] = []

    def token() -> str:
        asked.append(1)
        return "hf_planted"

    run(hub, tmp_path, sources=(template(mirror),), token=token)
    assert asked == []
    run(hub, tmp_path / "other", token=token)
    assert asked == [1]
    assert {request.headers.get("authorization") for request in hub.asked} == {"Bearer hf_planted"}
    assert {request.headers.get("authorization") for request in mirror.asked} == {None}


def test_a_signed_url_that_expires_half_way_is_asked_for_anew(hub: FakeHub, tmp_path: Path) -> None:
    with serve(dict(FILES)) as cdn:
        place = f"{cdn.url}/{REPO}/resolve/{COMMIT}/{BIG}?signature=s3cret"
        hub.faults[BIG] = [Fault(status=302, headers={"Location": place})] * 50
        cdn.faults[BIG] = [Fault(), Fault(), Fault(status=403), Fault(), Fault(status=403)]
        run(hub, tmp_path, {BIG: FILES[BIG]}, connections=1)
        assert snapshot(tmp_path) == {BIG: FILES[BIG]}
        assert len(hub.ranges(BIG)) == 3
        assert cdn.sent_bytes(BIG) == len(FILES[BIG])


def test_a_place_that_denies_for_good_is_denied(hub: FakeHub, tmp_path: Path) -> None:
    with serve(dict(FILES)) as cdn:
        place = f"{cdn.url}/{REPO}/resolve/{COMMIT}/{BIG}?signature=s3cret"
        hub.faults[BIG] = [Fault(status=302, headers={"Location": place})] * 50
        cdn.faults[BIG] = [Fault(status=403)] * 50
        with pytest.raises(NodeError) as caught:
            run(hub, tmp_path, {BIG: FILES[BIG]}, retry=Retry(attempts=3, first_wait_seconds=0.001))
    assert caught.value.reason == "SOURCE_DENIED"
    assert "s3cret" not in caught.value.message


def test_a_redirect_that_never_ends_is_denied(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults["config.json"] = [Fault(status=302, headers={"Location": f"/{REPO}/resolve/x/config.json"})] * 50
    with pytest.raises(NodeError, match="more than 5 redirects") as caught:
        run(hub, tmp_path)
    assert caught.value.reason == "SOURCE_DENIED"


def test_a_source_that_drips_is_given_up_and_what_it_brought_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[BIG] = [Fault(body="drip", at=100_000)] + [Fault()] * 50
    started = time.monotonic()
    run(hub, tmp_path, retry=Retry(first_wait_seconds=0.001, stall_seconds=0.3))
    assert snapshot(tmp_path) == FILES
    assert time.monotonic() - started < 60  # to its end, the drip takes ten minutes


def test_a_source_that_says_nothing_is_given_up(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[BIG] = [Fault(body="hang", at=100_000)]
    run(hub, tmp_path, retry=Retry(first_wait_seconds=0.001, timeout_seconds=0.3))
    assert snapshot(tmp_path) == FILES


def test_a_limit_of_the_rate_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    started = time.monotonic()
    events: list[dict[str, Any]] = []
    run(hub, tmp_path, limit_rate=800 * KIB, on_progress=events.append)
    assert time.monotonic() - started > 1.0
    assert snapshot(tmp_path) == FILES
    assert "rate limit" in {event["limited_by"] for event in events}


def test_one_answer_that_asks_for_patience_holds_all_connections_back(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[BIG] = [Fault(status=429, headers={"Retry-After": "2"})]
    run(hub, tmp_path, {BIG: FILES[BIG]}, connections=2)
    times = sorted(asked.at for asked in hub.asked)
    assert max(later - earlier for earlier, later in zip(times, times[1:], strict=False)) > 0.9


def test_progress_ends_with_everything(hub: FakeHub, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run(hub, tmp_path, on_progress=events.append)
    last, total = events[-1], sum(map(len, FILES.values()))
    assert (last["files_done"], last["files"], last["bytes_done"], last["bytes"]) == (3, 3, total, total)
    assert last["fetched_bytes"] == total


def test_an_interrupted_fetch_stops_at_once_and_keeps_what_came(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults[BIG] = [Fault(body="hang", at=64 * KIB)] * 50
    retry = Retry(first_wait_seconds=0.001)

    def interrupt(progress: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(hub, tmp_path, retry=retry, on_progress=interrupt)
    assert time.monotonic() - started < 25  # given up by themselves, the connections end after 30 seconds
    # A thread that has told its end is listed for a moment yet.
    left = [thread for thread in threading.enumerate() if thread.name in ("keeper", "connection", "saver")]
    for thread in left:
        thread.join(2)
    assert not any(thread.is_alive() for thread in left)
    hub.faults.clear()
    result = run(hub, tmp_path)
    assert result.facts["resumed_bytes"] > 0
    assert snapshot(tmp_path) == FILES


def test_what_was_kept_for_another_model_is_cleared_away_first(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults[BIG] = [Fault(status=404)] * 9
    with pytest.raises(NodeError):
        run(hub, tmp_path)
    partial = tmp_path / "hub/.locks/judge-bootstrap/partial"
    assert list(partial.iterdir())
    hub.faults.clear()
    run(hub, tmp_path, {SMALL: FILES[SMALL]})
    assert not list(partial.iterdir())


def test_stage_brings_the_snapshot_and_leaves_the_branch(hub: FakeHub, tmp_path: Path) -> None:
    result = run(hub, tmp_path, stage=True)
    assert (result.state, snapshot(tmp_path)) == ("complete", FILES)
    assert not (tmp_path / "hub/models--judge-lab--tiny/refs").exists()
    assert not run(hub, tmp_path, stage=True).changed
    assert run(hub, tmp_path).changed
    assert (tmp_path / "hub/models--judge-lab--tiny/refs/main").read_text() == COMMIT
