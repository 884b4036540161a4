"""A Kubernetes client for the kubeconfig and context that were asked for, which survives an API server's bad minutes.

A request that changes nothing when it is repeated (everything but POST) is tried again on 429, 5xx, resets and
timeouts, with growing pauses or as the server's Retry-After says. So named objects are made by server-side apply, never
by POST: a request that was answered by a reset may have been done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

from judge_bootstrap.core.errors import BootstrapError, UsageProblem
from judge_bootstrap.core.problems import one_line

Answer = TypeVar("Answer")

# Seconds to connect, and to wait for an answer, of a call that names no limit of its own.
TIMEOUTS = (5.0, 30.0)
TIMEOUT_VARIABLE = "JUDGE_BOOTSTRAP_KUBE_TIMEOUT_SECONDS"
TRIES_AGAIN = 8
CONNECTS_AGAIN = 4
_AGAIN_STATUSES = (429, 500, 502, 503, 504)
_AGAIN_METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")


def connect(kubeconfig: str | None = None, context: str | None = None) -> Any:
    """Return a kubernetes.client.ApiClient; None means kubectl's own default.

    JUDGE_BOOTSTRAP_KUBE_TIMEOUT_SECONDS in the environment is another limit for one answer, for slow links.

    Nothing is asked of the server yet. Raises BootstrapError CLUSTER_UNREACHABLE when the kubeconfig cannot be used.
    """
    from kubernetes import client, config  # lazy: 0.3 s
    from kubernetes.config.config_exception import ConfigException
    from yaml import YAMLError

    settings = client.Configuration()
    settings.retries = _retries()
    try:
        config.load_kube_config(config_file=kubeconfig or None, context=context or None, client_configuration=settings)
    # The last ones are what the client trips over in a file of another shape.
    except (ConfigException, OSError, YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise BootstrapError(f"cannot use kubeconfig {kubeconfig or '(default)'}: {one_line(error)}",
                             reason="CLUSTER_UNREACHABLE",
                             hint="aws eks update-kubeconfig --name CLUSTER, or set vllm_k8s_kubeconfig") from error
    api_client = client.ApiClient(settings)
    send = api_client.rest_client.request

    timeouts = (TIMEOUTS[0], _answer_seconds())

    def bounded(*arguments: Any, **options: Any) -> Any:
        if options.get("_request_timeout") is None:
            options["_request_timeout"] = timeouts
        return send(*arguments, **options)

    api_client.rest_client.request = bounded
    return api_client


def _answer_seconds() -> float:
    given = os.environ.get(TIMEOUT_VARIABLE) or TIMEOUTS[1]
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise UsageProblem(f"{TIMEOUT_VARIABLE} is {given!r}, wanted a number of seconds", hint="unset it")
    return seconds


def _retries() -> Any:
    from urllib3.util.retry import Retry

    # The last answer is handed on as it is, so that the client can read the server's own message out of it.
    # Where nothing listens, the address is more often wrong than the server slow: that is said sooner.
    return Retry(total=TRIES_AGAIN, connect=CONNECTS_AGAIN, status_forcelist=_AGAIN_STATUSES,
                 allowed_methods=_AGAIN_METHODS, backoff_factor=0.2, backoff_max=5.0, backoff_jitter=0.2,
                 raise_on_status=False, respect_retry_after_header=True)


def ask(what: str, call: Callable[[], Answer], *, hint: str | None = None) -> Answer:
    """Return what `call` returns; what the client raises becomes a BootstrapError with a reason code.

    `what` says in words what was asked for: "read the pods". CLUSTER_UNREACHABLE: no answer; CLUSTER_DENIED: no right;
    CLUSTER_REFUSED: the API server, or a policy in it, said no.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return call()
    except ApiException as error:
        said = server_message(error)
        if error.status in (401, 403) and "violates PodSecurity" not in said and "admission" not in said.lower():
            raise BootstrapError(f"cannot {what}: {error.status} {said}", reason="CLUSTER_DENIED",
                                 hint=hint or "judge-bootstrap --env ENV preflight") from error
        if error.status is not None and (error.status >= 500 or error.status == 429):
            raise BootstrapError(f"cannot {what}: the API server still answers {error.status} after "
                                 f"{TRIES_AGAIN + 1} tries: {said}",
                                 reason="CLUSTER_UNREACHABLE", hint=hint or "kubectl get --raw /readyz") from error
        raise BootstrapError(f"cannot {what}: {error.status} {said}", reason="CLUSTER_REFUSED", hint=hint) from error
    except (HTTPError, OSError) as error:
        raise BootstrapError(f"cannot {what}: the API server does not answer ({one_line(error)})",
                             reason="CLUSTER_UNREACHABLE",
                             hint=hint or "kubectl cluster-info   # vllm_k8s_kubeconfig, vllm_k8s_context") from error


def server_message(error: Any) -> str:
    """Return what the API server said, in one line: its Status object's message, else the HTTP reason."""
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, LookupError):
        message = error.reason
    return one_line(message)
