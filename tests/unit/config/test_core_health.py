"""From the cluster's objects to the chain's findings; has latency settled; vLLM's figures; lines of logs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from judge_bootstrap.core.health import Answer, Found, Health, Link, assess, commit_of, served_names
from judge_bootstrap.core.health_detail import STALE_CHECK_SECONDS, detail_links, pod_details
from judge_bootstrap.core.health_pods import Names
from judge_bootstrap.core.log_lines import (
    Line,
    Seen,
    Source,
    in_order,
    nanoseconds,
    parse_line,
    printable,
    short_names,
    stamp_of,
)
from judge_bootstrap.core.settling import figures, has_settled
from judge_bootstrap.core.vllm_metrics import read_metrics
from judge_node.loader.node import FRESH_SECONDS
from judge_node.reasons import REASONS

COMMIT, OTHER = "a" * 40, "b" * 40
TAINT = "judge-bootstrap.io/model-not-ready"
SERVICE = "judge-inference-service"
NAMES = Names(env="prod", namespace="llm-judge", loader_namespace="llm-judge-loader", service=SERVICE,
              selector="role=ai-gpu", taint=TAINT)
NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
Json = dict[str, Any]


def node(name: str = "gpu-1", *, labels: Json | None = None, taints: list[Json] | None = None,
         report: Json | None = None, gpus: str = "1", ready: str = "True", **spec: Any) -> Json:
    """Return a node that is warm unless it is told otherwise."""
    kept = {f"judge-bootstrap.io/model-{COMMIT}": "ready"} if labels is None else labels
    annotations = {"judge-bootstrap.io/model-state": json.dumps(report)} if report else {}
    return {"metadata": {"name": name, "labels": {"role": "ai-gpu", **kept}, "annotations": annotations},
            "spec": {"taints": taints or [], **spec},
            "status": {"allocatable": {"nvidia.com/gpu": gpus},
                       "conditions": [{"type": "Ready", "status": ready, "message": "kubelet stopped posting",
                                       "lastTransitionTime": "2026-11-28T11:00:00Z"}]}}


def tainted(name: str = "gpu-1", **options: Any) -> Json:
    """Return a node that is not warm."""
    return node(name, labels=options.pop("labels", {}), taints=[{"key": TAINT, "effect": "NoSchedule"}], **options)


def template(commit: str = COMMIT) -> Json:
    """Return what makes a serving pod, as far as it is looked at."""
    return {"metadata": {"annotations": {"judge-bootstrap.io/model-commit": commit}},
            "spec": {"containers": [{
                "name": "vllm", "image": "vllm/vllm-openai:v0.32.0", "command": ["vllm", "serve"],
                "args": [f"/models/models--org--judge/snapshots/{commit}", "--served-model-name", "org/judge", "judge",
                         "--port", "8000"],
                "startupProbe": {"periodSeconds": 5, "failureThreshold": 180}}]}}


def deployment(wanted: int = 1, *, updated: int | None = None, available: int | None = None, **status: Any) -> Json:
    return {"metadata": {"name": SERVICE, "generation": 3, "annotations": {"judge-bootstrap.io/model": "org/judge"}},
            "spec": {"replicas": wanted, "template": template()},
            "status": {"observedGeneration": 3, "updatedReplicas": wanted if updated is None else updated,
                       "availableReplicas": wanted if available is None else available, **status}}


RUNNING = {"running": {"startedAt": "2026-11-28T11:50:00Z"}}


def pod(name: str = "judge-inference-service-5d8-x7k2p", *, state: Json | None = None, ready: bool = True,
        started: bool = True, init: list[Json] | None = None, restarts: int = 0, last: Json | None = None,
        at: str | None = "gpu-1", **status: Any) -> Json:
    """Return a serving pod that is ready unless it is told otherwise."""
    made = template()
    return {"metadata": {"name": name, **made["metadata"]}, "spec": {**made["spec"], "nodeName": at},
            "status": {"phase": "Running", "initContainerStatuses": init or [],
                       "conditions": [{"type": "Ready", "status": str(ready),
                                       "lastTransitionTime": "2026-11-28T11:53:00Z"}],
                       "containerStatuses": [{"name": "vllm", "ready": ready, "started": started,
                                              "restartCount": restarts, "state": RUNNING if state is None else state,
                                              "lastState": last or {},
                                              "imageID": "vllm/vllm-openai@sha256:" + "c" * 64}], **status}}


def slices(*pods: str) -> list[Json]:
    return [{"endpoints": [{"targetRef": {"name": name}, "conditions": {"ready": True}} for name in pods]}]


def daemon_set(wanted: int = 1, ready: int = 1) -> Json:
    return {"metadata": {"name": "judge-loader"}, "spec": {},
            "status": {"desiredNumberScheduled": wanted, "numberReady": ready, "updatedNumberScheduled": wanted}}


HOLDS = Answer(ready={"ready": True, "golden": {"items": 1, "drift": 0.25, "worst": "q1"}})
NAME = "judge-inference-service-5d8-x7k2p"


def well(**changes: Any) -> Found:
    """Return a chain of one node and one pod that holds, with changes."""
    found = Found(nodes=[node()], deployment=deployment(), pods=[pod()], loader=daemon_set(),
                  service={"metadata": {"name": SERVICE}}, endpoint_slices=slices(NAME), answers={NAME: HOLDS})
    return replace(found, **changes)


def seen(found: Found, names: Names = NAMES) -> Health:
    return assess(found, names, NOW)


def link(found: Found, name: str, names: Names = NAMES) -> Link:
    return next(one for one in seen(found, names).links if one.name == name)


def broken(found: Found) -> Link:
    """Return the first broken link; it has a known reason code and a repair."""
    first = seen(found).first_broken
    assert first is not None
    assert first.reason in REASONS and first.repair
    return first


def test_a_chain_that_holds_has_no_finding() -> None:
    found = seen(well())
    assert [one.status for one in found.links] == ["ok"] * 7
    assert [one.name for one in found.links] == [
        "GPU nodes", "loader", "model on the nodes", "Deployment", "pods", "answers", "Service"]
    assert (found.wanted, found.ready, found.commit, found.model) == (1, 1, COMMIT, "org/judge")
    assert "golden drift at most 0.25" in link(well(), "answers").found


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_no_node_at_all_is_the_first_broken_link() -> None:
    first = broken(well(nodes=[], pods=[], endpoint_slices=[], answers={}))
    assert (first.name, first.reason) == ("GPU nodes", "GPU_NONE")
    assert "role=ai-gpu" in first.found


def test_no_node_is_well_where_nothing_is_wanted() -> None:
    found = seen(well(nodes=[], deployment=deployment(0), pods=[], endpoint_slices=[], answers={}))
    assert found.first_broken is None
    assert next(one for one in found.links if one.name == "Deployment").status == "warn"


@pytest.mark.parametrize(("sick", "reason", "repair"), [
    (node(ready="Unknown"), "NODE_UNREACHABLE", "kubectl describe node gpu-1"),
    (node(gpus="0"), "GPU_NONE", "kubectl describe node gpu-1   # does the NVIDIA device plugin run there?"),
])
def test_a_sick_node_breaks_the_chain_when_no_other_can_carry_the_pods(sick: Json, reason: str, repair: str) -> None:
    found = well(nodes=[sick], pods=[], endpoint_slices=[], answers={})
    first = broken(found)
    assert (first.name, first.reason, first.repair) == ("GPU nodes", reason, repair)


def test_a_node_is_not_to_blame_for_a_pod_that_was_started_on_it() -> None:
    drift = Answer("GOLDEN_DRIFT", "drift 2.5")
    found = well(nodes=[tainted()], pods=[pod(ready=False)], endpoint_slices=[], answers={NAME: drift})
    assert broken(found).reason == "GOLDEN_DRIFT"
    assert link(found, "model on the nodes").status == "warn"


def test_a_sick_node_beside_pods_that_all_serve_is_a_warning() -> None:
    found = seen(well(nodes=[node(), node("gpu-2", ready="Unknown")]))
    assert found.first_broken is None
    assert link(well(nodes=[node(), node("gpu-2", ready="Unknown")]), "GPU nodes").status == "warn"


def test_a_cordoned_node_takes_no_pod_and_has_no_reason_code() -> None:
    one = link(well(nodes=[node(), node("gpu-2", unschedulable=True)]), "GPU nodes")
    assert (one.status, one.reason, one.repair) == ("warn", None, "kubectl uncordon gpu-2")


@pytest.mark.parametrize(("cold", "reason", "state", "said"), [
    (tainted(), "MODEL_INCOMPLETE", "waiting", "nobody has reported"),
    (tainted(report={"state": "syncing", "percent": 40}), "MODEL_INCOMPLETE", "syncing", "(40 %)"),
    (tainted(report={"state": "corrupt", "reason": None, "message": "1 file"}), "INTEGRITY_MISMATCH", "corrupt",
     "1 file"),
    (tainted(report={"state": "failed", "reason": "SPACE_SHORT", "message": "12 GiB short"}), "SPACE_SHORT", "failed",
     "12 GiB short"),
    (tainted(labels={f"judge-bootstrap.io/model-{OTHER}": "ready"}), "MODEL_STALE", "other commit", "b" * 12),
    (node(taints=[{"key": TAINT, "effect": "NoSchedule"}]), "MODEL_INCOMPLETE", "tainted", TAINT),
    (node(labels={}), "MODEL_INCOMPLETE", "without model", "nothing vouches"),
])
def test_a_node_that_is_not_warm_says_why(cold: Json, reason: str, state: str, said: str) -> None:
    found = well(nodes=[cold], pods=[], endpoint_slices=[], answers={})
    first = broken(found)
    assert (first.name, first.reason) == ("model on the nodes", reason)
    assert said in first.found and ": str" not in first.found
    assert seen(found).nodes[0].state == state


def test_the_repair_of_a_node_is_the_command_for_that_node() -> None:
    found = well(nodes=[tainted("ip-10-0-3-7", report={"state": "corrupt", "reason": "INTEGRITY_MISMATCH"})], pods=[])
    assert broken(found).repair == "judge-bootstrap --env prod models preload ip-10-0-3-7"


def test_a_report_that_is_no_json_is_no_report() -> None:
    one = tainted()
    one["metadata"]["annotations"]["judge-bootstrap.io/model-state"] = "{"
    assert seen(well(nodes=[one])).nodes[0].state == "waiting"


def test_of_300_nodes_the_states_are_counted_and_every_broken_one_is_kept() -> None:
    nodes = [node(f"gpu-{n}") for n in range(270)] + [tainted(f"cold-{n}") for n in range(30)]
    one = link(well(nodes=nodes), "model on the nodes")
    assert one.found.startswith("270 warm, 30 waiting; cold-0: ")
    assert len(one.broken) == 30


def test_nodes_that_may_not_be_read_are_a_warning() -> None:
    found = well(nodes=[], unread={"nodes": "cannot read nodes: 403 forbidden"})
    assert (link(found, "GPU nodes").status, link(found, "GPU nodes").reason) == ("warn", "CLUSTER_DENIED")
    assert seen(found).first_broken is None


# --- the loader -------------------------------------------------------------------------------------------------------


def test_a_loader_that_is_not_there_breaks_the_chain_only_until_the_pods_serve() -> None:
    assert link(well(loader=None), "loader").status == "warn"
    assert broken(well(loader=None, nodes=[tainted()], pods=[])).name == "loader"
    without = [one.name for one in seen(well(loader=None), replace(NAMES, loader=False)).links]
    assert "loader" not in without


def test_a_loader_whose_pods_nobody_may_make_is_told_although_there_is_no_pod_to_show() -> None:
    first = broken(well(loader=daemon_set(3, 0), nodes=[tainted()], pods=[]))
    assert (first.name, first.reason) == ("loader", "LOADER_FAILING")
    assert "0 of 3 pods ready" in first.found and "there are only 0 pods" in first.found


def test_a_crashing_loader_is_named_with_the_end_of_its_log() -> None:
    crashed = pod("judge-loader-9qw3z", ready=False, restarts=4, state={"waiting": {"reason": "CrashLoopBackOff"}},
                  last={"terminated": {"exitCode": 1, "reason": "Error"}})
    crashed["status"]["containerStatuses"][0]["name"] = "loader"
    found = well(loader=daemon_set(1, 0), loader_pods=[crashed], nodes=[tainted()], pods=[],
                 logs={"judge-loader-9qw3z": "starting\nError: no token at /var/run\n"})
    first = broken(found)
    assert (first.name, first.reason) == ("loader", "LOADER_FAILING")
    assert "restarted 4 times: Error: no token at /var/run" in first.found
    assert first.repair == "judge-bootstrap --env prod logs --pod judge-loader-9qw3z --previous"


# --- Deployment and pods ----------------------------------------------------------------------------------------------


def test_no_deployment_is_repaired_by_a_run() -> None:
    first = broken(well(deployment=None, pods=[], endpoint_slices=[], answers={}))
    assert (first.name, first.repair) == ("Deployment", "judge-bootstrap --env prod run vllm_k8s")


def test_pods_that_pod_security_forbids_are_told_from_the_deployment() -> None:
    failure = {"type": "ReplicaFailure", "status": "True",
               "message": 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'}
    first = broken(well(deployment=deployment(conditions=[failure], available=0), pods=[]))
    assert (first.name, first.reason) == ("Deployment", "POD_FORBIDDEN")


def test_a_rollout_that_took_too_long_is_told_from_one_that_goes_on() -> None:
    late = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]
    assert "stopped" in broken(well(deployment=deployment(2, updated=1, conditions=late))).found
    assert "goes on" in broken(well(deployment=deployment(2, updated=1))).found


def failing(**options: Any) -> Found:
    """Return a chain whose one pod is not ready."""
    return well(pods=[pod(ready=False, **options)], deployment=deployment(available=0), endpoint_slices=[], answers={})


def test_a_pod_without_a_node_says_what_the_scheduler_said() -> None:
    no_room = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient GPU."}]
    first = broken(failing(at=None, conditions=no_room, containerStatuses=[]))
    assert (first.name, first.reason) == ("pods", "POD_PENDING")
    assert "3 Insufficient GPU" in first.found


def test_a_failed_gate_is_named_with_the_reason_code_of_its_log() -> None:
    gate = {"name": "check-model", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    found = failing(init=[gate], state={"waiting": {"reason": "PodInitializing"}}, started=False)
    log = "INTEGRITY_MISMATCH: model-00001.safetensors: size 3, wanted 4\nHint: judge-node cache sync\n"
    first = broken(replace(found, logs={NAME: log}))
    assert first.reason == "INTEGRITY_MISMATCH"
    assert "init container check-model ended with status 1, restarted 2 times: INTEGRITY_MISMATCH" in first.found
    assert first.repair == "judge-bootstrap --env prod models preload gpu-1"


def test_a_gate_that_names_no_code_is_told_by_its_last_line_and_not_by_its_hint() -> None:
    gate = {"name": "check-model", "state": {"terminated": {"exitCode": 2}}}
    found = failing(init=[gate], state={"waiting": {"reason": "PodInitializing"}}, started=False)
    first = broken(replace(found, logs={NAME: "manifest '/etc/x' cannot be read\nHint: give the path of one\n"}))
    assert (first.reason, first.found.endswith("manifest '/etc/x' cannot be read")) == ("MODEL_INCOMPLETE", True)


def test_a_gate_that_still_runs_is_being_checked() -> None:
    gate = {"name": "check-model", "restartCount": 0, "state": {"running": {"startedAt": "2026-11-28T11:59:00Z"}}}
    found = failing(init=[gate], state={"waiting": {"reason": "PodInitializing"}}, started=False)
    assert seen(found).pods[0].state == "checking"
    assert "has run for 60 s" in broken(found).found


def test_a_gate_that_passed_is_no_finding() -> None:
    gate = {"name": "check-model", "state": {"terminated": {"exitCode": 0}}, "ready": True, "started": False}
    found = failing(init=[gate], started=False)
    assert seen(found).pods[0].state == "starting"


def test_a_volume_that_does_not_come_is_told_by_the_last_event() -> None:
    found = failing(state={"waiting": {"reason": "ContainerCreating"}}, started=False)
    events = {f"llm-judge/{NAME}": "FailedMount: configmap judge-gateway-1 not found"}
    first = broken(replace(found, events=events))
    assert (first.reason, "configmap judge-gateway-1 not found" in first.found) == ("POD_PENDING", True)


def test_a_loading_server_says_how_much_of_its_budget_is_gone() -> None:
    first = broken(failing(started=False))
    assert "loading for 600 s of the 900 s it may take" in first.found
    assert first.repair == f"judge-bootstrap --env prod logs --pod {NAME} -f"


def test_a_crash_is_told_with_its_reason_and_the_log_before_it() -> None:
    found = failing(state={"waiting": {"reason": "CrashLoopBackOff"}}, restarts=3, started=False,
                    last={"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    first = broken(found)
    assert (first.reason, "OOMKilled (status 137), restarted 3 times" in first.found) == ("PROBE_FAILING", True)
    assert first.repair == f"judge-bootstrap --env prod logs --pod {NAME} --previous"


def test_a_pod_that_is_not_ready_for_its_golden_answers_says_so() -> None:
    drift = Answer("GOLDEN_DRIFT", "drift 2.5 of at most 1.0, worst q3")
    first = broken(replace(failing(), answers={NAME: drift}))
    assert (first.name, first.reason) == ("pods", "GOLDEN_DRIFT")
    assert first.repair is not None and first.repair.startswith("judge-bootstrap --env prod models rollback")


def test_the_pod_furthest_from_ready_stands_first() -> None:
    pods = [pod("p-1-starting", ready=False, started=False),
            pod("p-2-failing", ready=False, started=False, state={"terminated": {"exitCode": 1, "reason": "Error"}})]
    first = broken(well(pods=pods, deployment=deployment(2, available=0), endpoint_slices=[], answers={}))
    assert "; p-2-failing: " in first.found


def test_a_pod_on_its_way_out_is_nothing_to_repair_until_it_should_be_gone() -> None:
    going = pod("old-1")
    going["metadata"]["deletionTimestamp"] = "2026-11-28T11:59:50Z"
    found = well(pods=[pod(), going])
    assert link(found, "pods").status == "ok"
    going["metadata"]["deletionTimestamp"] = "2026-11-28T11:50:00Z"
    assert link(found, "pods").status == "warn"


def test_an_evicted_pod_beside_one_that_serves_is_a_warning() -> None:
    evicted = pod("old-1", phase="Failed", reason="Evicted", message="low on disk")
    one = link(well(pods=[pod(), evicted]), "pods")
    assert (one.status, "low on disk" in one.found) == ("warn", True)


# --- answers and the Service ------------------------------------------------------------------------------------------


def test_one_pod_with_the_wrong_model_breaks_the_chain() -> None:
    first = broken(well(answers={NAME: Answer("WRONG_MODEL_SERVED", "serves x, wanted org/judge")}))
    assert (first.name, first.reason) == ("answers", "WRONG_MODEL_SERVED")
    assert f"{NAME}: serves x" in first.found


@pytest.mark.parametrize(("answer", "said"), [
    (Answer(asked=False), "1 were not asked, time ran out"),
    (Answer(gateway=False), "1 have no gateway"),
    (Answer(keyless=True), "no key to ask with"),
])
def test_what_could_not_be_asked_is_a_warning_and_no_success(answer: Answer, said: str) -> None:
    one = link(well(answers={NAME: answer}), "answers")
    assert (one.status, said in one.found) == ("warn", True)


def test_a_service_whose_selector_matches_no_pod_is_told() -> None:
    first = broken(well(endpoint_slices=[]))
    assert (first.name, first.reason) == ("Service", "SERVICE_EMPTY")
    assert "its selector matches none" in first.found
    assert broken(well(service=None)).found == f"no Service llm-judge/{SERVICE}"


def test_commit_and_names_come_from_the_arguments_where_nothing_is_annotated() -> None:
    owner = deployment()
    owner["spec"]["template"]["metadata"] = {}
    assert commit_of(owner) == COMMIT
    assert served_names(owner) == ["org/judge", "judge"]
    assert served_names({"spec": {"containers": [{"args": ["--served-model-name=x", "--port", "1"]}]}}) == ["x"]


# --- verbose ----------------------------------------------------------------------------------------------------------


def details(found: Found, secret: str | None = "judge-api-key") -> dict[str, Link]:
    return {one.name: one for one in detail_links(found, seen(found), NAMES, NOW, secret)}


BUDGET = {"status": {"currentHealthy": 1, "desiredHealthy": 0, "disruptionsAllowed": 1}}


def test_the_details_of_a_chain_that_holds_are_well() -> None:
    checked = node(report={"state": "complete", "at": "2026-11-28T11:00:00Z"})
    judged = replace(HOLDS, verdict={"score": 9, "latency_ms": 812.4})
    found = details(well(nodes=[checked], budget=BUDGET, has_key=True, answers={NAME: judged}))
    assert {name: one.status for name, one in found.items()} == dict.fromkeys(
        ("start time", "disruption budget", "API key", "verdict", "loader's last check"), "ok")
    assert "812 ms" in found["verdict"].found
    assert "1 pod may be taken away now" in found["disruption budget"].found


def test_a_start_that_took_more_than_half_its_budget_is_warned_of() -> None:
    assert details(well())["start time"].status == "ok"  # 180 s of 900 s
    # kubelet's Ready may have gone and come back since; the gateway says when it was ready first.
    slow = Answer(ready={"ready_at": "2026-11-28T11:58:00+00:00"})
    one = details(well(answers={NAME: slow}))["start time"]
    assert (one.status, "took 480 s of 900 s (53%)" in one.found) == ("warn", True)
    assert one.repair is not None and "vllm_k8s_startup_seconds to 960" in one.repair


def test_a_key_that_is_wanted_and_not_there_fails() -> None:
    assert details(well(has_key=False))["API key"].status == "fail"
    assert details(well(), secret=None)["API key"].status == "warn"


def test_a_loader_that_has_not_reported_for_days_is_warned_of() -> None:
    old = node(report={"state": "complete", "at": "2026-11-20T11:00:00Z"})
    assert details(well(nodes=[old]))["loader's last check"].status == "warn"
    # One that has had nothing new to say for as long has written its report anew a few times.
    assert FRESH_SECONDS < STALE_CHECK_SECONDS / 2


def test_a_pods_details_name_the_image_by_digest() -> None:
    found = well()
    one = pod_details(found, seen(found))[NAME]
    assert one["image_digest"] == "sha256:" + "c" * 64
    assert (one["start_seconds"], one["startup_budget_seconds"], one["start_share"]) == (180.0, 900.0, 0.2)


METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="org/judge"} 2.0
vllm:num_requests_waiting{engine="0",model_name="org/judge"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="org/judge"} 0.125
vllm:prefix_cache_queries_total{engine="0",model_name="org/judge"} 400.0
vllm:prefix_cache_hits_total{engine="0",model_name="org/judge"} 300.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="org/judge"} 3.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="org/judge"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="org/judge"} 2.0
"""


