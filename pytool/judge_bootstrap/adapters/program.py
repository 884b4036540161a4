"""judge-node.pyz as Kubernetes carries it: a ConfigMap named by its content, so that a new program is a new one."""

from __future__ import annotations

import base64
import functools
import hashlib

FILE = "judge-node.pyz"
# Where the pods find it.
FOLDER = "/opt/judge-node"


@functools.cache
def program() -> bytes:
    """Return the whole node program, packed from the package that is installed."""
    from judge_node.bundle import build_pyz

    return build_pyz()


def config_map_name() -> str:
    """Return the name of the ConfigMap that holds this very program."""
    return f"judge-node-{hashlib.sha256(program()).hexdigest()[:8]}"


def binary_data() -> dict[str, str]:
    """Return the ConfigMap's binaryData."""
    return {FILE: base64.b64encode(program()).decode("ascii")}
