"""Which files of an inventory count, and which of them wins: exactly what the real ansible-inventory says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from judge_bootstrap.adapters import config, inventory
from judge_bootstrap.core import terraform
from judge_bootstrap.core.environment import Environment
from judge_bootstrap.core.errors import Refusal

ROOT = Path(__file__).parents[2]
# By what it shows: the files below group_vars, each with what is in it.
LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "one file": {"all.yml": "vllm_k8s_port: 1\n"},
    "a folder hides the file beside it": {"all/main.yml": "vllm_k8s_port: 1\n",
                                          "all.yml": "vllm_k8s_port: 2\nmodel_cache_dir: /mnt/nvme/beside\n"},
    "a file without ending hides those with one": {"all": "vllm_k8s_port: 1\n", "all.yml": "vllm_k8s_port: 2\n"},
    "yml hides yaml": {"all.yaml": "vllm_k8s_port: 2\nmodel_cache_dir: /mnt/nvme/yaml\n",
                       "all.yml": "vllm_k8s_port: 1\n"},
    "yaml hides json": {"all.yaml": "vllm_k8s_port: 2\n", "all.json": '{"vllm_k8s_port": 1}'},
    "json, with tabs and a number that YAML reads as a text": {
        "all.json": '{\n\t"vllm_k8s_port": 8001,\n\t"vllm_k8s_gpu_memory_utilization": 5e-1\n}'},
    "json under the name of YAML": {"all.yml": '{"vllm_k8s_gpu_memory_utilization": 5e-1}'},
    "YAML that begins like JSON": {"all.yml": "{vllm_k8s_port: 8001}"},
    "the last name of a folder wins": {"all/b.yml": "vllm_k8s_port: 1\n", "all/a.json": '{"vllm_k8s_port": 2}',
                                       "all/c": "vllm_k8s_port: 3\n"},
    "a folder stands in its place between files": {
        "all/b/z.yml": "vllm_k8s_port: 1\n", "all/c.yml": "vllm_k8s_port: 2\n", "all/b.yml": "vllm_k8s_port: 3\n"},
    "hidden files, backups, other endings and folders with one": {
        "all/main.yml": "vllm_k8s_port: 1\n", "all/.z.yml": "vllm_k8s_port: 2\n", "all/z.yml~": "vllm_k8s_port: 3\n",
        "all/z.txt": "vllm_k8s_port: 4\n", "all/z.d/a.yml": "vllm_k8s_port: 5\n", "all/.z/a.yml": "vllm_k8s_port: 6\n",
        "all/z.yml.bak": "vllm_k8s_port: 7\n"},
    "a folder by the name of a file": {"all.yml/inside.yml": "vllm_k8s_port: 1\n", "all.json": '{"vllm_k8s_port": 2}'},
    "gpu_nodes over all": {"all.yml": "vllm_k8s_port: 1\nmodel_cache_dir: /mnt/nvme/all\n",
                           "gpu_nodes/x.json": '{"vllm_k8s_port": 2}'},
    "an empty folder hides the file beside it": {"all/.keep": "", "all.yml": "vllm_k8s_port: 1\n"},
    "a file that is only comments": {"all/a.yml": "vllm_k8s_port: 1\n", "all/b.yml": "# nothing\n"},
}


def environment_of(folder: Path) -> Environment:
    return Environment(name="own", inventory_dir=folder, production=False, region="us-east-1")


def by_ansible(folder: Path) -> dict[str, Any]:
    """Return the variables of the one host, as ansible-inventory gives them."""
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-inventory", "-i", folder, "--host", "node-1"], text=True,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_files_that_ansible_reads_are_those_that_count(name: str, tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text("[gpu_nodes]\nnode-1\n")
    for place, text in LAYOUTS[name].items():
        path = tmp_path / "group_vars" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    ours = config.role_variables(environment_of(tmp_path))
    defaults = config.role_variables(environment_of(tmp_path / "none"))
    wanted = by_ansible(tmp_path)
    assert {key: value for key, value in ours.items() if defaults.get(key) != value} == wanted


MADE = terraform.inventory_text(terraform.TerraformOutput.model_validate({
    "schema": 1, "region": "us-east-1", "environment": "own", "cluster_name": "judge-own",
    "node_group": {"name": "ai", "launch_template_id": "lt-0abc", "launch_template_version": 1,
                   "autoscaling_group_names": []},
    "inventory_filters": {"tag:role": "ai-gpu"},
    "variables": {"nvme_owner": "judge", "model_cache_dir": "/mnt/nvme/models", "nvme_wait_seconds": 300,
                  "model_cache_sources": ["https://a", "https://b"], "model_cache_mirror": "s3://yes/no: #1"}}))


@pytest.mark.parametrize("hosts", ["hosts.ini", "zz_hosts.ini"])
def test_ansible_reads_terraform_yml_and_group_vars_win_over_it(hosts: str, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    (folder / "group_vars").mkdir(parents=True)
    (folder / hosts).write_text("[gpu_nodes]\nnode-1\n")
    (folder / "terraform.yml").write_text(MADE)
    (folder / "group_vars" / "all.yml").write_text("nvme_owner: auto\n")
    (folder / "group_vars" / "gpu_nodes.yml").write_text("nvme_wait_seconds: 5\n")
    wanted = by_ansible(folder)
    assert {name: value for name, value in wanted.items() if not name.startswith("judge_")} == {
        "nvme_owner": "auto", "nvme_wait_seconds": 5, "model_cache_dir": "/mnt/nvme/models",
        "model_cache_sources": ["https://a", "https://b"], "model_cache_mirror": "s3://yes/no: #1"}
    ours = config.role_variables(environment_of(folder))
    assert {name: ours[name] for name in wanted if not name.startswith("judge_")} == {
        name: value for name, value in wanted.items() if not name.startswith("judge_")}


def test_terraform_yml_alone_is_an_inventory_that_ansible_reads_and_no_host_for_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "terraform.yml").write_text(MADE)
    answer = inventory.list_with_ansible(environment_of(folder), None)
    assert answer.returncode == 0, answer.stderr
    with pytest.raises(Refusal) as caught:
        inventory.read(environment_of(folder))
    assert caught.value.reason == "INVENTORY_EMPTY"
