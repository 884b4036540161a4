"""The real ansible-runner and ansible-playbook, on localhost: events, files, arguments, and the end of a run."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from judge_bootstrap.adapters import private, processes
from judge_bootstrap.adapters.runner import AnsibleRunner, Event, PlaybookRun

SETTLE = "- hosts: all\n  gather_facts: false\n  tasks:\n"


class Site:
    """A tiny content root with two local hosts; remembers the events of its runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "playbooks").mkdir()
        (root / "ansible.cfg").write_text("[defaults]\nlocalhost_warning = false\n")
        (root / "hosts.yml").write_text(
            "all:\n  hosts: {one: {}, two: {}}\n  vars:\n    ansible_connection: local\n"
            "    ansible_python_interpreter: '{{ ansible_playbook_python }}'\n")
        self.events: list[Event] = []

    def playbook(self, name: str, tasks: str) -> Path:
        path = self.root / "playbooks" / f"{name}.yml"
        path.write_text(SETTLE + tasks)
        return path

    def request(self, *playbooks: Path, run_id: str = "run-local", **more: object) -> PlaybookRun:
        return PlaybookRun(run_id, self.root, playbooks, self.root / "hosts.yml", **more)  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    # A shelf of its own, so that other runs on this machine do not matter.
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setattr(private, "parents", lambda: [shelf])
    content = tmp_path / "content"
    content.mkdir()
    return Site(content)


def test_a_good_run_reports_every_host_and_leaves_no_file(site: Site) -> None:
    playbook = site.playbook("hello", "    - {name: Look, ansible.builtin.debug: {msg: 'x is {{ x }}'}}\n")
    ended = AnsibleRunner()(site.request(playbook, extra_vars={"x": [1, True]}), site.events.append)
    assert (ended.rc, ended.interrupted) == (0, False)
    assert site.events[-1].stats == {"one": {"ok": 1}, "two": {"ok": 1}}
    assert [event.result["msg"] for event in site.events if event.kind == "runner_on_ok"] == ["x is [1, True]"] * 2
    assert list((site.root.parent / "shelf").iterdir()) == []


def test_no_secret_is_in_a_file_or_an_argument_while_it_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-hub-token")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-aws-key")
    playbook = site.playbook("wait", "    - {name: Wait, ansible.builtin.pause: {seconds: 1}}\n")
    seen: dict[str, list[str]] = {"files": [], "argv": []}

    def look(event: Event) -> None:
        if event.kind != "playbook_on_task_start":
            return
        for path in (site.root.parent / "shelf").rglob("*"):
            if path.is_file() and "canary" in path.read_text(errors="replace"):
                seen["files"].append(path.name)
        for pid in processes.carriers("run-local"):
            seen["argv"] += [word for word in processes.command_line(pid) if "canary" in word or word.startswith("x=")]

    assert AnsibleRunner()(site.request(playbook, extra_vars={"x": "y"}), look).rc == 0
    assert seen == {"files": ["hub-token"], "argv": []}


def test_several_playbooks_run_in_order_and_a_failed_host_is_left_out_of_the_next(site: Site) -> None:
    first = site.playbook("first", "    - {name: One, ansible.builtin.assert: {that: inventory_hostname == 'two'}}\n")
    second = site.playbook("second", "    - {name: Two, ansible.builtin.debug: {}}\n")
    assert AnsibleRunner()(site.request(first, second), site.events.append).rc == 2
    done = [
        (event.host, event.task, event.kind)
        for event in site.events
        if event.kind.startswith(("runner_on_ok", "runner_on_f"))
    ]
    assert sorted(done) == [
        ("one", "One", "runner_on_failed"),
        ("two", "One", "runner_on_ok"),
        ("two", "Two", "runner_on_ok"),
    ]


def test_a_playbook_that_cannot_be_read_leaves_ansibles_complaint(site: Site) -> None:
    playbook = site.root / "playbooks" / "broken.yml"
    playbook.write_text("- hosts: [\n")
    ended = AnsibleRunner()(site.request(playbook), site.events.append)
    assert ended.rc not in (0, None)
    assert any("YAML parsing failed" in line for line in ended.complaints), ended.complaints


def test_check_diff_limit_and_tags_reach_ansible(site: Site) -> None:
    playbook = site.playbook("write", (
        f"    - {{name: Write, tags: [w], ansible.builtin.copy: {{content: x, dest: {site.root}/out, mode: '0600'}}}}\n"
        "    - {name: Other, ansible.builtin.debug: {}}\n"))
    request = site.request(playbook, check=True, diff=True, limit="one", tags="w")
    assert AnsibleRunner()(request, site.events.append).rc == 0
    done = [event for event in site.events if event.kind == "runner_on_ok"]
    assert [(event.host, event.task, event.result["changed"]) for event in done] == [("one", "Write", True)]
    assert done[0].result["diff"][0]["after"] == "x"
    assert not (site.root / "out").exists()


def test_ctrl_c_ends_the_task_that_a_worker_started(site: Site) -> None:
    mark = site.root / "started"
    playbook = site.playbook("long", (
        f"    - {{name: Long, ansible.builtin.shell: 'touch {mark}; sleep 300', changed_when: false}}\n"))

    def press() -> None:
        while not mark.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    ended = AnsibleRunner()(site.request(playbook, run_id="run-long"), site.events.append)
    assert ended.interrupted
    assert processes.carriers("run-long") == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert list((site.root.parent / "shelf").iterdir()) == []


def test_a_failing_event_handler_ends_the_run_and_is_not_lost(site: Site) -> None:
    playbook = site.playbook("hello", "    - {name: Look, ansible.builtin.debug: {}}\n")

    def broken(_event: Event) -> None:
        raise json.JSONDecodeError("a bug", "", 0)

    with pytest.raises(Exception, match="a bug"):
        AnsibleRunner()(site.request(playbook), broken)
    assert processes.carriers("run-local") == []
    assert list((site.root.parent / "shelf").iterdir()) == []
