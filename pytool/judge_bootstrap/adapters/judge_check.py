"""Does the right model answer behind the Service, and can it judge? The last link of the chain, asked end to end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters.pod_http import get
from judge_bootstrap.core.errors import BootstrapError

TIMEOUT_SECONDS = 30
POLL_SECONDS = 1.0
# A header that is longer is refused by most servers.
_LONGEST_KEY = 4096
# Any pair will do: what is proven is that a verdict comes back that keeps to the schema, not how good it is.
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


@dataclass(frozen=True)
class Endpoint:
    """A pod that is ready behind the Service, and the port it serves on."""

    pod: str
    port: int


@dataclass(frozen=True)
class Judged:
    """What was found: the pods that serve the wanted commit, and the verdict one of them gave, as plain data."""

    pods: tuple[str, ...]
    model: str
    verdict: Mapping[str, Any]


def served_model(models: Any, wanted_name: str, commit: str) -> str:
    """Return the path that `wanted_name` is served from, out of a /v1/models answer.

    Raises BootstrapError WRONG_MODEL_SERVED when another name, or a path without `commit`, is served.
    """
    listed = models.get("data") if isinstance(models, dict) else None
    if not isinstance(listed, list):
        raise BootstrapError(f"/v1/models answered {json.dumps(models)[:200]}, wanted a list of models",
                             reason="WRONG_MODEL_SERVED", hint="judge-bootstrap run vllm_k8s verify")
    roots = {str(m.get("id")): str(m.get("root")) for m in listed if isinstance(m, dict)}
    root = roots.get(wanted_name)
    if root is None:
        raise BootstrapError(f"/v1/models serves {', '.join(sorted(roots)) or 'nothing'}, wanted {wanted_name}",
                             reason="WRONG_MODEL_SERVED", hint="judge-bootstrap run vllm_k8s verify")
    if commit not in root.split("/"):
        raise BootstrapError(f"{wanted_name} is served from {root}, wanted commit {commit}",
                             reason="WRONG_MODEL_SERVED", hint="judge-bootstrap run vllm_k8s verify")
    return root


def fetch_models(base_url: str, api_key: str | None = None) -> Any:
    """Return /v1/models as parsed JSON. Raises BootstrapError PROBE_FAILING, or API_KEY_WRONG."""
    # No proxy: the address is a port of this machine.
    reply = get(f"{base_url}/v1/models", api_key, timeout_seconds=TIMEOUT_SECONDS)
    if reply.status in (401, 403):
        raise BootstrapError(f"/v1/models answers {reply.status} to {'our' if api_key else 'no'} API key",
                             reason="API_KEY_WRONG", hint="judge-bootstrap --env ENV secrets apply --check")
    if reply.status != 200 or reply.json() is None:
        raise BootstrapError(f"/v1/models did not answer: {reply.error or reply.status}", reason="PROBE_FAILING")
    return reply.json()


def judge_once(base_url: str, model: str, api_key: str | None = None) -> Mapping[str, Any]:
    """Have one fixed answer judged; return the verdict as plain data. Raises BootstrapError unless it was scored."""
    from judge_client import JudgeClient

    with JudgeClient(base_url=f"{base_url}/v1", model=model, api_key=api_key or "EMPTY") as client:
        verdict = client.judge(QUESTION, ANSWER)
    if verdict.status != "scored":
        raise BootstrapError(
            f"{model} answers, but gave no valid verdict: status {verdict.status}, reason {verdict.reason}",
            reason="VERDICT_INVALID", hint="check the server's arguments (structured outputs) and its log")
    return verdict.to_dict()


def check(endpoints: list[Endpoint], namespace: str, service: str, served_model_name: str, commit: str,
          forward: Callable[[Endpoint], AbstractContextManager[str]],
          models: Callable[[str, str | None], Any] = fetch_models,
          judge: Callable[[str, str, str | None], Mapping[str, Any]] = judge_once,
          api_key: str | None = None) -> Judged:
    """Ask every pod which model it serves, and the first one for a verdict. Raises BootstrapError when one fails."""
    if not endpoints:
        raise BootstrapError(f"no pod is ready behind {namespace}/{service}", reason="POD_PENDING",
                             hint="judge-bootstrap run vllm_k8s")
    verdict: Mapping[str, Any] | None = None
    for endpoint in endpoints:
        with forward(endpoint) as base_url:
            try:
                served_model(models(base_url, api_key), served_model_name, commit)
            except BootstrapError as error:
                raise BootstrapError(f"pod {endpoint.pod}: {error.message}", reason=error.reason,
                                     hint=error.hint or f"kubectl -n {namespace} logs {endpoint.pod}") from error
            if verdict is None:
                verdict = judge(base_url, served_model_name, api_key)
    assert verdict is not None
    return Judged(tuple(e.pod for e in endpoints), served_model_name, verdict)


def check_url(url: str, served_model_name: str, commit: str, wait_seconds: float,
              models: Callable[[str, str | None], Any] = fetch_models,
              judge: Callable[[str, str, str | None], Mapping[str, Any]] = judge_once,
              clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
              api_key: str | None = None) -> Judged:
    """Wait until the server at `url` serves the wanted commit, then ask it for a verdict.

    Another model is waited for like no answer: somebody else rolls this server, at a time of their own. Raises
    BootstrapError, with what was found last, when it does not in `wait_seconds`, or gives no valid verdict.
    """
    base_url = url.rstrip("/")
    started = clock()
    while True:
        try:
            served_model(models(base_url, api_key), served_model_name, commit)
            break
        except BootstrapError as error:
            if clock() - started >= wait_seconds:
                raise BootstrapError(f"{base_url}: {error.message} (waited {wait_seconds:g} s)", reason=error.reason,
                                     hint=f"curl {base_url}/v1/models, and see the server's log") from error
        sleep(POLL_SECONDS)
    return Judged((), served_model_name, judge(base_url, served_model_name, api_key))


def read_key_file(path: str | None, name: str = "vllm_k8s_endpoint_key_file") -> str | None:
    """Return the API key in a file's first line; None without a file. Raises BootstrapError SECRET_UNUSABLE.

    `name` is the variable or option that named the file.
    """
    if not path:
        return None
    hint = f"ls -l {path}   # {name}"
    try:
        with Path(path).open("rb") as file:
            line = file.readline(_LONGEST_KEY + 1).decode("ascii").strip()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "it is no text in ASCII"
        raise BootstrapError(f"cannot read the API key in {path}: {said}", reason="SECRET_UNUSABLE",
                             hint=hint) from error
    if not line:
        raise BootstrapError(f"{path} is empty, wanted the API key in its first line", reason="SECRET_UNUSABLE",
                             hint=hint)
    if len(line) > _LONGEST_KEY or not line.isprintable() or " " in line:
        raise BootstrapError(f"the first line of {path} is no API key, wanted one word of at most {_LONGEST_KEY} "
                             "printable characters", reason="SECRET_UNUSABLE", hint=hint)
    return line


def ready_endpoints(api_client: Any, namespace: str, service: str) -> list[Endpoint]:
    """Return the ready pods behind the Service. Raises BootstrapError when the API server cannot be asked."""
    from kubernetes import client

    from judge_bootstrap.adapters.kube import ask

    slices = ask(f"read the endpoints of service {namespace}/{service}", lambda: client.DiscoveryV1Api(
        api_client).list_namespaced_endpoint_slice(namespace, label_selector=f"kubernetes.io/service-name={service}"))
    found = {
        Endpoint(endpoint.target_ref.name, part.ports[0].port)
        for part in slices.items
        for endpoint in part.endpoints or []
        if part.ports and endpoint.target_ref and endpoint.conditions.ready
    }
    return sorted(found, key=lambda e: e.pod)
