"""Objects applied server-side and removed again, against an API server of a few lines."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from judge_bootstrap.adapters import kube
from judge_bootstrap.adapters.objects import (
    FIELD_MANAGER,
    apply,
    as_text,
    name_of,
    path_of,
    plain,
    prune,
    read,
    refusal_of_pod,
    request,
)
from judge_bootstrap.core.errors import BootstrapError, UsageProblem

OURS = {"app.kubernetes.io/managed-by": FIELD_MANAGER, "judge-bootstrap.io/owner": "me"}


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or dict(OURS)}}


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "data": data or {"a": "1"},
            "metadata": {"name": name, "namespace": "judge", "labels": dict(OURS)}}


def deployment(image: str = "vllm:1") -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "judge", "namespace": "judge", "labels": dict(OURS)},
            "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "serviceAccountName": "x", "containers": [{"name": "vllm", "image": image}]}}}}


class Api:
    """Answers as the kubernetes client does. `refuse` says no to an object; `calls` is what was asked."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str, bool]] = []
        self.refuse: Callable[[Mapping[str, Any], bool], tuple[int, str] | None] = lambda item, dry: None
        self.version = 0
        self.custom: set[str] = set()

    def call_api(self, path: str, method: str, query_params: list[tuple[str, str]], header_params: dict[str, str],
                 body: Any = None, auth_settings: list[str] | None = None, _preload_content: bool = True) -> Any:
        query = dict(query_params)
        dry = query.get("dryRun") == "All"
        self.calls.append((method, path, dry))
        answer = getattr(self, method.lower())(path, query, body, dry)
        return SimpleNamespace(data=json.dumps(answer).encode())

    def fail(self, status: int, message: str) -> Any:
        from kubernetes.client.exceptions import ApiException

        error = ApiException(status=status, reason="said no")
        error.body = json.dumps({"message": message})
        raise error

    def get(self, path: str, query: dict[str, str], body: Any, dry: bool) -> Any:
        if path in self.stored:
            return self.stored[path]
        if path.rsplit("/", 1)[-1] in ("configmaps", "deployments", "services", "persistentvolumes"):
            wanted = dict(pair.split("=") for pair in query["labelSelector"].split(","))
            items = [item for key, item in sorted(self.stored.items()) if key.rsplit("/", 1)[0] == path
                     and wanted.items() <= item["metadata"].get("labels", {}).items()]
            at = int(query.get("continue", "0"))
            page = items[at:at + 2]  # pages of two, so that there are several
            return {"items": [{key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
                              for item in page],
                    "metadata": {"continue": str(at + 2) if len(items) > at + 2 else ""}}
        if path in self.custom:
            return {"kind": "APIResourceList"}
        return self.fail(404, "not found")

    def patch(self, path: str, query: dict[str, str], body: Any, dry: bool) -> Any:
        within = body["metadata"].get("namespace")
        if within and f"/api/v1/namespaces/{within}" not in self.stored:
            self.fail(404, "namespaces not found")
        if said := self.refuse(body, dry):
            self.fail(*said)
        there = self.stored.get(path)
        after = copy.deepcopy(body)
        after["metadata"]["uid"] = there["metadata"]["uid"] if there else f"uid-{len(self.stored)}"
        after["metadata"]["managedFields"] = [{"manager": query["fieldManager"], "operation": "Apply"}]
        same = there is not None and plain(there) == plain(after)
        self.version += 0 if same else 1
        # As the real one: a dry run answers with the version that is there.
        after["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"] if there and (same or dry) else str(
            self.version)
        if not dry:
            self.stored[path] = after
        return after

    def post(self, path: str, query: dict[str, str], body: Any, dry: bool) -> Any:
        assert dry, "nothing is made by POST"
        if said := self.refuse(body, dry):
            self.fail(*said)
        return body

    def delete(self, path: str, query: dict[str, str], body: Any, dry: bool) -> Any:
        assert body["preconditions"]["uid"] == self.stored[path]["metadata"]["uid"]
        return self.stored.pop(path)

    def changing(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, dry in self.calls if method != "GET" and not dry]


@pytest.fixture
def api() -> Api:
    return Api()


def actions(changes: list[Any]) -> dict[str, str]:
    return {change.object: change.action for change in changes}


def test_objects_are_made_once_and_told_one_by_one(api: Api) -> None:
    wanted = [namespace("judge"), config_map("a"), config_map("b")]
    assert actions(apply(api, wanted)) == {
        "Namespace/judge": "created", "ConfigMap/judge/a": "created", "ConfigMap/judge/b": "created"}
    assert set(actions(apply(api, wanted)).values()) == {"unchanged"}
    wanted[2]["data"] = {"a": "2"}
    changes = apply(api, wanted)
    assert actions(changes)["ConfigMap/judge/b"] == "changed" and actions(changes)["ConfigMap/judge/a"] == "unchanged"
    (changed,) = [change for change in changes if change.action == "changed"]
    assert changed.before is not None and changed.after is not None
    assert (changed.before["data"], changed.after["data"]) == ({"a": "1"}, {"a": "2"})


def test_check_changes_nothing_and_says_the_same(api: Api) -> None:
    wanted = [namespace("judge"), config_map("a")]
    planned = actions(apply(api, wanted, check=True))
    assert api.changing() == [] and api.stored == {}
    assert planned == actions(apply(api, wanted))
    wanted[1]["data"] = {"a": "2"}
    planned = actions(apply(api, wanted, check=True))
    assert planned == actions(apply(api, wanted)) == {"Namespace/judge": "unchanged", "ConfigMap/judge/a": "changed"}


def test_one_object_that_is_refused_leaves_nothing_half_applied(api: Api) -> None:
    apply(api, [namespace("judge")])
    api.calls.clear()
    api.refuse = lambda item, dry: (422, "spec.image: wanted a digest") if item["kind"] == "Deployment" else None
    with pytest.raises(BootstrapError, match="apply Deployment/judge/judge: 422 spec.image: wanted a digest") as caught:
        apply(api, [namespace("judge"), config_map("a"), deployment()])
    assert caught.value.reason == "CLUSTER_REFUSED"
    assert api.changing() == []


def test_before_its_namespace_is_there_an_object_is_tried_in_another_one(api: Api) -> None:
    api.stored["/api/v1/namespaces/default"] = namespace("default", kind="there")
    tried: list[tuple[str, str, bool]] = []

    def refuse(item: Mapping[str, Any], dry: bool) -> tuple[int, str] | None:
        metadata = item["metadata"]
        tried.append((metadata.get("namespace", ""), metadata["name"], dry))
        said = f'Deployment.apps "{metadata["name"]}" is invalid: cpu: quantities must match'
        return (422, said) if item["kind"] == "Deployment" else None

    api.refuse = refuse
    with pytest.raises(BootstrapError) as caught:
        apply(api, [namespace("judge"), config_map("a"), deployment()])
    assert (caught.value.reason, caught.value.message) == (
        "CLUSTER_REFUSED",
        'cannot apply Deployment/judge/judge: 422 Deployment.apps "judge" is invalid: cpu: quantities must match')
    assert api.changing() == [] and all(dry for _, _, dry in tried)
    assert {place for place, name, _ in tried if name.startswith("judge-dry-run-")} == {"default"}


@pytest.mark.parametrize(("status", "said"), [
    (403, 'User "x" cannot patch resource "deployments" in namespace "default"'),
    (403, "exceeded quota: default"),
    (400, 'admission webhook "validate.kyverno.svc" denied the request: not in default'),
    (422, "ValidatingAdmissionPolicy 'p' with binding 'p' denied request: not in default")])
def test_what_the_other_namespace_has_against_it_counts_for_nothing(api: Api, status: int, said: str) -> None:
    api.stored["/api/v1/namespaces/default"] = namespace("default", kind="there")
    api.refuse = lambda item, dry: (status, said) if item["metadata"].get("namespace") == "default" else None
    assert actions(apply(api, [namespace("judge"), deployment()])) == {
        "Namespace/judge": "created", "Deployment/judge/judge": "created"}


def test_a_missing_right_is_named_as_such(api: Api) -> None:
    api.refuse = lambda item, dry: (403, 'User "x" cannot patch resource "namespaces"')
    with pytest.raises(BootstrapError, match="cannot patch resource") as caught:
        apply(api, [namespace("judge")])
    assert caught.value.reason == "CLUSTER_DENIED"


def test_a_namespace_of_others_is_left_and_its_refusal_of_our_pods_comes_first(api: Api) -> None:
    foreign = namespace("judge", team="search")
    api.stored[path_of(foreign)] = {**foreign, "metadata": {**foreign["metadata"], "resourceVersion": "1"}}
    wanted = [namespace("judge"), config_map("a"), deployment()]
    assert actions(apply(api, wanted)) == {
        "Namespace/judge": "left", "ConfigMap/judge/a": "created", "Deployment/judge/judge": "created"}
    assert api.stored[path_of(foreign)]["metadata"]["labels"] == {"team": "search"}
    api.calls.clear()
    api.refuse = lambda item, dry: (403, 'violates PodSecurity "restricted:latest"') if item["kind"] == "Pod" else None
    with pytest.raises(BootstrapError, match="judge would refuse the pods of Deployment/judge/judge") as caught:
        apply(api, wanted)
    assert caught.value.reason == "POD_FORBIDDEN" and api.changing() == []


def test_what_says_nothing_of_the_pods_keeps_none_from_a_namespace_of_others(api: Api) -> None:
    foreign = namespace("judge", team="search")
    api.stored[path_of(foreign)] = {**foreign, "metadata": {**foreign["metadata"], "resourceVersion": "1"}}
    said = 'pods "x" is forbidden: User "ci" cannot create resource "pods" in API group "" in the namespace "judge"'
    api.refuse = lambda item, dry: (403, said) if item["kind"] == "Pod" else None
    assert actions(apply(api, [namespace("judge"), deployment()]))["Deployment/judge/judge"] == "created"
    quota = 'pods "x" is forbidden: exceeded quota: gpus, requested: pods=1, used: pods=1, limited: pods=1'
    api.refuse = lambda item, dry: (403, quota) if item["kind"] == "Pod" else None
    assert actions(apply(api, [namespace("judge"), deployment("vllm:2")]))["Deployment/judge/judge"] == "changed"
    del api.stored[path_of(deployment())]
    with pytest.raises(BootstrapError, match="exceeded quota"):
        apply(api, [namespace("judge"), deployment()])


def test_a_pod_is_tried_without_its_account_and_with_a_name(api: Api) -> None:
    tried: list[Mapping[str, Any]] = []
    api.refuse = lambda item, dry: tried.append(item)
    assert refusal_of_pod(api, deployment()) is None
    (pod,) = tried
    assert "serviceAccountName" not in pod["spec"] and pod["metadata"]["namespace"] == "judge"


def test_a_kind_that_the_cluster_has_not_is_refused_before_anything_is_made(api: Api) -> None:
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
               "metadata": {"name": "judge", "namespace": "judge", "labels": dict(OURS)}}
    with pytest.raises(BootstrapError, match="the cluster has no ServiceMonitor") as caught:
        apply(api, [namespace("judge"), monitor])
    assert caught.value.hint is not None and "vllm_k8s_service_monitor" in caught.value.hint
    assert api.stored == {}
    api.custom.add("/apis/monitoring.coreos.com/v1")
    assert actions(apply(api, [namespace("judge"), monitor]))["ServiceMonitor/judge/judge"] == "created"


