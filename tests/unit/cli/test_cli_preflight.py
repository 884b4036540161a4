"""`preflight`: what it concludes from what a cluster says, and that it changes nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from cluster_desks import ROLES, shipped_variables
from fakes_cli import Desk
from fakes_kube import Call, FakeKube, api_error
from judge_bootstrap.adapters import kube_preflight
from judge_bootstrap.adapters.objects import KINDS, unwanted
from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.main import cli
from judge_bootstrap.cli.preflight import World
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.kube_checks import check_version
from judge_bootstrap.core.kube_rights import Right, Scope, table, wanted_rights
from judge_bootstrap.core.network_enforcement import Agent, Enforcement, NetworkFacts, conclude

COMMIT = "a" * 40
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
TAINT = {"key": "judge-bootstrap.io/model-not-ready", "effect": "NoSchedule"}


def node(name: str, *, gpus: int = 1, ready: bool = True, cordoned: bool = False, models: tuple[str, ...] = (),
         taints: tuple[dict[str, str], ...] = ()) -> dict[str, Any]:
    labels = {"role": "ai-gpu", **{f"judge-bootstrap.io/model-{commit}": "ready" for commit in models}}
    return {"metadata": {"name": name, "labels": labels},
            "spec": {"unschedulable": cordoned, "taints": list(taints)},
            "status": {"allocatable": {"nvidia.com/gpu": str(gpus)}, "nodeInfo": {"kubeletVersion": "v1.36.3"},
                       "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}}


def gpu_pod(name: str, on: str, gpus: int = 1, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "spec": {
        "nodeName": on, "containers": [{"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]}}


def namespace(kube: FakeKube, name: str, **labels: str) -> None:
    found = {key.replace("__", "/"): value for key, value in labels.items()}
    kube.put(f"/api/v1/namespaces/{name}", {"metadata": {"labels": found}})


ENFORCE = "pod-security.kubernetes.io__enforce"


class Bench:
    """The command with an API server in memory, whose rights and network plugin a test chooses."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.kube = desk, FakeKube()
        desk.role_variables = shipped_variables(vllm_k8s_replicas=2)
        self.missing: set[tuple[str, str, str]] = set()
        self.proven: Enforcement | BootstrapError = Enforcement("enforced", "tried")
        self.kube.answers = {
            "/version": lambda call: {"gitVersion": "v1.36.3"}, REVIEWS: self._review,
            "/api/v1/namespaces/llm-judge/pods": self._pod, "/api/v1/namespaces/llm-judge-loader/pods": self._pod}
        self.kube.put_all("/api/v1/nodes", [node("a", models=(COMMIT,)), node("b", taints=(TAINT,))])
        self.refusals: dict[str, str] = {}

    def _review(self, call: Call) -> dict[str, Any]:
        asked = call.body["spec"]["resourceAttributes"]
        resource = "/".join(part for part in (asked["resource"], asked.get("subresource")) if part)
        allowed = not self.missing if asked["verb"] == "*" else (
            (asked["namespace"], resource, asked["verb"]) not in self.missing)
        return {"status": {"allowed": allowed}}

    def _pod(self, call: Call) -> Any:
        assert call.method == "POST" and "dryRun" in call.query
        said = self.refusals.get(call.path.split("/")[4])
        if said:
            raise api_error(403, said)
        return call.body

    def __call__(self, *words: str) -> Result:
        def prove(*_: Any) -> Enforcement:
            if isinstance(self.proven, BootstrapError):
                raise self.proven
            return self.proven

        world = World(connect=lambda settings: self.kube, prove=prove)
        app = AppContext(services=self.desk.services(), extra={"preflight": world})
        return CliRunner().invoke(cli, ["--env", "prod", "preflight", *words], obj=app)

    def json(self, *words: str) -> tuple[int, dict[str, Any]]:
        done = self(*words, "--json")
        answer: dict[str, Any] = json.loads(done.stdout)
        return done.exit_code, answer

    def check(self, name: str, *words: str) -> dict[str, Any]:
        """Return one row; a row that does not hold says what to do next."""
        _, answer = self.json(*words)
        found: dict[str, Any] = next(check for check in answer["checks"] if check["name"] == name)
        assert found["status"] == "ok" or found["hint"]
        return found


@pytest.fixture
def bench(desk: Desk) -> Bench:
    return Bench(desk)


