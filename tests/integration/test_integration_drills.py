"""Bad days of the whole chain on the local site: what is refused, what is survived, and that nothing is left behind."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.local_site import CHECKOUT, Cli, finish, run_processes
from judge_lab import layout, site

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def running(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The chain is up and holds (at once where an earlier module left it so)."""
    cli = Cli(tmp_path_factory.mktemp("state"))
    answer = cli()
    assert answer.code == 0, answer.stderr
    return cli


@pytest.fixture
def fault(running: Cli) -> Iterator[Path]:
    """The file that breaks the AppConfig stand-in for as long as it is there."""
    path = layout.current().appconfig
    file = path.with_name(path.name + ".fault")
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def document(running: Cli) -> Iterator[Path]:
    """The document that the AppConfig stand-in serves; put back afterwards."""
    path = layout.current().appconfig
    before = path.read_text()
    yield path
    path.write_text(before)


def test_a_limit_that_matches_no_host_is_refused_and_names_the_hosts(running: Cli) -> None:
    answer = running("run", "verify", "--limit", "i-00000000000000000")
    assert (answer.code, answer.json["ok"]) == (3, False)
    assert site.status()["nodes"]["node-1"]["instance_id"] in answer.json["message"] + (answer.json["hint"] or "")


def test_an_inventory_without_hosts_is_refused_and_says_what_it_looked_for(running: Cli, tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "inventory/local", tmp_path / "local")
    plugin = tmp_path / "local/aws_ec2.yml"
    plugin.write_text(plugin.read_text().replace("judge-local", "another-cluster"))
    answer = running("run", "verify", JUDGE_BOOTSTRAP_INVENTORY=str(tmp_path))
    assert answer.code == 3
    assert "another-cluster" in answer.json["message"] + (answer.json["hint"] or "")


def test_fewer_hosts_than_expected_are_refused(running: Cli, tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "inventory/local", tmp_path / "local")
    variables = tmp_path / "local/group_vars/all.yml"
    variables.write_text(variables.read_text().replace("expected_hosts: null", "expected_hosts: 3"))
    answer = running("run", "verify", JUDGE_BOOTSTRAP_INVENTORY=str(tmp_path))
    assert answer.code == 3
    assert "2" in answer.json["message"] and "3" in answer.json["message"]


def test_with_appconfig_down_the_last_good_copy_serves_and_its_age_is_said(running: Cli, fault: Path) -> None:
    fault.write_text("down")
    answer = running("run", "preflight")
    assert answer.code == 0, answer.stderr
    assert "last good copy" in answer.stderr and "version" in answer.stderr


def test_an_invalid_document_is_never_applied(running: Cli, document: Path) -> None:
    content = json.loads(document.read_text())
    content["judge_inference"]["model"]["max_model_lenght"] = 1
    document.write_text(json.dumps(content))
    answer = running("config", "show")
    assert answer.code == 0, answer.stderr
    assert any("max_model_lenght" in warning for warning in answer.json["warnings"])
    assert answer.json["settings"]["model.max_model_len"]["value"] != 1


def test_a_wrong_setting_ends_with_2_before_anything_is_touched(running: Cli) -> None:
    answer = running("run", "vllm_k8s", "-e", "vllm.port=eight")
    assert answer.code == 2
    assert "vllm.port" in answer.json["message"] and "eight" in answer.json["message"]


def test_a_second_run_is_refused_while_one_works(running: Cli) -> None:
    first = running.start("run", "verify")
    wait_for_lock(running)
    first.send_signal(signal.SIGSTOP)  # it keeps its lock, however long the second takes to come to it
    try:
        second = running("run", "verify")
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.code == 3
    assert str(first.pid) in second.json["message"]
    assert finish(first).code == 0


def test_ctrl_c_in_the_middle_leaves_nothing_and_the_next_run_goes_on(running: Cli) -> None:
    first = running.start("run", "nvme", "model_cache", "verify")
    wait_until(lambda: len(run_processes()) > 3, "Ansible's workers")
    first.send_signal(signal.SIGINT)
    answer = finish(first)
    assert (answer.code, answer.json["interrupted"]) == (130, True)
    wait_until(lambda: not run_processes(), "the run's processes to end")
    after = running("run", "nvme", "model_cache", "verify")
    assert (after.code, after.json["changed"]) == (0, 0), after.stderr


def test_a_node_that_lost_its_disk_is_found_and_repaired_by_the_command_that_is_named(running: Cli) -> None:
    site.node("stop", "node-2")
    site.node("start", "node-2")
    host = site.status()["nodes"]["node-2"]["instance_id"]
    broken = running("run", "verify")
    assert broken.code == 1
    assert broken.json["hosts"][host]["reason"] == "MOUNT_MISSING"
    repair = broken.json["hosts"][host]["repair"].split()
    assert repair[:3] == ["judge-bootstrap", "--env", "local"]
    mended = running(*repair[3:])
    assert mended.code == 0, mended.stderr
    again = running("run", "model_cache", "vllm_k8s", "verify")
    assert again.code == 0, again.stderr


def wait_for_lock(cli: Cli) -> None:
    wait_until(lambda: any(cli.state.rglob("lock")) and bool(run_processes()), "the run to hold its lock")


def wait_until(condition: object, what: str, seconds: float = 600) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)
