"""Prove whether the cluster enforces NetworkPolicy: two short-lived pods, and a policy that must part them.

In the serving namespace, as pods that Pod Security `restricted` takes, from the image that is on the nodes anyway. A
policy of their own first lets them talk, so that a default-deny of the namespace proves nothing by accident; then it is
swapped for one that denies, and what the asking pod writes tells whether that held. All of it is removed at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judge_bootstrap.adapters.kube import ask
from judge_bootstrap.adapters.objects import apply, read, remove
from judge_bootstrap.core.errors import BootstrapError, Refusal
from judge_bootstrap.core.network_enforcement import Enforcement

SERVER, CLIENT = "judge-policy-server", "judge-policy-client"
ALLOW, DENY = "judge-policy-allow", "judge-policy-deny"
RUN = "judge-bootstrap.io/run"
PORT = 8000
START_SECONDS = 180.0
# How long a plugin may take to program a policy; the slowest that is documented needs a few seconds.
HOLDS_SECONDS = 20.0
# Until the first pod has said that it reaches the other: that both run says only that their programs were started.
TALK_SECONDS = 60.0
GONE_SECONDS = 60.0
DEADLINE_SECONDS = 420
_POLL_SECONDS = 0.5
# Answers in a row: one lost connection is no policy.
_IN_A_ROW = 4
_SERVE = f"""
import socket
six = socket.has_dualstack_ipv6()
server = socket.create_server(("", {PORT}), family=socket.AF_INET6 if six else socket.AF_INET, dualstack_ipv6=six)
while True:
    server.accept()[0].close()
"""
_ASK = f"""
import os, socket, time
while True:
    try:
        socket.create_connection((os.environ["SERVER"], {PORT}), 1).close()
        print("open", flush=True)
    except OSError:
        print("closed", flush=True)
    time.sleep(0.25)
