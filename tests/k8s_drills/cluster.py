"""What is in a cluster, read kind by kind as the API server lists its kinds: not by the product's own list of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judge_bootstrap.adapters.objects import OWNER, request

# What the cluster makes by itself in every namespace, and what controllers copy our labels onto.
_SYSTEM = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}
_TOLD = {"Event", "Lease", "Endpoints", "EndpointSlice"}


@dataclass(frozen=True)
class Snapshot:
    """All objects of some namespaces, and of the whole cluster those with the owner's label.

    `made` are those that somebody applied, `derived` those that a controller made for another object; both by name
    (Kind/namespace/name), without what moves by itself.
    """

    made: Mapping[str, Mapping[str, Any]]
    derived: Mapping[str, Mapping[str, Any]]

    def of_kind(self, kind: str) -> list[str]:
        """Return the names of the derived objects of a kind."""
        return [name for name in self.derived if name.startswith(f"{kind}/")]

    def changed_since(self, before: Snapshot) -> dict[str, str]:
        """Return {name: created | changed | deleted} of the made objects that differ from `before`."""
        names = {**before.made, **self.made}
        told = {name: "created" if name not in before.made else "deleted" if name not in self.made else "changed"
                for name in names}
        return {name: how for name, how in told.items() if self.made.get(name) != before.made.get(name)}


class Cluster:
    """Reads snapshots. Its client must lead to the API server itself, not through the proxy with the faults."""

    def __init__(self, api_client: Any) -> None:
        self._client = api_client
        self._kinds = list(self._discovered())

    def snapshot(self, namespaces: Sequence[str], owner: str) -> Snapshot:
        """Return what is there now."""
        made: dict[str, Mapping[str, Any]] = {}
        derived: dict[str, Mapping[str, Any]] = {}
        for path, kind in self._kinds:
            for item in request(self._client, "GET", path)["items"]:
                metadata = item["metadata"]
                ours = (metadata.get("labels") or {}).get(OWNER) == owner
                if not ours and metadata.get("namespace") not in namespaces and not (
                        kind == "Namespace" and metadata["name"] in namespaces):
                    continue
                if f"{kind}/{metadata['name']}" in _SYSTEM or kind in _TOLD:
                    continue
                name = "/".join(part for part in (kind, metadata.get("namespace"), metadata["name"]) if part)
                (derived if metadata.get("ownerReferences") else made)[name] = _still(item)
        return Snapshot(made, derived)

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object; one that is gone is well."""
        from kubernetes.client.exceptions import ApiException

        path = next(path for path, known in self._kinds if known == kind)
        if namespace:
            version, _, plural = path.rpartition("/")
            path = f"{version}/namespaces/{namespace}/{plural}"
        try:
            request(self._client, "DELETE", f"{path}/{name}", {}, content_type="application/json")
        except ApiException as error:
            if error.status not in (404, 409):
                raise

    def _discovered(self) -> Iterator[tuple[str, str]]:
        """Yield (path of the collection, kind) of everything that can be listed, each in its preferred version."""
        versions = ["/api/v1"]
        for group in request(self._client, "GET", "/apis")["groups"]:
            versions.append(f"/apis/{group['preferredVersion']['groupVersion']}")
        seen = set()
        for version in versions:
            for resource in request(self._client, "GET", version)["resources"]:
                if "list" in resource["verbs"] and "/" not in resource["name"] and resource["kind"] not in seen:
                    if version.startswith("/apis/events.k8s.io"):
                        continue
                    seen.add(resource["kind"])
                    yield f"{version}/{resource['name']}", resource["kind"]


def _still(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without its status and what the server counts on it."""
    found = copy.deepcopy(dict(item))
    found.pop("status", None)
    for field in ("managedFields", "resourceVersion", "generation"):
        found["metadata"].pop(field, None)
    (found["metadata"].get("annotations") or {}).pop("deployment.kubernetes.io/revision", None)
    (found["metadata"].get("annotations") or {}).pop("deprecated.daemonset.template.generation", None)
    return found
