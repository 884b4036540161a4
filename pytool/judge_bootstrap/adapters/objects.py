"""Kubernetes objects as we want them: server-side apply with one field manager, told object by object; and removal.

Nothing is half applied: every object goes through the server's dry run before the first one is made.
"""

from __future__ import annotations

import copy
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from judge_bootstrap.adapters.kube import TRIES_AGAIN, ask, server_message
from judge_bootstrap.core.errors import BootstrapError

FIELD_MANAGER = "judge-bootstrap"
MANAGED_BY = "app.kubernetes.io/managed-by"
APP = "app.kubernetes.io/name"
OWNER = "judge-bootstrap.io/owner"
# (apiVersion, kind) -> (name in the URL, lies in a namespace): all that we ask for, in the order of removal.
KINDS: dict[tuple[str, str], tuple[str, bool]] = {
    ("networking.k8s.io/v1", "Ingress"): ("ingresses", True),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ("servicemonitors", True),
    ("v1", "Service"): ("services", True),
    ("policy/v1", "PodDisruptionBudget"): ("poddisruptionbudgets", True),
    ("apps/v1", "Deployment"): ("deployments", True),
    ("apps/v1", "DaemonSet"): ("daemonsets", True),
    ("batch/v1", "Job"): ("jobs", True),
    ("v1", "Pod"): ("pods", True),
    ("v1", "PersistentVolumeClaim"): ("persistentvolumeclaims", True),
    ("v1", "PersistentVolume"): ("persistentvolumes", False),
    ("v1", "ConfigMap"): ("configmaps", True),
    ("v1", "Secret"): ("secrets", True),
    ("networking.k8s.io/v1", "NetworkPolicy"): ("networkpolicies", True),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): ("rolebindings", True),
    ("rbac.authorization.k8s.io/v1", "Role"): ("roles", True),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): ("clusterrolebindings", False),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): ("clusterroles", False),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"):
        ("validatingadmissionpolicybindings", False),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"): ("validatingadmissionpolicies", False),
    ("v1", "ServiceAccount"): ("serviceaccounts", True),
    ("v1", "Namespace"): ("namespaces", False),
    ("v1", "Node"): ("nodes", False),
}
# Never removed by itself: with a namespace goes all that others put into it; a Secret may hold what no one else has; a
# Job and a bare pod are removed by who made them.
_NOT_PRUNED = ("Namespace", "Node", "Secret", "Job", "Pod")
_WITH_PODS = ("Deployment", "DaemonSet", "Job")
_PAGE = 500


@dataclass(frozen=True)
class ObjectChange:
    """What was done, or would be, with one object: created | changed | unchanged | deleted | left (not ours)."""

    object: str
    action: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


def name_of(item: Mapping[str, Any]) -> str:
    """Return Kind/namespace/name, or Kind/name for what lies in no namespace."""
    metadata = item["metadata"]
    return "/".join(part for part in (item["kind"], metadata.get("namespace"), metadata["name"]) if part)


def path_of(item: Mapping[str, Any], *, collection: bool = False) -> str:
    """Return the object's URL path; of the collection that it lies in with `collection`."""
    metadata = item["metadata"]
    found = _collection(item["apiVersion"], item["kind"], metadata.get("namespace"))
    return found if collection else f"{found}/{quote(metadata['name'], safe='')}"


def _collection(api_version: str, kind: str, namespace: str | None) -> str:
    try:
        plural, namespaced = KINDS[api_version, kind]
    except KeyError as error:
        raise BootstrapError(f"found kind {kind} of {api_version}, which judge-bootstrap does not make",
                             reason="CLUSTER_REFUSED") from error
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    return f"{root}/namespaces/{quote(namespace or 'default', safe='')}/{plural}" if namespaced else f"{root}/{plural}"


