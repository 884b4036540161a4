#!/usr/bin/python
"""Ansible module: resolve a model's revision on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: model_manifest_info
short_description: Resolve a model's revision to one commit and the list of its files
description:
  - Asks the Hub once and returns the manifest that every node is given. Runs on the controller, under the interpreter
    that has judge_bootstrap installed (C(ansible_playbook_python)).
options:
  repo_id:
    description: The model, as organisation/name.
    type: str
    required: true
  revision:
    description: Branch, tag or commit.
    type: str
    default: main
  endpoint:
    description: Base URL of the Hub or of a mirror that speaks its API.
    type: str
    default: https://huggingface.co
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Resolve the revision
  model_manifest_info:
    repo_id: Qwen/Qwen2.5-7B-Instruct-AWQ
    revision: main
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
manifest:
  description: The manifest, schema 1 (repo_id, revision, commit, files with size and hash).
  returned: success
  type: dict
digest:
  description: sha256 of the manifest's canonical JSON.
  returned: success
  type: str
quantization:
  description: What config.json declares as quant_method, or null.
  returned: success
  type: str
"""

import sys

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "repo_id": {"type": "str", "required": True},
            "revision": {"type": "str", "default": "main"},
            "endpoint": {"type": "str", "default": "https://huggingface.co"},
            "python_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if module.params["python_path"]:
        sys.path.append(module.params["python_path"])
    try:
        from judge_bootstrap.adapters.hub import resolve_model
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    try:
        found = resolve_model(module.params["repo_id"], module.params["revision"], module.params["endpoint"])
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    module.exit_json(
        changed=False,
        manifest=found.manifest,
        digest=found.digest,
        quantization=found.quantization,
        msg=f"{found.manifest['repo_id']} at {found.manifest['commit']}, {len(found.manifest['files'])} files",
    )


if __name__ == "__main__":
    main()