def test_prune_removes_what_we_applied_and_nobody_wants(api: Api) -> None:
    apply(api, [namespace("judge"), *(config_map(name) for name in ("a", "b", "c", "kept-1", "kept-2", "app"))])
    api.stored[path_of(config_map("app"))]["metadata"]["labels"]["app.kubernetes.io/name"] = "judge-loader"
    copied = config_map("copied")
    copied["metadata"]["managedFields"] = [{"manager": "kubectl", "operation": "Update"}]
    foreign = config_map("foreign")
    foreign["metadata"] |= {"labels": {**OURS, "judge-bootstrap.io/owner": "you"}}
    for item in (copied, foreign):
        api.stored[path_of(item)] = item
    removal: dict[str, Any] = {"keep": ["ConfigMap/judge/kept-*"], "keep_app": "judge-loader"}
    listed = prune(api, "me", ["judge"], [config_map("a")], check=True, **removal)
    assert actions(listed) == {"ConfigMap/judge/b": "deleted", "ConfigMap/judge/c": "deleted"}
    assert len(api.stored) == 9, "a check removes nothing"
    assert actions(prune(api, "me", ["judge"], [config_map("a")], **removal)) == actions(listed)
    assert sorted(path.rsplit("/", 1)[1] for path in api.stored if "configmaps" in path) == [
        "a", "app", "copied", "foreign", "kept-1", "kept-2"]
    assert prune(api, "me", ["judge"], [config_map("a")], **removal) == []