def test_a_good_cluster_passes_and_nothing_was_changed(bench: Bench) -> None:
    before = json.dumps(bench.kube.objects)
    code, answer = bench.json()
    assert (code, answer["ok"], answer["missing_rights"]) == (0, True, [])
    assert [check["name"] for check in answer["checks"]] == [
        "Kubernetes", "rights", "namespace llm-judge", "namespace llm-judge-loader", "GPU nodes", "models on nodes",
        "GPU capacity", "local volumes", "NetworkPolicy"]
    assert json.dumps(bench.kube.objects) == before
    assert {call.method for call in bench.kube.calls if "dryRun" not in call.query and call.path != REVIEWS} == {"GET"}


def test_people_read_rows_as_doctor_shows_them(bench: Bench) -> None:
    done = bench()
    assert "ok    Kubernetes: v1.36.3 at https://fake:6443" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "All 9 checks hold, 1 warnings. Next: judge-bootstrap --env prod plan vllm_k8s")


@pytest.mark.parametrize(("version", "status"), [("v1.32.0", "ok"), ("v1.37.1-eks-a", "ok"), ("v1.31.9", "warn"),
                                                 ("v1.38.0", "warn"), ("v2.0.0", "warn"), ("odd", "warn")])
def test_a_version_outside_the_known_ones_is_a_warning(version: str, status: str) -> None:
    assert check_version("https://c", version).status == status


def test_a_cluster_that_gives_no_answer_is_one_failed_row(bench: Bench) -> None:
    def refuse(call: Call) -> Any:
        raise OSError("connection refused")

    bench.kube.answers["/version"] = refuse
    code, answer = bench.json()
    assert (code, answer["reason"], len(answer["checks"])) == (1, "CLUSTER_UNREACHABLE", 1)
    assert "connection refused" in answer["checks"][0]["found"]


def test_a_kubeconfig_that_fails_is_one_failed_row(desk: Desk) -> None:
    desk.role_variables = shipped_variables(vllm_k8s_kubeconfig="/not/there")
    app = AppContext(services=desk.services())
    done = CliRunner().invoke(cli, ["--env", "prod", "preflight"], obj=app)
    assert done.exit_code == 1
    assert "FAIL  Kubernetes: cannot use kubeconfig /not/there" in done.stdout and "next:" in done.stdout


def test_all_missing_rights_are_collected_in_one_table(bench: Bench) -> None:
    bench.missing = {("llm-judge", "deployments", "patch"), ("llm-judge", "deployments", "create"),
                     ("", "nodes", "patch"), ("llm-judge", "pods/portforward", "create")}
    code, answer = bench.json()
    assert (code, answer["reason"]) == (1, "CLUSTER_DENIED")
    assert {"namespace": None, "resource": "nodes", "verb": "patch"} in answer["missing_rights"]
    lines = [line.split() for line in bench().stdout.partition("Missing rights:\n")[2].splitlines()]
    assert lines == [["where", "resource", "verbs"], ["(whole", "cluster)", "nodes", "patch"],
                     ["llm-judge", "deployments.apps", "create,", "patch"],
                     ["llm-judge", "pods/portforward", "create"]]


def test_an_api_server_that_answers_badly_now_and_then_is_asked_again(
        bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_preflight, "_PAUSE_SECONDS", 0.0)
    bench.missing = {("", "nodes", "patch")}
    well, count = bench.kube.answers[REVIEWS], iter(range(10_000))

    def answers_badly(call: Call) -> Any:
        if next(count) % 3 == 0:
            raise api_error(503, "busy")
        return well(call)

    bench.kube.answers[REVIEWS] = answers_badly
    _, answer = bench.json()
    assert answer["missing_rights"] == [{"namespace": None, "resource": "nodes", "verb": "patch"}]


def test_every_kind_that_the_role_makes_has_its_rights_asked_for() -> None:
    """Kinds stand in the templates as `kind: X`; what is refered to is written on one line with others."""
    rights = wanted_rights(Scope("serving", "loaders", network_policy=True, service_monitor=True, ingress=True))
    asked = {(right.resource, right.verb) for right in rights}
    plurals = {kind: plural for (_, kind), (plural, _) in KINDS.items()}
    made = {kind for path in (ROLES / "vllm_k8s/templates").rglob("*.j2")
            for kind in re.findall(r"^kind: (\w+)$", path.read_text(), re.MULTILINE)}
    assert len(made) > 12
    for kind in made:
        assert {(plurals[kind], verb) for verb in ("get", "create", "patch")} <= asked, kind


