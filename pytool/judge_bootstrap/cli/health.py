"""`judge-bootstrap health`: the chain as it is now, from the cluster and its pods, without Ansible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.options import variable_option
from judge_bootstrap.core.errors import BootstrapError, ExitCode

if TYPE_CHECKING:
    from judge_bootstrap.cli.cluster_settings import ClusterSettings
    from judge_bootstrap.core.health import Found, Health, Link
    from judge_bootstrap.core.health_pods import Names


@dataclass(frozen=True)
class World:
    """The cluster and its pods; tests give their own."""

    def look(self, settings: ClusterSettings, names: Names, *, detail: bool) -> Found:
        """Return everything there is, with the pods' answers. Raises BootstrapError when the cluster does not say."""
        from judge_bootstrap.adapters.judge_check import judge_once
        from judge_bootstrap.adapters.kube_health import KubernetesCluster, ask_pods, bounded, read_found
        from judge_bootstrap.adapters.kube_secrets import read_api_key
        from judge_bootstrap.adapters.pod_ports import forwarder

        api_client = settings.connect()
        found = read_found(KubernetesCluster(api_client), names, settings.api_key_secret_name, detail=detail)
        key = None
        try:
            key = bounded(lambda: read_api_key(api_client, settings.namespace, settings.api_key_secret_name))
        except BootstrapError as error:
            if error.reason != "CLUSTER_DENIED":
                raise
            found = replace(found, unread={**found.unread, "key": error.message})
        forward = forwarder(api_client, settings.namespace, settings.port)
        judge = (lambda base_url, model: judge_once(base_url, model, key)) if detail else None
        return replace(found, answers=ask_pods(found, forward, key, metrics=detail, judge=judge))


@click.command()
@variable_option
@global_options
@pass_app
def health(app: AppContext, extra: tuple[str, ...]) -> int:
    """Show the chain as it is now: nodes, model, pods, answers; and what is broken.

    Nothing is changed, and no playbook runs. Every ready pod is asked which model and commit it serves and whether its
    golden answers hold. The first link that fails comes with its reason code and the command that repairs it; what is
    broken beside a judge that serves is a warning. The exit code is 1 when a link fails.

    With --verbose (-v) also: start times against the startup budget, images by digest, vLLM's own figures, disruption
    budget, the key's Secret, one verdict with its latency, and the age of the loader's last check.

    \b
    Examples:
      judge-bootstrap --env prod health
      judge-bootstrap --env prod health --verbose
      judge-bootstrap --env prod health --json | jq .reason
    """
    from judge_bootstrap.cli.cluster_settings import read_cluster_settings
    from judge_bootstrap.core.health import assess
    from judge_bootstrap.core.health_detail import detail_links

    app.command = "health"
    settings = read_cluster_settings(app, extra)
    names = names_of(settings)
    detail = app.verbose > 0
    world: World = app.extra.get("health") or World()
    found = world.look(settings, names, detail=detail)
    now = datetime.now(UTC)
    seen = assess(found, names, now)
    if detail:
        more = detail_links(found, seen, names, now, settings.api_key_secret_name)
        seen = replace(seen, links=[*seen.links, *more])
    if app.json:
        app.emit(as_json(seen, found, names.env, detail=detail))
    else:
        _print(app, seen, found, detail=detail)
    return int(ExitCode.OK if seen.first_broken is None else ExitCode.FAILED)


def names_of(settings: ClusterSettings) -> Names:
    """Return what things are called, as the findings need it."""
    from judge_bootstrap.core.health_pods import Names

    return Names(env=settings.env, namespace=settings.namespace, loader_namespace=settings.loader_namespace,
                 service=settings.service_name, selector=settings.selector, taint=settings.node_taint,
                 loader=settings.loader, gpus_per_pod=settings.gpu_count)