def test_vllms_figures_are_read_and_what_it_does_not_say_is_left_out() -> None:
    assert read_metrics(METRICS) == {"requests_running": 2.0, "requests_waiting": 1.0, "kv_cache_usage": 0.125,
                                     "prefix_cache_hit_rate": 0.75, "time_to_first_token_seconds": 0.5}
    assert read_metrics("") == {}
    assert "time_to_first_token_seconds" not in read_metrics("vllm:time_to_first_token_seconds_count 0\n"
                                                             "vllm:time_to_first_token_seconds_sum 0\n")


# --- has latency settled? ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "settled"), [
    ([1.0] * 9, False),
    ([1.0] * 10, True),
    ([9.0, 5.0, 3.0, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0], False),
    ([9.0, 5.0, 3.0, 2.0, 1.5, *[1.0] * 10], True),
    ([1.0] * 5 + [1.09] * 5, True),
    ([1.0] * 5 + [1.2] * 5, False),
    # five lengths, each once in a window
    ([1.0, 2.0, 3.0, 4.0, 5.0] * 2, True),
])
def test_latency_has_settled_when_two_windows_agree(seconds: list[float], settled: bool) -> None:
    assert has_settled(seconds) is settled


def test_figures_are_over_all_requests_and_speed_only_over_those_that_told_their_tokens() -> None:
    found = figures([4.0, *[1.0] * 18, 2.0], [None, *[10] * 18, 40])
    assert found is not None
    assert (found.first, found.median, found.p95, found.last, found.total) == (4.0, 1.0, 2.0, 2.0, 24.0)
    assert found.tokens_per_second == 220 / 20
    assert found.as_json()["p95_seconds"] == 2.0
    assert figures([], []) is None
    without = figures([1.0], [None])
    assert without is not None and without.tokens_per_second is None


