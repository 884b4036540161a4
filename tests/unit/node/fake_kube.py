"""A small API server: Nodes with merge patches and versions, events, faults on demand, and a log of what was asked."""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
from judge_node.loader.api import Api

NODE = "node-1"


@dataclass(frozen=True)
class Fault:
    """What happens instead of an answer: a status, or a connection that is reset before or after the request counts."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    after: bool = False


@dataclass
class FakeKube:
    """The server's state. `faults` are those of the next requests; `meanwhile` runs before the next patch counts."""

    nodes: dict[str, dict[str, Any]]
    events: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    meanwhile: Callable[[], None] | None = None
    patches: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    def node(self) -> dict[str, Any]:
        return self.nodes[NODE]

    def labels(self) -> dict[str, str]:
        return dict(self.node()["metadata"].get("labels", {}))

    def taints(self) -> list[dict[str, Any]]:
        return list(self.node()["spec"].get("taints", []))

    def said(self) -> dict[str, Any]:
        text = self.node()["metadata"].get("annotations", {}).get("judge-bootstrap.io/model-state", "{}")
        found: dict[str, Any] = json.loads(text)
        return found

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the Node as somebody else does."""
        change(self.node())
        self.bump(self.node())

    @staticmethod
    def bump(node: dict[str, Any]) -> None:
        node["metadata"]["resourceVersion"] = str(int(node["metadata"]["resourceVersion"]) + 1)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merge(found.get(key), value)
    return found


def new_node(name: str = NODE) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": "uid-1", "resourceVersion": "1", "labels": {"role": "ai-gpu"}},
        "spec": {"taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]},
    }


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[tuple[FakeKube, Api]]:
    """Serve one Node over TLS; the client that is given has the server's authority and a token."""
    kube = FakeKube({NODE: new_node()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        do_PATCH = do_POST = do_GET

        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
            kube.asked.append((self.command, self.path))
            kube.tokens.add(self.headers.get("Authorization", ""))
            fault = kube.faults.pop(0) if kube.faults else Fault()
            if fault.reset and not fault.after:
                self.reset()
                return
            if fault.status is not None:
                self.send(fault.status, {"message": f"fault {fault.status}"}, fault.headers)
                return
            status, found = self.act(body)
            if fault.reset:
                self.reset()
            else:
                self.send(status, found, {})

        def act(self, body: Any) -> tuple[int, Any]:
            path = self.path.partition("?")[0]
            if self.command == "POST":
                if any(event["metadata"]["name"] == body["metadata"]["name"] for event in kube.events):
                    return 409, {"message": "already exists"}
                kube.events.append(body)
                return 201, body
            node = kube.nodes.get(path.rpartition("/")[2])
            if node is None:
                return 404, {"message": f"{path} not found"}
            if self.command == "GET":
                return 200, copy.deepcopy(node)
            if kube.meanwhile is not None:
                happening, kube.meanwhile = kube.meanwhile, None
                happening()
            wanted = body.get("metadata", {}).get("resourceVersion")
            if wanted not in (None, node["metadata"]["resourceVersion"]):
                return 409, {"message": "the object has been modified"}
            kube.patches.append(body)
            node.update(merge(node, body))
            kube.bump(node)
            return 200, copy.deepcopy(node)

        def send(self, status: int, found: Any, headers: dict[str, str]) -> None:
            data = json.dumps(found).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # connections are reset on purpose

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    (folder / "token").write_text("first-token\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    kube.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    api = Api("localhost", kube.port, folder / "token", folder / "ca.crt", first_wait_seconds=0.001)
    try:
        yield kube, api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