def apply(api_client: Any, objects: Sequence[Mapping[str, Any]], *, check: bool = False) -> list[ObjectChange]:
    """Make the objects so, in their order; say for each what that changed. With `check` only the server's dry run.

    Fields that we set are taken back from whoever changed them; all others are left alone. A namespace that others made
    is left as it is, with what it enforces. Raises BootstrapError, with nothing applied, when one object would be
    refused: CLUSTER_UNREACHABLE, CLUSTER_DENIED, CLUSTER_REFUSED, POD_FORBIDDEN.
    """
    _check_served(api_client, objects)
    before = [read(api_client, item) for item in objects]
    foreign = {item["metadata"]["name"] for item, there in zip(objects, before, strict=True)
               if item["kind"] == "Namespace" and there is not None and not _is_ours(there)}
    missing = {item["metadata"]["name"] for item, there in zip(objects, before, strict=True)
               if item["kind"] == "Namespace" and there is None}
    wanted = [(item, there) for item, there in zip(objects, before, strict=True)
              if not (item["kind"] == "Namespace" and item["metadata"]["name"] in foreign)]
    told = {name: ObjectChange(f"Namespace/{name}", "left") for name in foreign}
    planned = [_change(item, there, _dry_run(api_client, item, missing)) for item, there in wanted]
    for item, there in wanted:
        if item["kind"] in _WITH_PODS and item["metadata"].get("namespace") in foreign:
            _try_pod(api_client, item, replaces=there is not None)
    done = planned if check else [_change(item, there, _send(api_client, item)) for item, there in wanted]
    return [*told.values(), *done]


def _check_served(api_client: Any, objects: Sequence[Mapping[str, Any]]) -> None:
    """Raise BootstrapError CLUSTER_REFUSED for a kind of somebody else's that the cluster has not."""
    from kubernetes.client.exceptions import ApiException

    for item in objects:
        if not is_custom(item["apiVersion"]):
            continue
        try:
            request(api_client, "GET", f"/apis/{item['apiVersion']}")
        except ApiException as error:
            if error.status == 404:
                raise BootstrapError(
                    f"the cluster has no {item['kind']} ({item['apiVersion']}), nothing was applied",
                    reason="CLUSTER_REFUSED",
                    hint="install the Prometheus operator, or set vllm_k8s_service_monitor to false") from error


