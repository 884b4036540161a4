"""The loader's objects as the role's templates render them, and a few ways to put them into a cluster and to look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_play import run_play

CHECKOUT = Path(__file__).resolve().parents[2]
TEMPLATES = ("namespace", "access", "models", "network-policies", "daemonset")


def render(folder: Path, **variables: Any) -> list[dict[str, Any]]:
    """Return the objects, for a manifest and variables as the role has them."""
    sources = [str(CHECKOUT / f"roles/vllm_k8s/templates/loader/{name}.yaml.j2") for name in TEMPLATES]
    expression = "{{ query('ansible.builtin.template', *sources) | map('from_yaml_all') | map('list') | flatten(1) }}"
    tasks = [
        {"ansible.builtin.include_role": {"name": "vllm_k8s", "tasks_from": "model", "public": True}},
        {"ansible.builtin.set_fact": {"found": expression}},
        {"ansible.builtin.copy": {"content": "{{ found | to_json }}", "dest": "{{ rendered }}", "mode": "0600"},
         "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}},
    ]
    given = {"model_cache_quantization": None, "vllm_k8s_quantization": None, "sources": sources,
             "rendered": str(folder / "objects.json"), **variables}
    done = run_play(folder, {"tasks": tasks}, given)
    assert done.returncode == 0, done.stdout[-3000:]
    found: list[dict[str, Any]] = json.loads((folder / "objects.json").read_text())
    return found
