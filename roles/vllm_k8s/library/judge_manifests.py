#!/usr/bin/python
"""Ansible module: write Kubernetes objects into a directory, checked, instead of applying them."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_manifests
short_description: Write Kubernetes objects as files, one an object, after checking every field
description:
  - For a cluster that takes its objects from files (GitOps), or where there is none. No cluster is asked.
  - Each field is checked by name and type against the Kubernetes Python client's models; nothing is written unless all
    are right. Files of an earlier run that are no longer wanted are removed; other files are left alone.
options:
  directory: {description: Absolute path of a directory for these files alone., type: path, required: true}
  objects: {description: The objects., type: list, elements: dict, required: true}
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Write the objects
  judge_manifests:
    directory: /srv/gitops/judge
    objects: "{{ vllm_k8s_objects }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
files: {description: Names of the files that hold the objects., returned: success, type: list, elements: str}
"""

import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "objects": {"type": "list", "elements": "dict", "required": True},
            "python_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["python_path"]:
        sys.path.append(params["python_path"])
    try:
        from judge_bootstrap.adapters import manifest_files
        from judge_bootstrap.adapters.kube_schema import problems
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    wrong = problems(params["objects"])
    if wrong:
        module.fail_json(msg=f"the objects are no valid Kubernetes objects, nothing was written: {'; '.join(wrong)}",
                         problems=wrong)
    wanted = manifest_files.contents(params["objects"])
    try:
        changes = manifest_files.plan(Path(params["directory"]), wanted)
        if changes and not module.check_mode:
            manifest_files.apply(changes)
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    diff = [{"before_header": str(c.path), "after_header": str(c.path), "before": c.before or "",
             "after": c.after or ""} for c in changes]
    module.exit_json(changed=bool(changes), diff=diff, files=list(wanted),
                     msg=f"{len(wanted)} valid objects in {params['directory']}, {len(changes)} files changed")


if __name__ == "__main__":
    main()
