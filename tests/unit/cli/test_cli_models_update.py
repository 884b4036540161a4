"""`models update` and `rollback`: what of the pods is said, asked for, refused, and left by a command that is cut."""

from __future__ import annotations

from typing import Any

import pytest
from fakes_cli import OK, Desk, failed, ok, stats
from fakes_roll import PLACE, A, B, FakeCluster
from judge_bootstrap.adapters.runner import Ended
from judge_bootstrap.cli import fleet as fleet_module

LINE = {"pod": "judge-1", "node": "node-1", "ready": True, "asked": True, "commit": B, "reason": None,
        "golden_items": 3, "golden_drift": 0.25}
ROLL: dict[str, Any] = {"from": A, "to": B, "outcome": "rolled", "wanted": 1, "canary": None, "seconds": 40.0,
                        "replicas": [LINE]}


@pytest.fixture
def fleet(desk: Desk) -> Desk:
    (desk.content / "playbooks" / "models.yml").write_text("[]\n")
    return desk


def moved(fleet: Desk, **roll: Any) -> None:
    """Have the next run move pods."""
    fleet.runner.events = [ok("node-1", "Watch", changed=True, roll={**ROLL, **roll}), ok("node-2"),
                           stats(node_1=OK, node_2=OK)]


@pytest.mark.parametrize(("words", "options"), [
    (["update", "--nodes-only"], {"nodes_only": True}),
    (["update", "--canary", "25%"], {"canary": "25%"}),
    (["update", "--canary", "25%", "--bake", "1h30m"], {"canary": "25%", "bake_seconds": 5400}),
    (["rollback", "--nodes-only"], {"nodes_only": True})])
def test_what_is_said_about_the_pods_reaches_the_playbook(fleet: Desk, words: list[str], options: Any) -> None:
    result = fleet.invoke("--env", "prod", "models", *words)
    assert result.exit_code == 0, result.output
    assert fleet.runner.calls[-1].extra_vars["models_options"] == options


@pytest.mark.parametrize(("words", "said"), [
    (["--bake", "5m"], "found --bake without --canary, wanted both"),
    (["--canary", "25%", "--nodes-only"], "found --canary and --nodes-only, wanted one: no pod moves"),
    (["--canary", "25"], "--canary is '25', wanted a percentage from 1% to 100%"),
    (["--canary", "25%", "--bake", "soon"], "--bake is \"soon\", wanted a span such as 30s, 10m or 1h30m")])
