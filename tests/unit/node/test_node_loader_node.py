"""What the loader says on its Node: the smallest patch, nobody else's words, and one event a change."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_node.loader.api import Api
from judge_node.loader.node import Report, plan_patch
from judge_node.loader.reporter import Reporter
from unit.node.fake_kube import NODE, FakeKube, Fault, merge, new_node, serve

A, B, C = "a" * 40, "b" * 40, "c" * 40
TAINT = "judge-bootstrap.io/model-not-ready"
SKU = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
OURS = {"key": TAINT, "effect": "NoSchedule"}
STATE = "judge-bootstrap.io/model-state"


def ready(**other: Any) -> Report:
    return Report(**{"state": "complete", "repo_id": "org/name", "wanted": A, "message": "org/name is complete",
                     "percent": 100, "commits": {A: "complete"}, **other})


def syncing(percent: int = 0, **other: Any) -> Report:
    return Report(**{"state": "syncing", "repo_id": "org/name", "wanted": A, "percent": percent,
                     "message": f"{percent} %", "commits": {A: "incomplete"}, **other})


def node_with(*, labels: dict[str, str] | None = None, taints: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    node = new_node()
    node["metadata"]["labels"].update(labels or {})
    node["spec"]["taints"] += taints or []
    return node


# --- the patch --------------------------------------------------------------------------------------------------------


def test_a_complete_model_gets_its_label_and_the_taint_goes() -> None:
    patch = plan_patch(node_with(taints=[OURS]), ready(), TAINT)
    assert patch["metadata"]["labels"] == {f"judge-bootstrap.io/model-{A}": "ready"}
    assert patch["spec"] == {"taints": [SKU]}


def test_an_incomplete_model_gets_the_taint_and_loses_its_label() -> None:
    stale = {f"judge-bootstrap.io/model-{A}": "ready", f"judge-bootstrap.io/model-{B}": "ready"}
    patch = plan_patch(node_with(labels=stale), syncing(), TAINT)
    assert patch["metadata"]["labels"] == dict.fromkeys(stale)
    assert patch["spec"] == {"taints": [SKU, OURS]}


def test_every_complete_commit_has_a_label_and_only_the_wanted_one_decides_on_the_taint() -> None:
    patch = plan_patch(node_with(), syncing(commits={A: "syncing", B: "complete", C: "corrupt"}), TAINT)
    assert patch["metadata"]["labels"] == {f"judge-bootstrap.io/model-{B}": "ready"}
    assert patch["spec"] == {"taints": [SKU, OURS]}


def test_taints_are_only_replaced_as_they_were_read() -> None:
    assert plan_patch(node_with(), syncing(), TAINT)["metadata"]["resourceVersion"] == "1"
    assert "resourceVersion" not in plan_patch(node_with(), ready(), TAINT)["metadata"]


def test_a_taint_that_the_kubelet_registered_with_is_left_as_it_is_until_it_goes() -> None:
    registered = {"key": TAINT, "value": "true", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
    assert "spec" not in plan_patch(node_with(taints=[registered]), syncing(), TAINT)
    assert plan_patch(node_with(taints=[registered]), ready(), TAINT)["spec"] == {"taints": [SKU]}


def test_without_a_taint_s_name_no_taint_is_touched() -> None:
    assert "spec" not in plan_patch(node_with(taints=[OURS]), ready(), None)


def test_labels_of_others_are_never_touched() -> None:
    others = {"judge-bootstrap.io/model-cache": "x", "judge-bootstrap.io/instance-id": "i-1",
              "example.org/model-" + A: "ready"}
    labels = plan_patch(node_with(labels=others), syncing(), TAINT)["metadata"].get("labels", {})
    assert labels == {}


def test_a_node_that_says_all_of_it_is_not_patched() -> None:
    node = merge(node_with(taints=[OURS]), plan_patch(node_with(taints=[OURS]), ready(), TAINT))
    assert plan_patch(node, ready(), TAINT) == {}


@pytest.mark.parametrize(("age_seconds", "written_anew"), [(60, False), (11 * 3600, False), (13 * 3600, True)])
def test_a_report_with_nothing_new_is_written_anew_twice_a_day(age_seconds: float, written_anew: bool) -> None:
    node = merge(node_with(taints=[OURS]), plan_patch(node_with(taints=[OURS]), ready(), TAINT))
    said = json.loads(node["metadata"]["annotations"][STATE])
    said["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age_seconds))
    node["metadata"]["annotations"][STATE] = json.dumps(said)
    patch = plan_patch(node, ready(), TAINT)
    assert list(patch.get("metadata", {})) == (["annotations"] if written_anew else [])


def test_the_annotation_is_the_documented_json() -> None:
    text = plan_patch(node_with(), syncing(41, reason="LOCKED", message="x" * 400), TAINT)
    said = json.loads(text["metadata"]["annotations"][STATE])
    assert said.pop("at").endswith("Z")
    assert said == {"state": "syncing", "repo_id": "org/name", "wanted": A, "reason": "LOCKED", "percent": 41,
                    "message": "x" * 297 + "...", "commits": {A: "incomplete"}}


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_an_annotation_that_nobody_can_read_is_written_anew(text: str) -> None:
    node = node_with()
    node["metadata"]["annotations"] = {STATE: text}
    assert STATE in plan_patch(node, ready(), TAINT)["metadata"]["annotations"]


# --- saying it --------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[FakeKube, Api]]:
    with serve(tmp_path) as found:
        yield found


def reporter(api: Api, lines: list[str] | None = None, **options: Any) -> Reporter:
    return Reporter(api, NODE, TAINT, (lines if lines is not None else []).append, **options)


def test_one_patch_a_change_and_none_when_nothing_changed(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    tells = reporter(api)
    assert all(tells.report(report) for report in (syncing(), syncing(), ready(), ready(), ready()))
    assert len(kube.patches) == 2
    assert (kube.labels()[f"judge-bootstrap.io/model-{A}"], kube.taints()) == ("ready", [SKU])


def test_an_event_for_each_change_of_state_and_none_for_progress(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    tells = reporter(api)
    for report in (syncing(0), syncing(20), syncing(80), ready(),
                   syncing(0, state="failed", reason="SOURCE_DENIED", message="no"), ready()):
        tells.report(report)
    assert [(event["reason"], event["type"]) for event in kube.events] == [
        ("ModelSyncing", "Normal"), ("ModelReady", "Normal"), ("SOURCE_DENIED", "Warning"), ("ModelReady", "Normal")]
    about = kube.events[0]["involvedObject"]
    assert (about["kind"], about["name"], about["uid"]) == ("Node", NODE, "uid-1")
    assert len({event["metadata"]["name"] for event in kube.events}) == 4


def test_a_loader_that_starts_anew_repeats_no_event(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    reporter(api).report(ready())
    reporter(api).report(ready())
    assert (len(kube.patches), len(kube.events)) == (1, 1)


def test_a_taint_that_somebody_adds_meanwhile_is_not_lost(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    drain = {"key": "drain", "effect": "NoExecute"}
    kube.meanwhile = lambda: kube.edit(lambda node: node["spec"]["taints"].append(drain))
    assert reporter(api).report(syncing())
    assert kube.taints() == [SKU, drain, OURS]


def test_what_somebody_took_away_by_hand_comes_back(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    tells = reporter(api, refresh_seconds=0)
    tells.report(syncing())
    kube.edit(lambda node: node["spec"].update(taints=[SKU]))
    tells.report(syncing())
    assert kube.taints() == [SKU, OURS]


def test_between_two_looks_nothing_is_asked_of_the_server(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    tells = reporter(api)
    tells.report(ready())
    before = len(kube.asked)
    for _ in range(20):
        tells.report(ready())
    assert len(kube.asked) == before


def test_an_answer_that_was_lost_is_not_said_twice(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    kube.faults = [Fault(), Fault(reset=True, after=True)]
    assert reporter(api).report(syncing())
    assert kube.taints() == [SKU, OURS]


def test_a_server_that_refuses_is_logged_once_and_so_is_its_end(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    lines: list[str] = []
    tells = reporter(api, lines)
    kube.faults = [Fault(403)] * 3
    assert [tells.report(syncing()) for _ in range(3)] == [False] * 3
    assert tells.report(syncing())
    assert lines[0] == "the Node cannot be told: GET /api/v1/nodes/node-1: 403 fault 403"
    assert lines[1] == "the Node can be told again"
    assert "syncing: 0 %, taint on" in lines[2]


def test_an_event_that_is_refused_does_not_stop_the_report(served: tuple[FakeKube, Api]) -> None:
    kube, api = served
    kube.faults = [Fault(), Fault(), Fault(403)]
    lines: list[str] = []
    assert reporter(api, lines).report(syncing())
    assert lines[-1].startswith("the event cannot be written: POST /api/v1/namespaces/default/events: 403")
