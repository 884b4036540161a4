"""The site's answers and refusals that need no lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_lab import LabError, clearing, network, prerequisites, process, site, state, verbs
from judge_lab.layout import Layout
from judge_lab.process import Process
from judge_lab.state import NodeState, State


@pytest.fixture(autouse=True)
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A lab directory and a lock of the test's own; the machine has no bridge."""
    monkeypatch.setenv("JUDGE_LAB_DIR", str(tmp_path / "lab"))
    monkeypatch.setattr(state, "LOCK_FILE", tmp_path / "lab.lock")
    monkeypatch.setattr(site, "LOCK_FILE", tmp_path / "lab.lock")
    monkeypatch.setattr(network, "bridge_owner", lambda: None)
    monkeypatch.setattr(prerequisites, "check", lambda: None)
    return Layout(tmp_path / "lab")


@pytest.fixture
def sleeper(layout: Layout) -> Iterator[Process]:
    """Something of the lab that runs."""
    started = process.spawn(["sleep", "60"], log=layout.logs / "sleep.log", mark=layout.root)
    yield started
    process.end([started])


def test_without_a_record_the_lab_does_not_run() -> None:
    assert site.status()["running"] is False
    assert site.status()["nodes"] == {}


def test_a_lab_of_another_boot_does_not_run(layout: Layout) -> None:
    State(layout, boot="of-last-week", nodes={"node-1": NodeState(1)}).save()
    assert site.status()["running"] is False


def test_a_dead_part_is_told_and_the_lab_does_not_count_as_running(layout: Layout, sleeper: Process) -> None:
    node = NodeState(1, process=sleeper, instance_id="i-0abc")
    State(layout, processes={"etcd": sleeper, "hub": Process(sleeper.pid, 1)}, nodes={"node-1": node}).save()
    found = site.status()
    assert (found["parts"]["etcd"], found["parts"]["hub"]) == ("running", "dead")
    assert found["nodes"]["node-1"]["state"] == "running"
    assert found["running"] is False


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (NodeState(1, wanted="stopped"), "stopped"),
        (NodeState(1, wanted="killed"), "killed"),
        (NodeState(1), "dead"),
    ],
)
def test_a_node_that_does_not_run_says_why(node: NodeState, expected: str) -> None:
    assert verbs.condition(node) == expected


def test_a_running_node_without_its_cable_is_cut(sleeper: Process) -> None:
    assert verbs.condition(NodeState(1, plugged=False, process=sleeper)) == "cut"


def test_the_environment_points_every_client_at_the_lab_and_carries_no_real_credentials(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-operators-own")
    found = site.environment()
    assert found["AWS_ENDPOINT_URL"] == "http://10.77.0.1:5000"
    assert found["AWS_ENDPOINT_URL_APPCONFIGDATA"] == "http://10.77.0.1:5001"
    assert found["HF_ENDPOINT"] == "http://10.77.0.1:8080"
    assert found["KUBECONFIG"] == str(layout.kube / "admin.kubeconfig")
    assert "an-operators-own" not in found.values()


@pytest.mark.parametrize("nodes", [0, 33])
def test_a_number_of_nodes_out_of_range_is_refused(nodes: int) -> None:
    with pytest.raises(LabError, match=f"{nodes} nodes asked for, wanted 1 to 32"):
        site.up(nodes)


def test_an_unknown_verb_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LabError, match="unknown verb 'explode', wanted one of stop, start, reboot, add"):
        site.node("explode", "node-1")


def test_a_verb_needs_a_lab_that_runs() -> None:
    with pytest.raises(LabError, match="the lab does not run") as caught:
        site.node("stop", "node-1")
    assert caught.value.hint == "judge-bootstrap lab up"


def test_an_unknown_node_is_refused_with_the_known_ones(layout: Layout, sleeper: Process) -> None:
    State(layout, processes={"etcd": sleeper}, nodes={"node-1": NodeState(1)}).save()
    with pytest.raises(LabError, match="no node 'node-7', the lab has node-1"):
        site.node("stop", "node-7")


@pytest.mark.parametrize(("name", "hint"), [("gpu-box", "judge-bootstrap lab node add node-2"), ("node-1", None)])
def test_only_a_free_name_of_the_right_form_can_be_added(
    layout: Layout, sleeper: Process, name: str, hint: str | None
) -> None:
    State(layout, processes={"etcd": sleeper}, nodes={"node-1": NodeState(1)}).save()
    with pytest.raises(LabError) as caught:
        site.node("add", name)
    if hint:
        assert caught.value.hint == hint
    else:
        assert caught.value.message == "node-1 exists already"


def test_stopping_a_node_that_is_stopped_is_refused(layout: Layout, sleeper: Process) -> None:
    State(layout, processes={"etcd": sleeper}, nodes={"node-1": NodeState(1, wanted="stopped")}).save()
    with pytest.raises(LabError, match="node-1 is stopped, wanted it running"):
        site.node("stop", "node-1")


@pytest.mark.parametrize("command", [site.up, site.down])
def test_a_lab_in_another_directory_is_left_alone(
    command: object, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "bridge_owner", lambda: "/srv/other-lab")
    monkeypatch.setattr(clearing, "clear", lambda layout: pytest.fail("cleared"))
    with pytest.raises(LabError, match="/srv/other-lab") as caught:
        command()  # type: ignore[operator]
    assert caught.value.hint == "JUDGE_LAB_DIR=/srv/other-lab judge-bootstrap lab down"


def test_the_stand_ins_are_named() -> None:
    text = " ".join(site.stand_ins())
    for word in ("moto", "AppConfig", "Hub", "namespaces", "loop device", "device plugin", "vllm/vllm-openai"):
        assert word in text
