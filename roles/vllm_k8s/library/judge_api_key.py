#!/usr/bin/python
"""Ansible module: make the Secret with the API key of the serving pods, where there is none."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_api_key
short_description: Make the Secret with the judge's API key, where there is none
description:
  - The key is random and made here. It is in no argument, result, diff or log; C(judge-bootstrap) and the pods read it
    from the Secret.
  - A Secret that is there is never changed, whoever made it; it fails when it holds no key. To have another key,
    C(judge-bootstrap secrets apply --rotate-api-key).
options:
  namespace: {description: Namespace of the serving pods; it must be there., type: str, required: true}
  name: {description: Name of the Secret; its key is C(api-key)., type: str, required: true}
  labels: {description: Labels of the Secret., type: dict, default: {}}
  kubeconfig: {description: Path of the kubeconfig; kubectl's default when empty., type: path}
  context: {description: Context in the kubeconfig; the current one when empty., type: str}
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Make the API key
  judge_api_key:
    namespace: llm-judge
    name: judge-api-key
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
name: {description: Namespace and name of the Secret., returned: success, type: str, sample: llm-judge/judge-api-key}
"""

import sys

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "namespace": {"type": "str", "required": True},
            # What it names is a secret, the name is none.
            "name": {"type": "str", "required": True, "no_log": False},
            "labels": {"type": "dict", "default": {}},
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
        from judge_bootstrap.adapters import kube_secrets
        from judge_bootstrap.adapters.kube import connect
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    # A plan before the first run: the namespace is not there yet, and comes with the objects.
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": params["namespace"]}}
    name = f"{params['namespace']}/{params['name']}"
    try:
        made = kube_secrets.ensure_api_key(
            connect(params["kubeconfig"], params["context"]), params["namespace"], params["name"],
            labels=params["labels"], within=namespace if module.check_mode else None, check=module.check_mode)
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    would = "would be made" if module.check_mode else "made"
    said = f"API key {would}: Secret {name}" if made else f"Secret {name} is there"
    module.exit_json(changed=made, name=name, msg=said,
                     diff={"before": "", "after": f"Secret {name} with a random key\n"} if made else {})


if __name__ == "__main__":
    main()
