"""The objects of `models preload`: a Job for one node, and the ConfigMaps that its pod mounts. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from judge_bootstrap.adapters import program
from judge_bootstrap.core.errors import BootstrapError

RUN, BY = "judge-bootstrap.io/run", "judge-bootstrap.io/by"
MODELS_FOLDER, TOKEN_FOLDER = "/etc/judge-models", "/etc/judge-token"
LOADER_ACCOUNT = "judge-loader"
DEADLINE_SECONDS = 6 * 3600
# What is left of a Job whose command was killed goes by itself.
TTL_SECONDS = 600
# A ConfigMap holds 1 MiB in all.
_LARGEST_BYTES = 1_000_000


@dataclass(frozen=True)
class Preload:
    """What to bring, and where.

    `node` is the Node's name; `manifest` the model; `labels` those of our objects. `report`: say on the Node how it
    went, with the loader's own service account; then `beside` are the cluster's other manifests (next.json,
    previous.json), so that what is said of those stays. `token_secret`: the Secret with the Hub token, for a gated
    model.
    """

    node: str
    namespace: str
    image: str
    store: str
    manifest: Mapping[str, Any]
    endpoint: str
    labels: Mapping[str, str]
    run: str
    by: str
    report: bool = False
    beside: Mapping[str, str] = field(default_factory=dict)
    taint: str = ""
    sources: Sequence[str] = ()
    connections: int = 8
    limit_rate: str | None = None
    token_secret: str | None = None

    @property
    def name(self) -> str:
        """The name of the Job, one for each node; its ConfigMaps' names begin with it."""
        readable = re.sub(r"[^a-z0-9]+", "-", self.node.lower()).strip("-")[:30].rstrip("-")
        return f"judge-preload-{readable}-{hashlib.sha256(self.node.encode()).hexdigest()[:8]}"


def job_manifest(preload: Preload) -> dict[str, Any]:
    """Return the Job, suspended: its ConfigMaps come after it, because they belong to it."""
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": preload.name, "namespace": preload.namespace, "labels": dict(preload.labels),
                     "annotations": {RUN: preload.run, BY: preload.by}},
        "spec": {
            "suspend": True, "backoffLimit": 0, "completions": 1, "parallelism": 1,
            "activeDeadlineSeconds": DEADLINE_SECONDS, "ttlSecondsAfterFinished": TTL_SECONDS,
            "template": {"metadata": {"labels": dict(preload.labels)}, "spec": _pod_spec(preload)},
        },
    }


def _pod_spec(preload: Preload) -> dict[str, Any]:
    """Return what the loader's own pods are, for one node and one model."""
    disk = str(PurePosixPath(preload.store).parent)
    mounts: list[dict[str, Any]] = [
        # A disk that is mounted only later is seen, too.
        {"name": "disk", "mountPath": disk, "mountPropagation": "HostToContainer"},
        {"name": "program", "mountPath": program.FOLDER, "readOnly": True},
        {"name": "models", "mountPath": MODELS_FOLDER, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"}]
    volumes: list[dict[str, Any]] = [
        # Made when it is missing, as the loader's: a node whose disk nobody has prepared is to say so at once.
        {"name": "disk", "hostPath": {"path": disk, "type": "DirectoryOrCreate"}},
        {"name": "program", "configMap": {"name": _name(preload, "program")}},
        {"name": "models", "configMap": {"name": _name(preload, "models")}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
    if preload.token_secret:
        mounts.append({"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True})
        volumes.append({"name": "token", "secret": {
            "secretName": preload.token_secret, "optional": True, "defaultMode": 0o400,
            "items": [{"key": "token", "path": "token"}]}})
    return {
        "nodeName": preload.node, "tolerations": [{"operator": "Exists"}], "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 20, "enableServiceLinks": False,
        "serviceAccountName": LOADER_ACCOUNT if preload.report else "default",
        "automountServiceAccountToken": preload.report,
        # The store belongs to root, as whatever else writes into it is root.
        "securityContext": {"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "loader", "image": preload.image, "imagePullPolicy": "IfNotPresent",
            "command": ["python3", f"{program.FOLDER}/{program.FILE}"], "args": arguments(preload),
            # The image asks for all GPUs, and gets them where the nvidia runtime is containerd's default.
            "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"},
                    {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}],
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    }


def arguments(preload: Preload) -> list[str]:
    """Return judge-node's arguments. Without --node it says nothing on the Node, and needs no service account."""
    found = ["loader", "run", "--once", "--json", f"--models={MODELS_FOLDER}", f"--store={preload.store}",
             f"--endpoint={preload.endpoint}", f"--connections={preload.connections}"]
    found += [f"--source={source}" for source in preload.sources]
    found += [f"--limit-rate={preload.limit_rate}"] if preload.limit_rate else []
    found += [f"--token-file={TOKEN_FOLDER}/token"] if preload.token_secret else []
    if preload.report:
        found.append(f"--node={preload.node}")
        found += [f"--taint={preload.taint}"] if preload.taint else []
    return found


def config_maps(preload: Preload, job_uid: str) -> list[dict[str, Any]]:
    """Return the ConfigMaps with manifests and program. Raises BootstrapError for manifests that are too long."""
    wanted = json.dumps(preload.manifest, sort_keys=True)
    texts = {"wanted.json": wanted, **preload.beside}
    size = sum(len(text) for text in texts.values())
    if size > _LARGEST_BYTES:
        raise BootstrapError(f"the manifest of {preload.manifest.get('repo_id')} has {size} bytes, a ConfigMap holds "
                             f"{_LARGEST_BYTES}", reason="CLUSTER_REFUSED", hint="run model_cache over ssh instead")
    owner = [{"apiVersion": "batch/v1", "kind": "Job", "name": preload.name, "uid": job_uid}]
    found = []
    for part, content in (("program", {"binaryData": program.binary_data()}), ("models", {"data": texts})):
        metadata = {"name": _name(preload, part), "namespace": preload.namespace, "labels": dict(preload.labels),
                    "ownerReferences": owner}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **content})
    return found


def _name(preload: Preload, part: str) -> str:
    # The run's id ends in what tells it apart: an earlier run's ConfigMaps may be on their way out.
    return f"{preload.name}-{part}-{str(preload.manifest['commit'])[:8]}-{preload.run[-6:]}"
