"""`health`: what it asks of cluster and pods, and what a person, a pipe and a program get to see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cluster_desks import shipped_variables
from fakes_cli import Desk
from fakes_kube import FakeKube
from judge_bootstrap.adapters import kube_health
from judge_bootstrap.adapters.kube_health import KubernetesCluster, ask_pods, read_found
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.main import cli
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.health import Answer, Found
from judge_bootstrap.core.health_pods import Names
from pod_servers import PodServer, served, serving

COMMIT = "a" * 40
SERVICE = "judge-inference-service"
NAMES = Names(env="prod", namespace="llm-judge", loader_namespace="llm-judge-loader", service=SERVICE,
              selector="role=ai-gpu", taint="judge-bootstrap.io/model-not-ready")
SERVING = {"app.kubernetes.io/name": "judge-inference", "app.kubernetes.io/instance": SERVICE}
LOADING = {"app.kubernetes.io/name": "judge-loader", "app.kubernetes.io/instance": SERVICE}
Json = dict[str, Any]


def node(name: str, *, warm: bool = True) -> Json:
    labels = {"role": "ai-gpu", **({f"judge-bootstrap.io/model-{COMMIT}": "ready"} if warm else {})}
    return {"metadata": {"name": name, "labels": labels, "annotations": {}},
            "spec": {"taints": [] if warm else [{"key": NAMES.taint}]},
            "status": {"allocatable": {"nvidia.com/gpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}}


def pod(name: str, *, ready: bool = True, started: bool = True, labels: Json | None = None) -> Json:
    arguments = [f"/models/models--org--judge/snapshots/{COMMIT}", "--served-model-name", "org/judge"]
    return {"metadata": {"name": name, "labels": labels or SERVING},
            "spec": {"nodeName": "gpu-1", "containers": [{"name": "vllm", "image": "vllm:1", "args": arguments}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "vllm", "ready": ready, "started": started, "restartCount": 0, "imageID": "x@sha256:cc",
                 "state": {"running": {"startedAt": "2026-11-28T11:50:00Z"}}}]}}


def deployment() -> Json:
    return {"metadata": {"name": SERVICE, "generation": 1, "annotations": {"judge-bootstrap.io/model": "org/judge"}},
            "spec": {"replicas": 1, "template": {"metadata": {}, "spec": pod("x")["spec"]}},
            "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}}


def well(**changes: Any) -> Found:
    found = Found(nodes=[node("gpu-1")], deployment=deployment(), pods=[pod("p-1")],
                  loader={"metadata": {"name": "judge-loader"}, "spec": {},
                          "status": {"desiredNumberScheduled": 1, "numberReady": 1}},
                  service={"metadata": {"name": SERVICE}},
                  endpoint_slices=[{"endpoints": [{"targetRef": {"name": "p-1"}}]}], has_key=True,
                  answers={"p-1": Answer(metrics={"requests_running": 2.0}, verdict={"score": 9, "latency_ms": 50.0})})
    return replace(found, **changes)


@dataclass
class FakeWorld:
    """A cluster that is as it is told."""

    found: Found = field(default_factory=well)
    asked: list[tuple[Names, bool]] = field(default_factory=list)
    refuse: BootstrapError | None = None

    def look(self, settings: Any, names: Names, *, detail: bool) -> Found:
        self.asked.append((names, detail))
        if self.refuse:
            raise self.refuse
        return self.found


def run(desk: Desk, world: FakeWorld, *words: str) -> Result:
    desk.role_variables = shipped_variables()
    app = AppContext(services=desk.services(), extra={"health": world})
    return CliRunner().invoke(cli, ["--env", "prod", "health", *words], obj=app)


def test_a_chain_that_holds_ends_with_0_and_one_line_a_link(desk: Desk) -> None:
    world = FakeWorld()
    done = run(desk, world)
    assert done.exit_code == 0, done.output
    assert [line[6:].split(":")[0] for line in done.stdout.splitlines()[:-1]] == [
        "GPU nodes", "loader", "model on the nodes", "Deployment", "pods", "answers", "Service"]
    assert done.stdout.endswith("The chain holds: 1 of 1 pods serve.\n")
    assert world.asked == [(replace(NAMES), False)]


def test_the_first_broken_link_is_named_with_code_and_repair(desk: Desk) -> None:
    done = run(desk, FakeWorld(well(answers={"p-1": Answer("WRONG_MODEL_SERVED", "serves x, wanted org/judge")})))
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "Error: WRONG_MODEL_SERVED: answers: 0 of 1 ready pods serve the right model; p-1: serves x, wanted org/judge",
        "Hint: judge-bootstrap --env prod run vllm_k8s"]
    assert "FAIL  answers:" in done.stdout and "reason: WRONG_MODEL_SERVED" in done.stdout


def test_json_is_one_object_with_links_hosts_and_pods(desk: Desk) -> None:
    cold = FakeWorld(well(nodes=[node("gpu-1", warm=False)], pods=[], endpoint_slices=[], answers={}))
    done = run(desk, cold, "--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["ok"], answer["reason"]) == (1, False, "MODEL_INCOMPLETE")
    assert answer["hint"] == "judge-bootstrap --env prod models preload gpu-1"
    host = answer["hosts"]["gpu-1"]
    assert (host["ok"], host["changed"], host["state"], host["reason"]) == (False, False, "waiting", "MODEL_INCOMPLETE")
    assert answer["commit"] == COMMIT and answer["pods"] == {} and "verdict" not in answer


def test_verbose_adds_a_table_with_tabs_for_pipes(desk: Desk) -> None:
    world = FakeWorld()
    done = run(desk, world, "--verbose")
    assert world.asked[0][1] is True
    table = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert table[0] == ["pod", "state", "node", "gpu", "start", "restarts", "image", "figures"]
    assert table[1] == ["p-1", "ready", "gpu-1", "-", "-", "0", "vllm:1 (sha256:cc)", "2 running"]
    assert "ok    verdict: p-1 judged one answer in 50 ms: overall 9 of 10" in done.stdout


def test_of_many_broken_nodes_ten_are_named_and_the_others_counted(desk: Desk) -> None:
    nodes = [node("gpu-1"), *(node(f"cold-{n:03}", warm=False) for n in range(240))]
    done = run(desk, FakeWorld(well(nodes=nodes)))
    assert done.exit_code == 0
    assert done.stdout.count("cold-") - done.stdout.count("preload cold-") == 10
    assert "and 230 more" in done.stdout


def test_what_a_pod_says_drives_no_terminal_and_shows_no_token(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Ab1" * 11)
    said = f"\x1b[2Jgone {'hf_' + 'Ab1' * 11}"
    done = run(desk, FakeWorld(well(answers={"p-1": Answer("GOLDEN_DRIFT", said)})))
    assert "\x1b[2J" not in done.output and "hf_Ab1" not in done.output
    assert "***" in done.stdout


def test_a_cluster_that_does_not_answer_is_one_line(desk: Desk) -> None:
    refused = BootstrapError("cannot read the pods: no answer", reason="CLUSTER_UNREACHABLE", hint="kubectl get nodes")
    done = run(desk, FakeWorld(refuse=refused))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: CLUSTER_UNREACHABLE: cannot read the pods: no answer\nHint: kubectl get nodes\n"


# --- what is read of the cluster --------------------------------------------------------------------------------------


def site() -> FakeKube:
    """Return an API server that has the judge's objects."""
    kube = FakeKube()
    kube.put_all("/api/v1/nodes", [node("gpu-1")])
    inside = "/api/v1/namespaces/llm-judge"
    kube.put_all(f"{inside}/pods", [pod("p-1"), pod("other", labels={"app": "x"})])
    kube.put(f"{inside}/services/{SERVICE}", {"metadata": {"name": SERVICE}})
    kube.put(f"{inside}/secrets/judge-api-key", {"data": {"api-key": "c2VjcmV0"}})
    kube.put(f"/apis/apps/v1/namespaces/llm-judge/deployments/{SERVICE}", deployment())
    kube.put("/apis/apps/v1/namespaces/llm-judge-loader/daemonsets/judge-loader", {"metadata": {}, "spec": {}})
    kube.put_all("/api/v1/namespaces/llm-judge-loader/pods", [pod("judge-loader-1", labels=LOADING)])
    kube.put_all("/apis/policy/v1/namespaces/llm-judge/poddisruptionbudgets", [
        {"metadata": {"name": "others"}, "spec": {"selector": {"matchLabels": {"app": "x"}}}},
        {"metadata": {"name": "ours"}, "spec": {"selector": {"matchLabels": SERVING}}}])
    # The fake knows no field selectors.
    kube.answers[f"{inside}/events"] = lambda call: {"items": [
        {"involvedObject": {"name": "p-1"}, "reason": "Old", "message": "x", "lastTimestamp": "2026-11-28T10:00:00Z"},
        {"involvedObject": {"name": "p-1"}, "reason": "New", "message": "y", "lastTimestamp": "2026-11-28T11:00:00Z"}]}
    return kube


