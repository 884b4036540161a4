"""`judge-bootstrap preflight`: does the cluster have what a run needs, and are we allowed to make it?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.cli.options import variable_option
from judge_bootstrap.core.errors import BootstrapError, ExitCode

if TYPE_CHECKING:
    from judge_bootstrap.cli.cluster_settings import ClusterSettings
    from judge_bootstrap.core.checks import Check
    from judge_bootstrap.core.kube_rights import Right
    from judge_bootstrap.core.network_enforcement import Enforcement


def _prove(settings: ClusterSettings, api_client: Any, warn: Callable[[str], None]) -> Enforcement:
    from judge_bootstrap.adapters.policy_proof import Proof, prove
    from judge_bootstrap.cli.run import new_run_id

    return prove(api_client, Proof(settings.namespace, settings.image, settings.node_selector,
                                   settings.labels("judge-preflight"), new_run_id()), warn=warn)


@dataclass(frozen=True)
class World:
    """The outside worlds that preflight asks; tests give their own."""

    connect: Callable[[ClusterSettings], Any] = lambda settings: settings.connect()
    prove: Callable[[ClusterSettings, Any, Callable[[str], None]], Enforcement] = _prove


@click.command()
@click.option("--prove-network-policy", is_flag=True,
              help="Try it: two short-lived pods in the serving namespace, and a policy that must part them.")
@variable_option
@global_options
@pass_app
def preflight(app: AppContext, prove_network_policy: bool, extra: tuple[str, ...]) -> int:
    """Check that the cluster has what a run needs, and that we may make it.

    Version, rights (each one that a run may use), both namespaces and the Pod Security level that they enforce, GPU
    nodes and room on them, local volumes, and whether the cluster enforces NetworkPolicy at all. All checks run,
    whatever the first ones say. Nothing is changed; the exit code is 1 when something would stop a run, and 0 with
    warnings alone.

    Whether NetworkPolicy is enforced is concluded from the network plugin's agents. --prove-network-policy tries it
    instead, and removes what it has made.

    \b
    Examples:
      judge-bootstrap --env prod preflight
      judge-bootstrap --env prod preflight --prove-network-policy --json
    """
    from judge_bootstrap.cli.cluster_settings import read_cluster_settings
    from judge_bootstrap.cli.doctor import print_checks

    app.command = "preflight"
    settings = read_cluster_settings(app, extra)
    world: World = app.extra.get("preflight") or World()
    found = examine(settings, world, warn=app.warn, prove=prove_network_policy)
    found = replace(found, checks=[_for_env(check, str(app.env)) for check in found.checks])
    failed = [check for check in found.checks if check.status == "fail"]
    if app.json:
        app.emit({"ok": not failed, "command": app.command, "env": app.env,
                  "reason": failed[0].reason if failed else None,
                  "checks": [check.as_json() for check in found.checks],
                  "network_policy": found.network_policy, "missing_rights": [
                      {"namespace": right.namespace or None, "resource": right.kind, "verb": right.verb}
                      for right in found.missing]})
    else:
        print_checks(app, found.checks, next_step=f"judge-bootstrap --env {app.env} plan vllm_k8s")
        _print_rights(app, found.missing)
    return int(ExitCode.FAILED if failed else ExitCode.OK)


def _for_env(check: Check, env: str) -> Check:
    """Return the check with the environment's name in the command of its hint."""
    return replace(check, hint=check.hint.replace("--env ENV", f"--env {env}") if check.hint else None)


@dataclass(frozen=True)
class Found:
    """What was found. `network_policy`: enforced, not enforced, unknown; None where the cluster was not asked."""

    checks: list[Check]
    missing: list[Right]
    network_policy: str | None


