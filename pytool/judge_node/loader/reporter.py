"""Keeps the Node saying what the loader last found: one patch a change, none when nothing changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .api import Api, ApiError
from .events import NAMESPACE, event_of
from .node import SYNCING, Report, is_tainted, plan_patch, said

# The Node is read anew after so long: somebody may have taken our label or taint away by hand.
REFRESH_SECONDS = 60.0
_CONFLICTS = 5


class Reporter:
    """Says reports on one Node. `taint`: key of the taint that keeps pods away, None to leave taints alone."""

    def __init__(
        self,
        api: Api,
        name: str,
        taint: str | None,
        log: Callable[[str], None],
        *,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self._api, self._name, self._taint, self._log = api, name, taint, log
        self._refresh_seconds = refresh_seconds
        self._node: dict[str, Any] | None = None
        self._read_at = 0.0
        self._trouble = ""

    def report(self, report: Report) -> bool:
        """Have the Node say this; return whether it does now. What failed is in the log, and is to be tried again."""
        try:
            before, after = self._patch(report)
        except ApiError as error:
            self._node = None
            self._told(f"the Node cannot be told: {error}")
            return False
        self._told("")
        if before is not None and _kind(before) != _kind(report.as_dict()):
            where = f", taint {'on' if is_tainted(after, self._taint) else 'off'}" if self._taint else ""
            self._log(f"{report.state}{f' ({report.reason})' if report.reason else ''}: {report.message}{where}")
            self._event(after, report)
        return True

    def _patch(self, report: Report) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Return what the annotation said before (None: the Node said all of it already) and the Node as it is now."""
        for attempt in range(_CONFLICTS):
            if self._node is None or time.monotonic() - self._read_at >= self._refresh_seconds:
                self._node = self._api.node(self._name)
                self._read_at = time.monotonic()
            node = self._node
            patch = plan_patch(node, report, self._taint)
            if not patch:
                return None, node
            try:
                self._node = self._api.patch_node(self._name, patch)
            except ApiError as error:
                # Somebody else changed the Node since it was read; with that there may be nothing left to do.
                if error.status != 409 or attempt + 1 == _CONFLICTS:
                    raise
                self._node = None
                continue
            return said(node), self._node
        raise AssertionError("unreachable")

    def _event(self, node: dict[str, Any], report: Report) -> None:
        try:
            self._api.create_event(NAMESPACE, event_of(node, report))
        except ApiError as error:  # the Node says it, which is what counts
            self._log(f"the event cannot be written: {error}")

    def _told(self, trouble: str) -> None:
        """Log a trouble once, and its end."""
        if trouble and trouble != self._trouble:
            self._log(trouble)
        elif self._trouble and not trouble:
            self._log("the Node can be told again")
        self._trouble = trouble


class Aloud:
    """Says each report in the log as well, for somebody who watches a single run; on no Node without a reporter."""

    def __init__(self, reporter: Reporter | None, log: Callable[[str], None]) -> None:
        self._reporter, self._log, self._said = reporter, log, ""

    def report(self, report: Report) -> bool:
        """Say it; return whether the Node says it now (True without a Node)."""
        if report.state == SYNCING and report.message != self._said:
            self._said = report.message
            self._log(f"{report.percent} %: {report.message}" if report.percent else report.message)
        return self._reporter is None or self._reporter.report(report)


def _kind(annotation: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What an event is for: another state, reason or model; not another percentage."""
    return annotation.get("state"), annotation.get("reason"), annotation.get("wanted")
