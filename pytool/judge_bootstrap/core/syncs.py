"""Which hosts may have a sync under way: it goes on without the run that started it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where the role's tasks are that start a sync and wait for it; Ansible gives each task's file and line.
SYNC_TASKS = "/roles/model_cache/tasks/sync.yml:"


class Syncs:
    """Takes events as they come, and knows on which hosts nobody has seen the end of a sync."""

    def __init__(self) -> None:
        self._hosts: dict[str, None] = {}

    @property
    def hosts(self) -> list[str]:
        """The hosts, in the order in which their syncs were started."""
        return list(self._hosts)

    def add(self, event: Any) -> None:
        """Take one event (adapters.runner.Event)."""
        if not event.host or SYNC_TASKS not in event.path:
            return
        if event.kind == "runner_on_start":
            self._hosts[event.host] = None
        # Not for a host that became unreachable: there the sync goes on.
        elif event.kind in ("runner_on_ok", "runner_on_failed", "runner_on_skipped"):
            judge = event.result.get("judge")
            if not (isinstance(judge, Mapping) and judge.get("state") == "running"):
                self._hosts.pop(event.host, None)
