"""`models lock`: what it writes, what it shows, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_cli import Desk
from judge_lab.hub import HubServer

REPO = "org/tiny"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "vocab.json").write_text("{}")
    return folder


@pytest.fixture
def locking(desk: Desk, repository: Path) -> Iterator[Desk]:
    """Return the CLI with a Hub of its own, and a lock file named in the settings."""
    with HubServer(repository.parents[1]) as hub:
        desk.role_variables = {"model_cache_repo_id": REPO, "model_cache_revision": "main",
                               "model_cache_hub_endpoint": hub.url, "model_cache_lock_file": "prod.model.json",
                               "model_cache_allow_auto_map": False, "model_cache_mirror": None}
        yield desk


def lock_file(desk: Desk) -> Path:
    return desk.content / "inventory" / "prod.model.json"


def test_it_writes_what_the_revision_means(locking: Desk) -> None:
    result, answer = locking.invoke_json("--env", "prod", "models", "lock")
    assert (result.exit_code, answer["changed"], answer["file"]) == (0, True, str(lock_file(locking)))
    written = json.loads(lock_file(locking).read_text())
    assert (written["commit"], written["digest"], written["quantization"]) == (
        answer["commit"], answer["digest"], "awq")
    assert [file["path"] for file in written["files"]] == ["config.json", "model.safetensors", "vocab.json"]


def test_it_shows_the_revision_resolved_and_what_comes_next(locking: Desk) -> None:
    result = locking.invoke("--env", "prod", "models", "lock")
    commit = json.loads(lock_file(locking).read_text())["commit"]
    assert f"org/tiny: main is commit {commit}, 3 files, 6.9 KiB, quantization awq" in result.stdout
    assert "+ model.safetensors" in result.stdout
    assert "Next: commit it, then: judge-bootstrap --env prod plan model_cache" in result.stdout


def test_writing_it_again_changes_nothing(locking: Desk) -> None:
    locking.invoke("--env", "prod", "models", "lock")
    before = lock_file(locking).stat().st_mtime_ns
    result, answer = locking.invoke_json("--env", "prod", "models", "lock")
    assert (result.exit_code, answer["changed"], answer["fetch_bytes"]) == (0, False, 0)
    assert lock_file(locking).stat().st_mtime_ns == before


def test_a_new_commit_shows_what_changes_and_what_a_node_will_fetch(locking: Desk, repository: Path) -> None:
    _, first = locking.invoke_json("--env", "prod", "models", "lock")
    (repository / "vocab.json").unlink()
    (repository / "merges.txt").write_text("a b")
    (repository / "config.json").write_text('{"a": 1}')
    result, answer = locking.invoke_json("--env", "prod", "models", "lock", "--check")
    assert (result.exit_code, answer["check"], answer["changed"]) == (0, True, True)
    assert (answer["commit_before"], answer["commit"] != first["commit"]) == (first["commit"], True)
    assert (answer["added_files"], answer["changed_files"], answer["removed_files"]) == (
        ["merges.txt"], ["config.json"], ["vocab.json"])
    assert answer["fetch_bytes"] == len("a b") + len('{"a": 1}')
    assert json.loads(lock_file(locking).read_text())["commit"] == first["commit"], "--check wrote it"


def test_check_before_there_is_a_file_writes_none(locking: Desk) -> None:
    result = locking.invoke("--env", "prod", "models", "lock", "--check")
    assert result.exit_code == 0
    assert f"Would write {lock_file(locking)}" in result.stdout
    assert not lock_file(locking).exists()


def test_a_file_that_was_edited_is_named_and_written_anew(locking: Desk) -> None:
    locking.invoke("--env", "prod", "models", "lock")
    good = lock_file(locking).read_text()
    lock_file(locking).write_text(good.replace("7000", "7001"))
    result = locking.invoke("--env", "prod", "models", "lock")
    assert result.exit_code == 0
    assert "was edited" in result.stderr and "it is written anew" in result.stderr
    assert lock_file(locking).read_text() == good


def test_out_writes_elsewhere_and_says_how_to_have_it_read(locking: Desk, tmp_path: Path) -> None:
    locking.role_variables["model_cache_lock_file"] = None
    result = locking.invoke("--env", "prod", "models", "lock", "--out", str(tmp_path / "x.json"))
    assert f"set model_cache_lock_file: {tmp_path / 'x.json'}" in result.stdout
    assert (tmp_path / "x.json").is_file()


def test_without_any_place_to_write_it_says_where_it_could_be(locking: Desk) -> None:
    locking.role_variables["model_cache_lock_file"] = None
    result = locking.invoke("--env", "prod", "models", "lock")
    assert result.exit_code == 2
    assert "nothing says where the lock file belongs" in result.stderr
    assert "inventory/prod.model.json" in result.stderr


@pytest.mark.parametrize(("model", "reason", "said"), [
    ({"model_cache_repo_id": "org/none"}, "SOURCE_NOT_FOUND", "knows no model org/none"),
    ({"model_cache_revision": "none"}, "SOURCE_NOT_FOUND", "org/tiny has no revision 'none'"),
])
def test_what_the_hub_does_not_have_is_one_line_and_writes_nothing(
    locking: Desk, model: dict[str, str], reason: str, said: str
) -> None:
    locking.role_variables |= model
    result, answer = locking.invoke_json("--env", "prod", "models", "lock")
    assert (result.exit_code, answer["reason"]) == (1, reason)
    assert said in answer["message"] and answer["hint"]
    assert not lock_file(locking).exists()


def test_a_repository_with_pickles_alone_is_refused_by_their_names(locking: Desk, repository: Path) -> None:
    (repository / "model.safetensors").rename(repository / "pytorch_model.bin")
    result, answer = locking.invoke_json("--env", "prod", "models", "lock")
    assert (result.exit_code, answer["reason"]) == (1, "FILE_FORBIDDEN")
    assert "pytorch_model.bin, which can run code" in answer["message"]


def test_a_model_that_asks_for_code_is_refused_unless_it_is_allowed(locking: Desk, repository: Path) -> None:
    (repository / "config.json").write_text('{"auto_map": {}}')
    _, answer = locking.invoke_json("--env", "prod", "models", "lock")
    assert answer["reason"] == "FILE_FORBIDDEN"
    locking.settings.passed_on = {"model_cache_allow_auto_map": "true"}
    assert locking.invoke("--env", "prod", "models", "lock").exit_code == 0


def test_a_value_that_only_ansible_could_render_is_named(locking: Desk) -> None:
    locking.role_variables["model_cache_hub_endpoint"] = "{{ hub }}"
    result = locking.invoke("--env", "prod", "models", "lock")
    assert result.exit_code == 2
    assert "model_cache_hub_endpoint: Ansible cannot render it here" in result.stderr
    assert "-e model_cache_hub_endpoint=VALUE" in result.stderr


def test_a_secret_is_refused_as_in_a_run(locking: Desk) -> None:
    result = locking.invoke("--env", "prod", "models", "lock", "-e", "hf_token=abc")
    assert result.exit_code == 2
    assert "would put a secret on the command line" in result.stderr and "abc" not in result.output
