"""`judge-bootstrap doctor`: every prerequisite of a run, checked at once and reported together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.core.errors import BootstrapError, ExitCode

if TYPE_CHECKING:
    from judge_bootstrap.adapters.config import Loaded
    from judge_bootstrap.adapters.inventory import InventoryHosts
    from judge_bootstrap.core.checks import Check, Cluster, Identity, Tools
    from judge_bootstrap.core.environment import Environment


def _read_tools() -> Tools:
    from judge_bootstrap.adapters.tools import read_tools

    return read_tools()


def _read_identity(region: str) -> Identity:
    from judge_bootstrap.adapters.aws import read_identity

    return read_identity(region)


def _load(environment: Environment) -> Loaded:
    from judge_bootstrap.adapters.config import load

    return load(environment)


def _read_inventory(environment: Environment) -> InventoryHosts:
    from judge_bootstrap.adapters.inventory import read

    return read(environment)


def _read_cluster(**names: Any) -> Cluster:
    from judge_bootstrap.adapters.kube_checks import read_cluster

    return read_cluster(**names)


def _render(variables: Mapping[str, Any], names: Iterable[str], inventory_dir: Path) -> dict[str, Any]:
    from judge_bootstrap.adapters.rendered import render

    return render(variables, names, inventory_dir)


@dataclass(frozen=True)
class World:
    """The outside worlds that doctor asks; tests give their own."""

    tools: Callable[[], Tools] = _read_tools
    identity: Callable[[str], Identity] = _read_identity
    settings: Callable[[Environment], Loaded] = _load
    inventory: Callable[[Environment], InventoryHosts] = _read_inventory
    cluster: Callable[..., Cluster] = _read_cluster
    render: Callable[[Mapping[str, Any], Iterable[str], Path], dict[str, Any]] = _render


@click.command()
@global_options
@pass_app
def doctor(app: AppContext) -> int:
    """Check what a run needs: tools, AWS identity, AppConfig, inventory, cluster, GPU nodes.

    All checks run, whatever the first ones say, and each that does not hold names the next command. Nothing is
    changed. The exit code is 1 when a check fails; warnings alone leave it 0.

    \b
    Examples:
      judge-bootstrap --env prod doctor
      judge-bootstrap --env prod doctor --json
    """
    app.command = "doctor"
    environment = app.get_services().environment(app.require_env())
    checks = _lab_checks(app) if environment.provider == "lab" else []
    world = app.extra.get("doctor") or World()
    checks += examine(environment, world)
    failed = [check for check in checks if check.status == "fail"]
    if app.json:
        app.emit({"ok": not failed, "command": "doctor", "env": environment.name,
                  "checks": [check.as_json() for check in checks]})
    else:
        print_checks(app, checks, next_step=f"judge-bootstrap --env {environment.name} plan")
    return int(ExitCode.FAILED if failed else ExitCode.OK)


def _lab_checks(app: AppContext) -> list[Check]:
    from judge_bootstrap.cli.config import use_lab_variables
    from judge_bootstrap.cli.lab import call
    from judge_bootstrap.core.checks import Check

    use_lab_variables(app)
    status = call(app.get_services().lab().status)
    nodes = ", ".join(status.get("nodes", {})) or "no nodes"
    if status.get("running"):
        return [Check("lab", "ok", f"running ({nodes})", "running")]
    return [Check("lab", "fail", "not running, or only in part", "running", "judge-bootstrap lab up")]


def examine(environment: Environment, world: World) -> list[Check]:
    """Return every check of an environment. What cannot be asked is a failed check, never an exception."""
    from concurrent.futures import ThreadPoolExecutor

    # Each asks another machine and waits for it; together they take as long as the slowest.
    with ThreadPoolExecutor(4) as pool:
        tools = pool.submit(_tools, world)
        identity = pool.submit(_identity, environment, world)
        settings = pool.submit(_settings, environment, world)
        inventory = pool.submit(_inventory, environment, world)
        setting_checks, loaded = settings.result()
        inventory_checks, hosts = inventory.result()
        cluster_checks = _cluster(environment, world, loaded, hosts)
        return [*tools.result(), *identity.result(), *setting_checks, *_terraform(environment), *inventory_checks,
                *cluster_checks]


def _tools(world: World) -> list[Check]:
    from judge_bootstrap.core.checks import check_tools

    return check_tools(world.tools())


def _identity(environment: Environment, world: World) -> list[Check]:
    from judge_bootstrap.adapters.aws import AwsUnavailable
    from judge_bootstrap.core.checks import Check, check_identity

    try:
        return check_identity(world.identity(environment.region))
    except AwsUnavailable as error:
        return [Check("AWS identity", "fail", str(error), "credentials that AWS accepts",
                      "aws sts get-caller-identity, then sign in (such as aws sso login)")]


def _settings(environment: Environment, world: World) -> tuple[list[Check], Loaded | None]:
    from judge_bootstrap.cli.config import appconfig_line
    from judge_bootstrap.core.checks import Check

    try:
        loaded = world.settings(environment)
    except BootstrapError as error:
        return [Check("settings", "fail", error.message, "settings that are valid", error.hint)], None
    checks = [Check("settings", "ok", f"{len(loaded.settings.values)} settings are valid", "settings that are valid")]
    live = loaded.appconfig
    if live.status in ("live", "absent"):
        checks.append(Check("AppConfig", "ok", appconfig_line(loaded), "readable where configured"))
    else:
        checks.append(Check("AppConfig", "warn", live.warnings[0], "a live and valid document",
                            f"judge-bootstrap --env {environment.name} config show, and see AppConfig's deployment"))
    return checks, loaded


def _terraform(environment: Environment) -> list[Check]:
    """Return one check where the environment has Terraform's output: does the inventory look for its nodes?"""
    from judge_bootstrap.adapters.config import compare_environment
    from judge_bootstrap.adapters.terraform import compare_inventory, read_file
    from judge_bootstrap.cli.config_terraform import DIFFERS
    from judge_bootstrap.core.checks import Check
    from judge_bootstrap.core.terraform import AGAIN

    wanted = "an inventory that looks for the nodes that Terraform made"
    try:
        made = read_file(environment.inventory_dir)
        if made is None:
            return []
        differences = [*compare_inventory(environment.inventory_dir, made.output).differences,
                       *compare_environment(environment.inventory_dir, made.output)]
    except BootstrapError as error:
        return [Check("Terraform", "fail", error.message, wanted, error.hint)]
    if differences:
        return [Check("Terraform", "fail", " | ".join(map(str, differences)), wanted,
                      f"{AGAIN.replace('ENV', environment.name)}   # shows what it must say", DIFFERS)]
    group = made.output.node_group
    found = f"node group {group.name}, launch template version {group.launch_template_version}"
    return [Check("Terraform", "ok", found, wanted)]


