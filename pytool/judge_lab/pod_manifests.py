"""What the rendered manifests say of their pods, as plain values, for where no Kubernetes reads them (podless.py).

Pure: files are read, nothing is run. A manifest that asks for more than podless.py does is refused with its field;
what may be left out is left out with its reason (`left_out`, `Pod.notes`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from judge_lab import LabError, gpu
from judge_lab import node as nodes

Objects = Sequence[Mapping[str, Any]]

# The label by which a cluster finds the nodes that hold a commit.
_MODEL_LABEL = "judge-bootstrap.io/model-"
_MEANINGLESS = {
    "DaemonSet": "the loader: the model_cache role fills the store over ssh",
    "Service": "its pods answer on their nodes' addresses",
    "NetworkPolicy": "nothing enforces it",
    "PodDisruptionBudget": "nothing is drained",
    "Ingress": "there is no controller",
    "ServiceMonitor": "there is no Prometheus",
}
_NOBODY_ASKS = ("Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding",
                "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")  # fmt: skip
_USED = ("Deployment", "ConfigMap", "PersistentVolume", "PersistentVolumeClaim")


@dataclass(frozen=True)
class Mount:
    """One volume in a container. `source` is a path of the node, or None for a volume of the pod's own.

    `memory` says that it is memory, of `size` (tmpfs syntax; "" for no limit). `sub_path` is the part of the volume
    that is mounted; `make` says that a folder which is not on the node is made.
    """

    path: str
    source: str | None
    read_only: bool
    name: str = ""
    memory: bool = False
    size: str = ""
    sub_path: str = ""
    make: bool = False


@dataclass(frozen=True)
class Files:
    """A volume whose files come from an object: {file name: content in base64}, each with `mode`.

    With `secret`, the content is not in the manifests: it is the lab's own.
    """

    volume: str
    mode: int
    content: tuple[tuple[str, str], ...] = ()
    secret: str = ""


@dataclass(frozen=True)
class Container:
    """One process to run: exactly what its manifest says."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    user: int
    group: int
    extra_group: int | None
    working_dir: str
    read_only_root: bool
    gpus: int


@dataclass(frozen=True)
class Pod:
    """One pod: containers that run to their end first, and the one that stays. `notes` tells what is not looked at."""

    name: str
    container: Container
    init: tuple[Container, ...]
    files: tuple[Files, ...]
    node_selector: tuple[tuple[str, str], ...]
    tolerates_gpu_taint: bool
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Names this pod and no other: a pod whose manifest changes is another pod."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]