# --- lines of logs ----------------------------------------------------------------------------------------------------

A, B = Source("llm-judge", "a", "vllm"), Source("llm-judge", "b", "vllm")


@pytest.mark.parametrize(("stamp", "at"), [
    ("1970-01-01T00:00:01Z", 1_000_000_000),
    ("1970-01-01T00:00:01.5Z", 1_500_000_000),
    ("1970-01-01T02:00:01.000000007+02:00", 1_000_000_007),
    ("INFO", None), ("", None), ("1970-13-01T00:00:01Z", None),
])
def test_a_stamp_is_read_to_the_nanosecond_with_any_offset(stamp: str, at: int | None) -> None:
    assert nanoseconds(stamp) == at


def test_a_line_without_a_stamp_belongs_to_the_one_before() -> None:
    assert parse_line("1970-01-01T00:00:01Z a b", A) == Line(1_000_000_000, A, "a b")
    assert parse_line("1970-01-01T00:00:01Z ", A) == Line(1_000_000_000, A, "")
    assert parse_line("no stamp", A, 5) == Line(5, A, "no stamp")
    assert stamp_of(1_500_000_000) == "1970-01-01T00:00:01.500Z"


def test_lines_are_merged_by_time_and_a_clock_set_back_does_not_mix_up_one_programs_lines() -> None:
    a = [Line(1, A, "1"), Line(9, A, "9"), Line(4, A, "4")]
    b = [Line(2, B, "2"), Line(5, B, "5"), Line(10, B, "10")]
    assert [line.text for line in in_order([iter(a), iter(b)])] == ["1", "2", "5", "9", "4", "10"]


