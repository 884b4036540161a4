"""A run that is cut: no process is left, here or on a host, the lock is free, and the next run goes on.

A sync is meant to outlive a lost link and a killed run, and to end by itself; only an interrupted run ends it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_drills import Drill, drill, finish, hear, interrupt
from ssh_hosts import can_run, wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(not can_run(), reason="needs root, sshd and unshare")]


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Drill]:
    with drill(tmp_path, 2) as made:
        yield made


def assert_the_next_run_goes_on(field: Drill) -> None:
    field.fast()
    code, answer = field.run("run", "model_cache")
    assert code == 0, answer
    assert {host["state"] for host in answer["hosts"].values()} == {"complete"}
    assert len(answer["hosts"]) == len(field.hosts.hosts)
    code, answer = field.run("run", "model_cache")
    assert (code, answer["changed"]) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_nothing_and_the_next_run_goes_on(field: Drill, number: signal.Signals) -> None:
    field.slow()
    process = field.start("run", "model_cache")
    field.wait_until_working(process)
    interrupt(process, number)
    code, answer = finish(process)
    assert code == 130
    assert (answer["interrupted"], answer["reason"]) == (True, "INTERRUPTED")
    assert answer["message"] == "interrupted; nothing is left running"
    assert field.orphans() == []
    assert field.folders and field.folders_left() == set()
    assert_the_next_run_goes_on(field)


def test_a_good_run_leaves_no_ssh_connection_open(field: Drill) -> None:
    field.slow(seconds=3)
    process = field.start("run", "model_cache")
    field.wait_until_working(process)
    assert any("[mux]" in line for line in field.command_lines())
    assert finish(process)[0] == 0
    assert field.command_lines() == []


def test_a_second_ctrl_c_does_not_wait_for_ansible(field: Drill) -> None:
    field.slow()
    process = field.start("run", "model_cache")
    field.wait_until_working(process)
    interrupt(process)
    interrupt(process)
    assert finish(process)[0] == 130
    assert field.orphans() == []


def test_ctrl_c_before_the_first_task_leaves_nothing(field: Drill) -> None:
    process = field.start("run", "model_cache")
    wait_until(lambda: bool(field.left()), 30, "ansible-playbook")
    interrupt(process)
    code, answer = finish(process)
    assert (code, answer["interrupted"]) == (130, True)
    assert field.orphans() == []


def test_a_link_that_comes_back_costs_the_run_nothing(field: Drill) -> None:
    field.slow(seconds=15)
    process = field.start("run", "model_cache")
    field.wait_until_working(process)
    cut, _ = field.hosts.hosts
    hear(process, f"{cut.name}: syncing")
    cut.cut()
    time.sleep(4)
    cut.start()
    code, answer = finish(process)
    assert code == 0, answer
    assert {host["state"] for host in answer["hosts"].values()} == {"complete"}
    assert field.downloads() == len(field.hosts.hosts)
    assert field.orphans() == []


def test_an_interrupted_run_names_the_hosts_that_it_cannot_reach(field: Drill) -> None:
    field.slow()
    process = field.start("run", "model_cache")
    field.wait_until_working(process)
    cut, other = field.hosts.hosts
    cut.cut()
    interrupt(process)
    code, answer = finish(process)
    assert code == 130
    assert answer["message"] == f"interrupted; the sync on {cut.name} could not be stopped and ends by itself"
    field.fast()
    assert field.orphans() == []


def test_a_host_that_is_cut_off_fails_alone_and_its_sync_ends_by_itself(field: Drill) -> None:
    field.slow(seconds=25)
    process = field.start("run", "model_cache", "-e", "model_cache_reconnect_seconds=10")
    field.wait_until_working(process)
    cut, other = field.hosts.hosts
    hear(process, f"{cut.name}: syncing")
    cut.cut()
    code, answer = finish(process, seconds=400)
    assert code == 1
    assert answer["hosts"][cut.name]["reason"] == "NODE_UNREACHABLE"
    command, _, advice = answer["hosts"][cut.name]["repair"].partition("   # ")
    assert command == f"judge-bootstrap --env drill run model_cache --limit {cut.name}"
    assert "ssh" in advice
    assert answer["hosts"][other.name]["ok"] is True
    field.fast()
    assert field.orphans() == []
    cut.start()
    code, answer = field.run("run", "model_cache")
    assert (code, answer["changed"], field.downloads()) == (0, 0, 0), answer


def test_after_kill_9_the_next_run_takes_up_the_syncs_that_go_on(field: Drill) -> None:
    field.slow()
    process = field.start("run", "model_cache")
    field.wait_until_working(process)
    hear(process, "syncing")
    syncs = [field.sync_of(host) for host in field.hosts.hosts]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert field.folders_left() == field.folders
    process = field.start("run", "model_cache")
    heard = hear(process, "is being synced")
    field.fast()
    heard += process.communicate(timeout=120)[1]
    assert process.returncode == 0, heard
    assert "ended without finishing; this run goes on where it stopped" in heard
    assert ([field.sync_of(host) for host in field.hosts.hosts], field.downloads()) == (syncs, 0)
    assert field.orphans() == []
    assert field.folders_left() == set()
    assert_the_next_run_goes_on(field)


def test_a_second_run_is_refused_while_the_first_works(field: Drill) -> None:
    field.slow()
    first = field.start("run", "model_cache")
    field.wait_until_working(first)
    code, answer = field.run("plan")
    assert (code, answer["reason"]) == (3, "LOCKED")
    assert f"pid {first.pid}" in answer["message"]
    interrupt(first)
    assert finish(first)[0] == 130
