"""The cluster as `doctor` sees it: read only, every call bounded in time, never the content of a Secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from judge_bootstrap.adapters.bounded import within
from judge_bootstrap.core.checks import Cluster, ClusterNode
from judge_bootstrap.core.problems import one_line, shown

CONNECT_SECONDS = 3
READ_SECONDS = 10
# All calls together. A kubeconfig may run a program (`aws eks get-token`), which has no limit of its own.
CLUSTER_SECONDS = 30.0
_TIMEOUTS = (CONNECT_SECONDS, READ_SECONDS)


class ClusterUnavailable(Exception):
    """The cluster cannot be asked. The message is one line."""


def read_cluster(*, kubeconfig: str | None, context: str | None, namespace: str, secret: str | None,
                 secret_namespace: str, selector: Mapping[str, str]) -> Cluster:
    """Return the cluster's facts. `kubeconfig` and `context` None mean kubectl's own; `secret` None: none is wanted.

    Raises ClusterUnavailable.
    """
    from kubernetes.client.exceptions import ApiException
    from kubernetes.config.config_exception import ConfigException
    from urllib3.exceptions import HTTPError
    from yaml import YAMLError

    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    try:
        return within(CLUSTER_SECONDS,
                      lambda: _read(kubeconfig, context, namespace, (secret_namespace, secret), labels))
    except ApiException as error:
        raise ClusterUnavailable(one_line(f"the API server answers {error.status} {error.reason}")) from error
    # The last four are what the client trips over when kubeconfig or answer have another shape than expected.
    except (ConfigException, HTTPError, OSError, YAMLError,
            ValueError, TypeError, LookupError, AttributeError) as error:
        raise ClusterUnavailable(one_line(getattr(error, "reason", None) or error)) from error


def _read(kubeconfig: str | None, context: str | None, namespace: str, secret: tuple[str, str | None],
          labels: str) -> Cluster:
    from kubernetes import client, config

    settings = client.Configuration()
    config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=settings)
    if not settings.host.startswith(("https://", "http://")):
        raise ValueError(f"the kubeconfig names the server {shown(settings.host)}, wanted: https://...")
    settings.retries = False
    with client.ApiClient(settings) as api:
        core = client.CoreV1Api(api)
        version = client.VersionApi(api).get_code(_request_timeout=_TIMEOUTS).git_version
        nodes = core.list_node(label_selector=labels, _request_timeout=_TIMEOUTS).items
        has_namespace = _exists(api, f"/api/v1/namespaces/{namespace}")
        has_secret = _exists(api, f"/api/v1/namespaces/{secret[0]}/secrets/{secret[1]}") if secret[1] else None
    return Cluster(server=settings.host, version=version, namespace=namespace, has_namespace=bool(has_namespace),
                   secret=secret[1], secret_namespace=secret[0], has_secret=has_secret, selector=labels,
                   nodes=[_node(node) for node in nodes])


def _exists(api: Any, path: str) -> bool | None:
    """Tell whether an object is there (None: we may not look), asking for its metadata only."""
    from kubernetes.client.exceptions import ApiException

    accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
    try:
        api.call_api(path, "GET", header_params={"Accept": accept}, auth_settings=["BearerToken"],
                     _request_timeout=_TIMEOUTS, _preload_content=False)
    except ApiException as error:
        if error.status == 404:
            return False
        if error.status == 403:
            return None
        raise
    return True


def _node(node: Any) -> ClusterNode:
    addresses = {item.type: item.address for item in node.status.addresses or []}
    ready = any(item.type == "Ready" and item.status == "True" for item in node.status.conditions or [])
    gpus = str((node.status.allocatable or {}).get("nvidia.com/gpu", "0"))
    return ClusterNode(name=node.metadata.name, provider_id=node.spec.provider_id, address=addresses.get("InternalIP"),
                       gpus=int(gpus) if gpus.isdigit() else 0, ready=ready)