def test_a_secret_and_a_namespace_are_never_pruned(api: Api) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "data": {"token": "x"},
              "metadata": {"name": "s", "namespace": "judge", "labels": dict(OURS)}}
    apply(api, [namespace("judge"), secret])
    assert prune(api, "me", ["judge"], []) == []


def test_the_content_of_a_secret_and_long_content_are_in_no_diff() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "data": {"token": "aGZf"}, "metadata": {"name": "s"}}
    assert "aGZf" not in as_text(plain(secret))
    shown = as_text({"kind": "ConfigMap", "binaryData": {"x": "A" * 9000}})
    assert shown.strip().endswith("(9000 characters of base64)")
    assert as_text(None) == ""


def test_names_and_paths() -> None:
    assert name_of(config_map("a")) == "ConfigMap/judge/a"
    assert path_of(deployment()) == "/apis/apps/v1/namespaces/judge/deployments/judge"
    assert path_of(namespace("judge")) == "/api/v1/namespaces/judge"
    with pytest.raises(BootstrapError, match="found kind Widget"):
        path_of({"apiVersion": "v1", "kind": "Widget", "metadata": {"name": "x"}})


# --- the client's own patience, over real HTTP ------------------------------------------------------------------------


class Flaky(BaseHTTPRequestHandler):
    """Answers each request as the next of `script` says: a status, or None for a connection that just ends."""

    script: list[int | None]
    seen: list[str]

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append(self.command)
        status = self.script.pop(0) if self.script else 200
        if status is None:
            self.close_connection = True
            return
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        body = json.dumps({"metadata": {"name": "a"}, "message": "later"}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PATCH = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def flaky(tmp_path: Path) -> Iterator[tuple[type[Flaky], str]]:
    class Handler(Flaky):
        script: list[int | None] = []
        seen: list[str] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{httpd.server_address[1]}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}))
        yield Handler, str(path)
        httpd.shutdown()
        thread.join()