def examine(settings: ClusterSettings, world: World, *, warn: Callable[[str], None], prove: bool = False) -> Found:
    """Return every check of a cluster. What cannot be asked is a failed check, never an exception."""
    from judge_bootstrap.adapters import kube_preflight as cluster
    from judge_bootstrap.core import kube_checks as checks
    from judge_bootstrap.core.checks import Check
    from judge_bootstrap.core.kube_rights import wanted_rights
    from judge_bootstrap.core.network_enforcement import conclude

    if settings.render_dir:
        return Found([Check("Kubernetes", "warn", f"not asked: manifests are files in {settings.render_dir}",
                            "a cluster, reachable", "set vllm_k8s_render_dir to null, to have them applied")], [], None)
    done: list[Check] = []
    missing: list[Right] | None = None
    try:
        api_client = world.connect(settings)
        version = cluster.read_version(api_client)
        rights = wanted_rights(_scope(settings))
        missing = cluster.missing_rights(api_client, rights)
        done += [checks.check_version(api_client.configuration.host, version),
                 checks.check_rights(missing, len(rights))]
        done += [checks.check_namespace(facts) for facts in _namespaces(settings, api_client)]
        nodes = cluster.read_gpu_nodes(api_client, settings.selector, settings.node_taint,
                                       settings.labels("judge-inference"))
        done += checks.check_gpus(nodes, settings.selector, settings.replicas, settings.gpu_count)
        if settings.store_volume == "local":
            tried, refusal = cluster.try_local_volume(api_client, settings.model_cache_dir, settings.node_selector)
            done.append(checks.check_local_volume(refusal, tried))
        verdict, proven = conclude(cluster.read_network(api_client)), False
        if prove:
            verdict, proven = world.prove(settings, api_client, warn), True
        done.append(checks.check_policies(verdict, wanted=settings.network_policy, proven=proven))
    except BootstrapError as error:
        if error.reason == "CLUSTER_UNREACHABLE" or not prove or not done:
            return Found([checks.check_unreachable(error.message, error.reason, error.hint)], [], None)
        done.append(Check("NetworkPolicy", "fail", f"cannot be tried: {error.message}", "two pods that run", error.hint,
                          error.reason))
        return Found(done, list(missing or []), "unknown")
    return Found(done, list(missing or []), verdict.state)


def _scope(settings: ClusterSettings) -> Any:
    from judge_bootstrap.cli.cluster_settings import is_wanted
    from judge_bootstrap.core.kube_rights import Scope

    return Scope(settings.namespace, settings.loader_namespace if settings.loader else None,
                 network_policy=settings.network_policy,
                 service_monitor=is_wanted(settings.variables.get("vllm_k8s_service_monitor")),
                 ingress=is_wanted(settings.variables.get("vllm_k8s_ingress")),
                 looked_in=("default", *(() if settings.loader else (settings.loader_namespace,))))


def _namespaces(settings: ClusterSettings, api_client: Any) -> list[Any]:
    from judge_bootstrap.adapters.kube_preflight import loader_pod, read_namespace, serving_pod
    from judge_bootstrap.cli.cluster_settings import LOADER_LEVEL

    on_host = settings.store_volume != "local"
    found = [read_namespace(
        api_client, settings.namespace, what="server", variable="vllm_k8s_namespace",
        needs="privileged" if on_host else "restricted",
        pod=serving_pod(settings.namespace, settings.image, settings.model_cache_dir, host_path=on_host))]
    if settings.loader:
        disk = str(PurePosixPath(settings.model_cache_dir).parent)
        found.append(read_namespace(
            api_client, settings.loader_namespace, what="loader", variable="vllm_k8s_loader_namespace",
            needs=LOADER_LEVEL, pod=loader_pod(settings.loader_namespace, settings.image, disk)))
    return found


def _print_rights(app: AppContext, missing: list[Right]) -> None:
    from judge_bootstrap.core.kube_rights import table

    rows = table(missing)
    if not rows:
        return
    app.say("Missing rights:")
    head = ("where", "resource", "verbs")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(2)]
    for place, kind, verbs in (head, *rows):
        app.say(f"  {place:<{widths[0]}}  {kind:<{widths[1]}}  {verbs}")