def is_custom(api_version: str) -> bool:
    """Tell whether an API version is not of Kubernetes itself but of something that was installed into the cluster."""
    group = api_version.rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def read(api_client: Any, item: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the object as the API server has it, or None. Raises BootstrapError."""
    from kubernetes.client.exceptions import ApiException

    def call() -> dict[str, Any] | None:
        try:
            return request(api_client, "GET", path_of(item))
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    return ask(f"read {name_of(item)}", call)


def request(api_client: Any, method: str, path: str, body: Any = None, *, content_type: str | None = None,
            query: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return the API server's JSON answer to one request. Raises what the client raises (see kube.ask)."""
    headers = {"Accept": "application/json", **({"Content-Type": content_type} if content_type else {})}
    answer = api_client.call_api(path, method, query_params=list(query), header_params=headers, body=body,
                                 auth_settings=["BearerToken"], _preload_content=False)
    found: dict[str, Any] = json.loads(answer[0].data if isinstance(answer, tuple) else answer.data)
    return found


def _send(api_client: Any, item: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
    query = [("fieldManager", FIELD_MANAGER), ("force", "true"), ("fieldValidation", "Strict")]
    if dry_run:
        query.append(("dryRun", "All"))
    return ask(f"apply {name_of(item)}", lambda: request(
        api_client, "PATCH", path_of(item), dict(item), content_type="application/apply-patch+yaml", query=query),
        hint="judge-bootstrap --env ENV preflight")


def _dry_run(api_client: Any, item: Mapping[str, Any], missing: set[str]) -> Mapping[str, Any]:
    # The API server forgets the namespace of a dry run at once, so nothing can be tried in one that is not there.
    if item["metadata"].get("namespace") in missing:
        if item["kind"] != "Secret":  # what is in it is for nobody in another namespace to see
            _try_elsewhere(api_client, item)
        return item
    return _send(api_client, item, dry_run=True)


def _try_elsewhere(api_client: Any, item: Mapping[str, Any]) -> None:
    """Raise BootstrapError CLUSTER_REFUSED for an object that is wrong in itself, whichever namespace it is in.

    Its dry run goes to `default`, under a name that nobody has. Only what the API server finds wrong with the fields
    counts: rights, quotas and policies of that namespace say nothing of the one that is to come.
    """
    from kubernetes.client.exceptions import ApiException

    name, trial = item["metadata"]["name"], f"judge-dry-run-{secrets.token_hex(4)}"
    try:
        _send(api_client, {**item, "metadata": {**item["metadata"], "name": trial, "namespace": "default"}},
              dry_run=True)
    except BootstrapError as error:
        if error.reason == "CLUSTER_UNREACHABLE":
            raise
        cause = error.__cause__
        if not isinstance(cause, ApiException) or cause.status not in (400, 422):
            return
        said = server_message(cause).replace(trial, name)
        if not re.search("(?i)admission|denied", said):
            raise BootstrapError(f"cannot apply {name_of(item)}: {cause.status} {said}", reason="CLUSTER_REFUSED",
                                 hint=error.hint) from error


def _try_pod(api_client: Any, owner: Mapping[str, Any], *, replaces: bool) -> None:
    """Raise BootstrapError POD_FORBIDDEN when the API server would not take a pod of this owner.

    `replaces`: pods of it are there, which go first; what a quota has against one more says nothing then.
    """
    said = refusal_of_pod(api_client, owner)
    if said and not (replaces and "exceeded quota" in said):
        namespace = owner["metadata"]["namespace"]
        raise BootstrapError(
            f"namespace {namespace} would refuse the pods of {name_of(owner)}: {said}", reason="POD_FORBIDDEN",
            hint=f"kubectl get namespace {namespace} --show-labels; allow these pods there, or set "
                 "vllm_k8s_namespace / vllm_k8s_loader_namespace to another namespace")


def refusal_of_pod(api_client: Any, owner: Mapping[str, Any]) -> str | None:
    """Return what the API server, its namespace and its policies have against a pod of this owner; None for nothing.

    The namespace must exist. Nothing is made: it is a dry run. That we ourselves may make no pods is no answer: its
    controller makes them.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    template = copy.deepcopy(owner["spec"]["template"])
    # Its service account may not be there yet, and is no part of what a namespace or a policy forbids.
    template["spec"].pop("serviceAccountName", None)
    namespace = owner["metadata"]["namespace"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {**template.get("metadata", {}), "generateName": f"{owner['metadata']['name']}-",
                       "namespace": namespace}
    pod["metadata"]["name"] = "dry-run"
    for _ in range(TRIES_AGAIN + 1):
        try:
            # A POST, which `connect` never repeats; of a dry run nothing is left, so it may be.
            request(api_client, "POST", path_of(pod, collection=True), pod, content_type="application/json",
                    query=[("dryRun", "All")])
            return None
        except ApiException as error:
            if error.status in (400, 403, 422):
                said = server_message(error)
                of_us = 'cannot create resource "pods"' in said
                of_account = "service account" in said.lower() or "serviceaccount" in said.lower()
                return None if of_us or of_account else said
            # What else goes wrong here says nothing of the pod; applying will say it.
        except (HTTPError, OSError):
            pass
        time.sleep(0.2)
    return None


def _is_ours(item: Mapping[str, Any]) -> bool:
    return (item["metadata"].get("labels") or {}).get(MANAGED_BY) == FIELD_MANAGER


def _change(item: Mapping[str, Any], before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> ObjectChange:
    if before is None:
        return ObjectChange(name_of(item), "created", None, plain(after))
    # Not by the resource version: a dry run keeps it, whatever would change.
    if plain(before) == plain(after):
        return ObjectChange(name_of(item), "unchanged")
    return ObjectChange(name_of(item), "changed", plain(before), plain(after))


def plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without what the cluster itself counts and writes, and without the content of a Secret."""
    found = copy.deepcopy(dict(item))
    found.pop("status", None)
    metadata = found["metadata"]
    for field in ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"):
        metadata.pop(field, None)
    (metadata.get("annotations") or {}).pop("deployment.kubernetes.io/revision", None)
    if not metadata.get("annotations"):
        metadata.pop("annotations", None)
    if found.get("kind") == "Secret":
        for field in ("data", "stringData"):
            found.pop(field, None)
    return found


def as_text(item: Mapping[str, Any] | None) -> str:
    """Return an object as YAML for a diff; long binary content as its length."""
    import yaml

    if item is None:
        return ""
    shown = dict(item)
    if "binaryData" in shown:
        shown["binaryData"] = {name: f"({len(text)} characters of base64)"
                               for name, text in (shown["binaryData"] or {}).items()}
    return str(yaml.safe_dump(shown, sort_keys=False))


# --- what is not wanted any more --------------------------------------------------------------------------------------


def listed(api_client: Any, api_version: str, kind: str, *, namespace: str | None = None, labels: str = "",
           fields: str = "") -> Iterator[dict[str, Any]]:
    """Yield all objects of a kind, page by page. Raises BootstrapError; a kind that the cluster has not has none."""
    from kubernetes.client.exceptions import ApiException

    path = _collection(api_version, kind, namespace)
    if namespace is None and KINDS[api_version, kind][1]:
        path = path.replace("/namespaces/default", "", 1)
    more = ""
    while True:
        query = [("limit", str(_PAGE)), ("labelSelector", labels), ("fieldSelector", fields), ("continue", more)]

        def call(asked: Sequence[tuple[str, str]] = tuple(pair for pair in query if pair[1])) -> dict[str, Any]:
            try:
                return request(api_client, "GET", path, query=asked)
            except ApiException as error:
                if error.status == 404:
                    return {"items": [], "metadata": {}}
                raise

        page = ask(f"list {kind}", call)
        for item in page.get("items") or []:
            yield {"apiVersion": api_version, "kind": kind, **item}
        more = (page.get("metadata") or {}).get("continue") or ""
        if not more:
            return


def prune(api_client: Any, owner: str, namespaces: Sequence[str], wanted: Sequence[Mapping[str, Any]],
          keep: Sequence[str] = (), *, keep_app: str | None = None, check: bool = False) -> list[ObjectChange]:
    """Remove what we once applied for this owner and what is not among the wanted objects; say what that was.

    Ours is what carries the owner's label and has fields that our field manager applied: a label alone can be copied.
    `keep` names objects (Kind/namespace/name; a * at the end is any rest) that stay although no one wants them now, as
    do those of the application `keep_app`. All are listed before the first is removed. Raises BootstrapError.
    """
    found = [item for item in unwanted(api_client, owner, namespaces, wanted, keep)
             if keep_app is None or item["metadata"]["labels"].get(APP) != keep_app]
    return [ObjectChange(name_of(item), "deleted", plain(item), None) if check else remove(api_client, item)
            for item in found]


def unwanted(api_client: Any, owner: str, namespaces: Sequence[str], wanted: Sequence[Mapping[str, Any]],
             keep: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return what `prune` would remove, in the order of removal."""
    stay = [*(name_of(item) for item in wanted), *keep]
    found = []
    for (api_version, kind), (_, namespaced) in KINDS.items():
        if kind in _NOT_PRUNED:
            continue
        for namespace in (namespaces if namespaced else [None]):
            found += [item for item in listed(api_client, api_version, kind, namespace=namespace,
                                              labels=f"{OWNER}={owner},{MANAGED_BY}={FIELD_MANAGER}")
                      if not _stays(name_of(item), stay) and _applied_by_us(item)
                      and "deletionTimestamp" not in item["metadata"]]
    return found


def _stays(name: str, stay: Sequence[str]) -> bool:
    return any(name == entry or (entry.endswith("*") and name.startswith(entry[:-1])) for entry in stay)


def _applied_by_us(item: Mapping[str, Any]) -> bool:
    return any(entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
               for entry in item["metadata"].get("managedFields") or [])


def remove(api_client: Any, item: Mapping[str, Any]) -> ObjectChange:
    """Remove this very object (its uid must still be the same); one that is gone is well. Raises BootstrapError."""
    from kubernetes.client.exceptions import ApiException

    body: dict[str, Any] = {"propagationPolicy": "Background"}
    if uid := item["metadata"].get("uid"):
        body["preconditions"] = {"uid": uid}

    def call() -> None:
        try:
            request(api_client, "DELETE", path_of(item), body, content_type="application/json")
        except ApiException as error:
            if error.status not in (404, 409):  # gone, or another object of this name is there by now
                raise

    ask(f"remove {name_of(item)}", call)
    return ObjectChange(name_of(item), "deleted", plain(item), None)
