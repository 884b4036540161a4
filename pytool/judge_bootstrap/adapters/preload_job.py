"""Bring a model to one node through Kubernetes: the loader as a Job, watched to its end and removed afterwards.

For a node that ssh does not reach. The Job is named by its node, so that two cannot work on one; its pod is bound to
the node by name, so neither taints nor a scheduler have a say. The ConfigMaps belong to the Job: whoever removes it,
and be it Kubernetes itself ten minutes after its end, removes them too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from judge_bootstrap.adapters.kube import ask, server_message
from judge_bootstrap.adapters.kube_preflight import pages
from judge_bootstrap.adapters.node_pod import HOPELESS, answers, check_kubelet
from judge_bootstrap.adapters.objects import apply, listed, path_of, read, refusal_of_pod, remove, request
from judge_bootstrap.adapters.preload_manifests import (
    BY,
    DEADLINE_SECONDS,
    LOADER_ACCOUNT,
    RUN,
    Preload,
    config_maps,
    job_manifest,
)
from judge_bootstrap.core.errors import BootstrapError, Refusal
from judge_bootstrap.core.problems import nearest, one_line

LOADER_MODELS = "judge-loader-models"
POLL_SECONDS = 1.0
START_SECONDS = 600.0
GONE_SECONDS = 60.0
# A Job that was never started, and whose command was killed: nobody prepares one that long.
_ABANDONED_SECONDS = 60.0
_LOG_READS = 4


def find_node(api_client: Any, word: str) -> dict[str, Any]:
    """Return the Node that is meant: by its name, the instance id at the end of its providerID, or its address.

    Raises BootstrapError NODE_NOT_JOINED with the nearest names.
    """
    if re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", word):
        found = _named(api_client, word)
        if found is not None:
            return found
    names: list[str] = []
    for node in pages(api_client, "/api/v1/nodes"):
        provider = str((node.get("spec") or {}).get("providerID") or "").rpartition("/")[2]
        addresses = [item["address"] for item in (node.get("status") or {}).get("addresses") or []]
        if word in (provider, *addresses):
            return node
        names += [name for name in (node["metadata"]["name"], provider) if name]
    known = f", known: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}" if len(names) <= 40 else ""
    raise BootstrapError(f"none of the cluster's nodes is {one_line(word, 100)} (by name, instance id or address)"
                         f"{known}{nearest(word, names)}", reason="NODE_NOT_JOINED",
                         hint="kubectl get nodes -o custom-columns=NAME:.metadata.name,ID:.spec.providerID")


def _named(api_client: Any, name: str) -> dict[str, Any] | None:
    from kubernetes.client.exceptions import ApiException

    def call() -> dict[str, Any] | None:
        try:
            return request(api_client, "GET", f"/api/v1/nodes/{name}")
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    return ask(f"read node {name}", call)


def fleet_manifests(api_client: Any, namespace: str) -> dict[str, str] | None:
    """Return what the cluster's loaders are to have (wanted.json, ...); None where no loader is installed."""
    ids = ({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}}
           for kind, name in (("ConfigMap", LOADER_MODELS), ("ServiceAccount", LOADER_ACCOUNT)))
    models, account = (read(api_client, item) for item in ids)
    if models is None or account is None:
        return None
    return {str(name): str(text) for name, text in (models.get("data") or {}).items()}


