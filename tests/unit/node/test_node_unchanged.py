"""The short way of a sync with nothing to do: the same answer, and only while nothing at all has changed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judge_node import unchanged
from judge_node.__main__ import main
from unit.node.fake_hub import COMMIT, FakeHub, manifest_of, serve
from weights import weights

FILES = {"config.json": b"{}", "sub/generation_config.json": b"{} ", "model.safetensors": weights(bytes(5000))}
REPO_FOLDER = "models--judge-lab--tiny"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve(dict(FILES)) as server:
        yield server


class Synced:
    """A store on a filesystem of its own, and the command line of its sync."""

    def __init__(self, root: Path, manifest: Path, hub: FakeHub) -> None:
        self.root, self.manifest = root, manifest
        self.snapshot = root / REPO_FOLDER / "snapshots" / COMMIT
        self.own = root / ".locks/judge-bootstrap"
        self.words = ["cache", "sync", str(manifest), "--store", str(root), "--endpoint", hub.url, "--json"]

    def short(self) -> str | None:
        return unchanged.answer(self.words)


@pytest.fixture
def synced(hub: FakeHub, memory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Synced]:
    root = memory / "hub"
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(manifest_of(FILES)))
    made = Synced(root, manifest, hub)
    try:
        sys.argv, before = ["judge-node", *made.words], sys.argv
        assert main() == 0
        capsys.readouterr()
        yield made
    finally:
        sys.argv = before


def test_it_prints_what_the_long_way_prints(synced: Synced, capsys: pytest.CaptureFixture[str]) -> None:
    short = synced.short()
    shutil.rmtree(synced.own / "unchanged")
    assert main() == 0
    assert short == capsys.readouterr().out
    assert json.loads(short or "")["changed"] is False


def test_it_loads_none_of_the_program(synced: Synced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "judge_node.cli", None)
    assert main() == 0


def change_blob(synced: Synced) -> None:
    (blob := (synced.snapshot / "model.safetensors").resolve()).chmod(0o644)
    blob.write_bytes(blob.read_bytes())


def replace_link(synced: Synced) -> None:
    link = synced.snapshot / "config.json"
    target = (synced.snapshot / "model.safetensors").readlink()
    link.unlink()
    link.symlink_to(target)


def remove_file(synced: Synced) -> None:
    (synced.snapshot / "sub/generation_config.json").unlink()


def add_file(synced: Synced) -> None:
    (synced.snapshot / "sub/extra.py").write_text("import os")


def remove_vouch(synced: Synced) -> None:
    (synced.own / "manifests" / REPO_FOLDER / f"{COMMIT}.json").unlink()


def move_branch(synced: Synced) -> None:
    (synced.root / REPO_FOLDER / "refs/main").write_text("b" * 40)


def edit_manifest(synced: Synced) -> None:
    synced.manifest.write_text(synced.manifest.read_text().replace('"main"', '"dev"'))


def cut_note(synced: Synced) -> None:
    (note,) = (synced.own / "unchanged").iterdir()
    note.write_bytes(note.read_bytes()[:-10])


def damage_note(synced: Synced) -> None:
    (note,) = (synced.own / "unchanged").iterdir()
    note.write_bytes(note.read_bytes().replace(b'"sha256"', b'"sha265"', 1))


@pytest.mark.parametrize(
    "change",
    [
        *(change_blob, replace_link, remove_file, add_file, remove_vouch, move_branch, edit_manifest),
        *(cut_note, damage_note),
    ],
)
def test_whatever_changed_it_does_not_answer(synced: Synced, change: Callable[[Synced], None]) -> None:
    assert synced.short() is not None
    change(synced)
    assert synced.short() is None


@pytest.mark.parametrize("word", ["--deep", "--check", "--stage", "--help", "--token-file=/x", "--bogus", "another"])
def test_anything_else_that_is_asked_for_goes_the_long_way(synced: Synced, word: str) -> None:
    synced.words.append(word)
    assert synced.short() is None


def test_a_store_on_the_root_filesystem_goes_the_long_way(synced: Synced, tmp_path: Path) -> None:
    if tmp_path.stat().st_dev != Path("/").stat().st_dev:
        pytest.skip("the temporary folder is on a filesystem of its own")
    copy = tmp_path / "hub"
    shutil.copytree(synced.root, copy, symlinks=True)
    synced.words[4] = str(copy)
    assert synced.short() is None
