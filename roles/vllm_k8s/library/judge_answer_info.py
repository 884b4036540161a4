#!/usr/bin/python
"""Ansible module: prove that the right model answers behind a Service, and that it can judge."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_answer_info
short_description: Ask every pod of a Service, or one server, for its model and for a verdict
description:
  - Reaches the pods through the API server (port-forward), so it runs wherever the playbook does. It changes nothing.
  - With C(endpoint_url) no cluster is asked.
options:
  namespace: {description: Namespace of the Service., type: str, required: true}
  service: {description: Name of the Service., type: str, required: true}
  served_model_name: {description: The name that the model must be served under., type: str, required: true}
  commit: {description: The commit that it must be served from., type: str, required: true}
  kubeconfig: {description: Path of the kubeconfig; kubectl's default when empty., type: path}
  context: {description: Context in the kubeconfig; the current one when empty., type: str}
  endpoint_url: {description: URL of a server to ask instead of the pods., type: str}
  api_key_secret: {description: "Secret in that namespace with the API key; none when empty.", type: str}
  api_key_file: {description: "File with the API key, used with C(endpoint_url).", type: path}
  wait_seconds: {description: Seconds to wait until that server serves the model., type: int, default: 0}
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Have one answer judged
  judge_answer_info:
    namespace: llm-judge
    service: judge-inference-service
    served_model_name: judge
    commit: 0123456789abcdef0123456789abcdef01234567
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
pods:
  description: The pods that serve the wanted commit; none with endpoint_url.
  returned: success
  type: list
  elements: str
verdict: {description: The verdict (status, score, categories and so on)., returned: success, type: dict}
"""

import sys

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "namespace": {"type": "str", "required": True},
            "service": {"type": "str", "required": True},
            "served_model_name": {"type": "str", "required": True},
            "commit": {"type": "str", "required": True},
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "endpoint_url": {"type": "str"},
            "api_key_secret": {"type": "str", "no_log": False},
            "api_key_file": {"type": "path", "no_log": False},
            "wait_seconds": {"type": "int", "default": 0},
            "python_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["python_path"]:
        sys.path.append(params["python_path"])
    try:
        from judge_bootstrap.adapters.judge_check import check, check_url, read_key_file, ready_endpoints
        from judge_bootstrap.adapters.kube import connect
        from judge_bootstrap.adapters.kube_secrets import read_api_key
        from judge_bootstrap.adapters.port_forward import forward
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    try:
        if params["endpoint_url"]:
            found = check_url(params["endpoint_url"], params["served_model_name"], params["commit"],
                              params["wait_seconds"], api_key=read_key_file(params["api_key_file"]))
        else:
            api_client = connect(params["kubeconfig"], params["context"])
            found = check(
                ready_endpoints(api_client, params["namespace"], params["service"]),
                params["namespace"], params["service"], params["served_model_name"], params["commit"],
                forward=lambda endpoint: forward(api_client, params["namespace"], endpoint.pod, endpoint.port),
                api_key=read_api_key(api_client, params["namespace"], params["api_key_secret"] or None),
            )
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    verdict = dict(found.verdict)
    score = verdict.get("score")
    where = f"at {params['endpoint_url']}" if params["endpoint_url"] else f"on {len(found.pods)} pods"
    module.exit_json(changed=False, pods=list(found.pods), verdict=verdict,
                     msg=f"{found.model} answers {where}; one answer judged: score {score}")


if __name__ == "__main__":
    main()
