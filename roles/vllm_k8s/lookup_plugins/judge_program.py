"""Lookup: the node program as a ConfigMap's content, {name, binary_data}."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: judge_program
short_description: The node program, judge-node.pyz, as a ConfigMap's name and content
description:
  - Packed from the judge-bootstrap that runs the playbook. The same sources give the same name.
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Show the name of the ConfigMap
  ansible.builtin.debug:
    msg: "{{ lookup('judge_program').name }}"
"""

RETURN = r"""
_raw: {description: "One dict with name and binary_data.", type: list, elements: dict}
"""


class LookupModule(LookupBase):
    """Returns one dict."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        pytool = str(Path(__file__).resolve().parents[3] / "pytool")
        if pytool not in sys.path:
            sys.path.append(pytool)
        try:
            from judge_bootstrap.adapters.program import binary_data, config_map_name
        except ImportError as error:
            raise AnsibleError(f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python") \
                from error
        return [{"name": config_map_name(), "binary_data": binary_data()}]