"""


@dataclass(frozen=True)
class Proof:
    """Where to try it, and as what. `labels` are those of our objects."""

    namespace: str
    image: str
    node_selector: Mapping[str, str]
    labels: Mapping[str, str]
    run: str


def prove(api_client: Any, proof: Proof, *, warn: Callable[[str], None] = lambda text: None,
          clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> Enforcement:
    """Return whether a policy held between the two pods; they, and the policies, are gone afterwards.

    Raises BootstrapError: POD_PENDING when they do not start, LOCKED while somebody else tries it.
    """
    trial = _Trial(api_client, proof, clock, sleep)
    trial.claim()
    try:
        return trial.run()
    finally:
        trial.clean(warn)


class _Trial:
    def __init__(self, api_client: Any, proof: Proof, clock: Callable[[], float],
                 sleep: Callable[[float], None]) -> None:
        self._api, self._proof, self._clock, self._sleep = api_client, proof, clock, sleep

    def claim(self) -> None:
        """Have the names for ourselves: what a killed run has left goes, what runs is respected."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self._proof.namespace}}
        if read(self._api, namespace) is None:
            raise BootstrapError(f"there is no namespace {self._proof.namespace} yet to try it in",
                                 reason="CLUSTER_REFUSED",
                                 hint="judge-bootstrap --env ENV secrets apply   # makes it; or a run")
        for name in (SERVER, CLIENT):
            there = self._pod(name)
            if there is None:
                continue
            if (there.get("status") or {}).get("phase") in ("Pending", "Running"):
                raise Refusal(f"pod {self._proof.namespace}/{name} is there: somebody else tries NetworkPolicy now, or "
                              f"was killed doing so (it ends by itself after {DEADLINE_SECONDS} s)", reason="LOCKED",
                              hint=f"kubectl -n {self._proof.namespace} delete pod {SERVER} {CLIENT}")
            remove(self._api, {**_pod_id(self._proof.namespace, name), "metadata": there["metadata"]})
        self._until(GONE_SECONDS, lambda: all(self._pod(name) is None for name in (SERVER, CLIENT)))

    def run(self) -> Enforcement:
        """Start both, see them talk, part them, look again."""
        apply(self._api, [_policy(self._proof, ALLOW, allow=True), _pod(self._proof, SERVER, _SERVE, {})])
        self._started(SERVER)
        address = self._address()
        apply(self._api, [_pod(self._proof, CLIENT, _ASK, {"SERVER": address})])
        self._started(CLIENT)
        if not self._comes("open", TALK_SECONDS):
            return Enforcement("unknown", f"pod {CLIENT} cannot reach pod {SERVER} even with a policy that lets it, so "
                                          "nothing is proven: another policy, or the pod network itself")
        # The denying one first: without any of ours, the pods of a namespace without policies may talk.
        apply(self._api, [_policy(self._proof, DENY, allow=False)])
        remove(self._api, _policy(self._proof, ALLOW, allow=True))
        if self._comes("closed", HOLDS_SECONDS):
            return Enforcement("enforced", "a policy that denies parted the two pods")
        return Enforcement("not enforced", "two pods still talked "
                                           f"{HOLDS_SECONDS:g} s after a policy forbade it")

    def clean(self, warn: Callable[[str], None]) -> None:
        """Remove all of it, whatever happened; what cannot be removed is said."""
        for item in (*(_pod_id(self._proof.namespace, name) for name in (CLIENT, SERVER)),
                     *(_policy(self._proof, name, allow=True) for name in (ALLOW, DENY))):
            try:
                remove(self._api, item)
            except BootstrapError as error:
                warn(f"{item['kind']} {self._proof.namespace}/{item['metadata']['name']} may be left: {error.message}")

    def _started(self, name: str) -> None:
        def running() -> bool:
            pod = self._pod(name) or {}
            phase = (pod.get("status") or {}).get("phase")
            if phase in ("Failed", "Succeeded"):
                raise self._not_started(name, pod)
            return phase == "Running"

        if not self._until(START_SECONDS, running):
            raise self._not_started(name, self._pod(name) or {})

    def _not_started(self, name: str, pod: Mapping[str, Any]) -> BootstrapError:
        status = pod.get("status") or {}
        states = [item.get("state") or {} for item in status.get("containerStatuses") or []]
        waiting = [state["waiting"] for state in states if "waiting" in state]
        why = next((item.get("message") or item.get("reason") for item in waiting), None) or next(
            (item.get("message") for item in status.get("conditions") or [] if item.get("message")), "nothing says why")
        return BootstrapError(f"pod {self._proof.namespace}/{name} (image {self._proof.image}) does not run: {why}",
                              reason="POD_PENDING", hint=f"kubectl -n {self._proof.namespace} get events")

    def _address(self) -> str:
        pod = self._pod(SERVER) or {}
        return str((pod.get("status") or {}).get("podIP"))

    def _comes(self, word: str, seconds: float) -> bool:
        """Tell whether the asking pod comes to write this word several times in a row."""
        return self._until(seconds, lambda: self._said()[-_IN_A_ROW:] == [word] * _IN_A_ROW)

    def _said(self) -> Sequence[str]:
        from kubernetes import client

        # Raw: the client would turn the text into the repr of bytes.
        answer = ask("read the log of the asking pod", lambda: client.CoreV1Api(self._api).read_namespaced_pod_log(
            CLIENT, self._proof.namespace, tail_lines=50, _preload_content=False))
        return str(answer.data.decode("utf-8", "replace")).split()

    def _until(self, seconds: float, holds: Callable[[], bool]) -> bool:
        give_up = self._clock() + seconds
        while not holds():
            if self._clock() >= give_up:
                return False
            self._sleep(_POLL_SECONDS)
        return True

    def _pod(self, name: str) -> dict[str, Any] | None:
        return read(self._api, _pod_id(self._proof.namespace, name))


def _pod_id(namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}}


def _pod(proof: Proof, name: str, program: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return a pod that runs a few lines of Python and is no danger to anybody; it ends by itself, too."""
    return {
        **_pod_id(proof.namespace, name),
        "metadata": {"name": name, "namespace": proof.namespace, "labels": {**proof.labels, "judge-policy": name},
                     "annotations": {RUN: proof.run}},
        "spec": {
            "restartPolicy": "Never", "activeDeadlineSeconds": DEADLINE_SECONDS, "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False, "enableServiceLinks": False,
            "nodeSelector": dict(proof.node_selector), "tolerations": [{"operator": "Exists"}],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001,
                                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "try", "image": proof.image, "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-I", "-u", "-c", program],
                "env": [{"name": key, "value": value} for key, value in environment.items()]
                + [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
                "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                    "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }


def _policy(proof: Proof, name: str, *, allow: bool) -> dict[str, Any]:
    """Return a policy on both pods: `allow` lets them talk to each other, else nobody talks to the server."""
    both = {"matchExpressions": [{"key": "judge-policy", "operator": "In", "values": [SERVER, CLIENT]}]}
    spec: dict[str, Any] = {"podSelector": {"matchLabels": {"judge-policy": SERVER}}, "policyTypes": ["Ingress"]}
    if allow:
        peer = [{"podSelector": both}]
        spec = {"podSelector": both, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": peer}],
                "egress": [{"to": peer}]}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": proof.namespace, "labels": dict(proof.labels)}, "spec": spec}
