"""`run model_cache --limit NODE -e model.id=...`: another model onto one node, by hand, over real ssh."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_drills import MODEL_BYTES, REPOSITORY, Drill, drill
from ssh_hosts import can_run
from weights import weights

pytestmark = [pytest.mark.root, pytest.mark.skipif(not can_run(), reason="needs root, sshd and unshare")]
OTHER = "drill/other"


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Drill]:
    with drill(tmp_path, 2) as made:
        other = tmp_path / "models" / OTHER
        other.mkdir()
        (other / "config.json").write_text('{"model_type": "qwen2", "tie_word_embeddings": true}')
        (other / "model.safetensors").write_bytes(weights(os.urandom(MODEL_BYTES)))
        yield made


def models_of(field: Drill, node: int) -> list[str]:
    store = field.hosts.hosts[node].store / "hub"
    return sorted(field.hosts.hosts[node].in_namespace("ls", str(store)).split())


def test_a_second_model_is_planned_and_fetched_on_the_named_node_alone(field: Drill) -> None:
    assert field.run("run", "model_cache")[0] == 0
    words = ["run", "model_cache", "--limit", "node-2", "-e", f"model.id={OTHER}"]

    code, planned = field.run(*words, "--check", "--diff")
    assert (code, list(planned["hosts"])) == (0, ["node-2"])
    [change] = planned["changes"]
    assert f"+fetch 2 files, 1.0 MiB, from {field.hub.url}:" in change["diff"]
    assert f"+publish snapshot {OTHER} at {field.hub.commit(OTHER)[:12]}" in change["diff"]
    assert field.downloads() == 0

    code, answer = field.run(*words)
    assert (code, answer["hosts"]["node-2"]["state"], answer["changed"]) == (0, "complete", 1)
    names = ["models--" + name.replace("/", "--") for name in (OTHER, REPOSITORY)]
    assert models_of(field, 1) == names
    assert models_of(field, 0) == names[1:]

    code, answer = field.run(*words)
    assert (code, answer["changed"], field.downloads()) == (0, 0, 0)
