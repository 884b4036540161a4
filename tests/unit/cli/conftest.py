"""A content root of its own, and a state directory of its own, for every test of the CLI."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes_cli import Desk

PLAYBOOKS = ("site", "preflight", "nvme", "model_cache", "vllm_k8s", "verify")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Return a CLI with fakes, over playbooks that exist by name and the environments local and prod."""
    content = tmp_path / "content"
    (content / "playbooks").mkdir(parents=True)
    for name in PLAYBOOKS:
        (content / "playbooks" / f"{name}.yml").write_text("[]\n")
    for env in ("local", "prod"):
        (content / "inventory" / env / "group_vars").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CONTENT_ROOT", str(content))
    monkeypatch.setenv("JUDGE_BOOTSTRAP_STATE", str(tmp_path / "state"))
    for name in ("LOG_LEVEL", "LOG_FILE", "JUDGE_BOOTSTRAP_INVENTORY"):
        monkeypatch.delenv(name, raising=False)
    return Desk(content)