def _inventory(environment: Environment, world: World) -> tuple[list[Check], dict[str, str | None] | None]:
    from judge_bootstrap.core.checks import Check

    expected = environment.expected_hosts
    wanted = f"{expected} GPU nodes" if expected else "at least one GPU node"
    try:
        hosts = world.inventory(environment).hosts
    except BootstrapError as error:
        return [Check("inventory", "fail", error.message, wanted, error.hint)], None
    found = {name: host.address for name, host in hosts.items()}
    return [Check("inventory", "ok", f"{len(found)} GPU nodes: {', '.join(sorted(found)[:8])}", wanted)], found


def _cluster(environment: Environment, world: World, loaded: Loaded | None,
             hosts: dict[str, str | None] | None) -> list[Check]:
    from judge_bootstrap.adapters.config import role_variables
    from judge_bootstrap.adapters.kube_checks import ClusterUnavailable
    from judge_bootstrap.cli.cluster_settings import cluster_settings_of
    from judge_bootstrap.core.checks import Check, check_cluster

    if loaded is None:
        return [Check("Kubernetes", "warn", "not checked: the settings that name it are wrong", "reachable",
                      "correct the settings, then doctor again")]
    try:
        settings = cluster_settings_of(world.render, environment,
                                       {**role_variables(environment), **loaded.settings.extra_vars()})
    except BootstrapError as error:
        return [Check("Kubernetes", "fail", error.message, "variables that say where the cluster is", error.hint)]
    if settings.render_dir:
        found = f"not asked: manifests are written to {settings.render_dir} instead of being applied"
        return [Check("Kubernetes", "warn", found, "a cluster, reachable", _how_to_get_a_cluster(environment))]
    try:
        cluster = world.cluster(
            kubeconfig=settings.kubeconfig, context=settings.context, namespace=settings.namespace,
            secret=settings.hf_secret_name if settings.loader and settings.loader_use_token else None,
            secret_namespace=settings.loader_namespace, selector=settings.node_selector)
    except ClusterUnavailable as error:
        return [Check("Kubernetes", "fail", str(error), "reachable", "kubectl cluster-info")]
    return check_cluster(cluster, hosts, environment.name)


def _how_to_get_a_cluster(environment: Environment) -> str:
    return ("judge-bootstrap lab status says how to have one" if environment.provider == "lab"
            else "nothing, where somebody else applies them; else set vllm_k8s_render_dir to null")


_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


def print_checks(app: AppContext, checks: list[Check], *, next_step: str) -> None:
    """Print a line a check, and what to do about those that do not hold; `next_step` where none failed."""
    plain = app.no_color or not app.console().is_terminal
    for check in checks:
        text, colour = _MARKS[check.status]
        mark = text if plain else click.style(text, fg=colour)
        app.say(f"{mark}  {check.name}: {check.found}")
        if check.status != "ok":
            app.say(f"      wanted: {check.wanted}")
            if check.hint:
                app.say(f"      next:   {check.hint}")
    failed, warned = (sum(check.status == status for check in checks) for status in ("fail", "warn"))
    if failed:
        app.say(f"{failed} of {len(checks)} checks failed, {warned} warnings.")
    else:
        app.say(f"All {len(checks)} checks hold, {warned} warnings. Next: {next_step}")
