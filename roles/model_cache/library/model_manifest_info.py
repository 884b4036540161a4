#!/usr/bin/python
"""Ansible module: resolve a model's revision on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: model_manifest_info
short_description: Resolve a model's revision to one commit and the list of its files
description:
  - Asks the Hub once, or reads the lock file, and returns the manifest that every node is given. Runs on the
    controller, under the interpreter that has judge_bootstrap installed (C(ansible_playbook_python)).
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
    description: Base URL of the Hub or of a mirror that speaks its API. May be empty with I(lock_file).
    type: str
    default: https://huggingface.co
  lock_file:
    description:
      - Lock file to read the manifest from, instead of asking the Hub. It must be of I(repo_id) and I(revision). A
        relative name starts beside the folder I(inventory).
    type: str
  inventory:
    description: Folder of the environment's inventory.
    type: path
  allow_auto_map:
    description: Accept a model whose configuration asks for Python code out of its repository.
    type: bool
    default: false
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
            "lock_file": {"type": "str"},
            "inventory": {"type": "path"},
            "allow_auto_map": {"type": "bool", "default": False},
            "python_path": {"type": "path"},
        },
        required_by={"lock_file": "inventory"},
        supports_check_mode=True,
    )
    if module.params["python_path"]:
        sys.path.append(module.params["python_path"])
    try:
        from judge_bootstrap.adapters.hub import model_of
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    try:
        found = model_of(
            module.params["repo_id"],
            module.params["revision"],
            module.params["endpoint"],
            lock_file=module.params["lock_file"],
            inventory_dir=module.params["inventory"],
            allow_auto_map=module.params["allow_auto_map"],
        )
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    module.exit_json(
        changed=False,
        manifest=found.manifest,
        digest=found.digest,
        quantization=found.quantization,
        msg=(
            f"{found.manifest['repo_id']}: {found.manifest['revision']} is commit {found.manifest['commit']}, "
            f"{len(found.manifest['files'])} files"
            + (f" (from {module.params['lock_file']})" if module.params["lock_file"] else "")
        ),
    )


if __name__ == "__main__":
    main()