def test_what_a_prune_looks_for_has_its_rights_asked_for(bench: Bench) -> None:
    bench.missing = {("", "nodes", "patch")}  # who may do everything is asked nothing more
    for variables in ({}, {"vllm_k8s_loader": False}):
        bench.desk.role_variables.update(variables)
        bench.json()
        asked = {(found["namespace"], found["resource"]) for call in bench.kube.calls if call.path == REVIEWS
                 if (found := call.body["spec"]["resourceAttributes"])["verb"] == "list"}
        kube = FakeKube()
        list(unwanted(kube, "owner", ["llm-judge", "llm-judge-loader", "default"], []))
        looked = {(place[1] if (place := re.search("/namespaces/([^/]+)/", call.path)) else "",
                   call.path.rpartition("/")[2]) for call in kube.calls}
        assert len(looked) > 30 and looked <= asked
        bench.kube.calls.clear()


def test_a_port_forward_is_a_websocket_which_needs_two_rights() -> None:
    asked = {(right.namespace, right.resource, right.verb) for right in wanted_rights(Scope("a", "b"))}
    assert {("a", "pods/portforward", "get"), ("a", "pods/portforward", "create")} <= asked


def test_what_verify_and_an_update_ask_has_its_rights_asked_for() -> None:
    asked = wanted_rights(Scope("a", "b"))
    assert Right("a", "endpointslices", "list", "discovery.k8s.io") in asked
    assert Right("b", "pods", "patch") in asked


def test_replicas_that_somebody_else_scales_need_room_for_one(bench: Bench) -> None:
    bench.desk.role_variables["vllm_k8s_replicas"] = None
    found = bench.check("GPU capacity")
    assert (found["status"], found["wanted"]) == (
        "ok", "room for 1 replicas with 1 GPU each; vllm_k8s_replicas is null: whoever scales says how many")


def test_the_table_joins_the_verbs_of_one_resource() -> None:
    rights = [right for right in wanted_rights(Scope("a", None))
              if (right.namespace, right.resource) == ("a", "services")]
    assert table(rights) == [("a", "services", "get, list, create, patch, delete")]


def test_without_a_loader_nothing_of_it_is_asked_for(bench: Bench) -> None:
    bench.desk.role_variables["vllm_k8s_loader"] = False
    _, answer = bench.json()
    assert "namespace llm-judge-loader" not in [check["name"] for check in answer["checks"]]
    assert not [right for right in wanted_rights(Scope("a", None)) if right.resource == "daemonsets"
                and right.verb == "create"]


def test_no_gpu_node_is_a_warning(bench: Bench) -> None:
    bench.kube.objects.clear()
    code, answer = bench.json()
    found = next(check for check in answer["checks"] if check["name"] == "GPU nodes")
    assert (code, found["status"], found["reason"]) == (0, "warn", "GPU_NONE")
    assert found["found"] == "0 nodes with label role=ai-gpu"


def test_nodes_without_gpu_or_not_ready_are_named(bench: Bench) -> None:
    bench.kube.put_all("/api/v1/nodes", [node("c", gpus=0), node("d", ready=False)])
    assert bench.check("GPU nodes")["found"] == (
        "2 ready with nvidia.com/gpu, of 4 with label role=ai-gpu; without: c (no GPU), d (not ready)")


def test_warm_is_a_label_without_the_taint(bench: Bench) -> None:
    bench.kube.put("/api/v1/nodes/c", node("c", models=(COMMIT,), taints=(TAINT,)))
    assert bench.check("models on nodes")["found"] == (
        "1 of 3 nodes have a verified model; not yet: b (tainted), c (tainted)")


def test_capacity_counts_what_others_hold_and_not_our_own(bench: Bench) -> None:
    pods = "/api/v1/namespaces/x/pods"
    ours = {"app.kubernetes.io/name": "judge-inference", "app.kubernetes.io/instance": "judge-inference-service",
            "app.kubernetes.io/managed-by": "judge-bootstrap", "judge-bootstrap.io/owner": "c7eef4471df074ea"}
    bench.kube.put_all(pods, [gpu_pod("ours", "a", **ours)])
    assert bench.check("GPU capacity")["status"] == "ok"
    bench.kube.put_all(pods, [gpu_pod("theirs", "b"), gpu_pod("elsewhere", "z")])
    found = bench.check("GPU capacity")
    assert (found["status"], found["reason"]) == ("warn", "GPU_NONE")
    assert found["found"] == ("2 GPUs on 2 schedulable nodes, room for 2 replicas, 1 of them not taken by pods of "
                              "others")


def test_a_cordoned_node_has_no_room(bench: Bench) -> None:
    bench.kube.put("/api/v1/nodes/b", node("b", cordoned=True))
    assert bench.check("GPU capacity")["found"].endswith("1 nodes are cordoned")


