"""Lookup: the gateway's configuration for one manifest, golden answers included."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: judge_gateway
short_description: What the gateway in front of the server is told, as a dict
description:
  - Checked with the gateway's own parser, so a pod never starts with one that it would refuse.
options:
  _terms: {description: The manifest., type: list, elements: dict, required: true}
  served_name: {description: The name that the model is served under., type: str}
  image: {description: The image that serves it., type: str}
  api_key_file: {description: "File with the key, in the pod; empty for none.", type: str}
  max_body_bytes: {description: Largest body of a request., type: int}
  tolerance: {description: How far the golden scores may be off., type: float}
  golden_file: {description: "File with golden answers; empty for one that must only be valid.", type: str}
  inventory: {description: "The inventory, beside which a relative golden_file lies.", type: str}
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ lookup('judge_gateway', model_cache_manifest, served_name='judge', image='vllm', api_key_file='',
                    max_body_bytes=1048576, tolerance=1.0, golden_file='', inventory='') }}"
"""

RETURN = r"""
_raw: {description: One dict., type: list, elements: dict}
"""


class LookupModule(LookupBase):
    """Returns one dict."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        pytool = str(Path(__file__).resolve().parents[3] / "pytool")
        if pytool not in sys.path:
            sys.path.append(pytool)
        self.set_options(var_options=variables, direct=kwargs)
        try:
            from judge_bootstrap.adapters.gateway_config import configuration
            from judge_bootstrap.core.errors import BootstrapError
        except ImportError as error:
            raise AnsibleError(f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python") \
                from error
        (manifest,) = terms
        names = ("served_name", "image", "api_key_file", "max_body_bytes", "tolerance", "golden_file", "inventory")
        try:
            return [configuration(manifest, **{name: self.get_option(name) for name in names})]
        except BootstrapError as error:
            raise AnsibleError(str(error.for_module()["msg"])) from error