def run(api_client: Any, preload: Preload, node: Mapping[str, Any], namespace: Mapping[str, Any], *,
        on_line: Callable[[str], None] = lambda line: None, warn: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Run the Job and return judge-node's answer; the Job, its pod and its ConfigMaps are gone afterwards.

    `namespace` is the Namespace to make where there is none; `on_line` gets each line of the pod's log.

    Raises BootstrapError: NODE_UNREACHABLE, POD_FORBIDDEN, POD_PENDING; Refusal LOCKED while another one works there.
    """
    check_kubelet(node, preload.node)
    job = _Job(api_client, preload, on_line, clock, sleep)
    try:
        job.claim(namespace)
        job.start()
        return job.follow()
    finally:
        job.clean(warn)


class _Job:
    def __init__(self, api_client: Any, preload: Preload, on_line: Callable[[str], None], clock: Callable[[], float],
                 sleep: Callable[[float], None]) -> None:
        self._api, self._preload, self._on_line, self._clock, self._sleep = api_client, preload, on_line, clock, sleep
        self._manifest = job_manifest(preload)
        self._uid: str | None = None
        self._shown = 0

    def claim(self, namespace: Mapping[str, Any]) -> None:
        """Make the Job, not yet running. Raises Refusal LOCKED, BootstrapError POD_FORBIDDEN."""
        (made,) = apply(self._api, [namespace])
        if made.action != "created":
            said = refusal_of_pod(self._api, self._manifest)
            if said is not None and "cannot create" not in said:
                name = self._preload.namespace
                raise BootstrapError(
                    f"namespace {name} would refuse the pod: {said}", reason="POD_FORBIDDEN",
                    hint=f"kubectl label namespace {name} pod-security.kubernetes.io/enforce=privileged --overwrite, "
                         "or -e vllm_k8s_loader_namespace=ANOTHER")
        give_up = self._clock() + GONE_SECONDS
        while not self._create():
            there = read(self._api, self._manifest)
            if there is not None:
                leaving = there["metadata"].get("deletionTimestamp")
                if not leaving and not _is_over(there):
                    raise self._locked(there)
                if not leaving:
                    self._remove(str(there["metadata"]["uid"]))
            if self._clock() >= give_up:
                raise BootstrapError(f"Job {self._preload.namespace}/{self._preload.name} of an earlier run does not "
                                     f"go within {GONE_SECONDS:g} s", reason="LOCKED",
                                     hint=f"kubectl -n {self._preload.namespace} delete job {self._preload.name}")
            self._sleep(POLL_SECONDS)

    def _remove(self, uid: str) -> None:
        remove(self._api, {**self._manifest, "metadata": {**self._manifest["metadata"], "uid": uid}})

    def _create(self) -> bool:
        """Make the Job; return False where one of its name is there.

        By POST, the only request that says no when somebody else was quicker. It is never repeated blindly: after a
        reset, the Job itself tells by the run in it whether it was made.
        """
        from kubernetes.client.exceptions import ApiException

        def call() -> dict[str, Any]:
            return request(self._api, "POST", path_of(self._manifest, collection=True), self._manifest,
                           content_type="application/json", query=[("fieldManager", "judge-bootstrap")])

        try:
            self._uid = str(ask("create the preload Job", call)["metadata"]["uid"])
        except BootstrapError as error:
            cause = error.__cause__
            exists = isinstance(cause, ApiException) and cause.status == 409 and "exists" in server_message(cause)
            if not exists and error.reason != "CLUSTER_UNREACHABLE":
                raise
            there = read(self._api, self._manifest)
            if there is None or (there["metadata"].get("annotations") or {}).get(RUN) != self._preload.run:
                return False
            self._uid = str(there["metadata"]["uid"])
        return True

    def _locked(self, there: Mapping[str, Any]) -> Refusal:
        notes = there["metadata"].get("annotations") or {}
        name, namespace = self._preload.name, self._preload.namespace
        return Refusal(
            f"Job {namespace}/{name} of {notes.get(BY, 'somebody else')} works on node {self._preload.node} since "
            f"{there['metadata'].get('creationTimestamp')}; one at a time", reason="LOCKED",
            hint=f"kubectl -n {namespace} logs -f job/{name}   # wait for it; if nobody does: kubectl -n {namespace} "
                 f"delete job {name}")

    def start(self) -> None:
        """Make what the pod mounts, then let the Job run."""
        apply(self._api, config_maps(self._preload, str(self._uid)))
        apply(self._api, [{**self._id(), "spec": {"suspend": False}}])

    def _id(self) -> dict[str, Any]:
        return {"apiVersion": "batch/v1", "kind": "Job",
                "metadata": {"name": self._preload.name, "namespace": self._preload.namespace}}

    def follow(self) -> dict[str, Any]:
        """Wait for the end, showing the log; return judge-node's answer. Raises BootstrapError."""
        started, running_since = self._clock(), None
        while True:
            pod = self._pod()
            phase = ((pod or {}).get("status") or {}).get("phase")
            if phase in ("Succeeded", "Failed"):
                return self._ended(pod or {})
            if phase == "Running":
                running_since = running_since or self._clock()
                self._show()
                if self._clock() - running_since > DEADLINE_SECONDS + GONE_SECONDS:
                    raise BootstrapError(f"the pod on node {self._preload.node} still runs though its deadline has "
                                         "passed: the node's kubelet does not report any more",
                                         reason="NODE_UNREACHABLE", hint=f"kubectl describe node {self._preload.node}")
            else:
                self._check_start(pod, self._clock() - started)
            self._sleep(POLL_SECONDS)

    def _check_start(self, pod: Mapping[str, Any] | None, waited: float) -> None:
        """Raise BootstrapError when the pod will not start, or has not in time."""
        waiting = _waiting(pod or {})
        hopeless = waiting.get("reason") in HOPELESS
        job = read(self._api, self._manifest)
        if job is None or (job["metadata"].get("annotations") or {}).get(RUN) != self._preload.run:
            raise BootstrapError(f"Job {self._preload.namespace}/{self._preload.name} was removed by somebody else "
                                 "before it had ended", hint="run the same command again: it does only what is left")
        if not hopeless and not _is_over(job) and waited < START_SECONDS:
            return
        said = waiting.get("message") or waiting.get("reason") or self._last_warning(pod) or "no event says why"
        raise BootstrapError(
            f"the pod on node {self._preload.node} (image {self._preload.image}) has not started: {one_line(said)}",
            reason="POD_PENDING", hint=f"kubectl -n {self._preload.namespace} get events; kubectl describe node "
                                       f"{self._preload.node}")

    def _last_warning(self, pod: Mapping[str, Any] | None) -> str | None:
        names = {self._preload.name, *([pod["metadata"]["name"]] if pod else [])}
        found = [event for event in pages(self._api, f"/api/v1/namespaces/{self._preload.namespace}/events",
                                          [("fieldSelector", "type=Warning")])
                 if (event.get("involvedObject") or {}).get("name") in names]
        found.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return f"{found[-1].get('reason')}: {found[-1].get('message')}" if found else None

    def _ended(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        status = pod.get("status") or {}
        if status.get("reason") == "DeadlineExceeded":
            raise BootstrapError(f"judge-node on {self._preload.node} was stopped after {DEADLINE_SECONDS} s; what it "
                                 "has fetched stands", hint="run the same command again: it does only what is left")
        if not any("terminated" in (item.get("state") or {}) for item in status.get("containerStatuses") or []):
            said = status.get("message") or status.get("reason") or "kubelet turned it away"
            raise BootstrapError(f"the pod on node {self._preload.node} never ran: {one_line(said)}",
                                 reason="POD_PENDING", hint=f"kubectl describe node {self._preload.node}")
        for left in reversed(range(_LOG_READS)):
            found = answers(self._show())
            if found:
                return found[-1]
            if left:  # the log may lack its last line for a moment after the container has ended
                self._sleep(POLL_SECONDS)
        lines = self._log().split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "nothing")
        raise BootstrapError(f"judge-node on {self._preload.node} ended without an answer; its last line: "
                             f"{one_line(last)}", reason="POD_PENDING", hint="run the same command again, with -v")

    def _show(self) -> str:
        """Hand on the lines that are new, the answer aside; return the whole log."""
        text = self._log()
        complete = text.split("\n")[:-1]
        for line in complete[self._shown:]:
            if line.strip() and not line.startswith("{"):
                self._on_line(line)
        self._shown = max(self._shown, len(complete))
        return text

    def _log(self) -> str:
        from kubernetes import client

        pod = self._pod()
        if pod is None:
            return ""
        # Raw: the client would turn the text into the repr of bytes.
        answer = ask("read the pod's log, which the API server fetches from kubelet (port 10250)",
                     lambda: client.CoreV1Api(self._api).read_namespaced_pod_log(
                         pod["metadata"]["name"], self._preload.namespace, _preload_content=False))
        return str(answer.data.decode("utf-8", "replace"))

    def _pod(self) -> dict[str, Any] | None:
        found = listed(self._api, "v1", "Pod", namespace=self._preload.namespace,
                       labels=f"job-name={self._preload.name}")
        mine = [pod for pod in found if any(owner.get("uid") == self._uid for owner in
                                            pod["metadata"].get("ownerReferences") or [])]
        return mine[-1] if mine else None

    def clean(self, warn: Callable[[str], None]) -> None:
        """Remove the Job, which takes its pod and its ConfigMaps with it; what cannot be removed is said."""
        try:
            if self._uid is None:  # told to stop while it was being made, or refused
                there = read(self._api, self._manifest)
                if there is None or (there["metadata"].get("annotations") or {}).get(RUN) != self._preload.run:
                    return
                self._uid = str(there["metadata"]["uid"])
            self._remove(self._uid)
            for item in config_maps(self._preload, self._uid):
                remove(self._api, {**item, "metadata": {**item["metadata"], "uid": None}})
            give_up = self._clock() + GONE_SECONDS
            while self._pod() is not None and self._clock() < give_up:
                self._sleep(POLL_SECONDS)
        except BootstrapError as error:
            warn(f"Job {self._preload.namespace}/{self._preload.name} may be left: {error.message}. Next: kubectl -n "
                 f"{self._preload.namespace} delete job {self._preload.name}   # its pod and ConfigMaps go with it")


def _is_over(job: Mapping[str, Any]) -> bool:
    """Tell whether a Job has ended, or was prepared by a command that was killed."""
    from judge_bootstrap.core.kube_objects import seconds_since

    status = job.get("status") or {}
    if any(item.get("type") in ("Complete", "Failed") and item.get("status") == "True"
           for item in status.get("conditions") or []):
        return True
    from datetime import UTC, datetime

    age = seconds_since(job["metadata"].get("creationTimestamp"), datetime.now(UTC))
    return bool((job.get("spec") or {}).get("suspend")) and age is not None and age > _ABANDONED_SECONDS


def _waiting(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
    found: Mapping[str, Any] = (statuses[0].get("state") or {}).get("waiting") or {}
    return found
