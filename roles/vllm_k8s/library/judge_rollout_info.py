#!/usr/bin/python
"""Ansible module: wait for a Deployment, and say what holds it up."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_rollout_info
short_description: Wait until all pods of a Deployment are ready, or say why they are not
description:
  - kubernetes.core.k8s with C(wait) only says that time ran out. This reads the pods, their last event and the end of
    their log, and fails with a reason code. It changes nothing.
options:
  namespace: {description: Namespace of the Deployment., type: str, required: true}
  name: {description: Name of the Deployment., type: str, required: true}
  wait_seconds: {description: Seconds to wait., type: int, default: 1200}
  kubeconfig: {description: Path of the kubeconfig; kubectl's default when empty., type: path}
  context: {description: Context in the kubeconfig; the current one when empty., type: str}
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Wait until all pods are ready
  judge_rollout_info:
    namespace: llm-judge
    name: judge-inference-service
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
ready: {description: Pods that are ready., returned: success, type: int}
waited_seconds: {description: How long it took., returned: success, type: float}
"""

import sys

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "namespace": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "wait_seconds": {"type": "int", "default": 1200},
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
        from judge_bootstrap.adapters.kube import connect
        from judge_bootstrap.adapters.rollout import KubernetesCluster, wait
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    try:
        api_client = connect(params["kubeconfig"], params["context"])
        cluster = KubernetesCluster(api_client, params["namespace"], params["name"])
        found = wait(cluster, params["name"], params["namespace"], params["wait_seconds"])
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    module.exit_json(changed=False, ready=found.ready, waited_seconds=round(found.seconds, 1),
                     msg=f"{found.ready} of {found.wanted} pods ready")


if __name__ == "__main__":
    main()