def read(kube: FakeKube, *, detail: bool = False, names: Names = NAMES) -> Found:
    return read_found(KubernetesCluster(kube), names, "judge-api-key", detail=detail)


def test_the_judges_own_objects_are_read_and_no_others() -> None:
    kube = site()
    found = read(kube)
    assert [one["metadata"]["name"] for one in (*found.pods, *found.loader_pods)] == ["p-1", "judge-loader-1"]
    assert found.events == {"llm-judge/p-1": "New: y"}
    assert found.deployment and found.loader and found.service and not found.unread
    assert not [call for call in kube.calls if call.method != "GET" or "secrets" in call.path]


def test_details_bring_our_budget_and_whether_the_key_is_there() -> None:
    found = read(site(), detail=True)
    assert found.budget is not None and found.budget["metadata"]["name"] == "ours"
    assert found.has_key is True


def test_of_a_secret_only_the_metadata_is_asked_for() -> None:
    asked = []

    class Kube(FakeKube):
        def call_api(self, path: str, method: str, **options: Any) -> Any:
            asked.append((path, options["header_params"]["Accept"]))
            return super().call_api(path, method, **options)

    kube = Kube(**vars(site()))
    read(kube, detail=True)
    assert [accept for path, accept in asked if "/secrets/" in path] == [
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"]


def test_1200_nodes_are_read_page_by_page() -> None:
    kube = site()
    kube.put_all("/api/v1/nodes", [node(f"gpu-{n}") for n in range(1, 1200)])
    assert len(read(kube).nodes) == 1199
    assert len([call for call in kube.calls if call.path == "/api/v1/nodes"]) == 3


def test_what_may_not_be_read_is_told_and_the_rest_is_read() -> None:
    kube = site()
    kube.denied = [("GET", "/api/v1/nodes"), ("GET", "/events"), ("GET", "llm-judge-loader")]
    found = read(kube)
    assert set(found.unread) == {"nodes", "events", "loader"}
    assert found.pods and found.deployment


def test_pods_that_may_not_be_read_are_an_error() -> None:
    kube = site()
    kube.denied = [("GET", "/pods")]
    with pytest.raises(BootstrapError) as error:
        read(kube)
    assert error.value.reason == "CLUSTER_DENIED"


def test_an_api_server_that_never_answers_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(kube_health, "READ_SECONDS", 0.05)
    kube, never = site(), threading.Event()

    def answer(_call: Any) -> Any:
        never.wait(20)
        return {}

    kube.answers["/api/v1/namespaces/llm-judge/pods"] = answer
    with pytest.raises(BootstrapError) as error:
        read(kube)
    never.set()
    assert error.value.reason == "CLUSTER_UNREACHABLE"


# --- what the pods are asked ------------------------------------------------------------------------------------------


@contextmanager
def pods_of(**pods: PodServer) -> Iterator[Callable[[str], AbstractContextManager[str]]]:
    """Yield what forwards to pods by name (p_1 is p-1)."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        urls = {name.replace("_", "-"): stack.enter_context(served(one)) for name, one in pods.items()}

        @contextmanager
        def forward(name: str) -> Iterator[str]:
            yield urls[name]

        yield forward


def ask(server: PodServer, key: str | None = None, *, ready: bool = True, **options: Any) -> Answer:
    with pods_of(p_1=server) as forward:
        return ask_pods(Found(pods=[pod("p-1", ready=ready)]), forward, key, **options)["p-1"]


def test_a_pod_with_the_right_model_is_well() -> None:
    server = serving("org/judge", COMMIT, key="k" * 32)
    found = ask(server, "k" * 32)
    assert (found.reason, found.message, found.gateway) == (None, "", True)
    assert found.ready["commit"] == COMMIT
    # The key goes only where it is needed.
    assert server.asked == [("GET", "/health/ready", None), ("GET", "/v1/models", f"Bearer {'k' * 32}")]


def test_a_pod_that_drifts_is_told_by_its_gateways_reason() -> None:
    server = serving("org/judge", COMMIT, ready=False, reason="GOLDEN_DRIFT", message="drift 2 of at most 1")
    found = ask(server, ready=False)
    assert (found.reason, found.message) == ("GOLDEN_DRIFT", "drift 2 of at most 1")


@pytest.mark.parametrize(("server", "reason", "said"), [
    (serving("org/judge", "b" * 40), "WRONG_MODEL_SERVED", "wanted commit"),
    (serving("org/other", COMMIT), "WRONG_MODEL_SERVED", "org/other"),
    (serving("org/judge", COMMIT, vouched="b" * 40), "WRONG_MODEL_SERVED", "its gateway vouches"),
    (serving("org/judge", COMMIT, key="another"), "API_KEY_WRONG", "401"),
    (PodServer({"/health/ready": (200, {}), "/v1/models": (500, "x")}), "PROBE_FAILING", "500"),
    (PodServer({"/health/ready": (302, "http://127.0.0.1:1/")}), "PROBE_FAILING", "302"),
])
def test_what_a_pod_answers_wrongly_has_a_reason_code(server: PodServer, reason: str, said: str) -> None:
    found = ask(server, "the-key-we-hold")
    assert found.reason == reason
    assert said in found.message


def test_without_a_key_the_gateways_own_word_has_to_do() -> None:
    found = ask(serving("org/judge", COMMIT, key="k"))
    assert (found.reason, found.keyless) == (None, True)


def test_a_server_without_gateway_is_asked_for_its_model_all_the_same() -> None:
    server = serving("org/judge", COMMIT)
    del server.routes["/health/ready"]
    found = ask(server)
    assert (found.reason, found.gateway) == (None, False)


def test_figures_and_a_verdict_are_asked_for_with_verbose_only() -> None:
    judged: list[tuple[str, str]] = []

    def judge(base_url: str, model: str) -> Mapping[str, Any]:
        judged.append((base_url, model))
        return {"score": 9}

    found = ask(serving("org/judge", COMMIT), metrics=True, judge=judge)
    assert (found.metrics, found.verdict) == ({"requests_running": 3.0}, {"score": 9})
    assert [model for _, model in judged] == ["org/judge"]


def test_a_pod_that_gives_no_verdict_is_broken() -> None:
    def judge(_base_url: str, _model: str) -> Mapping[str, Any]:
        raise BootstrapError("no valid verdict", reason="VERDICT_INVALID")

    assert ask(serving("org/judge", COMMIT), judge=judge).reason == "VERDICT_INVALID"


def test_a_pod_that_hangs_is_left_and_the_others_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_health, "POD_SECONDS", 0.4)
    slow, quick = serving("org/judge", COMMIT), serving("org/judge", COMMIT)
    slow.slow_seconds = 3.0
    with pods_of(p_1=slow, p_2=quick) as forward:
        found = ask_pods(Found(pods=[pod("p-1"), pod("p-2")]), forward, None)
    assert (found["p-1"].reason, found["p-2"].reason) == ("PROBE_FAILING", None)


def test_pods_for_which_time_is_too_short_are_told_as_not_asked() -> None:
    found = ask_pods(Found(pods=[pod("p-1")]), lambda name: pytest.fail("was asked"), None, seconds=0)
    assert found["p-1"].asked is False


def test_a_pod_that_still_loads_is_not_asked() -> None:
    assert ask_pods(Found(pods=[pod("p-1", started=False)]), lambda name: pytest.fail("was asked"), None) == {}


def test_a_port_forward_that_is_refused_is_that_pods_fault_alone() -> None:
    @contextmanager
    def forward(_name: str) -> Iterator[str]:
        raise OSError("refused")
        yield ""

    found = ask_pods(Found(pods=[pod("p-1")]), forward, None)["p-1"]
    assert (found.reason, found.message) == ("PROBE_FAILING", "could not be asked: refused")
