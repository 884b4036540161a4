"""What the loader says on its Node, and the smallest patch that says it."""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..cache.catalog import COMPLETE, CORRUPT, INCOMPLETE

PREFIX = "judge-bootstrap.io/"
STATE_ANNOTATION = f"{PREFIX}model-state"
READY = "ready"
SYNCING, FAILED = "syncing", "failed"
STATES = (COMPLETE, SYNCING, INCOMPLETE, CORRUPT, FAILED)
_LABEL = re.compile(rf"{re.escape(PREFIX)}model-[0-9a-f]{{40}}")
_MESSAGE_CHARACTERS = 300
# A report that is older is written anew, with nothing new in it: so its age tells a loader that is gone from one that
# has nothing to say (`judge-bootstrap health --verbose`).
FRESH_SECONDS = 12 * 3600.0


def label(commit: str) -> str:
    """Return the label that says that the model of a commit is on the node and verified."""
    return f"{PREFIX}model-{commit}"


@dataclass(frozen=True)
class Report:
    """How the node is. `commits` has a state for each commit that is known here; those complete get their label.

    `wanted` is the commit to serve ("" while nobody has said one): as long as it is not complete, the node is tainted.
    """

    state: str
    repo_id: str = ""
    wanted: str = ""
    reason: str | None = None
    message: str = ""
    percent: int = 0
    commits: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> frozenset[str]:
        """The commits that are complete."""
        return frozenset(commit for commit, state in self.commits.items() if state == COMPLETE)

    def as_dict(self) -> dict[str, Any]:
        """Return the annotation's content, without the time."""
        message = self.message
        if len(message) > _MESSAGE_CHARACTERS:
            message = message[: _MESSAGE_CHARACTERS - 3] + "..."
        return {
            "state": self.state,
            "repo_id": self.repo_id,
            "wanted": self.wanted,
            "reason": self.reason,
            "message": message,
            "percent": self.percent,
            "commits": dict(sorted(self.commits.items())),
        }


def said(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the Node's annotation says; empty when it has none, or one that nobody can read."""
    try:
        found = json.loads(_annotations(node).get(STATE_ANNOTATION, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def plan_patch(node: Mapping[str, Any], report: Report, taint: str | None) -> dict[str, Any]:
    """Return the merge patch that makes the Node say what the report says; empty when it does already.

    `taint` is the key of the taint that keeps pods away, None: leave taints alone. A merge patch replaces the whole
    list of taints, so one with taints carries the resourceVersion that was read: when somebody else has changed the
    Node meanwhile, the server refuses it (409), and no taint of theirs is lost.
    """
    metadata: dict[str, Any] = {}
    patch: dict[str, Any] = {}
    labels = node["metadata"].get("labels") or {}
    wanted = {label(commit): READY for commit in report.ready}
    changed: dict[str, str | None] = {key: value for key, value in wanted.items() if labels.get(key) != value}
    changed.update({key: None for key in labels if _LABEL.fullmatch(key) and key not in wanted})
    if changed:
        metadata["labels"] = changed
    before = said(node)
    same = {key: value for key, value in before.items() if key != "at"} == report.as_dict()
    if not same or not _is_fresh(before.get("at")):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        metadata["annotations"] = {STATE_ANNOTATION: json.dumps({**report.as_dict(), "at": at}, separators=(",", ":"))}
    if taint is not None:
        old = (node.get("spec") or {}).get("taints") or []
        new = _with_taint(old, taint, present=report.wanted not in report.ready)
        if new != old:
            patch["spec"] = {"taints": new}
            metadata["resourceVersion"] = node["metadata"]["resourceVersion"]
    if metadata:
        patch["metadata"] = metadata
    return patch


def _is_fresh(at: Any) -> bool:
    """Return whether a report of that time, as plan_patch writes it, is young enough to stand as it is."""
    try:
        then = calendar.timegm(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ"))
    except (TypeError, ValueError):
        return False
    return time.time() - then < FRESH_SECONDS


def is_tainted(node: Mapping[str, Any], taint: str) -> bool:
    """Return whether the Node has the taint."""
    return any(found.get("key") == taint for found in (node.get("spec") or {}).get("taints") or [])


def _with_taint(taints: list[dict[str, Any]], key: str, *, present: bool) -> list[dict[str, Any]]:
    """Return the list with or without the taint; one that a kubelet registered is left as it is."""
    if not present:
        return [taint for taint in taints if taint.get("key") != key]
    if any(taint.get("key") == key for taint in taints):
        return taints
    return [*taints, {"key": key, "effect": "NoSchedule"}]


def _annotations(node: Mapping[str, Any]) -> Mapping[str, str]:
    return node["metadata"].get("annotations") or {}
