"""The event that each change of state leaves: `kubectl describe node` and `kubectl events` show it for an hour."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ..cache.catalog import COMPLETE
from .node import SYNCING, Report

# Events of what has no namespace belong here.
NAMESPACE = "default"
COMPONENT = "judge-loader"
READY_REASON, SYNCING_REASON, FAILED_REASON = "ModelReady", "ModelSyncing", "ModelNotReady"


def event_of(node: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Return the event that tells of the report. `reason` is its reason code, or ModelReady when all is well."""
    name = node["metadata"]["name"]
    # Part of its identity, so that a repeated request makes no second one.
    stamp = time.time_ns()
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp // 10**9))
    usual = {COMPLETE: READY_REASON, SYNCING: SYNCING_REASON}.get(report.state, FAILED_REASON)
    well = report.state in (COMPLETE, SYNCING) and report.reason in (None, "LOCKED")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{COMPONENT}.{stamp:x}", "namespace": NAMESPACE},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"].get("uid", "")},
        "reason": report.reason or usual,
        "message": f"{report.state}: {report.as_dict()['message']}",
        "type": "Normal" if well else "Warning",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "source": {"component": COMPONENT, "host": name},
        "reportingComponent": COMPONENT,
        "reportingInstance": os.environ.get("HOSTNAME", name),
    }
