#!/usr/bin/python
"""Ansible module: apply Kubernetes objects server-side, and say for each what that changed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_objects
short_description: Apply Kubernetes objects server-side, or remove those that are not wanted any more
description:
  - Every object goes through the API server's dry run before the first one is made, so nothing is half applied.
  - Requests are tried again while the API server has a bad minute (429, 5xx, resets), which kubernetes.core.k8s does
    not do, and many objects are one call.
  - A namespace that others made is left as it is; pods that it would refuse are an error.
  - With C(prune) it removes, instead, what this owner once applied and that is not among C(objects).
options:
  objects: {description: "The objects, in the order they are made.", type: list, elements: dict, required: true}
  prune:
    description: Remove what this owner applied once and that is not among the objects; apply nothing.
    type: bool
    default: false
  owner: {description: "Value of the label judge-bootstrap.io/owner; needed to prune.", type: str}
  namespaces: {description: Where to look for objects to prune., type: list, elements: str, default: []}
  keep:
    description: "Objects that stay, as Kind/namespace/name; a * at the end is any rest of the name."
    type: list
    elements: str
    default: []
  keep_app:
    description: "Objects whose label app.kubernetes.io/name has this value stay, too."
    type: str
  kubeconfig: {description: Path of the kubeconfig; kubectl's default when empty., type: path}
  context: {description: Context in the kubeconfig; the current one when empty., type: str}
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Apply the objects
  judge_objects:
    objects: "{{ vllm_k8s_objects }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
objects:
  description:
    - Each object as Kind/namespace/name, with its action (created, changed, unchanged, deleted, or left when it is not
      ours).
  returned: success
  type: list
  elements: dict
"""

import sys

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "objects": {"type": "list", "elements": "dict", "required": True},
            "prune": {"type": "bool", "default": False},
            "owner": {"type": "str"},
            "namespaces": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "list", "elements": "str", "default": []},
            "keep_app": {"type": "str"},
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "python_path": {"type": "path"},
        },
        required_if=[("prune", True, ["owner", "namespaces"])],
        supports_check_mode=True,
    )
    params = module.params
    if params["python_path"]:
        sys.path.append(params["python_path"])
    try:
        from judge_bootstrap.adapters import objects
        from judge_bootstrap.adapters.kube import connect
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    try:
        api_client = connect(params["kubeconfig"], params["context"])
        if params["prune"]:
            changes = objects.prune(api_client, params["owner"], params["namespaces"], params["objects"],
                                    params["keep"], keep_app=params["keep_app"], check=module.check_mode)
        else:
            changes = objects.apply(api_client, params["objects"], check=module.check_mode)
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    for change in changes:
        if change.action == "left":
            module.warn(f"{change.object} was not made by judge-bootstrap and is left as it is")
    moved = [change for change in changes if change.action not in ("unchanged", "left")]
    diff = [{"before_header": change.object, "after_header": change.object, "before": objects.as_text(change.before),
             "after": objects.as_text(change.after)} for change in moved]
    module.exit_json(changed=bool(moved), diff=diff,
                     objects=[{"object": change.object, "action": change.action} for change in changes],
                     msg=", ".join(f"{change.object} {change.action}" for change in moved) or "nothing to change")


if __name__ == "__main__":
    main()
