#!/usr/bin/python
"""Ansible module: read which commit of the model the cluster serves, and which it served before."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_served_info
short_description: Read which commit of the model is served, and which one was before it
description:
  - Reads the Deployment, its ReplicaSets and the manifests in its namespace. It changes nothing.
  - A Deployment that somebody paused by hand is an error, because nothing that is applied would roll. So is one that an
    interrupted update has left paused, unless C(accept_unfinished).
options:
  namespace: {description: Namespace of the Deployment., type: str, required: true}
  service: {description: Name of the Deployment and its Service., type: str, required: true}
  accept_unfinished: {description: The caller goes on with an unfinished update., type: bool, default: false}
  env: {description: Name of the environment for the commands in messages., type: str, default: ENV}
  kubeconfig: {description: Path of the kubeconfig; kubectl's default when empty., type: path}
  context: {description: Context in the kubeconfig; the current one when empty., type: str}
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Read what is served
  judge_served_info:
    namespace: llm-judge
    service: judge-inference-service
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
commit: {description: The commit that last held on all pods; null for none., returned: success, type: str}
manifest: {description: Its manifest., returned: success, type: dict}
live: {description: The commit that the Deployment names; another one only in an unfinished update., returned: success,
       type: str}
target: {description: Where an unfinished update goes; null for none., returned: success, type: str}
previous_commit: {description: The commit that was served before., returned: success, type: str}
previous_manifest: {description: Its manifest., returned: success, type: dict}
needs: {description: "ConfigMaps that pods of C(commit) need, as Kind/namespace/name.", returned: success, type: list}
previous_needs: {description: The same for C(previous_commit)., returned: success, type: list}
replicas: {description: Pods that are wanted., returned: success, type: int}
paused: {description: Whether the Deployment is paused., returned: success, type: bool}
marked: {description: Whether an update has left its mark., returned: success, type: bool}
"""

import sys

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "namespace": {"type": "str", "required": True},
            "service": {"type": "str", "required": True},
            "accept_unfinished": {"type": "bool", "default": False},
            "env": {"type": "str", "default": "ENV"},
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "python_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["python_path"]:
        sys.path.append(params["python_path"])
    try:
        from judge_bootstrap.adapters import roll_state
        from judge_bootstrap.adapters.kube import connect
        from judge_bootstrap.adapters.roll_cluster import KubernetesRollCluster
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    try:
        cluster = KubernetesRollCluster(connect(params["kubeconfig"], params["context"]))
        place = roll_state.Place(params["namespace"], params["service"], env=params["env"])
        served = roll_state.read_served(cluster, place)
        if not params["accept_unfinished"]:
            roll_state.refuse_paused(place, served)
        result = roll_state.describe(cluster, place, served)
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    module.exit_json(changed=False, msg=f"commit {(served.commit or 'none')[:12]} is served", **result)


if __name__ == "__main__":
    main()
