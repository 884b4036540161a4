"""Port-forwards to several pods at once: each with a client of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


def forwarder(api_client: Any, namespace: str, port: int) -> Callable[[str], AbstractContextManager[str]]:
    """Return what opens a port-forward to a pod of the namespace, for callers that do so from several threads.

    Opening one replaces its client's request method for a moment, so a shared client would send another thread's
    request the wrong way.
    """
    from kubernetes.client import ApiClient

    from judge_bootstrap.adapters.port_forward import forward

    return lambda pod: forward(ApiClient(api_client.configuration), namespace, pod, port)
