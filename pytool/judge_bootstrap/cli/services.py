"""The outside worlds a command talks to, in one place, so that tests put fakes there.

Every default imports its adapter only when it is called: boto3, pydantic and ansible-runner cost more than the CLI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from judge_bootstrap.adapters.runner import Ended, Event, PlaybookRun
    from judge_bootstrap.core.environment import Environment
    from judge_bootstrap.core.settings import Settings


class Lab(Protocol):
    """What the CLI needs of the local site (judge_lab.site)."""

    def up(self, nodes: int | None = None, report: Callable[[str], None] = ..., *, vm: bool | None = None,
           vm_disks: int | None = None) -> None: ...
    def down(self, report: Callable[[str], None] = ...) -> None: ...
    def status(self) -> dict[str, Any]: ...
    def environment(self) -> dict[str, str]: ...
    def node(self, verb: str, name: str) -> Any: ...
    def stand_ins(self) -> list[str]: ...


def _real_runner(request: PlaybookRun, on_event: Callable[[Event], None]) -> Ended:
    from judge_bootstrap.adapters.runner import AnsibleRunner

    return AnsibleRunner()(request, on_event)


def _real_environment(name: str) -> Environment:
    from judge_bootstrap.adapters import config

    return config.load_environment(name)


def _real_settings(environment: Environment, extra: Sequence[str]) -> Settings:
    from judge_bootstrap.adapters import config

    return config.load(environment, extra).settings


def _real_role_variables(environment: Environment) -> dict[str, Any]:
    from judge_bootstrap.adapters import config

    return config.role_variables(environment)


def _real_render(variables: Mapping[str, Any], names: Iterable[str], inventory_dir: Path) -> dict[str, Any]:
    from judge_bootstrap.adapters.rendered import render

    return render(variables, names, inventory_dir)


def _real_hosts(environment: Environment, limit: str | None) -> list[str]:
    from judge_bootstrap.adapters import inventory

    return list(inventory.read(environment, limit).hosts)


def _real_lab() -> Lab:
    from judge_bootstrap.cli.lab import load_site

    site: Lab = load_site()
    return site


@dataclass
class Services:
    """Real outside worlds by default."""

    run_playbooks: Callable[[PlaybookRun, Callable[[Event], None]], Ended] = field(default=_real_runner)
    environment: Callable[[str], Environment] = field(default=_real_environment)
    settings: Callable[[Environment, Sequence[str]], Settings] = field(default=_real_settings)
    # The roles' variables as files have them, nothing rendered: for commands that start no Ansible.
    role_variables: Callable[[Environment], dict[str, Any]] = field(default=_real_role_variables)
    # (variables, names, inventory folder): those variables as Ansible renders them, for commands that start no run.
    render: Callable[[Mapping[str, Any], Iterable[str], Path], dict[str, Any]] = field(default=_real_render)
    # The hosts of the environment that match a limit; refuses zero, unreadable and fewer than expected.
    hosts: Callable[[Environment, str | None], list[str]] = field(default=_real_hosts)
    lab: Callable[[], Lab] = field(default=_real_lab)
