"""Middleware for a test: one vLLM, and any number of gateways in front of it, each with a configuration of its own.

The request's header `x-gateway` names the file of the configuration, `main.json` without one. A gateway is made when it
is first asked for, so tests may write more while the server runs; all see the same vLLM.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from judge_node.serving.gateway import Gateway

CONFIGS = Path(__file__).parent


class Switch:
    """Hands each request to the gateway that it names."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._gateways: dict[str, Gateway] = {}
        self._of("main")  # as in a pod, the server does not start without a good configuration

    def _of(self, name: str) -> Gateway:
        if name not in self._gateways:
            os.environ["JUDGE_GATEWAY_CONFIG"] = str(CONFIGS / f"{name}.json")
            self._gateways[name] = Gateway(self._app)
        return self._gateways[name]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = dict(scope.get("headers") or ()).get(b"x-gateway", b"main").decode()
        await self._of(name)(scope, receive, send)
