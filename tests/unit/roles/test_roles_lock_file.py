"""The lock file: how it reads, what it refuses, and what a new one changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judge_bootstrap.adapters.hub import model_of
from judge_bootstrap.adapters.lock_file import load_lock, place_of, write_lock
from judge_bootstrap.core.errors import BootstrapError, ExitCode
from judge_bootstrap.core.model_lock import compare, lock_text, read_lock
from judge_bootstrap.core.model_manifest import ListedFile, build_manifest, sealed
from judge_node.cache.manifest import parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def manifest(commit: str = COMMIT, quantization: str | None = "awq", **files: str) -> dict[str, Any]:
    """Return a sealed manifest; each file is named by one letter of its hash."""
    given = {"config_json": "a", "model_safetensors": "b", **files}
    listing = [ListedFile(name.replace("_", "."), 10, None if name.startswith("config") else letter * 64,
                          letter * 40 if name.startswith("config") else None) for name, letter in given.items()]
    return sealed(build_manifest("org/name", "main", commit, listing), quantization)


def test_a_lock_file_reads_as_one_file_a_line_and_ends_with_a_newline() -> None:
    assert lock_text(manifest()).splitlines() == [
        "{",
        '  "schema": 1,',
        '  "repo_id": "org/name",',
        '  "revision": "main",',
        f'  "commit": "{COMMIT}",',
        '  "quantization": "awq",',
        '  "files": [',
        f'    {{"path": "config.json", "size": 10, "sha256": null, "blob_sha1": "{"a" * 40}"}},',
        f'    {{"path": "model.safetensors", "size": 10, "sha256": "{"b" * 64}", "blob_sha1": null}}',
        "  ],",
        f'  "digest": "{manifest()["digest"]}"',
        "}",
    ]
    assert lock_text(manifest()).endswith("}\n")


@pytest.mark.parametrize("quantization", [None, "awq"])
def test_what_was_locked_is_what_is_read(quantization: str | None) -> None:
    locked = manifest(quantization=quantization)
    assert read_lock(lock_text(locked).encode(), "x.json") == locked


def test_a_node_takes_the_lock_file_as_a_manifest() -> None:
    assert parse(lock_text(manifest()).encode()).digest == manifest()["digest"]


@pytest.mark.parametrize(("was", "becomes"), [
    ('"size": 10', '"size": 11'), ('"awq"', '"gptq"'), ('"quantization": "awq",', ""), ("b" * 64, "c" * 64),
    (COMMIT, COMMIT[::-1]), ('"main"', '"next"'),
])
def test_a_lock_file_that_was_edited_is_refused(was: str, becomes: str) -> None:
    text = lock_text(manifest()).replace(was, becomes)
    with pytest.raises(BootstrapError, match=r"^x\.json: the manifest of org/name was edited") as caught:
        read_lock(text.encode(), "x.json")
    assert caught.value.reason == "INTEGRITY_MISMATCH"
    assert caught.value.hint == "judge-bootstrap --env ENV models lock"


def without_digest() -> str:
    return json.dumps({key: value for key, value in manifest().items() if key != "digest"})


@pytest.mark.parametrize(("content", "message", "reason"), [
    ("{", "is not JSON", "LOCK_FILE_UNUSABLE"),
    ("", "is not JSON", "LOCK_FILE_UNUSABLE"),
    (without_digest(), "has no digest", "LOCK_FILE_UNUSABLE"),
    (lock_text(manifest()).replace("config.json", "config.py"), "config.py", "FILE_FORBIDDEN"),
    (lock_text(manifest()).replace("config.json", "../../config.json"), "without '..'", "FILE_FORBIDDEN"),
])
def test_what_is_no_lock_file_is_refused_in_one_line(content: str, message: str, reason: str) -> None:
    with pytest.raises(BootstrapError, match=message) as caught:
        read_lock(content.encode(), "x.json")
    assert caught.value.reason == reason
    assert "\n" not in caught.value.message


def test_a_lock_file_that_is_not_there_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(BootstrapError, match="cannot be read: no such file") as caught:
        load_lock(tmp_path / "x.json")
    assert str(caught.value.hint).startswith("judge-bootstrap --env ENV models lock")


def test_with_a_lock_file_no_network_is_asked(tmp_path: Path) -> None:
    write_lock(tmp_path / "inventory" / "x.json", lock_text(manifest()))
    found = model_of("org/name", "main", "http://127.0.0.1:1", lock_file="x.json",
                     inventory_dir=tmp_path / "inventory" / "prod")
    assert (found.manifest["commit"], found.quantization) == (COMMIT, "awq")


def test_the_settings_may_name_the_locked_commit_itself(tmp_path: Path) -> None:
    write_lock(tmp_path / "x.json", lock_text(manifest()))
    found = model_of("org/name", COMMIT, "", lock_file=str(tmp_path / "x.json"), inventory_dir=tmp_path)
    assert found.digest == manifest()["digest"]


@pytest.mark.parametrize(("repo_id", "revision"), [("org/other", "main"), ("org/name", "next"), ("org/name", "a" * 40)])
def test_a_lock_file_of_another_model_or_revision_is_refused(tmp_path: Path, repo_id: str, revision: str) -> None:
    write_lock(tmp_path / "x.json", lock_text(manifest()))
    with pytest.raises(BootstrapError) as caught:
        model_of(repo_id, revision, "", lock_file=str(tmp_path / "x.json"), inventory_dir=tmp_path)
    assert f"locks org/name at revision main (0123456789ab), the settings name {repo_id} at" in caught.value.message
    assert (caught.value.reason, caught.value.exit_code) == ("LOCK_FILE_UNUSABLE", ExitCode.USAGE)


def test_a_relative_lock_file_lies_beside_the_environment_and_not_in_its_inventory() -> None:
    assert place_of("prod.json", Path("/site/inventory/prod")) == Path("/site/inventory/prod.json")
    assert place_of("/etc/prod.json", Path("/site/inventory/prod")) == Path("/etc/prod.json")


def test_a_lock_file_is_replaced_as_a_whole_and_others_may_read_it(tmp_path: Path) -> None:
    write_lock(tmp_path / "x.json", "before\n")
    write_lock(tmp_path / "x.json", "after\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "after\n"
    assert (tmp_path / "x.json").stat().st_mode & 0o444 == 0o444


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BootstrapError, match="cannot be written: ") as caught:
        write_lock(tmp_path / "file" / "x.json", "text")
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_change_counts_only_the_bytes_that_a_node_does_not_have() -> None:
    change = compare(manifest(), manifest("f" * 40, model_safetensors="c", model2_safetensors="b", vocab_json="d"))
    assert (change.commit_before, change.commit) == (COMMIT, "f" * 40)
    assert (change.added, change.changed, change.removed) == (
        ("model2.safetensors", "vocab.json"), ("model.safetensors",), ())
    # model2 has the bytes that model had before: every node has that blob.
    assert (change.fetch_bytes, change.size_bytes) == (20, 40)


def test_a_first_lock_file_adds_everything() -> None:
    change = compare(None, manifest())
    assert (change.commit_before, change.added, change.fetch_bytes) == (None, ("config.json", "model.safetensors"), 20)
    assert change.lines()[0] == f"commit (none) -> {COMMIT}"