def test_a_stream_that_is_opened_again_doubles_nothing_and_loses_nothing() -> None:
    second = 1_000_000_000
    lines = [Line(second, A, "x"), Line(second, A, "x"), Line(second + 5, A, "y"), Line(2 * second, A, "z"),
             Line(2 * second + 1, A, "z")]
    seen_lines = Seen()
    assert [seen_lines.is_new(line) for line in lines[:3]] == [True] * 3
    assert seen_lines.since == 1
    seen_lines.reopened()
    again = [line for line in [*lines[:3], Line(second + 5, A, "y"), *lines[3:]] if seen_lines.is_new(line)]
    # The second "y" of that moment is a line of its own: it came once more often than it was shown.
    assert [line.text for line in again] == ["y", "z", "z"]
    assert seen_lines.since == 2
    seen_lines.reopened()
    assert [seen_lines.is_new(line) for line in lines[3:]] == [False, False]


def test_lines_of_the_same_second_that_a_tail_left_out_stay_out() -> None:
    lines = [Line(1_000_000_000 + number, A, str(number)) for number in range(5)]
    seen_lines = Seen()
    assert seen_lines.is_new(lines[2])
    seen_lines.reopened()
    assert [line.text for line in lines if seen_lines.is_new(line)] == ["3", "4"]