def test_hundreds_of_nodes_come_page_by_page(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_preflight, "PAGE", 50)
    bench.kube.put_all("/api/v1/nodes", [node(f"n-{number}") for number in range(230)])
    found = bench.check("GPU nodes")
    assert found["found"] == "232 ready with nvidia.com/gpu, of 232 with label role=ai-gpu"
    asked = [call.query for call in bench.kube.calls if call.path == "/api/v1/nodes" and "labelSelector" in call.query]
    assert len(asked) == 5 and {query["limit"] for query in asked} == {"50"}


def test_nodes_that_may_not_be_listed_are_a_warning(bench: Bench) -> None:
    bench.kube.denied.append(("GET", "/nodes"))
    assert bench.check("GPU nodes")["reason"] == "CLUSTER_DENIED"


def test_a_namespace_of_others_that_enforces_too_much_for_the_loader_fails(bench: Bench) -> None:
    namespace(bench.kube, "llm-judge-loader", **{ENFORCE: "restricted"})
    found = bench.check("namespace llm-judge-loader")
    assert (found["status"], found["reason"]) == ("fail", "POD_FORBIDDEN")
    assert "enforces restricted, was made by others, and the loader needs privileged" in found["found"]
    assert "enforce=privileged" in found["hint"] and "exemption" in found["hint"]


def test_our_own_namespace_is_put_right_by_the_run(bench: Bench) -> None:
    namespace(bench.kube, "llm-judge-loader", **{ENFORCE: "restricted",
                                                 "app.kubernetes.io__managed-by": "judge-bootstrap"})
    bench.refusals["llm-judge-loader"] = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath'
    assert bench.check("namespace llm-judge-loader")["status"] == "ok"


def test_a_policy_that_refuses_the_pod_is_shown_with_its_words(bench: Bench) -> None:
    namespace(bench.kube, "llm-judge", **{ENFORCE: "restricted"})
    bench.refusals["llm-judge"] = 'admission webhook "kyverno" denied the request: no tags'
    found = bench.check("namespace llm-judge")
    assert found["reason"] == "POD_FORBIDDEN" and 'admission webhook "kyverno" denied' in found["found"]


def test_who_may_not_make_pods_is_no_fault_of_the_namespace(bench: Bench) -> None:
    namespace(bench.kube, "llm-judge", **{ENFORCE: "restricted"})
    bench.refusals["llm-judge"] = 'pods is forbidden: User "x" cannot create resource "pods"'
    assert bench.check("namespace llm-judge")["status"] == "ok"


def test_a_serving_namespace_that_is_not_closed_is_a_warning(bench: Bench) -> None:
    namespace(bench.kube, "llm-judge")
    assert bench.check("namespace llm-judge")["status"] == "warn"


def test_the_store_by_host_path_needs_a_namespace_that_allows_it(bench: Bench) -> None:
    namespace(bench.kube, "llm-judge", **{ENFORCE: "restricted"})
    bench.desk.role_variables["vllm_k8s_store_volume"] = "hostPath"
    assert bench.check("namespace llm-judge")["status"] == "fail"


def test_local_volumes_that_are_refused_fail(bench: Bench) -> None:
    def refuse(call: Call) -> Any:
        raise api_error(422 if call.method == "PATCH" else 404, "local volumes are not allowed here")

    bench.kube.answers["/api/v1/persistentvolumes/judge-preflight"] = refuse
    found = bench.check("local volumes")
    assert (found["status"], found["reason"]) == ("fail", "CLUSTER_REFUSED")
    assert "local volumes are not allowed here" in found["found"]


def daemon_set(name: str, *, image: str = "x", args: tuple[str, ...] = (), ready: int = 2,
               path: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "kube-system"}, "spec": {"template": {"spec": {
        "containers": [{"image": image, "args": list(args)}],
        "volumes": [{"hostPath": {"path": path}}] if path else []}}},
        "status": {"desiredNumberScheduled": 2, "numberReady": ready}}


def test_a_cluster_without_any_agent_does_not_enforce(bench: Bench) -> None:
    code, answer = bench.json()
    assert (code, answer["network_policy"]) == (0, "not enforced")
    found = bench.check("NetworkPolicy")
    assert (found["status"], found["reason"]) == ("warn", "NETWORK_POLICY_UNENFORCED")
    assert "judge-bootstrap --env prod preflight --prove-network-policy" in found["hint"]


