"""A playbook that runs a privileged pod is started for hosts that were named, and for no others."""

from __future__ import annotations

import pytest
from fakes_cli import Desk, failed, ok, stats
from judge_bootstrap.adapters.runner import Ended


@pytest.fixture
def with_pod(desk: Desk) -> Desk:
    (desk.content / "playbooks" / "nvme_pod.yml").write_text("- {hosts: all, tasks: []}\n")
    return desk


@pytest.mark.parametrize("words", [("run", "nvme_pod"), ("plan", "nvme_pod"), ("run", "preflight", "nvme_pod")])
def test_without_a_limit_it_is_refused_in_one_line(with_pod: Desk, words: tuple[str, ...]) -> None:
    result = with_pod.invoke("--env", "prod", *words)
    assert (result.exit_code, with_pod.runner.calls) == (2, [])
    assert ("Error: nvme_pod: found no --limit; wanted the hosts by name: it runs a privileged pod on each node\n"
            f"Hint: judge-bootstrap --env prod {words[0]} nvme_pod --limit NODE\n") in result.stderr


@pytest.mark.parametrize("limit", ["all", "gpu_nodes", "node-*", "node-1,node-*", "node-1:node-2", "~node"])
def test_a_pattern_is_refused_though_it_matches(with_pod: Desk, limit: str) -> None:
    result = with_pod.invoke("--env", "prod", "run", "nvme_pod", "--limit", limit)
    assert (result.exit_code, with_pod.runner.calls) == (2, [])
    assert f"found --limit {limit}, which is no list of hosts' names" in result.stderr


@pytest.mark.parametrize("limit", ["node-1,node-2", "node-2, node-1"])
def test_hosts_named_one_by_one_are_run(with_pod: Desk, limit: str) -> None:
    result = with_pod.invoke("--env", "prod", "run", "nvme_pod", "--limit", limit)
    assert (result.exit_code, [call.limit for call in with_pod.runner.calls]) == (0, [limit])


def test_other_playbooks_take_patterns_as_before(with_pod: Desk) -> None:
    assert with_pod.invoke("--env", "prod", "run", "nvme", "--limit", "node-*").exit_code == 0


def test_what_a_plan_says_comes_next_can_be_typed(with_pod: Desk) -> None:
    with_pod.runner.events = [ok("node-1", changed=True), ok("node-2"), stats(node_1={"ok": 1}, node_2={"ok": 1})]
    _, answer = with_pod.invoke_json("--env", "prod", "plan", "nvme_pod", "--limit", "node-1,node-2")
    assert answer["next"] == ["judge-bootstrap --env prod run nvme_pod --limit node-1,node-2        do it"]


def test_what_was_planned_for_some_hosts_and_values_comes_next_for_those(with_pod: Desk) -> None:
    with_pod.runner.events = [ok("node-1", changed=True), ok("node-2"), stats(node_1={"ok": 1}, node_2={"ok": 1})]
    _, answer = with_pod.invoke_json("--env", "prod", "plan", "nvme", "--limit", "node-*", "-e", "nvme_strategy=Mount")
    assert answer["next"] == [
        "judge-bootstrap --env prod run nvme --limit 'node-*' -e nvme_strategy=Mount        do it"]


def test_the_repair_of_a_node_without_ssh_is_the_way_without_ssh(with_pod: Desk) -> None:
    judge = {"ok": False, "command": "disks ensure", "reason": "FS_STALE", "message": "stale",
             "repair": "judge-node disks ensure --mount-path /mnt/nvme"}
    with_pod.hosts = ["node-1"]
    with_pod.runner.events = [failed("node-1", role="nvme_pod", judge=judge), stats(node_1={"failures": 1})]
    with_pod.runner.ended = Ended(2)
    _, answer = with_pod.invoke_json("--env", "prod", "run", "nvme_pod", "--limit", "node-1")
    assert answer["hosts"]["node-1"]["repair"] == "judge-bootstrap --env prod run nvme_pod --limit node-1"
