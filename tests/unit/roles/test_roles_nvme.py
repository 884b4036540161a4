"""Role nvme: one task that is one remote call, every variable reaches judge-node, and wrong values stop before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT, load

ROLE = ROOT / "roles/nvme"


def tasks(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load((ROLE / "tasks" / f"{name}.yml").read_text())
    return loaded


def asked(name: str) -> dict[str, Any]:
    """Return what the one task of a tasks file asks of judge-node."""
    (task,) = tasks(name)
    assert task["become"] is True
    options: dict[str, Any] = task["judge_node"]
    return options


def test_the_role_is_one_task() -> None:
    (imported,) = tasks("main")
    assert imported["ansible.builtin.import_tasks"] == "configure.yml"
    assert len(tasks("configure")) == 1


def test_the_playbook_adds_no_task_to_it() -> None:
    (play,) = yaml.safe_load((ROOT / "playbooks/nvme.yml").read_text())
    (task,) = play["tasks"]
    assert play["gather_facts"] is False
    assert task["ansible.builtin.import_role"] == {"name": "nvme", "rolespec_validate": False}


def test_verify_asks_for_what_configure_makes() -> None:
    made, verified = asked("configure"), asked("verify")
    assert (made.pop("command"), verified.pop("command")) == ("disks ensure", "disks status")
    assert made == verified


def test_every_variable_reaches_judge_node() -> None:
    given = set(asked("configure").values())
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    assert [name for name in defaults if f"{{{{ {name} }}}}" not in given] == []


def test_every_option_of_a_disks_command_is_given() -> None:
    action = load("roles/judge_node/action_plugins/judge_node.py")
    assert set(asked("configure")) == {"command", "good_states", *action.OPTIONS["disks ensure"]}


def preflight(tmp_path: Path, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the role's preflight with these values, on this machine; it asks the host for nothing."""
    play = [{"hosts": "all", "gather_facts": False, "tasks": [
        {"name": "Check", "ansible.builtin.include_role": {"name": "nvme", "tasks_from": "preflight"}}]}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "-e",
         json.dumps(values), "play.yml"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
             "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp")})


def test_the_defaults_pass_the_preflight(tmp_path: Path) -> None:
    done = preflight(tmp_path, {})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("values", "said"), [
    ({"nvme_mount_path": "/mnt"}, "nvme_mount_path=/mnt"),
    ({"nvme_device": "nvme1n1"}, "nvme_device=nvme1n1"),
    ({"nvme_nodeadm_path": "k8s-disks"}, "nvme_nodeadm_path=k8s-disks"),
    ({"nvme_group": "a b"}, "nvme_group=a b"),
    ({"nvme_gate_units": ["kubelet"]}, "nvme_gate_units=kubelet"),
    ({"nvme_wait_seconds": -1}, "nvme_wait_seconds=-1"),
    ({"nvme_strategy": "raid0"}, "value of nvme_strategy must be one of"),
    ({"nvme_blank_proof": "none"}, "value of nvme_blank_proof must be one of"),
])
def test_a_wrong_value_is_named_before_anything_is_asked(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    done = preflight(tmp_path, values)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr
