"""The loader on real kubelets: a blank node warms itself, damage is found by the timer, its token can do no more."""

from __future__ import annotations

import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from integration.loader_objects import render
from integration.local_site import Cli, on_node
from judge_bootstrap.adapters import objects
from judge_bootstrap.adapters.hub import resolve_model
from judge_bootstrap.adapters.kube import connect
from judge_lab import layout, site
from judge_lab.pki import API_URL

pytestmark = pytest.mark.lab
NAMESPACE, REPOSITORY = "loader-test-loader", "judge-lab/tiny-judge"
# Not the one of a loader that another run has left in the lab.
TAINT = "judge-bootstrap.io/loader-test-not-ready"
STATE = "judge-bootstrap.io/model-state"
BLOBS = f"/mnt/nvme/hub/models--{REPOSITORY.replace('/', '--')}/blobs"
STALE_CACHE = "/mnt/nvme/vllm-cache/" + "e" * 12 + "-0123abcd-t4"
MERGE = "application/merge-patch+json"


def soon(holds: Callable[[], Any], seconds: float = 600) -> bool:
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True


@dataclass(frozen=True)
class View:
    """What a Node says at one moment."""

    ready: bool
    tainted: bool
    state: str | None
    reason: str | None


@dataclass
class Cluster:
    """The lab's API server as its admin, and every version of the Nodes since the start."""

    api: Any
    commit: str
    seen: dict[str, list[View]] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        kind = {"PATCH": MERGE, "POST": "application/json"}.get(method)
        return objects.request(self.api, method, path, body, content_type=kind)

    def node(self, name: str) -> dict[str, Any]:
        return self.ask("GET", f"/api/v1/nodes/{name}")

    def view(self, node: dict[str, Any]) -> View:
        said = json.loads(node["metadata"].get("annotations", {}).get(STATE, "{}"))
        return View(
            node["metadata"]["labels"].get(f"judge-bootstrap.io/model-{self.commit}") == "ready",
            any(taint["key"] == TAINT for taint in node["spec"].get("taints", [])),
            said.get("state"), said.get("reason"))

    def free(self, name: str) -> bool:
        view = self.view(self.node(name))
        return (view.ready, view.tainted, view.state) == (True, False, "complete")

    def watch(self, until: threading.Event) -> None:
        from kubernetes import client, watch

        watching = watch.Watch()
        # Longer than all of the tests take, and than the Nodes may have nothing to say.
        for event in watching.stream(client.CoreV1Api(self.api).list_node, timeout_seconds=7200,
                                     _request_timeout=(60, 7200)):
            view, name = self.view(event["raw_object"]), event["raw_object"]["metadata"]["name"]
            views = self.seen.setdefault(name, [])
            if not views or views[-1] != view:
                views.append(view)
            if until.is_set():
                return

    def events(self, name: str) -> list[str]:
        found = self.ask("GET", "/api/v1/namespaces/default/events")["items"]
        ours = [event for event in found if event["reportingComponent"] == "judge-loader"
                and event["involvedObject"]["name"] == name and event["reportingInstance"] in self.pods(name)]
        return [event["reason"] for event in sorted(ours, key=lambda event: str(event["metadata"]["name"]))]

    def pods(self, node: str) -> list[str]:
        items = self.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        return [item["metadata"]["name"] for item in items if item["spec"].get("nodeName") == node]


