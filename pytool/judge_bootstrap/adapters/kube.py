"""A Kubernetes client for the kubeconfig and context that were asked for."""

from __future__ import annotations

from typing import Any

from judge_bootstrap.core.errors import BootstrapError


def connect(kubeconfig: str | None = None, context: str | None = None) -> Any:
    """Return a kubernetes.client.ApiClient; None means kubectl's own default.

    Nothing is asked of the server yet. Raises BootstrapError when the kubeconfig cannot be used.
    """
    from kubernetes import config  # lazy: 0.3 s
    from kubernetes.config.config_exception import ConfigException

    try:
        return config.new_client_from_config(config_file=kubeconfig or None, context=context or None)
    except (ConfigException, OSError) as error:
        raise BootstrapError(f"cannot use kubeconfig {kubeconfig or '(default)'}: {error}",
                             hint="aws eks update-kubeconfig --name CLUSTER, or set vllm_k8s_kubeconfig") from error


def describe(error: Exception) -> str:
    """Return one line for an exception of the client: the API server's own message where there is one."""
    status = getattr(error, "status", None)
    reason = getattr(error, "reason", None)
    return f"{status} {reason}" if status else f"{type(error).__name__}: {error}".splitlines()[0]
