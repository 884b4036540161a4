#!/usr/bin/python
"""Ansible module: run judge-node on a node through Kubernetes, in a privileged pod that enters the host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_node_pod
short_description: Run one judge-node command on a node that only Kubernetes reaches
description:
  - Runs on the controller. Finds the host's Node, starts a privileged pod there that runs the program in the host's own
    namespaces, reads the program's answer from the pod's log, and removes the pod, also on failure and when it is told
    to stop. While another run's pod is on the node it refuses (LOCKED).
  - Takes the options of C(judge_node) as well (command, mount_path and so on) and returns the same. What runs on the
    host is that module's own half, and what reads its answer is its action plugin.
options:
  host: {description: "The inventory's name of the host, its instance id.", type: str, required: true}
  address: {description: "Its IP address, for Nodes without a providerID.", type: str}
  image: {description: Image of the pod; sh and nsenter are all that is used of it., type: str, required: true}
  namespace: {description: A namespace that admits privileged pods., type: str, default: kube-system}
  start_seconds: {description: "Seconds until the pod must run, image pull included.", type: int, default: 120}
  deadline_seconds: {description: Seconds that the program may run., type: int, default: 900}
  kubeconfig: {description: Path of the kubeconfig; kubectl's default when empty., type: path}
  context: {description: Context in the kubeconfig; the current one when empty., type: str}
  program:
    description: "What runs on the host: a Python script that prints one JSON object. Added by the action plugin."
    type: str
    required: true
  python_path:
    description: Folder with the judge_bootstrap sources, used when the package is not installed.
    type: path
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Prepare the instance store through Kubernetes
  judge_node_pod:
    host: "{{ inventory_hostname }}"
    image: vllm/vllm-openai:v0.32.0
    command: disks ensure
    mount_path: /mnt/nvme
  delegate_to: localhost
"""

RETURN = r"""
judge:
  description: The object that judge-node printed (ok, changed, state, reason, message, repair, diff, facts).
  returned: when judge-node answered
  type: dict
node: {description: Name of the Kubernetes Node., returned: when judge-node answered, type: str}
rc: {description: "What judge-node ended with, as for C(judge_node).", returned: when judge-node ran, type: int}
"""

import getpass
import os
import signal
import socket
import sys
import uuid

from ansible.module_utils.basic import AnsibleModule


def stop(signal_number, frame):
    # Once: a second signal must not cut the removal of the pod.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def who():
    """Return who runs this, for the one whose run finds our pod."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def main():
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "address": {"type": "str"},
            "image": {"type": "str", "required": True},
            "namespace": {"type": "str", "default": "kube-system"},
            "start_seconds": {"type": "int", "default": 120},
            "deadline_seconds": {"type": "int", "default": 900},
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "program": {"type": "str", "required": True, "no_log": True},
            "python_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["python_path"]:
        sys.path.append(params["python_path"])
    try:
        from judge_bootstrap.adapters import node_pod
        from judge_bootstrap.adapters.kube import connect
        from judge_bootstrap.core.errors import BootstrapError
    except ImportError as error:
        module.fail_json(msg=f"{error} under {sys.executable}; run the playbook with judge-bootstrap's own Python")
    request = node_pod.Request(
        host=params["host"], address=params["address"], namespace=params["namespace"], image=params["image"],
        program=params["program"], start_seconds=params["start_seconds"], deadline_seconds=params["deadline_seconds"],
        run=uuid.uuid4().hex, by=who())
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    try:
        cluster = node_pod.KubernetesCluster(connect(params["kubeconfig"], params["context"]), request.namespace)
        ended = node_pod.run(cluster, request, warn=module.warn)
    except BootstrapError as error:
        module.fail_json(**error.for_module())
    except KeyboardInterrupt:
        sys.exit(1)
    answers = node_pod.answers(ended.output)
    if not answers:
        said = ended.output.strip()[-500:] or "nothing"
        module.fail_json(msg=f"the program on {ended.node} ended with status {ended.status} and no answer: {said}")
    # As the host's half would have given it to Ansible over ssh.
    told = {"changed": False, **answers[-1], "node": ended.node}
    if told.get("failed"):
        module.fail_json(**told)
    module.exit_json(**told)


if __name__ == "__main__":
    main()