@pytest.fixture(scope="module")
def cli(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    site.up()
    return Cli(tmp_path_factory.mktemp("state"))


def address(name: str) -> str:
    return str(site.status()["nodes"][name]["address"])


def instance(name: str) -> str:
    return str(site.status()["nodes"][name]["instance_id"])


def send_to(place: str | None) -> dict[str, Any]:
    """Return the patch that has a DaemonSet's pods run on no node, and the one that takes that back."""
    return {"spec": {"template": {"spec": {"nodeSelector": {"loader-test": place}}}}}


def say_nothing(cluster: Cluster, node: str) -> None:
    """Take from the Node all that any loader says on it."""
    before = cluster.node(node)
    labels = {key: None for key in before["metadata"]["labels"] if key.startswith("judge-bootstrap.io/model-")}
    taints = [taint for taint in before["spec"].get("taints", []) if taint["key"] != TAINT]
    cluster.ask("PATCH", f"/api/v1/nodes/{node}", {
        "metadata": {"labels": labels, "annotations": {STATE: None}}, "spec": {"taints": taints}})


@pytest.fixture(scope="module")
def cluster(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Both nodes with a disk and a loader over it; the model is on neither when the loaders start."""
    environment = site.environment()
    resolved = resolve_model(REPOSITORY, "main", environment["HF_ENDPOINT"])
    made = Cluster(connect(environment["KUBECONFIG"]), resolved.manifest["commit"])
    # A loader of another run would repair what is broken here: its pods go, and come back at the end.
    loaders = "labelSelector=app.kubernetes.io/name%3Djudge-loader"
    others = [objects.path_of({"apiVersion": "apps/v1", "kind": "DaemonSet", **item})
              for item in made.ask("GET", f"/apis/apps/v1/daemonsets?{loaders}")["items"]]
    for path in others:
        made.ask("PATCH", path, send_to("nowhere"))
    assert soon(lambda: made.ask("GET", f"/api/v1/pods?{loaders}")["items"] == [])
    for node in ("node-1", "node-2"):
        say_nothing(made, node)
    prepared = cli("run", "nvme")
    assert prepared.code == 0, prepared.stderr
    for node in ("node-1", "node-2"):
        on_node(address(node), f"rm -rf /mnt/nvme/hub; mkdir -p {STALE_CACHE}/torch; chmod 700 {STALE_CACHE}; "
                               f"chown -R 10001:10001 {STALE_CACHE}")
    wanted = render(
        tmp_path_factory.mktemp("objects"), model_cache_manifest=resolved.manifest,
        model_cache_hub_endpoint=environment["HF_ENDPOINT"], model_cache_verify_quick_every="2s",
        model_cache_verify_deep_every="3s", vllm_k8s_namespace=NAMESPACE.removesuffix("-loader"),
        vllm_k8s_node_taint=TAINT)
    stop = threading.Event()
    watching = threading.Thread(target=made.watch, args=(stop,), daemon=True)
    watching.start()
    assert soon(lambda: made.seen.keys() >= {"node-1", "node-2"}), "nothing is seen of the Nodes"
    objects.apply(made.api, wanted)
    yield made
    stop.set()
    for item in reversed(wanted):
        made.ask("DELETE", objects.path_of(item))
    for node in ("node-1", "node-2"):
        say_nothing(made, node)
    for path in others:
        made.ask("PATCH", path, send_to(None))
    watching.join(timeout=30)


@pytest.fixture(scope="module")
def warm(cluster: Cluster) -> Cluster:
    """Both nodes have been filled by their loaders."""
    for node in ("node-1", "node-2"):
        assert soon(lambda node=node: cluster.free(node)), f"{node}: {cluster.node(node)['metadata']}"
    return cluster


# --- a node that nobody has filled ------------------------------------------------------------------------------------


def test_a_node_is_tainted_before_it_is_filled_and_free_after_it(warm: Cluster) -> None:
    views = warm.seen["node-1"]
    assert View(False, True, "syncing", None) in views
    assert soon(lambda: views[-1] == View(True, False, "complete", None))
    assert not any(view.ready and view.tainted for view in views), "label and taint change in one patch"
    # The event follows the patch.
    assert soon(lambda: warm.events("node-1")[:2] == ["ModelSyncing", "ModelReady"]), warm.events("node-1")


def test_what_it_wrote_is_root_s_and_verified_from_outside(warm: Cluster) -> None:
    done = on_node(address("node-1"), f"stat -c '%U %a' {BLOBS}/* | sort -u")
    assert done == "root 444\n"


def test_the_container_has_one_capability_and_no_way_to_more(warm: Cluster) -> None:
    found = on_node(address("node-1"), """\
for process in /proc/[0-9]*; do
  words=$(tr '\\0' ' ' <$process/cmdline 2>/dev/null | cut -d' ' -f1-3)
  [ "$words" != "python3 /opt/judge-node/judge-node.pyz loader" ] ||
    grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' $process/status
done""")
    assert dict(line.split(":\t") for line in found.splitlines()) == {
        "CapEff": f"{1 << 1:016x}", "CapBnd": f"{1 << 1:016x}", "NoNewPrivs": "1", "Seccomp": "2"}


def test_the_compile_caches_are_made_and_rid_of_what_is_gone(warm: Cluster) -> None:
    folder, name = STALE_CACHE.rsplit("/", 1)
    assert name not in on_node(address("node-1"), f"ls {folder}").split()


def test_a_disk_that_comes_back_blank_costs_the_label_at_once_and_is_filled_again(warm: Cluster, cli: Cli) -> None:
    def says(**wanted: Any) -> bool:
        view = warm.view(warm.node("node-2"))
        return all(getattr(view, name) == value for name, value in wanted.items())

    site.node("stop", "node-2")
    assert says(ready=True, tainted=False), "what a stopped node said stays"
    site.node("start", "node-2")
    assert soon(lambda: says(ready=False, tainted=True, state="failed", reason="MOUNT_MISSING")), warm.node("node-2")
    assert on_node(address("node-2"), "ls -A /mnt/nvme") == "", "the root disk was written to"
    # What the boot unit does on a real node. The pod runs already, and has to see the mount that comes now.
    assert cli("run", "nvme", "--limit", instance("node-2")).code == 0
    assert soon(lambda: warm.free("node-2")), warm.node("node-2")


# --- damage -----------------------------------------------------------------------------------------------------------


def test_corrupt_weights_are_found_by_the_timer_and_repaired(warm: Cluster) -> None:
    events, seen = len(warm.events("node-1")), len(warm.seen["node-1"])
    blob = on_node(address("node-1"), f"ls -S {BLOBS}/* | head -1").strip()
    before = on_node(address("node-1"), f"sha256sum {blob}")
    on_node(address("node-1"), f"printf '\\377\\000\\377' | dd of={blob} bs=1 seek=100000 conv=notrunc 2>/dev/null")
    assert on_node(address("node-1"), f"sha256sum {blob}") != before
    assert soon(lambda: len(warm.events("node-1")) >= events + 3), warm.seen["node-1"][seen:]
    assert warm.events("node-1")[events:events + 3] == ["INTEGRITY_MISMATCH", "ModelSyncing", "ModelReady"]
    wanted = [View(False, True, "corrupt", "INTEGRITY_MISMATCH"), View(False, True, "syncing", None),
              View(True, False, "complete", None)]
    # The watch may hear of the last one after us.
    assert soon(lambda: len(warm.seen["node-1"]) >= seen + len(wanted)), warm.seen["node-1"][seen:]
    assert warm.seen["node-1"][seen:] == wanted
    assert on_node(address("node-1"), f"sha256sum {blob}") == before


# --- what its token may do --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """Requests with the token of the loader's pod on node-1, as that pod sends them."""

    token: str

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Return the status, and what the server said."""
        context = ssl.create_default_context(cafile=str(layout.current().kube / "pki/ca.crt"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        request = urllib.request.Request(
            API_URL + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}",
                     "Content-Type": MERGE if method == "PATCH" else "application/json"})
        try:
            with opener.open(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def account(warm: Cluster) -> Account:
    (pod,) = warm.pods("node-1")
    found = warm.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}")["metadata"]
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": {
        "apiVersion": "v1", "kind": "Pod", "name": pod, "uid": found["uid"]}}}
    answer = warm.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/judge-loader/token", request)
    return Account(answer["status"]["token"])


OTHER_MODEL = "judge-bootstrap.io/model-" + "d" * 40
SKU = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
EVENT = {"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "loader-test.", "namespace": "default"},
         "reason": "Test", "message": "", "type": "Normal", "reportingComponent": "loader-test",
         "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": "node-1"}}


def labels(**found: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {key.replace("__", "/").replace("_", "-"): value for key, value in found.items()}}}


def test_its_own_node_s_words_may_be_changed(account: Account) -> None:
    for body in (
        {"metadata": {"labels": {OTHER_MODEL: "ready"}}}, {"metadata": {"labels": {OTHER_MODEL: None}}},
        {"spec": {"taints": [SKU, {"key": TAINT, "effect": "NoSchedule"}]}}, {"spec": {"taints": [SKU]}},
    ):
        status, said = account("PATCH", "/api/v1/nodes/node-1", body)
        assert status == 200, said
    assert account("GET", "/api/v1/nodes/node-1")[0] == 200
    assert account("POST", "/api/v1/namespaces/default/events", EVENT)[0] == 201


@pytest.mark.parametrize(("path", "body", "said"), [
    ("node-2", {"metadata": {"labels": {OTHER_MODEL: "ready"}}}, "only patch the Node that its pod runs on"),
    ("node-1", labels(role="other"), "of the labels"),
    ("node-1", labels(node_role__kubernetes="x"), "of the labels"),
    ("node-1", labels(role=None), "of the labels"),
    ("node-1", {"metadata": {"labels": {OTHER_MODEL: "anything"}}}, "of the labels"),
    ("node-1", {"metadata": {"labels": {"judge-bootstrap.io/model-x": "ready"}}}, "of the labels"),
    ("node-1", {"metadata": {"annotations": {"example.org/x": "y"}}}, "of the annotations"),
    ("node-1", {"metadata": {"annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": None}}},
     "of the annotations"),
    ("node-1", {"spec": {"taints": []}}, "of the taints"),
    ("node-1", {"spec": {"taints": [SKU, {"key": "x", "effect": "NoSchedule"}]}}, "of the taints"),
    ("node-1", {"spec": {"taints": [{**SKU, "effect": "NoExecute"}]}}, "of the taints"),
    ("node-1", {"spec": {"taints": [SKU, {"key": TAINT, "effect": "NoExecute"}]}}, "of the taints"),
    ("node-1", {"spec": {"unschedulable": True}}, "nothing else"),
    ("node-1", {"metadata": {"finalizers": ["example.org/x"]}}, "nothing else"),
    ("node-1", {"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": "gone"}]}}, "nothing else"),
], ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None)  # fmt: skip
def test_all_else_of_a_node_is_refused_by_the_policy(
        warm: Cluster, account: Account, path: str, body: dict[str, Any], said: str) -> None:
    before = warm.node(path)["metadata"]["labels"], warm.node(path)["spec"]
    status, message = account("PATCH", f"/api/v1/nodes/{path}", body)
    assert status == 422 and said in message, (status, message)
    assert (warm.node(path)["metadata"]["labels"], warm.node(path)["spec"]) == before


@pytest.mark.parametrize(("method", "path", "body"), [
    ("DELETE", "/api/v1/nodes/node-1", None),
    ("GET", "/api/v1/nodes", None),
    ("PATCH", "/api/v1/nodes/node-1/status", {"status": {"capacity": {"example.org/x": "1"}}}),
    ("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets", None),
    ("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/hf-secret", None),
    ("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/judge-loader-models", None),
    ("GET", "/api/v1/namespaces/kube-system/secrets", None),
    ("GET", "/api/v1/pods", None),
    ("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}),
    ("POST", f"/api/v1/namespaces/{NAMESPACE}/events", EVENT),
    ("GET", "/api/v1/namespaces/default/events", None),
    ("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/judge-loader/token", {}),
])  # fmt: skip
def test_all_else_of_the_cluster_is_refused_by_rbac(
        account: Account, method: str, path: str, body: dict[str, Any] | None) -> None:
    status, message = account(method, path, body)
    assert status == 403 and "cannot" in message, (status, message)


def test_an_event_about_another_node_is_refused(account: Account) -> None:
    about = {**EVENT["involvedObject"], "name": "node-2"}  # type: ignore[dict-item]
    status, message = account("POST", "/api/v1/namespaces/default/events", {**EVENT, "involvedObject": about})
    assert status == 422 and "only tell of the Node" in message


def test_a_token_that_names_no_node_may_change_none(warm: Cluster) -> None:
    answer = warm.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/judge-loader/token",
                      {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
    status, message = Account(answer["status"]["token"])(
        "PATCH", "/api/v1/nodes/node-1", {"metadata": {"labels": {OTHER_MODEL: "ready"}}})
    assert status == 422 and "only patch the Node" in message
