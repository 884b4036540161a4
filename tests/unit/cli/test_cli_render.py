"""`render`: what is handed to the runner, and how its answer is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes_cli import OK, Desk, ok, stats


@pytest.fixture
def desk(desk: Desk) -> Desk:
    (desk.content / "playbooks" / "vllm_k8s.yml").write_text("[]\n")
    desk.runner.events = [ok("node-1", "Write the objects", changed=True), stats(node_1=OK, node_2=OK), ok("node-2")]
    return desk


def test_a_relative_directory_becomes_an_absolute_one_and_the_next_command_is_named(
        desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = desk.invoke("--env", "prod", "render", "--out", "out", "-e", "vllm_k8s_replicas=2")
    assert result.exit_code == 0, result.output
    (request,) = desk.runner.calls
    assert [path.stem for path in request.playbooks] == ["vllm_k8s"]
    assert request.extra_vars == {"vllm_k8s_render_dir": str(tmp_path / "out")}
    assert desk.asked_settings == [("vllm_k8s_replicas=2",)]
    assert f"kubectl apply --server-side --field-manager judge-bootstrap -f {tmp_path}/out" in result.stdout


def test_a_check_writes_nothing_and_names_the_command_that_does(desk: Desk) -> None:
    result = desk.invoke("--env", "prod", "render", "--out", "/srv/out", "--check")
    assert desk.runner.calls[0].check is True
    assert "judge-bootstrap --env prod render --out /srv/out        write them" in result.stdout
    result = desk.invoke("--env", "prod", "render", "--out", "/srv/out", "--check", "-e", '{"vllm_k8s_replicas": 2}')
    assert ("judge-bootstrap --env prod render --out /srv/out -e '{\"vllm_k8s_replicas\": 2}'        write them"
            in result.stdout)


def test_json_names_the_directory(desk: Desk) -> None:
    answer = json.loads(desk.invoke("--env", "prod", "--json", "render", "--out", "/srv/out").stdout)
    assert (answer["ok"], answer["command"], answer["directory"]) == (True, "render", "/srv/out")


def test_without_a_directory_it_is_wrong_usage(desk: Desk) -> None:
    result = desk.invoke("--env", "prod", "render")
    assert result.exit_code == 2 and "--out" in result.stderr
