"""What the commands that talk to the cluster, and run no playbook, need of the settings and role variables.

One place for all of them: where the cluster is, what the judge's objects are called there, and what its pods ask for.
A variable that is a template (as in inventory/local) is rendered by Ansible, so that it means what it means in a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_bootstrap.cli.context import AppContext
from judge_bootstrap.cli.model_settings import ModelSettings, Render, effective_variables, is_true, model_settings_of
from judge_bootstrap.core.errors import UsageProblem

_NAMES = (
    "vllm_k8s_kubeconfig", "vllm_k8s_context", "vllm_k8s_render_dir", "vllm_k8s_namespace", "vllm_k8s_service_name",
    "vllm_k8s_port", "vllm_k8s_loader", "vllm_k8s_loader_namespace", "vllm_k8s_loader_gated_model",
    "vllm_k8s_hf_secret_name", "vllm_k8s_api_key_secret_name", "vllm_k8s_image", "vllm_k8s_image_tag",
    "vllm_k8s_image_digest", "vllm_k8s_gpu_count", "vllm_k8s_replicas", "vllm_k8s_node_selector",
    "vllm_k8s_tolerations", "vllm_k8s_node_taint", "vllm_k8s_pod_security", "vllm_k8s_store_volume",
    "vllm_k8s_network_policy", "vllm_k8s_run_as_user", "model_cache_dir")
# Pod Security level of the loader's namespace.
LOADER_LEVEL = "privileged"


@dataclass(frozen=True)
class ClusterSettings:
    """Where the judge of an environment runs. `kubeconfig` and `context` None: kubectl's own.

    `api_key_secret_name` is None where no API key is wanted, `replicas` where their number is left to whoever scales,
    `node_taint` is empty where taints are left alone; `render_dir` is where manifests are written instead of being
    applied. `variables`: every role variable by name, not rendered: `render` gives more of them.
    """

    env: str
    region: str
    inventory_dir: Path
    kubeconfig: str | None
    context: str | None
    render_dir: str | None
    namespace: str
    service_name: str
    port: int
    loader: bool
    loader_namespace: str
    loader_use_token: bool
    hf_secret_name: str
    api_key_secret_name: str | None
    image: str
    gpu_count: int
    replicas: int | None
    node_selector: Mapping[str, str]
    tolerations: Sequence[Mapping[str, Any]]
    node_taint: str
    pod_security: str | None
    store_volume: str
    network_policy: bool
    run_as_user: int
    model_cache_dir: str
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def selector(self) -> str:
        """The node selector as the API server takes it: `role=ai-gpu`."""
        return ",".join(f"{key}={value}" for key, value in self.node_selector.items())

    @property
    def serving_pods(self) -> str:
        """The label selector of the serving pods."""
        return f"app.kubernetes.io/name=judge-inference,app.kubernetes.io/instance={self.service_name}"

    @property
    def loader_pods(self) -> str:
        """The label selector of the loader's pods."""
        return f"app.kubernetes.io/name=judge-loader,app.kubernetes.io/instance={self.service_name}"

    def labels(self, name: str) -> dict[str, str]:
        """Return the labels of an object of ours; `name` is its part of the application (`judge-loader`)."""
        return {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": self.service_name, **self._ours()}

    def namespace_object(self) -> dict[str, Any]:
        """Return the serving namespace as the role makes it."""
        level = self.pod_security or "restricted"
        levels = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "audit", "warn")}
        return {"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": self.namespace, "labels": {**self._ours(), **levels}}}

    def loader_namespace_object(self) -> dict[str, Any]:
        """Return the loader's namespace as the role makes it: hostPath is in no level below privileged."""
        labels = self.labels("judge-loader") | {"pod-security.kubernetes.io/enforce": LOADER_LEVEL}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.loader_namespace, "labels": labels}}

    def _ours(self) -> dict[str, str]:
        owner = hashlib.sha256(f"{self.namespace}/{self.service_name}".encode()).hexdigest()[:16]
        return {"app.kubernetes.io/managed-by": "judge-bootstrap", "judge-bootstrap.io/owner": owner}

    def connect(self) -> Any:
        """Return a kubernetes.client.ApiClient; nothing is asked yet. Raises BootstrapError."""
        from judge_bootstrap.adapters.kube import connect

        if self.render_dir:
            raise UsageProblem(f"no cluster is asked in environment {self.env}: its manifests are files in "
                               f"{self.render_dir} (vllm_k8s_render_dir)", hint="-e vllm_k8s_render_dir= for a cluster")
        return connect(self.kubeconfig, self.context)


def read_cluster_settings(app: AppContext, extra: Sequence[str] = ()) -> ClusterSettings:
    """Return the cluster's side of the environment that was asked for; `extra` holds what followed each -e.

    Raises UsageProblem for a variable that is missing, of another type than wanted, or cannot be rendered.
    """
    return cluster_settings_of(app.get_services().render, *effective_variables(app, extra))


