"""A run that is ended by a signal: no process is left, here or on a host, the lock is free, and the next run goes on.

Ctrl-C, kill -9 and links that are lost are drills of `make faults-run` (R9), with the same checks and more hosts.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_drills import SLOW_MODEL_BYTES, Drill, drill, finish, interrupt
from ssh_hosts import can_run, wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(not can_run(), reason="needs root, sshd and unshare")]


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Drill]:
    with drill(tmp_path, 2, model_bytes=SLOW_MODEL_BYTES) as made:
        yield made


def assert_the_next_run_goes_on(field: Drill) -> None:
    field.fast()
    code, answer = field.run("run", "model_cache")
    assert code == 0, answer
    assert {host["state"] for host in answer["hosts"].values()} == {"complete"}
    assert len(answer["hosts"]) == len(field.hosts.hosts)
    code, answer = field.run("run", "model_cache")
    assert (code, answer["changed"]) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
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
    field.slow()
    process = field.start("run", "model_cache")
    field.wait_until_working(process)
    assert any("[mux]" in line for line in field.command_lines())
    field.fast()
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
    field.slow()  # where Ctrl-C comes late, it still comes before the end
    process = field.start("run", "model_cache")
    wait_until(lambda: bool(field.left()), 300, "ansible-playbook")
    interrupt(process)
    code, answer = finish(process)
    assert (code, answer["interrupted"]) == (130, True)
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


def test_a_second_run_is_refused_while_the_first_works(field: Drill) -> None:
    field.slow()
    first = field.start("run", "model_cache")
    field.wait_until_working(first)
    code, answer = field.run("plan")
    assert (code, answer["reason"]) == (3, "LOCKED")
    assert f"pid {first.pid}" in answer["message"]
    interrupt(first)
    assert finish(first)[0] == 130
