"""A model update on a cluster: which replica ends it, what comes back, and what is left where it was cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes_roll import PLACE, A, B, C, FakeCluster, manifest
from judge_bootstrap.adapters.model_roll import finish, roll, roll_back, stage
from judge_bootstrap.adapters.roll_state import (
    describe,
    needed_config_maps,
    read_served,
    refuse_paused,
    unfinished_text,
)
from judge_bootstrap.adapters.roll_watch import Found
from judge_bootstrap.core.errors import BootstrapError, Refusal, UsageProblem
from judge_bootstrap.core.model_roll import Replica, Roll, View, canary_count, earlier_replica_set, health_refusal

DRIFT = {"ready": False, "reason": "GOLDEN_DRIFT", "message": "4.00 points from what was accepted", "commit": B}


def staged(cluster: FakeCluster, commit: str = B) -> None:
    """Do what an update does before it rolls."""
    cluster.at(4, lambda one: one.verified(commit))
    served = read_served(cluster, PLACE)
    stage(cluster, PLACE, served, manifest(commit), 60, cluster.timing())
    cluster.roll_out(commit, served.commit)


def update(cluster: FakeCluster, commit: str = B, **options: Any) -> Found:
    """Do all of an update to `commit`."""
    served = read_served(cluster, PLACE)
    staged(cluster, commit)
    return roll(cluster, PLACE, served, commit, timing=cluster.timing(), **options)


def cut(cluster: FakeCluster, seconds: float, **options: Any) -> None:
    """Do an update that is killed after so many seconds."""
    def kill(_: FakeCluster) -> None:
        raise KeyboardInterrupt

    served = read_served(cluster, PLACE)
    staged(cluster)
    cluster.at(seconds, kill)
    with pytest.raises(KeyboardInterrupt):
        roll(cluster, PLACE, served, B, timing=cluster.timing(), **options)
    # Kubernetes goes on by itself.
    for _ in range(60):
        cluster.tick(2.0)


# --- an update that holds


def test_an_update_moves_every_replica_and_never_misses_more_than_one() -> None:
    cluster = FakeCluster.serving(A, 4)
    found = update(cluster)
    assert (found.outcome, found.wanted, cluster.commits()) == ("rolled", 4, ["b"] * 4)
    assert (cluster.fewest_ready, cluster.most_pods) == (3, 4)


def test_every_new_replica_is_asked_for_its_commit_and_its_golden_answers() -> None:
    found = update(FakeCluster.serving(A, 3))
    assert [(line["commit"], line["golden_items"], line["golden_drift"], line["ready"]) for line in found.replicas] == [
        (B, 2, 0.25, True)] * 3


def test_after_an_update_nothing_of_it_is_left_but_the_way_back() -> None:
    cluster = FakeCluster.serving(A, 2)
    update(cluster)
    assert "judge-bootstrap.io/update" not in cluster.annotations
    served = read_served(cluster, PLACE)
    assert (served.commit, served.previous, served.target, served.paused) == (B, A, None, False)
    assert "next.json" not in cluster.loader_files


def test_replicas_that_cannot_be_reached_from_here_were_asked_by_kubelet_and_are_listed_so() -> None:
    cluster = FakeCluster.serving(A, 2, reachable=False)
    found = update(cluster)
    assert (found.outcome, [line["asked"] for line in found.replicas]) == ("rolled", [False, False])


def test_a_ready_replica_that_does_not_answer_at_once_is_asked_again_before_the_end() -> None:
    cluster = FakeCluster.serving(A, 1)
    asked: list[bool] = []
    answer = cluster.health

    def health(namespace: str, pod: str, port: int) -> Any:
        if any(one.ready and one.commit == B for one in cluster.pods):
            asked.append(True)
        return answer(namespace, pod, port) if len(asked) >= 3 else None

    cluster.health = health  # type: ignore[method-assign]
    assert [line["asked"] for line in update(cluster).replicas] == [True]


def test_nothing_is_proven_and_nothing_waited_for_without_replicas() -> None:
    cluster = FakeCluster.serving(A, 1)
    cluster.deployment["spec"]["replicas"] = 0
    for _ in range(5):
        cluster.tick(2)
    found = update(cluster)
    assert (found.wanted, found.replicas, cluster.pods) == (0, [], [])


# --- staging


def test_nothing_rolls_before_every_node_that_serves_has_verified_the_files() -> None:
    cluster = FakeCluster.serving(A, 2)
    cluster.nodes["node-1"]["metadata"]["annotations"] = {"judge-bootstrap.io/model-state": json.dumps(
        {"state": "failed", "reason": "SPACE_SHORT", "message": "2 GiB are missing"})}
    cluster.at(4, lambda one: one.nodes["node-0"]["metadata"]["labels"].update(
        {f"judge-bootstrap.io/model-{B}": "ready"}))
    with pytest.raises(BootstrapError) as caught:
        stage(cluster, PLACE, read_served(cluster, PLACE), manifest(B), 30, cluster.timing())
    assert caught.value.reason == "SPACE_SHORT"
    assert caught.value.message == (f"1 of 2 nodes have not verified commit {B[:12]} after 30 s, so nothing was "
                                    "rolled: node-1 is failed: 2 GiB are missing")
    assert cluster.commits() == ["a", "a"]


def test_a_node_that_is_still_warming_up_is_not_waited_for() -> None:
    cluster = FakeCluster.serving(A, 2)
    cluster.at(4, lambda one: one.verified(B))
    cluster.at(5, lambda one: one.add_node("node-new"))
    assert stage(cluster, PLACE, read_served(cluster, PLACE), manifest(B), 30, cluster.timing()) == ["node-0", "node-1"]


def test_a_cluster_without_gpu_nodes_is_no_cluster_that_is_ready() -> None:
    cluster = FakeCluster.serving(A, 1)
    cluster.nodes.clear()
    with pytest.raises(BootstrapError, match="found no ready node with role=ai-gpu, wanted at least one"):
        stage(cluster, PLACE, read_served(cluster, PLACE), manifest(B), 0, cluster.timing())


def test_the_loader_is_told_of_the_new_files_and_its_pods_see_it_at_once() -> None:
    cluster = FakeCluster.serving(A, 1, loader_pods=["loader-1", "loader-2"])
    cluster.at(4, lambda one: one.verified(B))
    stage(cluster, PLACE, read_served(cluster, PLACE), manifest(B), 30, cluster.timing())
    assert cluster.loader_files == {"wanted.json": A, "next.json": B}
    assert [name for _, name, _ in cluster.writes][-2:] == ["Pod/loader-1", "Pod/loader-2"]


# --- an update that does not hold


def test_a_replica_whose_golden_answers_drift_brings_the_old_commit_back_by_itself() -> None:
    cluster = FakeCluster.serving(A, 3, bad={B: DRIFT})
    with pytest.raises(BootstrapError) as caught:
        update(cluster)
    assert caught.value.reason == "GOLDEN_DRIFT"
    assert caught.value.message.startswith(f"rolled back, {A[:12]} serves on all 3 replicas: {B[:12]} was not taken: ")
    assert "4.00 points" in caught.value.message
    assert cluster.commits() == ["a", "a", "a"]
    assert (cluster.fewest_ready, cluster.most_pods) == (2, 3)


def test_only_one_replica_was_ever_touched_by_an_update_that_does_not_hold() -> None:
    cluster = FakeCluster.serving(A, 5, bad={B: DRIFT})
    before = {pod.name for pod in cluster.pods}
    with pytest.raises(BootstrapError):
        update(cluster)
    assert len(before - {pod.name for pod in cluster.pods}) == 1


def test_a_drift_is_not_waited_for_until_the_deadline() -> None:
    cluster = FakeCluster.serving(A, 2, bad={B: DRIFT})
    started = cluster.now
    with pytest.raises(BootstrapError):
        update(cluster)
    assert cluster.now - started < cluster.deployment["spec"]["progressDeadlineSeconds"]


@pytest.mark.parametrize("says", [None, {"ready": False, "reason": "VERDICT_INVALID"},
                                  {"ready": False, "reason": None, "commit": B}])
def test_a_replica_that_is_not_ready_in_time_brings_the_old_commit_back(says: dict[str, Any] | None) -> None:
    cluster = FakeCluster.serving(A, 2, bad={B: says})
    with pytest.raises(BootstrapError, match="1 pods wait"):
        update(cluster)
    assert cluster.commits() == ["a", "a"]


def test_what_a_replica_said_last_is_in_the_reason_when_time_runs_out() -> None:
    says = {"ready": False, "reason": "VERDICT_INVALID", "message": "golden answer git: status 500", "commit": B}
    with pytest.raises(BootstrapError, match="1 pods wait; it says: golden answer git: status 500") as caught:
        update(FakeCluster.serving(A, 2, bad={B: says}))
    assert caught.value.reason == "VERDICT_INVALID"


def test_a_replica_that_serves_another_commit_than_it_should_ends_the_update() -> None:
    cluster = FakeCluster.serving(A, 2, bad={B: {"ready": True, "reason": None, "commit": A}})
    with pytest.raises(BootstrapError) as caught:
        update(cluster)
    assert caught.value.reason == "WRONG_MODEL_SERVED"


def test_a_replica_that_ends_again_and_again_is_not_waited_for() -> None:
    cluster = FakeCluster.serving(A, 2, bad={B: None})
    cluster.at(20, lambda one: [setattr(pod, "restarts", 3) for pod in one.pods if pod.commit == B])
    with pytest.raises(BootstrapError, match="was restarted 3 times") as caught:
        update(cluster)
    assert caught.value.reason == "PROBE_FAILING"


def test_old_pods_come_back_with_what_they_had_whatever_the_settings_say_by_now() -> None:
    cluster = FakeCluster.serving(A, 2, bad={B: DRIFT})
    served = read_served(cluster, PLACE)
    cluster.verified(B)
    stage(cluster, PLACE, served, manifest(B), 10, cluster.timing())
    cluster.roll_out(B, A, gateway="judge-gateway-2")
    with pytest.raises(BootstrapError):
        roll(cluster, PLACE, served, B, timing=cluster.timing())
    volumes = cluster.deployment["spec"]["template"]["spec"]["volumes"]
    assert volumes[1]["configMap"]["name"] == "judge-gateway-1"
    assert "pod-template-hash" not in cluster.deployment["spec"]["template"]["metadata"]["labels"]


def test_after_going_back_the_loader_wants_the_old_commit_and_the_way_back_is_the_old_one() -> None:
    cluster = FakeCluster.serving(A, 1)
    update(cluster)
    cluster.bad[C] = {**DRIFT, "commit": C}
    with pytest.raises(BootstrapError):
        update(cluster, C)
    served = read_served(cluster, PLACE)
    assert (served.commit, served.previous, served.target) == (B, A, None)
    assert cluster.loader_files == {"wanted.json": B, "previous.json": A}


def test_a_way_back_that_does_not_end_is_said_with_what_led_to_it() -> None:
    cluster = FakeCluster.serving(A, 2, bad={B: DRIFT})
    served = read_served(cluster, PLACE)
    staged(cluster)
    del cluster.objects["ConfigMap", PLACE.namespace, "judge-gateway-1"]
    with pytest.raises(BootstrapError) as caught:
        roll(cluster, PLACE, served, B, timing=cluster.timing())
    assert caught.value.reason == "GOLDEN_DRIFT"
    assert "going back to aaaaaaaaaaaa did not end: cannot go back to commit aaaaaaaaaaaa" in caught.value.message
    assert "ConfigMap judge-gateway-1 is gone" in caught.value.message
    assert caught.value.hint == "judge-bootstrap --env prod models rollback"


def test_an_api_server_that_is_gone_is_no_reason_to_go_back() -> None:
    cluster = FakeCluster.serving(A, 2)
    served = read_served(cluster, PLACE)
    staged(cluster)
    gone = BootstrapError("cannot read: no answer", reason="CLUSTER_UNREACHABLE")
    cluster.at(6, lambda one: setattr(one, "broken", gone))
    with pytest.raises(BootstrapError, match="the update is left as it is") as caught:
        roll(cluster, PLACE, served, B, timing=cluster.timing())
    assert caught.value.reason == "CLUSTER_UNREACHABLE"
    assert [kind for kind, _, _ in cluster.writes].count("apply") == 0


def test_what_somebody_else_applied_meanwhile_is_not_undone() -> None:
    cluster = FakeCluster.serving(A, 2)
    cluster.at(14, lambda one: one.roll_out(C, A))
    with pytest.raises(BootstrapError, match="was changed to commit cccccccccccc by somebody else"):
        update(cluster)
    for _ in range(60):
        cluster.tick(2.0)
    assert cluster.commits() == ["c", "c"]


# --- the canary


def test_a_canary_stops_the_others_until_it_has_stayed_ready_for_its_time() -> None:
    cluster = FakeCluster.serving(A, 4)
    seen: list[tuple[float, list[str]]] = []
    cluster.at(30, lambda one: seen.append((one.now, one.commits())))
    started = cluster.now
    found = update(cluster, canary="25%", bake_seconds=60)
    assert seen[0][1] == ["a", "a", "a", "b"]
    assert (found.canary, cluster.commits(), cluster.now - started > 60) == (1, ["b"] * 4, True)
    assert "paused" not in cluster.deployment["spec"]


def test_no_replica_goes_down_while_the_canary_is_watched() -> None:
    cluster = FakeCluster.serving(A, 4)
    counts: list[int] = []
    for second in range(30, 100, 5):
        cluster.at(second, lambda one: counts.append(sum(pod.ready for pod in one.pods)))
    update(cluster, canary="50%", bake_seconds=120)
    assert counts[-5:] == [4] * 5


def test_a_canary_that_is_ready_and_then_is_not_ends_the_update() -> None:
    cluster = FakeCluster.serving(A, 4)

    def turn(one: FakeCluster) -> None:
        one.bad[B] = {"ready": False, "reason": "PROBE_FAILING", "commit": B}
        for pod in one.pods:
            pod.ready = pod.ready and pod.commit != B

    cluster.at(40, turn)
    with pytest.raises(BootstrapError, match="was ready, and is not any more"):
        update(cluster, canary="25%", bake_seconds=120)
    assert cluster.commits() == ["a"] * 4
    assert "paused" not in cluster.deployment["spec"]


def test_a_canary_that_was_evicted_is_watched_anew_and_does_not_end_the_update() -> None:
    cluster = FakeCluster.serving(A, 3)
    cluster.at(40, lambda one: [one.pods.remove(pod) for pod in list(one.pods) if pod.commit == B])
    assert update(cluster, canary="25%", bake_seconds=60).outcome == "rolled"


def test_a_canary_that_drifts_brings_all_back_and_leaves_nothing_paused() -> None:
    cluster = FakeCluster.serving(A, 4, bad={B: DRIFT})
    with pytest.raises(BootstrapError) as caught:
        update(cluster, canary="50%")
    assert (caught.value.reason, cluster.commits()) == ("GOLDEN_DRIFT", ["a"] * 4)
    assert "paused" not in cluster.deployment["spec"]


def test_a_canary_of_all_replicas_is_watched_when_all_have_moved() -> None:
    cluster = FakeCluster.serving(A, 2)
    started = cluster.now
    found = update(cluster, canary="100%", bake_seconds=300)
    assert (found.canary, cluster.now - started > 300) == (2, True)


def test_a_canary_whose_pod_was_replaced_between_two_looks_is_watched_from_the_start() -> None:
    state = Roll(replica_seconds=100, canary=1, bake_seconds=60)

    def step(pod: str, now: float, *, paused: bool = True) -> str:
        return state.step(View(2, paused, True, True, False, (Replica(pod, True),), 1), now).act

    assert [step("one", 0, paused=False), step("one", 10), step("two", 69), step("two", 128), step("two", 130)] == [
        "pause", "wait", "wait", "wait", "resume"]


@pytest.mark.parametrize(("share", "replicas", "count"), [
    ("25%", 4, 1), ("25%", 5, 2), ("1%", 3, 1), ("100%", 3, 3), ("50%", 1, 1), ("10%", 0, 1)])
def test_a_share_is_rounded_up_and_at_least_one(share: str, replicas: int, count: int) -> None:
    assert canary_count(share, replicas) == count


@pytest.mark.parametrize("share", ["0%", "101%", "25", "a%", "", "-5%", "2.5%"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(UsageProblem, match="wanted a percentage from 1% to 100%"):
        canary_count(share, 4)


# --- an update that was cut


def test_an_update_that_is_cut_at_its_canary_stays_paused_and_says_so() -> None:
    cluster = FakeCluster.serving(A, 4)
    cut(cluster, 30, canary="25%", bake_seconds=600)
    assert unfinished_text(cluster, PLACE) == (
        "llm-judge/judge is paused at its canary: 1 of 4 replicas were moved from aaaaaaaaaaaa to bbbbbbbbbbbb")
    served = read_served(cluster, PLACE)
    assert (served.commit, served.target, served.paused) == (A, B, True)
    with pytest.raises(Refusal) as caught:
        refuse_paused(PLACE, served)
    assert caught.value.reason == "ROLLOUT_PAUSED"


def test_the_next_update_takes_up_one_that_was_cut_at_its_canary() -> None:
    cluster = FakeCluster.serving(A, 4)
    cut(cluster, 30, canary="25%", bake_seconds=600)
    assert update(cluster).before == A
    assert cluster.commits() == ["b"] * 4
    assert "paused" not in cluster.deployment["spec"]


def test_the_next_update_may_go_to_another_commit_and_back_to_the_last_good_one() -> None:
    cluster = FakeCluster.serving(A, 3, bad={C: {**DRIFT, "commit": C}})
    cut(cluster, 30, canary="25%", bake_seconds=600)
    with pytest.raises(BootstrapError, match="rolled back, aaaaaaaaaaaa serves on all 3"):
        update(cluster, C)
    assert cluster.commits() == ["a"] * 3


def test_a_rollback_takes_up_an_update_that_was_cut() -> None:
    cluster = FakeCluster.serving(A, 4)
    cut(cluster, 30, canary="25%", bake_seconds=600)
    found = roll_back(cluster, PLACE, read_served(cluster, PLACE), cluster.timing())
    assert (found.commit, cluster.commits(), unfinished_text(cluster, PLACE)) == (A, ["a"] * 4, None)
    assert "paused" not in cluster.deployment["spec"]


def test_an_update_that_was_cut_and_went_on_to_its_end_is_an_update_that_was_made() -> None:
    cluster = FakeCluster.serving(A, 2)
    cut(cluster, 10)
    served = read_served(cluster, PLACE)
    assert (served.commit, served.target, served.previous, served.marked) == (B, None, A, True)
    finish(cluster, PLACE)
    assert not read_served(cluster, PLACE).marked


def test_an_update_that_was_cut_before_it_rolled_says_that_nothing_moved() -> None:
    cluster = FakeCluster.serving(A, 2)
    cluster.verified(B)
    stage(cluster, PLACE, read_served(cluster, PLACE), manifest(B), 10, cluster.timing())
    assert unfinished_text(cluster, PLACE) == "llm-judge/judge still serves aaaaaaaaaaaa: nothing was rolled yet"


def test_a_deployment_that_somebody_else_paused_is_refused() -> None:
    cluster = FakeCluster.serving(A, 1)
    cluster.deployment["spec"]["paused"] = True
    with pytest.raises(Refusal, match="is paused, and not by an update of ours") as caught:
        read_served(cluster, PLACE)
    assert caught.value.reason == "ROLLOUT_PAUSED"


def test_a_rollback_of_an_update_that_was_cut_keeps_the_way_back_of_before() -> None:
    cluster = FakeCluster.serving(A, 2)
    update(cluster)
    served = read_served(cluster, PLACE)
    staged(cluster, C)
    cluster.tick(2)
    roll_back(cluster, PLACE, read_served(cluster, PLACE), cluster.timing())
    again = read_served(cluster, PLACE)
    assert (again.commit, again.previous) == (served.commit, served.previous) == (B, A)


# --- rollback by hand


def test_a_rollback_brings_the_commit_before_back_and_a_second_one_undoes_it() -> None:
    cluster = FakeCluster.serving(A, 2)
    update(cluster)
    found = roll_back(cluster, PLACE, read_served(cluster, PLACE), cluster.timing())
    assert (found.before, found.commit, cluster.commits()) == (B, A, ["a", "a"])
    assert cluster.loader_files == {"wanted.json": A, "previous.json": B}
    roll_back(cluster, PLACE, read_served(cluster, PLACE), cluster.timing())
    assert cluster.commits() == ["b", "b"]


def test_there_is_nothing_to_go_back_to_before_the_first_update() -> None:
    cluster = FakeCluster.serving(A, 1)
    with pytest.raises(BootstrapError, match="serves aaaaaaaaaaaa, and knows no commit before it") as caught:
        roll_back(cluster, PLACE, read_served(cluster, PLACE), cluster.timing())
    assert (caught.value.reason, cluster.writes) == ("ROLLBACK_NONE", [])


def test_of_two_replica_sets_of_a_commit_the_one_that_serves_is_the_way_back() -> None:
    def made(name: str, revision: str, ready: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "annotations": {"deployment.kubernetes.io/revision": revision}},
                "spec": {"template": {"metadata": {"annotations": {"judge-bootstrap.io/model-commit": A}}}},
                "status": {"readyReplicas": ready}}

    sets = [made("stuck", "10", 0), made("serves", "9", 2), made("first", "2", 0)]
    assert earlier_replica_set(A, sets) is sets[1]
    assert earlier_replica_set(A, [sets[0], sets[2]]) is sets[0]
    assert earlier_replica_set(B, sets) is None


def test_a_rollback_without_the_old_replica_set_changes_nothing() -> None:
    cluster = FakeCluster.serving(A, 1)
    update(cluster)
    cluster.sets = {key: one for key, one in cluster.sets.items() if one["status"]["readyReplicas"]}
    cluster.writes.clear()
    with pytest.raises(BootstrapError, match="no ReplicaSet of it is left") as caught:
        roll_back(cluster, PLACE, read_served(cluster, PLACE), cluster.timing())
    assert (caught.value.reason, cluster.writes) == ("ROLLBACK_NONE", [])
    assert caught.value.hint == f"judge-bootstrap --env prod run model_cache vllm_k8s -e model.revision={A}"


# --- what the role asks


def test_what_is_served_is_told_with_what_a_rollback_needs() -> None:
    cluster = FakeCluster.serving(A, 1)
    update(cluster)
    found = describe(cluster, PLACE, read_served(cluster, PLACE))
    assert (found["commit"], found["previous_commit"]) == (B, A)
    assert (found["manifest"]["commit"], found["previous_manifest"]["commit"]) == (B, A)
    assert found["previous_needs"] == [f"ConfigMap/llm-judge/{name}" for name in ("judge-gateway-1",
                                                                                  f"judge-model-{A[:12]}")]


def test_nothing_is_served_where_nothing_was_applied() -> None:
    cluster = FakeCluster()
    assert describe(cluster, PLACE, read_served(cluster, PLACE))["commit"] is None
    assert needed_config_maps(cluster, PLACE, A) == []


@pytest.mark.parametrize(("answer", "reason"), [
    (None, None), ({"ready": False, "reason": None, "commit": B}, None),
    ({"ready": False, "reason": "PROBE_FAILING", "commit": B}, None),
    ({"ready": False, "reason": "GOLDEN_DRIFT", "commit": B}, "GOLDEN_DRIFT"),
    ({"ready": False, "reason": "WRONG_MODEL_SERVED", "commit": B}, "WRONG_MODEL_SERVED"),
    ({"ready": True, "reason": None, "commit": A}, "WRONG_MODEL_SERVED"),
    ({"detail": "Not Found"}, None)])
def test_only_what_time_does_not_change_ends_an_update_early(answer: Any, reason: str | None) -> None:
    refusal = health_refusal("pod-1", answer, B)
    assert (refusal[0] if refusal else None) == reason
