"""What `health --verbose` adds: start times, images, vLLM's figures, disruption budget, key, verdict, loader. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from judge_bootstrap.core.health import Found, Health, Link
from judge_bootstrap.core.health_pods import Names, PodState
from judge_bootstrap.core.kube_objects import many, seconds_since

# A server that takes more than this share of its budget to start will one day not make it.
SLOW_START = 0.5
# The loader writes its report anew twice a day, whether or not there is something new in it.
STALE_CHECK_SECONDS = 2 * 86400.0


def detail_links(found: Found, health: Health, names: Names, now: datetime, secret: str | None) -> list[Link]:
    """Return the further findings, as links of the chain."""
    links = [_start_times(health, names), _budget(found, names), _key(found, names, secret), _verdict(found, names),
             _checks(health, names, now)]
    return [link for link in links if link is not None]


def pod_details(found: Found, health: Health) -> dict[str, dict[str, Any]]:
    """Return for each serving pod what it runs, where, how long it took to start, and vLLM's own figures."""
    gpus = {node.name: node.gpu for node in health.nodes}
    details = {}
    for pod in health.pods:
        answer = found.answers.get(pod.name)
        details[pod.name] = {
            "node": pod.node, "gpu": gpus.get(pod.node or ""), "image": pod.image, "image_digest": digest_of(pod),
            "start_seconds": pod.start_seconds, "startup_budget_seconds": pod.budget_seconds,
            "start_share": start_share(pod), "metrics": dict(answer.metrics) if answer else {}}
    return details


def digest_of(pod: PodState) -> str | None:
    """Return the digest of the image as the node resolved it."""
    found = (pod.image_id or "").rpartition("sha256:")[2]
    return f"sha256:{found}" if found else None


def start_share(pod: PodState) -> float | None:
    """Return how much of its startup budget the server took, 0 to 1 and more."""
    if pod.start_seconds is None or not pod.budget_seconds:
        return None
    return round(pod.start_seconds / pod.budget_seconds, 3)


def _start_times(health: Health, names: Names) -> Link | None:
    timed = [(share, pod) for pod in health.pods if (share := start_share(pod)) is not None]
    if not timed:
        return None
    share, slowest = max(timed, key=lambda one: one[0])
    text = (f"the slowest, {slowest.name}, took {slowest.start_seconds:.0f} s of {slowest.budget_seconds:.0f} s "
            f"({share:.0%})")
    if share <= SLOW_START:
        return Link("start time", "ok", text)
    return Link("start time", "warn", f"{text}, wanted at most {SLOW_START:.0%}", "PROBE_FAILING",
                f"set vllm_k8s_startup_seconds to {2 * (slowest.start_seconds or 0):.0f} or more, then "
                f"judge-bootstrap --env {names.env} run vllm_k8s")


def _budget(found: Found, names: Names) -> Link | None:
    if "budget" in found.unread:
        return Link("disruption budget", "warn", f"not looked at: {found.unread['budget']}", "CLUSTER_DENIED", None)
    if found.budget is None:
        return Link("disruption budget", "warn", "none: a drain of all nodes takes all pods at once", None,
                    f"judge-bootstrap --env {names.env} run vllm_k8s")
    status = found.budget.get("status") or {}
    allowed = int(status.get("disruptionsAllowed", 0))
    healthy, needed = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    return Link("disruption budget", "ok",
                f"{many(allowed, 'pod')} may be taken away now ({healthy} healthy, {needed} needed)")


def _key(found: Found, names: Names, secret: str | None) -> Link | None:
    if secret is None:
        return Link("API key", "warn", "none wanted: whoever reaches the Service is answered", None,
                    "set vllm_k8s_api_key_secret_name, then "
                    f"judge-bootstrap --env {names.env} run vllm_k8s")
    if "key" in found.unread:
        return Link("API key", "warn", f"not looked at: {found.unread['key']}", "CLUSTER_DENIED", None)
    if not found.has_key:
        return Link("API key", "fail", f"no Secret {names.namespace}/{secret}: no pod can start", "SECRET_UNUSABLE",
                    f"judge-bootstrap --env {names.env} run vllm_k8s")
    return Link("API key", "ok", f"Secret {names.namespace}/{secret} is there")


def _verdict(found: Found, names: Names) -> Link | None:
    for name, answer in found.answers.items():
        if answer.verdict is not None:
            said = answer.verdict
            return Link("verdict", "ok", f"{name} judged one answer in {float(said.get('latency_ms') or 0):.0f} ms: "
                                         f"overall {said.get('score')} of 10")
    if any(answer.asked and answer.reason is None for answer in found.answers.values()):
        return Link("verdict", "warn", "no pod was asked for one", None, f"judge-bootstrap --env {names.env} preflight")
    return None


def _checks(health: Health, names: Names, now: datetime) -> Link | None:
    if not names.loader or not health.nodes:
        return None
    ages = [(age, node.name) for node in health.nodes if (age := seconds_since(node.checked_at, now)) is not None]
    if not ages:
        return Link("loader's last check", "warn", "no node says when its model was last checked", None,
                    f"judge-bootstrap --env {names.env} logs --loader")
    age, oldest = max(ages)
    text = f"the oldest report is {_ago(age)} old, of {oldest}; {len(ages)} of {len(health.nodes)} nodes have one"
    if age > STALE_CHECK_SECONDS:
        return Link("loader's last check", "warn", text, None, f"judge-bootstrap --env {names.env} logs --loader")
    return Link("loader's last check", "ok", text)


def _ago(seconds: float) -> str:
    from judge_node.cache.times import format_age

    return format_age(seconds)


def figures_text(metrics: Mapping[str, float]) -> str:
    """Return vLLM's figures of one pod in one line."""
    words = []
    for name, form in (("requests_running", "{:.0f} running"), ("requests_waiting", "{:.0f} waiting"),
                       ("kv_cache_usage", "KV cache {:.0%}"), ("prefix_cache_hit_rate", "prefix hits {:.0%}"),
                       ("time_to_first_token_seconds", "first token {:.2f} s")):
        if name in metrics:
            words.append(form.format(metrics[name]))
    return ", ".join(words) or "-"
