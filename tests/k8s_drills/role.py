"""The role vllm_k8s as a playbook runs it, in a namespace of its own, and what it says it did."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters.kube import TIMEOUT_VARIABLE
from judge_node.cache.manifest import File, Manifest

from . import kwok_nodes

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO_ID = "org/judge"
MODEL = Manifest(REPO_ID, "main", COMMIT, (File("config.json", 2, hashlib.sha256(b"{}").hexdigest(), None),))
MANIFEST = {**MODEL.as_dict(), "digest": MODEL.digest}
# What a node must have for the server's pods; a kwok node has it from the beginning, because no loader runs there.
NODE_LABELS = {kwok_nodes.MARK: "kwok", f"judge-bootstrap.io/model-{COMMIT}": "ready"}
NODE_ANNOTATIONS = {"judge-bootstrap.io/model-state": json.dumps({
    "state": "complete", "repo_id": REPO_ID, "wanted": COMMIT, "reason": None, "message": "complete", "percent": 100,
    "at": "2026-01-01T00:00:00Z", "commits": {COMMIT: "complete"}})}
_RESULT = re.compile(r"^(?:ok|changed|fatal|failed)[^{]*?=> (\{.*\})$", re.MULTILINE)
_RECAP = re.compile(r"ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")


@dataclass(frozen=True)
class Run:
    """How a run ended: exit code, `changed` of the recap, and {object: action} of all but the unchanged ones."""

    code: int
    changed: int
    objects: Mapping[str, str]
    rendered: frozenset[str]
    output: str

    def why(self) -> str:
        """Return the end of what it printed."""
        return self.output[-1500:]


@dataclass
class Role:
    """One judge in a namespace of its own, on kwok nodes alone; `variables` are what its runs begin with."""

    kubeconfig: Path
    folder: Path
    namespace: str
    variables: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 2

    @property
    def owner(self) -> str:
        """Return the value of the owner's label."""
        return hashlib.sha256(f"{self.namespace}/judge-inference-service".encode()).hexdigest()[:16]

    @property
    def namespaces(self) -> list[str]:
        """Return the namespaces of the server and of the loader."""
        return [self.namespace, f"{self.namespace}-loader"]

    def run(self, **variables: Any) -> Run:
        """Run the role to its end."""
        rendered = self.folder / "rendered.json"
        rendered.unlink(missing_ok=True)
        playbook = [{
            "hosts": "gpu_nodes", "gather_facts": False, "roles": ["vllm_k8s"],
            "post_tasks": [{
                "ansible.builtin.copy": {"content": "{{ vllm_k8s_objects | to_json }}", "dest": str(rendered),
                                         "mode": "0600"},
                "run_once": True, "no_log": True, "changed_when": False,
                "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}}]}]
        given = {
            "model_cache_manifest": MANIFEST, "model_cache_quantization": "awq",
            "vllm_k8s_kubeconfig": str(self.kubeconfig), "vllm_k8s_namespace": self.namespace,
            "vllm_k8s_node_selector": {kwok_nodes.MARK: "kwok"}, "vllm_k8s_gpu": "l4", "vllm_k8s_wait_seconds": 900,
            **self.variables, **variables,
        }
        (self.folder / "playbook.json").write_text(json.dumps(playbook))
        (self.folder / "vars.json").write_text(json.dumps(given))
        (self.folder / "hosts.json").write_text(json.dumps(
            {"gpu_nodes": {"hosts": {"localhost": {"ansible_connection": "local"}}}}))
        done = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "-v", "-i", self.folder / "hosts.json",
             "-e", f"@{self.folder / 'vars.json'}", self.folder / "playbook.json"],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=1800, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
                              "ANSIBLE_FORCE_COLOR": "0", TIMEOUT_VARIABLE: f"{self.timeout_seconds:g}"})
        recap = _RECAP.search(done.stdout)
        return Run(done.returncode, int(recap[1]) if recap else -1, _told(done.stdout),
                   frozenset(map(_name, json.loads(rendered.read_text()))) if rendered.exists() else frozenset(),
                   done.stdout)


def _told(output: str) -> dict[str, str]:
    """Return {object: action} of every result with a list of objects."""
    found = {}
    for line in _RESULT.findall(output):
        for entry in json.loads(line).get("objects") or []:
            if isinstance(entry, dict) and entry.get("action") not in ("unchanged", "left", None):
                found[entry["object"]] = entry["action"]
    return found


def _name(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return "/".join(part for part in (item["kind"], metadata.get("namespace"), metadata["name"]) if part)
