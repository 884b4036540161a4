#!/usr/bin/python
"""Ansible module: the steps of a model update on the cluster that are more than applying objects."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_model_roll
short_description: Stage a commit on the nodes, watch the pods move to it and go back when one does not hold
description:
  - C(stage) has every node that serves verify the new files beside the old ones, and waits for all of them.
  - C(roll) comes after the objects of the new commit were applied. It watches replica by replica; when one drifts,
    serves another model or is not ready in time, the old pods come back from their ReplicaSet, and the module fails.
  - C(rollback) brings the pods of the commit before back, or those that an unfinished update came from.
  - C(finish) only takes away the mark of an update that has come to its end.
options:
  step: {description: What to do., type: str, choices: [stage, roll, rollback, finish], required: true}
  namespace: {description: Namespace of the Deployment., type: str, required: true}
  service: {description: Name of the Deployment and its Service., type: str, required: true}
  port: {description: Port of the server in the pod., type: int, default: 8000}
  node_selector: {description: Labels of the nodes that serve., type: dict, default: {}}
  loader_namespace: {description: Namespace of the loader; none where there is no loader., type: str}
  served: {description: What judge_served_info returned before anything was applied., type: dict, required: true}
  manifest: {description: The manifest of the new commit; for C(stage) and C(roll)., type: dict}
  wait_seconds: {description: Seconds that C(stage) waits for the nodes., type: int, default: 1200}
  canary: {description: "Share of the replicas that go first, as 25%; for C(roll).", type: str}
  bake_seconds: {description: Seconds that these must stay ready before the others follow., type: int, default: 0}
  env: {description: Name of the environment for the commands in messages., type: str, default: ENV}
  kubeconfig: {description: Path of the kubeconfig; kubectl's default when empty., type: path}
  context: {description: Context in the kubeconfig; the current one when empty., type: str}
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Watch the pods move
  judge_model_roll:
    step: roll
    namespace: llm-judge
    service: judge-inference-service
    served: "{{ __vllm_k8s_served }}"
    manifest: "{{ model_cache_manifest }}"
    canary: 25%
    bake_seconds: 300
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
roll:
  description:
    - "What the pods came to: from, to, outcome (rolled, rolled_back, stuck), wanted, canary, seconds and, for each new
      replica, pod, node, ready, asked, commit, reason, golden_items and golden_drift."
  returned: for roll and rollback, when it fails too
  type: dict
nodes: {description: The nodes that have the new files., returned: for stage, type: list, elements: str}
manifest: {description: The manifest of the commit that is served now., returned: for rollback, type: dict}
"""

import sys

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "choices": ["stage", "roll", "rollback", "finish"], "required": True},
            "namespace": {"type": "str", "required": True},
            "service": {"type": "str", "required": True},
            "port": {"type": "int", "default": 8000},
            "node_selector": {"type": "dict", "default": {}},
            "loader_namespace": {"type": "str"},
            "served": {"type": "dict", "required": True},
            "manifest": {"type": "dict"},
            "wait_seconds": {"type": "int", "default": 1200},
            "canary": {"type": "str"},
            "bake_seconds": {"type": "int", "default": 0},
            "env": {"type": "str", "default": "ENV"},
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "python_path": {"type": "path"},
        },
        required_if=[("step", "stage", ["manifest"]), ("step", "roll", ["manifest"])],
        supports_check_mode=True,
    )
    params = module.params
    if params["python_path"]:
        sys.path.append(params["python_path"])
    try:
        from judge_bootstrap.adapters import model_roll
        from judge_bootstrap.adapters.kube import connect
        from judge_bootstrap.adapters.roll_cluster import KubernetesRollCluster
        from judge_bootstrap.adapters.roll_state import Place
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    place = Place(params["namespace"], params["service"], params["port"], params["node_selector"],
                  params["loader_namespace"] or None, params["env"])
    try:
        cluster = KubernetesRollCluster(connect(params["kubeconfig"], params["context"]))
        result = model_roll.do_step(cluster, place, params["step"], params["served"], params["manifest"],
                                    wait_seconds=params["wait_seconds"], canary=params["canary"] or None,
                                    bake_seconds=params["bake_seconds"], check=module.check_mode)
    except model_roll.RollFailed as error:
        module.fail_json(roll=error.found.to_json(), **error.for_module())
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
