"""`judge-bootstrap lab`: the site in a box behind `--env local` (DESIGN.md section 7)."""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

from judge_bootstrap.cli.context import AppContext, global_options, pass_app
from judge_bootstrap.core.errors import UsageProblem

NODE_VERBS = ("stop", "start", "reboot", "add", "kill", "cut")


def load_site() -> Any:
    """Return judge_lab.site. Raises UsageProblem with the pip command when the extra [lab] is not installed."""
    from importlib import import_module

    try:
        return import_module("judge_lab.site")
    except ModuleNotFoundError as problem:
        if problem.name is not None and problem.name.startswith(("judge_lab", "judge_bootstrap")):
            raise  # a part of ours that is not there is a broken installation, not a missing extra
        raise _missing(problem) from problem


def call(work: Any, *args: Any, **options: Any) -> Any:
    """Call a function of judge_lab.site. Raises UsageProblem with the pip command for a package that it misses."""
    try:
        return work(*args, **options)
    except ModuleNotFoundError as problem:
        raise _missing(problem) from problem


def _missing(problem: ModuleNotFoundError) -> UsageProblem:
    package = (problem.name or str(problem)).partition(".")[0]
    return UsageProblem(f"the local environment needs the Python package {package!r}, which is not installed",
                        hint="pip install 'judge-bootstrap[lab]'")


def bring_up(app: AppContext, **options: int | bool | None) -> None:
    """Bring the lab up where it is not, name its stand-ins, and take its variables (AWS_ENDPOINT_URL, ...)."""
    site = app.get_services().lab()

    def report(text: str) -> None:
        if not app.quiet:
            click.echo(text, err=True)

    call(site.up, **{name: value for name, value in options.items() if value is not None}, report=report)
    if not app.quiet:
        click.echo("Stand-ins in this environment:", err=True)
        for sentence in call(site.stand_ins):
            report(f"  - {sentence}")
    os.environ.update(call(site.environment))


def _named(app: AppContext, verb: str) -> Any:
    app.command = f"lab {verb}"
    app.env = app.env or "local"
    return app.get_services().lab()


@click.group()
@global_options
def lab() -> None:
    """Bring the local environment up or down, and drive its nodes.

    It is what `judge-bootstrap --env local` runs against: nodes with their own disks behind real ssh, a real
    Kubernetes, and stand-ins for AWS, the Hub and the GPU. Needs root and the extra [lab].

    \b
    Examples:
      judge-bootstrap lab up --nodes 3       bring it up (again), with three nodes
      judge-bootstrap lab status             what runs, and where
      eval "$(judge-bootstrap lab env)"      kubectl and aws in this shell talk to it
      judge-bootstrap lab node stop node-1   a drill: stop and start, and its disks come back blank
      judge-bootstrap lab up --vm            virtual machines with systemd and NVMe devices, no Kubernetes
      judge-bootstrap lab down               remove it all
    """


@lab.command()
@click.option("--nodes", type=click.IntRange(1, 20), default=None, help="How many nodes (default 2; with --vm 1).")
@click.option("--vm", is_flag=True, default=None, help="Nodes are virtual machines; there is no Kubernetes then.")
@click.option("--vm-disks", type=click.IntRange(1, 8), default=None,
              help="How many instance-store disks a new virtual machine has (default 2).")
@global_options
@pass_app
def up(app: AppContext, nodes: int | None, vm: bool | None, vm_disks: int | None) -> None:
    """Bring the local environment up; what already runs is left alone.

    With --vm a node is a QEMU virtual machine that boots by systemd, with NVMe devices that bear the EC2 model names:
    for the disk, its boot unit, reboot and power cut. Its CPU is emulated, too slow for kubelet, so there is no
    Kubernetes: `run nvme` and `run model_cache` work, the steps after them do not. All nodes are of one kind.
    """
    if vm_disks is not None and not vm:
        raise UsageProblem(f"found --vm-disks {vm_disks} without --vm, whose machines it is for", hint="add --vm")
    site = _named(app, "up")
    bring_up(app, nodes=nodes, vm=vm, vm_disks=vm_disks)
    status = call(site.status)
    if app.json:
        _answer(app, status=status, stand_ins=call(site.stand_ins))
        return
    # A whole run needs Kubernetes, which a lab of virtual machines never has.
    step = " run nvme" if status.get("kind") == "vm" else ""
    app.say(f"The local environment is up. Next: judge-bootstrap --env local{step}")


@lab.command()
@global_options
@pass_app
def down(app: AppContext) -> None:
    """Remove the local environment: processes, mounts, loop devices, namespaces and files."""
    site = _named(app, "down")
    call(site.down, report=lambda text: None if app.quiet else click.echo(text, err=True))
    if app.json:
        _answer(app)
        return
    app.say("The local environment is gone.")


@lab.command()
@global_options
@pass_app
def status(app: AppContext) -> None:
    """Show what runs and where, and what stands in for what."""
    site = _named(app, "status")
    found = {**call(site.status), "stand_ins": call(site.stand_ins)}
    if app.json:
        _answer(app, status=found, stand_ins=found["stand_ins"])
        return
    for line in _tree(found):
        app.say(line)


@lab.command()
@global_options
@pass_app
def env(app: AppContext) -> None:
    """Print the variables that point tools at the local environment, for `eval` in a shell."""
    site = _named(app, "env")
    variables = call(site.environment)
    if app.json:
        _answer(app, variables=variables)
        return
    for name, value in sorted(variables.items()):
        # Not through say(): the lab's AWS keys are dummies, and a masked one would not work.
        click.echo(f"export {name}={shlex.quote(value)}")


@lab.command()
@click.argument("verb", type=click.Choice(NODE_VERBS), metavar="VERB")
@click.argument("name", metavar="NODE")
@global_options
@pass_app
def node(app: AppContext, verb: str, name: str) -> None:
    """Do to a node what a cloud does to it.

    VERB is stop, start (its disks come back blank), reboot, add, kill, or cut (off the network).
    """
    site = _named(app, "node")
    call(site.node, verb, name)
    if app.json:
        _answer(app, verb=verb, node=name, status=call(site.status))
        return
    app.say(f"{name}: {verb} done")


def _answer(app: AppContext, **more: Any) -> None:
    app.emit({"ok": True, "command": app.command, "env": app.env, **more})


def _tree(value: Any, indent: str = "") -> list[str]:
    """Return nested dicts and lists as indented lines."""
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                lines += [f"{indent}{key}:", *_tree(item, indent + "  ")]
            else:
                lines.append(f"{indent}{key}: {item if item not in ({}, []) else '-'}")
        return lines
    if isinstance(value, list):
        return [line for item in value for line in (_tree(item, indent + "  ") if isinstance(item, (dict, list))
                                                    else [f"{indent}- {item}"])]
    return [f"{indent}{value}"]
