"""What a run, and the commands beside it, may have to do in the cluster: rights that are asked for beforehand. Pure.

A test keeps it in step with the kinds that the role's templates make.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_MAKE = ("get", "list", "create", "patch", "delete")
# To find what an earlier run has made and nobody wants any more, even where this run makes none.
_LOOK = ("list",)


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource; `group` empty: the core group; `namespace` empty: in the whole cluster."""

    namespace: str
    resource: str
    verb: str
    group: str = ""

    @property
    def kind(self) -> str:
        """The resource as kubectl names it: `deployments.apps`."""
        return f"{self.resource}.{self.group}" if self.group else self.resource


@dataclass(frozen=True)
class Scope:
    """What of the settings decides which rights are wanted. `loader_namespace` None: no loader.

    `looked_in`: namespaces in which a prune only looks for what an earlier run has left.
    """

    namespace: str
    loader_namespace: str | None
    network_policy: bool = True
    service_monitor: bool = False
    ingress: bool = False
    looked_in: Sequence[str] = ("default",)


NETWORK, APPS, POLICY, RBAC = "networking.k8s.io", "apps", "policy", "rbac.authorization.k8s.io"
ADMISSION, MONITORING, BATCH = "admissionregistration.k8s.io", "monitoring.coreos.com", "batch"
DISCOVERY = "discovery.k8s.io"
# All that a prune looks for in a namespace.
_PRUNED = [("", "configmaps"), ("", "serviceaccounts"), ("", "persistentvolumeclaims"), ("", "services"),
           (APPS, "deployments"), (APPS, "daemonsets"), (POLICY, "poddisruptionbudgets"), (NETWORK, "networkpolicies"),
           (NETWORK, "ingresses"), (MONITORING, "servicemonitors"), (RBAC, "roles"), (RBAC, "rolebindings")]


def wanted_rights(scope: Scope) -> list[Right]:
    """Return every right that the role and the commands beside it use, each once, sorted."""
    left = (right for namespace in scope.looked_in for right in _in(namespace, [], _PRUNED))
    return sorted({*_serving(scope), *(_loader(scope) if scope.loader_namespace else ()), *_cluster(scope), *left})


def _serving(scope: Scope) -> Iterator[Right]:
    # A port-forward is a WebSocket, so a GET: `get` alone until 1.34, `create` as well from 1.35 on
    # (kubernetes/kubernetes#134577).
    made = [("", "configmaps"), ("", "serviceaccounts"), ("", "persistentvolumeclaims"), ("", "services"),
            (APPS, "deployments"), (POLICY, "poddisruptionbudgets")]
    made += [(NETWORK, "networkpolicies")] if scope.network_policy else []
    made += [(NETWORK, "ingresses")] if scope.ingress else []
    made += [(MONITORING, "servicemonitors")] if scope.service_monitor else []
    yield from _in(scope.namespace, made, _PRUNED)
    for resource, verb in (("secrets", "get"), ("secrets", "create"), ("secrets", "patch"), ("pods", "get"),
                           ("pods", "list"), ("pods/log", "get"), ("pods/portforward", "get"),
                           ("pods/portforward", "create"), ("events", "list")):
        yield Right(scope.namespace, resource, verb)
    yield Right(scope.namespace, "replicasets", "list", APPS)
    yield Right(scope.namespace, "endpointslices", "list", DISCOVERY)


def _loader(scope: Scope) -> Iterator[Right]:
    namespace = scope.loader_namespace or ""
    made = [("", "configmaps"), ("", "serviceaccounts"), (APPS, "daemonsets"), (BATCH, "jobs")]
    made += [(NETWORK, "networkpolicies")] if scope.network_policy else []
    yield from _in(namespace, made, _PRUNED)
    for resource, verb in (("secrets", "get"), ("secrets", "create"), ("secrets", "patch"), ("pods", "get"),
                           ("pods", "list"), ("pods", "patch"), ("pods/log", "get"), ("events", "list")):
        yield Right(namespace, resource, verb)


def _cluster(scope: Scope) -> Iterator[Right]:
    made = [("", "persistentvolumes")]
    admission = [(RBAC, "clusterroles"), (RBAC, "clusterrolebindings"), (ADMISSION, "validatingadmissionpolicies"),
                 (ADMISSION, "validatingadmissionpolicybindings")]
    made += admission if scope.loader_namespace else []
    yield from _in("", made, admission)
    for verb in ("get", "create", "patch"):
        yield Right("", "namespaces", verb)
    # A role may only be given by who has its rights: the loader's are get and patch on its Node, and events about it.
    for verb in ("get", "list", "patch"):
        yield Right("", "nodes", verb)
    if scope.loader_namespace:
        yield Right("default", "events", "create")
        # Events about what lies in no namespace belong into this one.
        yield from _in("default", [(RBAC, "roles"), (RBAC, "rolebindings")], [])


def _in(namespace: str, made: Sequence[tuple[str, str]], looked_for: Sequence[tuple[str, str]]) -> Iterator[Right]:
    for kinds, verbs in ((made, _MAKE), (looked_for, _LOOK)):
        for group, resource in kinds:
            for verb in verbs:
                yield Right(namespace, resource, verb, group)


def table(missing: Iterable[Right]) -> list[tuple[str, str, str]]:
    """Return the missing rights as rows (where, resource, verbs), one for each resource in each place."""
    rows: dict[tuple[str, str], list[str]] = {}
    for right in sorted(missing):
        rows.setdefault((right.namespace or "(whole cluster)", right.kind), []).append(right.verb)
    return [(place, kind, ", ".join(sorted(verbs, key=_MAKE.index))) for (place, kind), verbs in rows.items()]