def test_what_may_be_repeated_is_repeated(flaky: tuple[type[Flaky], str]) -> None:
    handler, path = flaky
    handler.script[:] = [429, 500, None, 503, 200]
    assert read(kube.connect(path), config_map("a")) == {"metadata": {"name": "a"}, "message": "later"}
    assert handler.seen == ["GET"] * 5


def test_a_post_is_sent_once(flaky: tuple[type[Flaky], str]) -> None:
    from kubernetes.client.exceptions import ApiException

    handler, path = flaky
    handler.script[:] = [500, 200]
    with pytest.raises(ApiException):
        request(kube.connect(path), "POST", "/api/v1/namespaces/judge/pods", {})
    assert handler.seen == ["POST"]


def test_an_api_server_that_stays_away_is_said_with_its_last_answer(
        flaky: tuple[type[Flaky], str], monkeypatch: pytest.MonkeyPatch) -> None:
    handler, path = flaky
    monkeypatch.setattr(kube, "TRIES_AGAIN", 2)
    handler.script[:] = [503] * 9
    with pytest.raises(BootstrapError, match="still answers 503 after 3 tries: later") as caught:
        read(kube.connect(path), config_map("a"))
    assert caught.value.reason == "CLUSTER_UNREACHABLE" and len(handler.seen) == 3


@pytest.mark.parametrize("text", ["", "[1, 2]", "clusters: {", "apiVersion: v1\nkind: Config\n"])
def test_a_kubeconfig_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(BootstrapError, match="cannot use kubeconfig") as caught:
        kube.connect(str(path))
    assert caught.value.reason == "CLUSTER_UNREACHABLE" and "\n" not in caught.value.message


def test_a_time_limit_that_is_no_number_is_refused(
        flaky: tuple[type[Flaky], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kube.TIMEOUT_VARIABLE, "soon")
    with pytest.raises(UsageProblem, match="wanted a number of seconds"):
        kube.connect(flaky[1])