def test_what_does_not_go_together_is_refused_before_anything_runs(fleet: Desk, words: list[str], said: str) -> None:
    result = fleet.invoke("--env", "prod", "models", "update", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert fleet.runner.calls == []


def test_json_has_what_each_new_replica_said(fleet: Desk) -> None:
    moved(fleet)
    _, answer = fleet.invoke_json("--env", "prod", "models", "update")
    assert answer["roll"] == ROLL


def test_json_has_no_roll_when_no_pod_was_to_move(fleet: Desk) -> None:
    _, answer = fleet.invoke_json("--env", "prod", "models", "update")
    assert answer["roll"] is None


def test_people_read_a_line_for_each_new_replica(fleet: Desk) -> None:
    moved(fleet)
    result = fleet.invoke("--env", "prod", "models", "update")
    assert "pods: aaaaaaaaaaaa -> bbbbbbbbbbbb, rolled, 1 new ones asked of 1" in result.stdout
    assert "judge-1 on node-1: ready, 3 golden answers, 0.25 points from what was accepted" in result.stdout


def test_pods_that_were_moved_need_no_further_run(fleet: Desk) -> None:
    moved(fleet)
    _, answer = fleet.invoke_json("--env", "prod", "models", "update")
    assert answer["next"][0] == "judge-bootstrap --env prod run verify        prove it, link by link"


def test_a_failed_update_says_why_and_what_was_found_of_the_replicas(fleet: Desk) -> None:
    message = f"rolled back, {A[:12]} serves on all 1 replicas: {B[:12]} was not taken: pod judge-1: 4.50 points"
    roll = {**ROLL, "outcome": "rolled_back"}
    fleet.runner.events = [
        failed("node-1", "Watch", msg=f"GOLDEN_DRIFT: {message} (repair: look)", reason="GOLDEN_DRIFT", repair="look",
               roll=roll), stats(node_1={"failures": 1}, node_2=OK)]
    fleet.runner.ended = Ended(2)
    result, answer = fleet.invoke_json("--env", "prod", "models", "update")
    assert (result.exit_code, answer["reason"], answer["roll"]["outcome"]) == (1, "GOLDEN_DRIFT", "rolled_back")
    assert answer["hosts"]["node-1"]["message"] == message


def test_the_repair_of_an_update_of_the_nodes_alone_is_one_of_the_nodes_alone(fleet: Desk) -> None:
    staged = {"ok": True, "command": "cache start", "state": "complete", "message": "",
              "facts": {"revision": "main", "commit": B}}
    fleet.runner.events = [ok("node-1", judge=staged), failed("node-2", msg="no space"),
                           stats(node_1=OK, node_2={"failures": 1})]
    fleet.runner.ended = Ended(2)
    _, answer = fleet.invoke_json("--env", "prod", "models", "update", "--nodes-only")
    assert answer["hosts"]["node-1"]["repair"] == "judge-bootstrap --env prod models update --nodes-only"


@pytest.fixture
def cut_at_canary(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Return a cluster in which an update is paused at its canary, as the CLI finds it after Ctrl-C."""
    from judge_bootstrap.adapters import model_roll, roll_cluster, roll_state
    from judge_bootstrap.cli import cluster_settings
    from judge_bootstrap.core.model_roll import commit_of

    cluster = FakeCluster.serving(A, 4)
    cluster.verified(B)
    served = roll_state.read_served(cluster, PLACE)
    model_roll.stage(cluster, PLACE, served, {"commit": B}, 10, cluster.timing())
    cluster.roll_out(B, A)
    for _ in range(2):  # the old one goes, the new one comes
        cluster.tick(2)
    cluster.merge("Deployment", PLACE.namespace, PLACE.name, {"spec": {"paused": True}})
    assert commit_of(cluster.deployment) == B

    class Settings:
        namespace, service_name, render_dir = PLACE.namespace, PLACE.name, None

        def connect(self) -> None:
            if cluster.broken:
                raise cluster.broken

    monkeypatch.setattr(cluster_settings, "read_cluster_settings", lambda *_: Settings())
    monkeypatch.setattr(roll_cluster, "KubernetesRollCluster", lambda _: cluster)
    return cluster


def interrupted(fleet: Desk, *words: str) -> str:
    fleet.runner.ended = Ended(None, interrupted=True)
    result = fleet.invoke("--env", "prod", "models", *words)
    assert result.exit_code == 130
    return result.stderr


def test_an_update_that_is_cut_says_where_the_pods_stand_and_how_to_go_on(
    fleet: Desk, cut_at_canary: FakeCluster
) -> None:
    said = interrupted(fleet, "update", "--canary", "25%")
    assert ("llm-judge/judge is paused at its canary: 1 of 4 replicas were moved from aaaaaaaaaaaa to bbbbbbbbbbbb; "
            "judge-bootstrap --env prod models update goes on, models rollback goes back") in " ".join(said.split())


def test_an_update_that_is_cut_says_so_when_the_cluster_cannot_be_asked(
    fleet: Desk, cut_at_canary: FakeCluster
) -> None:
    from judge_bootstrap.core.errors import BootstrapError

    cut_at_canary.broken = BootstrapError("no answer", reason="CLUSTER_UNREACHABLE")
    assert "where the pods stand cannot be read: no answer" in interrupted(fleet, "update")


@pytest.mark.parametrize("words", [["update", "--nodes-only"], ["update", "--check"], ["list"]])
def test_only_what_moves_pods_looks_at_them_when_it_is_cut(
    fleet: Desk, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(fleet_module, "_say_where_it_stands", lambda *given: asked.append(given))
    interrupted(fleet, *words)
    assert asked == []