def as_json(seen: Health, found: Found, env: str, *, detail: bool) -> dict[str, Any]:
    """Return the one object of --json. `hosts` are the cluster's nodes, by their name there."""
    from judge_bootstrap.core.health_detail import pod_details

    broken = seen.first_broken
    details = pod_details(found, seen) if detail else {}
    hosts = {node.name: {
        "ok": node.usable, "changed": False, "state": node.state, "reason": node.reason, "message": node.message,
        "repair": node.repair, "gpus": node.gpus, "percent": node.percent, "checked_at": node.checked_at}
        for node in seen.nodes}
    pods = {pod.name: {
        "ok": pod.ready and not (found.answers[pod.name].reason if pod.name in found.answers else None),
        "namespace": pod.namespace, "node": pod.node, "state": pod.state, "phase": pod.phase,
        "restarts": pod.restarts, "reason": pod.reason, "message": pod.message, "repair": pod.repair,
        "answer": dict(found.answers[pod.name].ready) if pod.name in found.answers else None,
        **({"detail": details[pod.name]} if pod.name in details else {})}
        for pod in (*seen.pods, *seen.loader_pods)}
    verdict = next((answer.verdict for answer in found.answers.values() if answer.verdict is not None), None)
    return {"ok": broken is None, "command": "health", "env": env, "reason": broken.reason if broken else None,
            "message": f"{broken.name}: {broken.found}" if broken else "", "hint": broken.repair if broken else None,
            "model": seen.model, "commit": seen.commit, "wanted": seen.wanted, "ready": seen.ready,
            "links": [link.as_json() for link in seen.links], "hosts": hosts, "pods": pods,
            **({"verdict": verdict} if detail else {})}


_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


def _print(app: AppContext, seen: Health, found: Found, *, detail: bool) -> None:
    plain = app.no_color or not app.console().is_terminal
    for link in seen.links:
        text, colour = _MARKS[link.status]
        app.say(f"{text if plain else click.style(text, fg=colour)}  {link.name}: {link.found}")
        if link.status != "ok":
            if link.reason:
                app.say(f"      reason: {link.reason}")
            if link.repair:
                app.say(f"      next:   {link.repair}")
        _print_broken(app, link)
    if detail and seen.pods:
        app.say("")
        from judge_bootstrap.cli.output import show_rows

        show_rows(app, _HEAD, _pod_rows(seen, found))
    broken = seen.first_broken
    if broken is None:
        app.say(f"The chain holds: {seen.ready} of {seen.wanted} pods serve.")
        return
    reason = f"{broken.reason}: " if broken.reason else ""
    app.fail(BootstrapError(f"{reason}{broken.name}: {broken.found}", reason=broken.reason, hint=broken.repair))


def _print_broken(app: AppContext, link: Link) -> None:
    from judge_bootstrap.core.health import MOST_NAMED

    # The first one stands in the link's own line.
    for one in link.broken[1:MOST_NAMED]:
        app.say(f"      {one.name}: {f'{one.reason}: ' if one.reason else ''}{one.message or one.state}")
    if len(link.broken) > MOST_NAMED:
        app.say(f"      and {len(link.broken) - MOST_NAMED} more")


_HEAD = ("pod", "state", "node", "gpu", "start", "restarts", "image", "figures")


def _pod_rows(seen: Health, found: Found) -> list[tuple[str, ...]]:
    from judge_bootstrap.core.health_detail import figures_text, pod_details

    rows: list[tuple[str, ...]] = []
    details = pod_details(found, seen)
    for pod in seen.pods:
        one = details[pod.name]
        start = "-" if pod.start_seconds is None else f"{pod.start_seconds:.0f} s"
        budget = f" of {pod.budget_seconds:.0f} s" if pod.budget_seconds and start != "-" else ""
        digest = (one["image_digest"] or "")[:19]
        rows.append((pod.name, pod.state, pod.node or "-", one["gpu"] or "-", f"{start}{budget}", str(pod.restarts),
                     f"{pod.image or '-'}{f' ({digest})' if digest else ''}", figures_text(one["metrics"])))
    return rows