def read_cluster_and_model(app: AppContext, extra: Sequence[str] = ()) -> tuple[ClusterSettings, ModelSettings]:
    """Return the cluster's side and the model of the environment, for commands that need both; AppConfig is asked once.

    Raises UsageProblem as read_cluster_settings does.
    """
    environment, variables = effective_variables(app, extra)
    render = app.get_services().render
    return cluster_settings_of(render, environment, variables), model_settings_of(render, environment, variables)


def cluster_settings_of(render: Render, environment: Any, variables: Mapping[str, Any]) -> ClusterSettings:
    """Return the cluster's side out of all variables of an environment. Raises UsageProblem."""
    values = _Values(render(variables, _NAMES, environment.inventory_dir))
    digest, image = values.text("vllm_k8s_image_digest"), values.need("vllm_k8s_image")
    tag, namespace = values.need("vllm_k8s_image_tag"), values.need("vllm_k8s_namespace")
    return ClusterSettings(
        env=environment.name, region=environment.region, inventory_dir=environment.inventory_dir,
        kubeconfig=values.text("vllm_k8s_kubeconfig"), context=values.text("vllm_k8s_context"),
        render_dir=values.text("vllm_k8s_render_dir"), namespace=namespace,
        service_name=values.need("vllm_k8s_service_name"), port=values.number("vllm_k8s_port"),
        loader=values.truth("vllm_k8s_loader"),
        loader_namespace=values.text("vllm_k8s_loader_namespace") or f"{namespace}-loader",
        loader_use_token=values.truth("vllm_k8s_loader_gated_model"),
        hf_secret_name=values.need("vllm_k8s_hf_secret_name"),
        api_key_secret_name=values.text("vllm_k8s_api_key_secret_name"),
        # With a digest the tag only tells people the version; it is the same text as the role's.
        image=f"{image}:{tag}@{digest}" if digest else f"{image}:{tag}", gpu_count=values.number("vllm_k8s_gpu_count"),
        replicas=values.number_or_none("vllm_k8s_replicas"), node_selector=values.mapping("vllm_k8s_node_selector"),
        tolerations=values.items("vllm_k8s_tolerations"), node_taint=values.text("vllm_k8s_node_taint") or "",
        pod_security=values.text("vllm_k8s_pod_security"), store_volume=values.need("vllm_k8s_store_volume"),
        network_policy=values.truth("vllm_k8s_network_policy"), run_as_user=values.number("vllm_k8s_run_as_user"),
        model_cache_dir=values.need("model_cache_dir"), variables=variables)


def is_wanted(value: Any) -> bool:
    """Tell whether a variable that is false or null by default was set to something, a template included."""
    return is_true(value) or (isinstance(value, str) and "{{" in value)


class _Values:
    """Variables by name, each as the type that is wanted. Raises UsageProblem; -e gives everything as a text."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        """Return a text, None for null and for an empty one."""
        value = self._get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self._wrong(name, value, "a text, or null")
        return value

    def need(self, name: str) -> str:
        """Return a text that is not empty."""
        value = self.text(name)
        if value is None:
            raise self._wrong(name, self._get(name), "a text that is not empty")
        return value

    def number(self, name: str) -> int:
        """Return a whole number from 0."""
        value = self._get(name)
        text = str(value)
        if isinstance(value, bool) or not (text.isascii() and text.isdigit()):
            raise self._wrong(name, value, "a whole number")
        return int(text)

    def number_or_none(self, name: str) -> int | None:
        """Return a whole number from 0, None for null."""
        return None if self._get(name) is None else self.number(name)

    def truth(self, name: str) -> bool:
        """Return a truth value as Ansible reads it."""
        return is_true(self._get(name))

    def mapping(self, name: str) -> Mapping[str, str]:
        """Return a mapping of texts."""
        value = self._get(name)
        if value is None or value == "":
            return {}
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, """a mapping, as '{"vllm_k8s_node_selector": {"role": "ai-gpu"}}'""")
        return {str(key): str(item) for key, item in value.items()}

    def items(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return a list of mappings."""
        value = self._get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise self._wrong(name, value, "a list of mappings")
        return value

    def _get(self, name: str) -> Any:
        if name not in self._values:
            raise UsageProblem(f"there is no variable {name}, wanted: a default in roles/*/defaults/main.yml",
                               hint="reinstall judge-bootstrap: its roles and its program are of different versions")
        return self._values[name]

    @staticmethod
    def _wrong(name: str, value: Any, wanted: str) -> UsageProblem:
        from judge_bootstrap.core.problems import shown

        return UsageProblem(f"{name} is {shown(value)}, wanted: {wanted}",
                            hint=f"correct it, or give it: -e {name}=VALUE")