def read_objects(folder: Path) -> list[dict[str, Any]]:
    """Return the objects of the directory's files; none when it is not there. Raises LabError for a broken file."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            text = path.read_text()
            found += [item for item in yaml.load_all(text, Loader=_LOADER) if isinstance(item, dict)]
        except FileNotFoundError:
            continue  # being replaced
        except (OSError, ValueError, yaml.YAMLError) as err:
            raise LabError(f"cannot read {path}: {err}") from err
    return found


# The objects hold a program of some hundred KB.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def left_out(objects: Objects) -> list[str]:
    """Return a sentence for each kind of object that nothing is done for here, with the reason."""
    kinds: dict[str, list[str]] = {}
    for item in objects:
        kind = str(item.get("kind"))
        if kind not in _USED:
            kinds.setdefault(kind, []).append(item["metadata"]["name"])
    said = [
        f"{kind}/{', '.join(dict.fromkeys(names))} is left out: {_MEANINGLESS.get(kind, 'it is for a cluster only')}"
        for kind, names in sorted(kinds.items())
        if kind not in _NOBODY_ASKS
    ]
    asked = sorted(kind for kind in kinds if kind in _NOBODY_ASKS)
    return said + ([f"left out, as there is no API server: {', '.join(asked)}"] if asked else [])


def pods(objects: Objects) -> list[Pod]:
    """Return the pods that the Deployments among the objects ask for, one for each replica.

    Raises LabError, naming the field, for one that this stand-in cannot give what its manifest asks for.
    """
    found = []
    for item in objects:
        if item.get("kind") == "Deployment":
            for replica in range(item["spec"].get("replicas", 1)):
                found.append(_Reader(item, objects).pod(replica))
    return found


class _Reader:
    """Reads one Deployment; `where` names it in messages."""

    def __init__(self, deployment: Mapping[str, Any], objects: Objects) -> None:
        self.namespace, self.name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
        self.where = f"Deployment/{self.name}"
        self.spec = deployment["spec"]["template"]["spec"]
        self.objects = objects
        self.volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}

    def pod(self, replica: int) -> Pod:
        containers = self.spec["containers"]
        if len(containers) != 1:
            raise LabError(f"{self.where} has more than one container, which runs in a cluster only")
        return Pod(
            name=f"{self.name}-{replica}",
            container=self._container(containers[0]),
            init=tuple(self._container(one) for one in self.spec.get("initContainers", [])),
            files=tuple(
                self._files(volume) for volume in self.volumes.values() if "configMap" in volume or "secret" in volume
            ),
            node_selector=tuple(sorted(self.spec.get("nodeSelector", {}).items())),
            tolerates_gpu_taint=any(_tolerates(entry) for entry in self.spec.get("tolerations", [])),
            notes=tuple(self._affinity()),
        )

    def _container(self, container: Mapping[str, Any]) -> Container:
        if container.get("restartPolicy"):
            raise LabError(f"{self.where} has a sidecar ({container['name']}), which runs in a cluster only")
        if not container.get("command"):
            raise LabError(f"{self.where} names no command, wanted it in the manifest: the image is not asked here")
        if container.get("envFrom") or any("valueFrom" in entry for entry in container.get("env", [])):
            raise LabError(
                f"{self.where} takes environment from other objects (valueFrom), which runs in a cluster only"
            )
        security = {**self.spec.get("securityContext", {}), **container.get("securityContext", {})}
        user = security.get("runAsUser", 0)
        if security.get("runAsNonRoot") and not user:
            raise LabError(f"{self.where} says runAsNonRoot and no runAsUser")
        limits = container.get("resources", {}).get("limits", {})
        return Container(
            name=container["name"],
            command=(*container["command"], *container.get("args", [])),
            environment=tuple((entry["name"], str(entry.get("value", ""))) for entry in container.get("env", [])),
            mounts=tuple(self._mount(mount) for mount in container.get("volumeMounts", [])),
            user=user,
            group=security.get("runAsGroup", 0),
            extra_group=security.get("fsGroup"),
            working_dir=container.get("workingDir", "/"),
            read_only_root=bool(security.get("readOnlyRootFilesystem")),
            gpus=int(limits.get(gpu.RESOURCE, 0)),
        )

    def _mount(self, mount: Mapping[str, Any]) -> Mount:
        path, name, sub_path = mount["mountPath"], mount["name"], mount.get("subPath", "")
        read_only = bool(mount.get("readOnly"))
        volume = self.volumes[name]
        if "subPathExpr" in mount or ".." in sub_path.split("/") or sub_path.startswith("/"):
            raise LabError(f"{self.where} mounts an odd subPath at {path}, wanted a relative path of plain names")
        if "emptyDir" in volume:
            wanted = volume["emptyDir"] or {}
            memory, size = wanted.get("medium") == "Memory", tmpfs_size(str(wanted.get("sizeLimit", "")))
            return Mount(path, None, read_only, name, memory, size, sub_path)
        if "configMap" in volume or "secret" in volume:
            if sub_path:
                raise LabError(f"{self.where} mounts one file of {name} at {path}, wanted the whole folder")
            return Mount(path, None, True, name)
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]
            read_only = read_only or bool(claim.get("readOnly"))
            return Mount(path, self._claimed_path(claim["claimName"]), read_only, name, sub_path=sub_path,
                         make=not read_only)  # fmt: skip
        if "hostPath" in volume:
            return Mount(path, volume["hostPath"]["path"], read_only, name, sub_path=sub_path, make=not read_only)
        kind = next((key for key in volume if key != "name"), "nothing")
        raise LabError(f"{self.where} has the volume {name} of {kind}, which runs in a cluster only")

    def _claimed_path(self, claim: str) -> str:
        """Return the node's path behind a claim: its own volume must be bound to it, by name, from both sides."""
        for item in self.objects:
            if item.get("kind") == "PersistentVolumeClaim" and item["metadata"]["name"] == claim:
                wanted = item["spec"].get("volumeName")
                for volume in self.objects:
                    reference = volume.get("spec", {}).get("claimRef", {})
                    if (
                        volume.get("kind") == "PersistentVolume"
                        and volume["metadata"]["name"] == wanted
                        and (reference.get("namespace"), reference.get("name")) == (self.namespace, claim)
                        and "local" in volume["spec"]
                    ):
                        return str(volume["spec"]["local"]["path"])
        raise LabError(
            f"{self.where} claims {self.namespace}/{claim}, and no local PersistentVolume is bound to that"
        )

    def _files(self, volume: Mapping[str, Any]) -> Files:
        source: Mapping[str, Any] = volume["configMap"] if "configMap" in volume else volume["secret"]
        if "items" in source:
            raise LabError(f"{self.where} takes single keys of an object for {volume['name']}, wanted all of it")
        mode = source.get("defaultMode", 0o644)
        if "secret" in volume:
            return Files(volume["name"], mode, secret=source["secretName"])
        for item in self.objects:
            meta = item.get("metadata", {})
            if item.get("kind") == "ConfigMap" and (meta.get("namespace"), meta["name"]) == (
                self.namespace,
                source["name"],
            ):
                content = dict(item.get("binaryData") or {})
                for key, text in (item.get("data") or {}).items():
                    content[key] = base64.b64encode(text.encode()).decode()
                return Files(volume["name"], mode, tuple(sorted(content.items())))
        raise LabError(f"{self.where} mounts the ConfigMap {source['name']}, which is not among the manifests")

    def _affinity(self) -> list[str]:
        affinity = self.spec.get("affinity") or {}
        required = affinity.get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
        keys = [
            entry["key"]
            for term in required.get("nodeSelectorTerms", [])
            for entry in [*term.get("matchExpressions", []), *term.get("matchFields", [])]
        ]
        if set(affinity) - {"nodeAffinity"} or not all(key.startswith(_MODEL_LABEL) for key in keys):
            raise LabError(f"{self.where} has an affinity to more than the model's label, which runs in a cluster only")
        return [
            f"{self.name}: the affinity to {key} is not looked at, there are no Nodes; the init container checks the "
            "model itself"
            for key in keys
        ]


def _tolerates(toleration: Mapping[str, Any]) -> bool:
    taint = nodes.TAINT
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return (toleration.get("key"), toleration.get("value")) == (taint["key"], taint["value"])


def tmpfs_size(quantity: str) -> str:
    """Return a Kubernetes quantity of bytes (`256Mi`, `1G`, `1024`) as tmpfs takes it; "" stays ""."""
    binary = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
    decimal = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    for suffix, factor in {**binary, **decimal}.items():
        if quantity.endswith(suffix):
            return str(int(float(quantity.removesuffix(suffix)) * factor))
    return quantity