def test_a_stream_without_what_was_shown_last_is_another_one() -> None:
    seen_lines = Seen()
    assert seen_lines.is_new(Line(5, A, "old"))
    seen_lines.reopened()
    assert seen_lines.is_other(Line(6, A, "new"))
    assert not seen_lines.is_new(Line(5, A, "old"))
    assert not seen_lines.is_other(Line(6, A, "new"))


def test_a_progress_bar_becomes_lines_and_colours_are_dropped() -> None:
    assert printable("\x1b[36mINFO\x1b[0m loading") == ["INFO loading"]
    assert printable("\rShards: 0%\rShards: 50%\r") == ["Shards: 0%", "Shards: 50%"]
    assert printable("") == [""]
    # Not a colour: it stays, and is shown as what it is.
    assert printable("\x1b[2Jx") == ["\x1b[2Jx"]


def test_pods_have_short_names_unless_two_would_be_one() -> None:
    pods = [("llm-judge", f"{SERVICE}-5d8f7-x7k2p"), ("llm-judge-loader", "judge-loader-9qw3z"), ("llm-judge", "other")]
    assert list(short_names(pods, SERVICE).values()) == ["server-x7k2p", "other", "loader-9qw3z"]
    twins = [("llm-judge", f"{SERVICE}-1-x7k2p"), ("llm-judge", f"{SERVICE}-2-x7k2p")]
    assert list(short_names(twins, SERVICE).values()) == [f"{SERVICE}-1-x7k2p", f"{SERVICE}-2-x7k2p"]
