"""An API server in memory, as far as our adapters ask one: objects by path, server-side apply, dry run, paging, 403.

It stands where kubernetes.client.ApiClient does (`call_api`), so retries and sockets are not in it: those are tried
against a real one.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from kubernetes.client.exceptions import ApiException

_NAMESPACED = re.compile(r"^(?P<root>/api/v1|/apis/[^/]+/[^/]+)/namespaces/(?P<namespace>[^/]+)/(?P<rest>.+)$")


@dataclass
class Call:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class FakeKube:
    """Objects by URL path. `denied`: (method, path part) that answer 403; `answers`: path to a function of the call."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    denied: list[tuple[str, str]] = field(default_factory=list)
    answers: dict[str, Callable[[Call], Any]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    version: int = 100
    configuration: Any = field(default_factory=lambda: SimpleNamespace(host="https://fake:6443"))

    def put(self, path: str, item: Mapping[str, Any]) -> None:
        """Have an object there."""
        self.version += 1
        stored = copy.deepcopy(dict(item))
        stored.setdefault("metadata", {}).setdefault("name", path.rpartition("/")[2])
        stored["metadata"] |= {"resourceVersion": str(self.version), "uid": f"uid-{self.version}"}
        self.objects[path] = stored

    def put_all(self, folder: str, items: list[dict[str, Any]]) -> None:
        """Have several objects below a collection's path."""
        for item in items:
            self.put(f"{folder}/{item['metadata']['name']}", item)

    def written(self, method: str = "PATCH") -> list[Call]:
        """Return the requests that changed something."""
        return [call for call in self.calls if call.method == method and "dryRun" not in call.query]

    def call_api(self, path: str, method: str, *, query_params: Any = (), header_params: Any = None, body: Any = None,
                 auth_settings: Any = None, _preload_content: bool = True, _request_timeout: Any = None,
                 **_: Any) -> Any:
        """Answer one request."""
        call = Call(method, unquote(path), dict(query_params or ()), copy.deepcopy(body))
        self.calls.append(call)
        if any(method == verb and part in path for verb, part in self.denied):
            raise api_error(403, f"user cannot {method.lower()} {path}")
        custom = next((answer for known, answer in self.answers.items() if call.path == known), None)
        found = custom(call) if custom else self._answer(call)
        return SimpleNamespace(status=200, data=json.dumps(found).encode())

    def _answer(self, call: Call) -> Any:
        dry = "dryRun" in call.query
        if call.method == "GET":
            if call.path in self.objects:
                return self.objects[call.path]
            if self._is_collection(call.path):
                return self._listed(call)
            raise api_error(404, "not found")
        if call.method == "PATCH":
            return self._applied(call, dry)
        if call.method == "DELETE":
            if call.path not in self.objects:
                raise api_error(404, "not found")
            uid = ((call.body or {}).get("preconditions") or {}).get("uid")
            if uid and uid != self.objects[call.path]["metadata"]["uid"]:
                raise api_error(409, "uid differs")
            return self.objects.pop(call.path)
        if call.method == "POST" and dry:
            return call.body
        raise api_error(405, f"{call.method} is not in this fake")

    def _applied(self, call: Call, dry: bool) -> dict[str, Any]:
        parts = _NAMESPACED.match(call.path)
        if parts and f"/api/v1/namespaces/{parts['namespace']}" not in self.objects:
            raise api_error(404, f'namespaces "{parts["namespace"]}" not found')
        before = self.objects.get(call.path)
        merged = _merge(before or {}, call.body)
        if dry:
            same = before is not None and _merge(before, call.body) == before
            return {**merged, "metadata": {**merged["metadata"],
                                           "resourceVersion": before["metadata"]["resourceVersion"] if same else "dry"}}
        if before is None or merged != before:
            uid = before["metadata"]["uid"] if before else None
            self.put(call.path, merged)
            if uid:
                self.objects[call.path]["metadata"]["uid"] = uid
        return self.objects[call.path]

    @staticmethod
    def _is_collection(path: str) -> bool:
        parts = _NAMESPACED.match(path)
        rest = parts["rest"] if parts else re.sub(r"^(/api/v1|/apis/[^/]+/[^/]+)/", "", path)
        return "/" not in rest

    def _listed(self, call: Call) -> dict[str, Any]:
        plural = call.path.rpartition("/")[2]
        prefix = call.path.rpartition("/")[0]
        wanted = dict(pair.split("=", 1) for pair in call.query.get("labelSelector", "").split(",") if pair)
        found = []
        for path, item in sorted(self.objects.items()):
            folder = path.rpartition("/")[0]
            everywhere = re.sub(r"/namespaces/[^/]+(?=/)", "", folder)
            if folder.rpartition("/")[2] != plural or (folder != call.path and everywhere != call.path):
                continue
            if (item["metadata"].get("labels") or {}).items() >= wanted.items():
                found.append(item)
        del prefix
        start, limit = int(call.query.get("continue") or 0), int(call.query.get("limit") or 0) or len(found)
        more = str(start + limit) if start + limit < len(found) else ""
        return {"items": found[start:start + limit], "metadata": {"continue": more}}


def api_error(status: int, message: str) -> ApiException:
    """Return what the client raises for an answer of the API server."""
    error = ApiException(status=status, reason="Refused")
    error.body = json.dumps({"kind": "Status", "message": message})
    return error


def _merge(before: Mapping[str, Any], applied: Mapping[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(dict(before))
    for key, value in applied.items():
        found[key] = _merge(found[key], value) if isinstance(value, Mapping) and isinstance(found.get(key), Mapping) \
            else copy.deepcopy(value)
    return found
