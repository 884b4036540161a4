"""The whole chain in the local environment, from blank disks to a scored answer, and what a second run does."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from integration.local_site import CHECKOUT, Answer, Cli, on_node, run_processes
from judge_lab import site

MODEL = Path(__file__).resolve().parents[2] / "pytool/judge_lab/model/judge-lab/tiny-judge"
pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Chain:
    """What four commands in a row answered, the first of them on a site that did not exist."""

    plan_before: Answer
    first: Answer
    plan_after: Answer
    second: Answer


@pytest.fixture(scope="module")
def chain(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Start from nothing: the lab is taken down first, so that every disk is blank."""
    site.down()
    cli = Cli(tmp_path_factory.mktemp("state"))
    return Chain(cli("plan"), cli(), cli("plan"), cli())


@pytest.fixture
def addresses(chain: Chain) -> list[str]:
    return [node["address"] for node in site.status()["nodes"].values()]


def test_the_plan_before_the_first_run_changes_nothing_and_fails_nothing(chain: Chain) -> None:
    assert (chain.plan_before.code, chain.plan_before.json["ok"]) == (0, True), chain.plan_before.stderr


def test_the_plan_lists_what_the_first_run_then_does(chain: Chain) -> None:
    assert chain.plan_before.changed_tasks() == chain.first.changed_tasks() != set()


def test_the_first_run_holds_on_every_node(chain: Chain) -> None:
    assert (chain.first.code, chain.first.json["ok"]) == (0, True), chain.first.stderr
    assert len(chain.first.json["hosts"]) == 2
    assert all(re.fullmatch("i-[0-9a-f]{17}", host) for host in chain.first.json["hosts"])


def test_the_plan_after_the_run_lists_nothing(chain: Chain) -> None:
    assert (chain.plan_after.code, chain.plan_after.json["changes"]) == (0, []), chain.plan_after.stderr


def test_the_second_run_changes_nothing(chain: Chain) -> None:
    second = chain.second
    assert (second.code, second.json["changed"], second.json["changes"]) == (0, 0, []), second.stderr
    assert all(host["tasks"].get("changed", 0) == 0 for host in chain.second.json["hosts"].values())


def test_the_output_names_the_stand_ins(chain: Chain) -> None:
    assert "Stand-ins" in chain.first.stderr


def test_every_node_has_its_own_disk_mounted_at_the_mount_path(chain: Chain, addresses: list[str]) -> None:
    sources = [on_node(address, "findmnt -no SOURCE,FSTYPE /mnt/nvme").split() for address in addresses]
    disks = [on_node(address, "readlink -f /dev/disk/by-id/lab-instance-store-1").strip() for address in addresses]
    assert sources == [[disk, "xfs"] for disk in disks]
    assert len(set(disks)) == len(addresses) == 2


def test_every_file_of_the_model_on_every_node_is_the_hub_s_byte_for_byte(chain: Chain, addresses: list[str]) -> None:
    for address in addresses:
        sums = on_node(address, "cd /mnt/nvme/hub/models--judge-lab--tiny-judge/snapshots/* && sha256sum *")
        found = {name: digest for digest, name in map(str.split, sums.splitlines())}
        assert "model.safetensors.index.json" in found
        assert found == {name: hashlib.sha256((MODEL / name).read_bytes()).hexdigest() for name in found}


def test_the_served_model_is_the_verified_snapshot(chain: Chain) -> None:
    # By plain HTTP to the pod, with the key; without it nothing is answered.
    done = subprocess.run([sys.executable, CHECKOUT / "molecule/resources/ask.py", site.environment()["KUBECONFIG"],
                           "llm-judge", "judge-inference-service"], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    (snapshot,) = on_node("10.77.0.11", "ls /mnt/nvme/hub/models--judge-lab--tiny-judge/snapshots").split()
    assert any(snapshot in model["root"] for model in answer["models"]), answer
    assert answer["without_key"] == 401


def test_no_process_of_a_run_is_left(chain: Chain) -> None:
    assert run_processes() == []
