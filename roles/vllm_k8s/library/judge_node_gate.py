#!/usr/bin/python
"""Ansible module: say on a host's Node that a model is complete there, and take the taint away."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_node_gate
short_description: Label the Node of a host with the commit that it has, and remove the taint that kept pods away
description:
  - What the loader does by itself, for clusters without it. Verify the model on the host first.
options:
  host: {description: "The inventory's name of the host, its instance id.", type: str, required: true}
  address: {description: "Its IP address, for Nodes without a providerID.", type: str}
  commit: {description: The commit that was verified there., type: str, required: true}
  taint: {description: Key of the taint to remove., type: str}
  kubeconfig: {description: Path of the kubeconfig; kubectl's default when empty., type: path}
  context: {description: Context in the kubeconfig; the current one when empty., type: str}
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Let pods onto the node
  judge_node_gate:
    host: "{{ inventory_hostname }}"
    commit: 0123456789abcdef0123456789abcdef01234567
    taint: judge-bootstrap.io/model-not-ready
  delegate_to: localhost
"""

RETURN = r"""
node: {description: Name of the Node., returned: success, type: str}
"""

import sys

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "address": {"type": "str"},
            "commit": {"type": "str", "required": True},
            "taint": {"type": "str"},
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
        from judge_bootstrap.adapters.node_gate import open_gate
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    try:
        node, changed = open_gate(connect(params["kubeconfig"], params["context"]), params["host"], params["address"],
                                  params["commit"], params["taint"], check=module.check_mode)
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    module.exit_json(changed=changed, node=node, msg=f"node {node} {'now takes' if changed else 'takes'} our pods")


if __name__ == "__main__":
    main()