@pytest.mark.parametrize(("agents", "state", "evidence"), [
    ([daemon_set("calico-node")], "enforced", "Calico"),
    ([daemon_set("kube-flannel-ds"), daemon_set("calico-node")], "enforced", "Calico"),
    ([daemon_set("kube-flannel-ds")], "not enforced", "Flannel ignores them"),
    ([daemon_set("antrea-agent")], "enforced", "Antrea"),
    ([daemon_set("anetd")], "enforced", "GKE Dataplane V2"),
    ([daemon_set("cilium", image="quay.io/cilium/cilium:v1.18")], "enforced", "Cilium, enable-policy: default"),
    ([daemon_set("kube-router")], "enforced", "kube-router"),
    ([daemon_set("kube-router", args=("--run-firewall=false",))], "not enforced", "--run-firewall=false"),
    ([daemon_set("aws-node")], "not enforced", "aws-node alone"),
    ([daemon_set("aws-node", image="eks/aws-network-policy-agent:v1", args=("--enable-network-policy=false",))],
     "not enforced", "agent off"),
    ([daemon_set("aws-node", image="eks/aws-network-policy-agent:v1", args=("--enable-network-policy=true",))],
     "enforced", "with its network policy agent"),
    ([daemon_set("calico-node", ready=0)], "unknown", "none of its pods is ready"),
    ([daemon_set("own-net", path="/etc/cni/net.d/")], "unknown", "a network plugin that is not known here"),
    ([daemon_set("nvidia-device-plugin")], "not enforced", "none of 1 DaemonSets"),
])
def test_known_enforcers_are_told_by_their_agents(bench: Bench, agents: list[dict[str, Any]], state: str,
                                                  evidence: str) -> None:
    bench.kube.put_all("/apis/apps/v1/namespaces/kube-system/daemonsets", agents)
    _, answer = bench.json()
    assert answer["network_policy"] == state
    assert evidence in bench.check("NetworkPolicy")["found"]


def test_a_plugin_that_is_switched_off_by_its_configuration() -> None:
    cilium = Agent("kube-system", "cilium", ["cilium/cilium"], [], 2, 2, True)
    assert conclude(NetworkFacts([cilium], {"cilium-config": {"enable-policy": "never"}})).state == "not enforced"


def test_nodes_that_carry_their_plugin_inside() -> None:
    auto = frozenset({"eks.amazonaws.com/compute-type"})
    on = {"amazon-vpc-cni": {"enable-network-policy-controller": "true"}}
    assert conclude(NetworkFacts([], on, node_labels=auto)).state == "enforced"
    assert conclude(NetworkFacts([], {}, node_labels=auto)).state == "not enforced"
    assert conclude(NetworkFacts([], {}, kubelets=frozenset({"v1.33.1+k3s1"}))).state == "unknown"
    assert conclude(NetworkFacts(None, {})).state == "unknown"


def test_policies_that_nobody_wants_need_no_enforcer(bench: Bench) -> None:
    bench.desk.role_variables["vllm_k8s_network_policy"] = False
    assert bench.check("NetworkPolicy")["status"] == "ok"


def test_a_proof_replaces_the_conclusion(bench: Bench) -> None:
    assert bench.check("NetworkPolicy", "--prove-network-policy")["found"] == "enforced, tried with two pods: tried"


def test_a_proof_that_cannot_be_made_keeps_the_other_rows(bench: Bench) -> None:
    bench.proven = BootstrapError("pod x does not run", reason="POD_PENDING", hint="look")
    code, answer = bench.json("--prove-network-policy")
    assert (code, len(answer["checks"]), answer["checks"][-1]["reason"]) == (1, 9, "POD_PENDING")


def test_credentials_that_have_run_out_are_one_failed_row(bench: Bench) -> None:
    def refuse(call: Call) -> Any:
        raise api_error(401, "Unauthorized")

    bench.kube.answers["/version"] = refuse
    code, answer = bench.json("--prove-network-policy")
    assert (code, answer["reason"], len(answer["checks"])) == (1, "CLUSTER_DENIED", 1)


def test_where_manifests_are_files_nothing_is_asked(bench: Bench) -> None:
    bench.desk.role_variables["vllm_k8s_render_dir"] = "/srv/manifests"
    code, answer = bench.json()
    assert (code, len(answer["checks"]), bench.kube.calls) == (0, 1, [])


def test_the_pods_of_the_dry_run_are_what_each_level_takes() -> None:
    """Kept beside the role's templates: a field of theirs that Pod Security looks at must be in the tried pod."""
    loader = (ROLES / "vllm_k8s/templates/loader/daemonset.yaml.j2").read_text()
    tried = yaml.safe_dump(kube_preflight.loader_pod("n", "i", "/mnt/nvme"))
    for word in ("hostPath", "type: Directory", "runAsUser: 0", "readOnlyRootFilesystem: true"):
        assert word in tried and (word in loader or word in loader.replace("{", "").replace("}", ""))
    assert "hostNetwork" not in loader and "privileged: true" not in loader
