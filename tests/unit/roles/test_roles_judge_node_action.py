"""The controller's half of the judge_node module: options in, one call out, one answer in, one result out."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from judge_node.bundle import build_pyz, for_nodes

from .conftest import ROOT, load

GOOD = {"ok": True, "command": "disks ensure", "changed": True, "state": "ours", "reason": None, "message": "mounted",
        "repair": None, "diff": {"before": "blank", "after": "mkfs"}, "facts": {}}


@pytest.fixture(scope="module")
def action() -> ModuleType:
    return load("roles/judge_node/action_plugins/judge_node.py")


def told(
    answer: dict[str, Any] | str, rc: int = 0, *, program_changed: bool = False, stderr: str = ""
) -> dict[str, Any]:
    """Return what the host's half says of a program that printed this."""
    printed = answer if isinstance(answer, str) else json.dumps(answer)
    return {"changed": False, "rc": rc, "stdout": printed, "stderr": stderr, "program_changed": program_changed}


def documented() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(load("roles/judge_node/library/judge_node.py").DOCUMENTATION)["options"]
    return loaded


@pytest.mark.parametrize(("params", "wanted"), [
    ({"command": "disks ensure", "mount_path": "/m", "device": "/dev/d", "fstype": "xfs",
      "accept_models": ["A b", "C"]},
     ["disks", "ensure", "--accept-model=A b", "--accept-model=C", "--device=/dev/d", "--fstype=xfs",
      "--mount-path=/m", "--json"]),
    ({"command": "disks status", "mount_path": "/m", "device": None, "accept_models": None, "store": "/s"},
     ["disks", "status", "--mount-path=/m", "--json"]),
    ({"command": "disks ensure", "mount_path": "/m", "strategy": "Mount", "owner": "auto", "nodeadm_path": "/k",
      "group": None, "proof": "full", "gate_units": ["kubelet.service", "a.service"], "wait_seconds": 0},
     ["disks", "ensure", "--gate=kubelet.service", "--gate=a.service", "--mount-path=/m", "--nodeadm-path=/k",
      "--owner=auto", "--proof=full", "--strategy=Mount", "--wait=0", "--json"]),
    ({"command": "cache start", "store": "/s", "endpoint": "http://h", "token_file": "/t"},
     ["cache", "start", "-", "--endpoint=http://h", "--store=/s", "--token-file=/t", "--json"]),
    ({"command": "cache start", "store": "/s", "endpoint": "", "sources": ["https://m/{blob}", "/srv/m"],
      "connections": 4, "limit_rate": "20M", "token_secret": "hub", "aws_region": "eu-west-1", "deep": True,
      "verify_quick_every": "6h", "verify_deep_every": ""},
     ["cache", "start", "-", "--aws-region=eu-west-1", "--connections=4", "--deep", "--endpoint=", "--limit-rate=20M",
      "--source=https://m/{blob}", "--source=/srv/m", "--store=/s", "--token-secret=hub", "--verify-deep-every=",
      "--verify-quick-every=6h", "--json"]),
    ({"command": "cache follow", "store": "/s", "manifest": {"schema": 1}, "reconnect_seconds": 300},
     ["cache", "follow", "-", "--store=/s", "--json"]),
    ({"command": "cache stop", "store": "/s"}, ["cache", "stop", "--store=/s", "--json"]),
    ({"command": "cache stop", "store": "/s", "manifest": {"schema": 1}},
     ["cache", "stop", "-", "--store=/s", "--json"]),
    ({"command": "cache start", "store": "/s", "manifest": {"schema": 1}, "stage": True},
     ["cache", "start", "-", "--stage", "--store=/s", "--json"]),
    ({"command": "cache verify", "store": "/s", "deep": True, "manifest": {"schema": 1}},
     ["cache", "verify", "-", "--deep", "--store=/s", "--json"]),
    ({"command": "cache verify", "store": "/s", "deep": False, "manifest": {"schema": 1}},
     ["cache", "verify", "-", "--store=/s", "--json"]),
    ({"command": "cache verify", "store": "/s", "limit_rate": "50M"},
     ["cache", "verify", "--limit-rate=50M", "--store=/s", "--json"]),
    ({"command": "cache list", "store": "/s"}, ["cache", "list", "--store=/s", "--json"]),
    ({"command": "cache prune", "store": "/s", "keep_free": "20%"},
     ["cache", "prune", "--keep-free=20%", "--store=/s", "--json"]),
    ({"command": "cache pin", "store": "/s", "model": "org/name@0123456", "why": "audit"},
     ["cache", "pin", "--store=/s", "--why=audit", "--json", "--", "org/name@0123456"]),
    ({"command": "cache rm", "store": "/s", "model": "--current"},
     ["cache", "rm", "--store=/s", "--json", "--", "--current"]),
    ({"command": "cache rollback", "store": "/s", "model": "org/name", "revision": "main"},
     ["cache", "rollback", "--revision=main", "--store=/s", "--json", "--", "org/name"]),
    ({"command": "status"}, ["status", "--json"]),
])
def test_parameters_become_arguments(action: ModuleType, params: dict[str, Any], wanted: list[str]) -> None:
    assert action.build_arguments(params, check=False) == wanted


def test_a_value_that_looks_like_an_option_stays_a_value(action: ModuleType) -> None:
    params = {"command": "disks status", "mount_path": "--check", "device": "-x"}
    assert action.build_arguments(params, check=False) == [
        "disks", "status", "--device=-x", "--mount-path=--check", "--json"]


@pytest.mark.parametrize(("command", "changes"), [
    ("disks ensure", True), ("disks status", False), ("cache start", True), ("cache follow", False),
    ("cache stop", True), ("cache verify", False), ("status", False), ("cache list", False), ("cache prune", True),
    ("cache pin", True), ("cache unpin", True), ("cache update", True), ("cache rollback", True), ("cache rm", True),
])
def test_check_mode_is_asked_of_every_command_that_changes_something(
    action: ModuleType, command: str, changes: bool
) -> None:
    assert ("--check" in action.build_arguments({"command": command}, check=True)) is changes


@pytest.mark.parametrize("command", ["cache follow", "cache stop", "cache verify", "cache prune", "disks status",
                                     "status"])
def test_a_command_that_may_meet_another_version_leaves_the_installed_program_alone(
    action: ModuleType, command: str
) -> None:
    assert action.build_call({"command": command}, check=False)["changes"] is False


def test_the_call_carries_program_and_manifest_and_no_other_file(action: ModuleType) -> None:
    call = action.build_call({"command": "cache start", "store": "/s", "manifest": {"schema": 1}}, check=False)
    assert set(call) == {"arguments", "input", "changes", "check", "bundle", "digests"}
    assert json.loads(call["input"]) == {"schema": 1}
    assert zlib.decompress(base64.b64decode(call["bundle"])) == for_nodes(build_pyz())


def test_the_call_knows_the_program_by_both_its_forms(action: ModuleType) -> None:
    # A node that fetched the whole file at its first boot has the same program.
    call = action.build_call({"command": "status"}, check=False)
    assert call["digests"] == [hashlib.blake2b(form, digest_size=32).hexdigest()
                               for form in (for_nodes(build_pyz()), build_pyz())]


def test_what_travels_is_smaller_than_the_file_by_a_fifth(action: ModuleType) -> None:
    assert len(action.build_call({"command": "status"}, check=False)["bundle"]) < 0.8 * 4 / 3 * len(build_pyz())


def test_every_option_is_documented_as_it_is_checked(action: ModuleType) -> None:
    spec = {name: {key: option[key] for key in ("type", "required", "choices", "elements", "default") if key in option}
            for name, option in documented().items()}
    assert spec == action.ARGUMENT_SPEC


def test_every_option_that_a_command_takes_is_in_the_spec(action: ModuleType) -> None:
    taken = {name for options in action.OPTIONS.values() for name in options}
    assert taken | {"command", "good_states", "manifest", "model", "reconnect_seconds"} == set(action.ARGUMENT_SPEC)


@pytest.mark.parametrize(("args", "wanted"), [
    ({"command": "disks wipe"}, "value of command must be one of"),
    ({"command": "disks ensure"}, "mount_path"),
    ({"command": "disks ensure", "mount_path": "/m", "fstype": "btrfs"}, "value of fstype must be one of"),
    ({"command": "cache start", "store": "/s"}, "manifest"),
    ({"command": "cache follow", "store": "/s"}, "manifest"),
    ({"command": "cache pin", "store": "/s"}, "model"),
    ({"command": "status", "mount": "/m"}, "mount"),
])
def test_wrong_options_are_refused_before_anything_is_sent(
    action: ModuleType, args: dict[str, Any], wanted: str
) -> None:
    found = ArgumentSpecValidator(action.ARGUMENT_SPEC, required_if=action.REQUIRED_IF).validate(args)
    assert [message for message in found.error_messages if wanted in message] != []


def test_the_answer_becomes_changed_diff_and_judge(action: ModuleType) -> None:
    result = action.read_result(told(GOOD), None)
    assert (result["changed"], result["judge"], result["msg"], result["rc"]) == (True, GOOD, "mounted", 0)
    assert result["diff"] == {"before": "blank", "after": "mkfs"}
    assert "failed" not in result


def test_an_installed_program_is_a_change_and_the_first_line_of_the_diff(action: ModuleType) -> None:
    result = action.read_result(told({**GOOD, "changed": False}, program_changed=True), None)
    assert result["changed"] is True
    assert result["diff"]["after"].splitlines() == [f"install {action.INSTALL_PATH}", "mkfs"]


def test_a_refusal_fails_with_reason_and_repair(action: ModuleType) -> None:
    answer = {**GOOD, "ok": False, "changed": False, "reason": "DISK_FOREIGN_DATA", "message": "/dev/x has ext4",
              "repair": "wipefs -n /dev/x"}
    result = action.read_result(told(answer, 3), None)
    assert result["failed"] is True
    assert result["msg"] == "DISK_FOREIGN_DATA: /dev/x has ext4 (repair: wipefs -n /dev/x)"
    assert (result["rc"], result["judge"]["reason"]) == (3, "DISK_FOREIGN_DATA")


def test_a_state_that_is_not_wanted_fails_although_the_program_is_content(action: ModuleType) -> None:
    result = action.read_result(told({**GOOD, "state": "blank", "message": "/dev/x is blank"}), ["ours", "adopted"])
    assert result["failed"] is True
    assert result["msg"] == "found state blank, wanted ours or adopted: /dev/x is blank"


def test_a_state_that_is_wanted_passes(action: ModuleType) -> None:
    assert "failed" not in action.read_result(told(GOOD), ["ours", "adopted"])


def test_a_wanted_state_saves_no_answer_that_is_not_ok(action: ModuleType) -> None:
    assert action.read_result(told({**GOOD, "ok": False}, 1), ["ours"])["failed"] is True


def test_a_program_that_breaks_fails_with_what_it_said(action: ModuleType) -> None:
    result = action.read_result(told("", 1, stderr="no such disk tool\n"), None)
    assert result["failed"] is True
    assert result["msg"] == "judge-node ended with status 1 and no answer: no such disk tool"


def test_a_failure_of_the_connection_is_handed_on(action: ModuleType) -> None:
    lost = {"failed": True, "msg": "The module interpreter '/usr/bin/python3' was not found.", "rc": 127}
    assert action.read_result(lost, ["ours"]) == lost


def test_a_content_root_without_the_program_says_what_to_do(action: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(AnsibleActionFail, match=r"neither .* nor .*judge-node\.pyz exists\. Reinstall judge-bootstrap"):
        action.read_bundle(tmp_path)


# --- a sync that goes on ----------------------------------------------------------------------------------------------

COMPLETE = {**GOOD, "command": "cache sync", "state": "complete", "message": "a/b is complete"}
RUNNING = {**GOOD, "command": "cache sync", "changed": False, "state": "running", "message": "a/b is being synced",
           "facts": {"progress_text": "1.0 GiB of 4.0 GiB (25 %)"}}
LOST = AnsibleConnectionFailure("Failed to connect to the host via ssh: Connection refused")


class Host:
    """A host that answers the calls of `cache follow` one after the other, and what the plugin did meanwhile."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers, self.calls, self.lines, self.resets = list(answers), [], [], 0
        self.carried, self.lacks_program = [], False

    def execute(self, module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        self.carried.append(module_args["bundle"] is not None)
        if self.lacks_program and module_args["bundle"] is None:
            return {"changed": False, "program_missing": True}
        self.calls.append(module_args["arguments"])
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return told(answer)

    def display(self, line: str) -> None:
        self.lines.append(line)

    def reset(self) -> None:
        self.resets += 1


def plugin_for(action: ModuleType, host: Host, *, check: bool = False) -> Any:
    plugin = action.ActionModule.__new__(action.ActionModule)
    plugin._task, plugin._display, plugin._connection = SimpleNamespace(check_mode=check), host, host
    plugin._execute_module = host.execute
    return plugin


def follow(action: ModuleType, host: Host, monkeypatch: pytest.MonkeyPatch, reconnect_seconds: int = 60) -> Any:
    monkeypatch.setattr(action, "RECONNECT_PAUSE_SECONDS", 0)
    plugin = plugin_for(action, host)
    params = {"command": "cache follow", "store": "/s", "manifest": {"repo_id": "a/b"},
              "reconnect_seconds": reconnect_seconds}
    return plugin._follow(params, {"inventory_hostname": "node-1"})


def test_a_sync_is_followed_to_its_end(action: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(RUNNING, RUNNING, COMPLETE)
    assert action.read_result(follow(action, host, monkeypatch), ["complete"])["judge"] == COMPLETE
    assert host.lines == ["node-1: syncing a/b: 1.0 GiB of 4.0 GiB (25 %)"] * 2


def test_a_command_of_the_store_travels_without_the_program(
    action: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(RUNNING, RUNNING, COMPLETE)
    follow(action, host, monkeypatch)
    assert host.carried == [False, False, False]


def test_a_host_without_the_program_is_asked_again_with_it_and_from_then_on(
    action: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(RUNNING, RUNNING, COMPLETE)
    host.lacks_program = True
    assert action.parse_answer(follow(action, host, monkeypatch)["stdout"]) == COMPLETE
    assert host.carried == [False, True, True, True]


@pytest.mark.parametrize(("command", "check"), [("disks ensure", False), ("disks status", False), ("status", False),
                                                ("cache start", True), ("cache verify", True)])
def test_a_host_that_may_have_no_program_is_sent_it_at_once(action: ModuleType, command: str, check: bool) -> None:
    host = Host(GOOD)
    plugin_for(action, host, check=check)._ask({"command": command}, {})
    assert host.carried == [True]


def test_polls_become_rarer(action: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(*[RUNNING] * 6, COMPLETE)
    follow(action, host, monkeypatch)
    assert [word for call in host.calls for word in call if word.startswith("--wait")] == [
        "--wait=2", "--wait=3", "--wait=4.5", "--wait=6.75", "--wait=10", "--wait=10", "--wait=10"]


def test_a_lost_connection_is_made_anew_and_costs_nothing(action: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(RUNNING, LOST, LOST, RUNNING, COMPLETE)
    assert action.parse_answer(follow(action, host, monkeypatch)["stdout"]) == COMPLETE
    assert host.resets == 2
    assert host.lines[1].startswith("node-1: syncing a/b: no answer over ssh; asking again for ")


def test_a_connection_that_stays_lost_is_reported_after_the_time(
    action: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(RUNNING, LOST, COMPLETE)
    with pytest.raises(AnsibleConnectionFailure, match="Connection refused"):
        follow(action, host, monkeypatch, reconnect_seconds=0)
    assert host.answers == [COMPLETE]


def test_an_answer_starts_the_time_for_a_lost_connection_again(
    action: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(action.time, "monotonic", lambda: next(clock))
    host = Host(*[LOST, RUNNING] * 8, COMPLETE)
    assert action.parse_answer(follow(action, host, monkeypatch, reconnect_seconds=25)["stdout"]) == COMPLETE


# --- through Ansible itself -------------------------------------------------------------------------------------------

STAND_IN = f"""
import json, sys
def main():
    print(json.dumps({{**json.loads({json.dumps(GOOD)!r}), "facts": {{"argv": sys.argv[1:], "in": sys.stdin.read()}}}}))
    return 0
"""


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """Return content as the wheel lays it out, with a stand-in for the program."""
    shutil.copytree(ROOT / "roles/judge_node", tmp_path / "roles/judge_node")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("judge_node/__init__.py", "")
        archive.writestr("judge_node/__main__.py", STAND_IN)
    (tmp_path / "judge-node.pyz").write_bytes(packed.getvalue())
    return tmp_path


def play(
    content: Path, task: dict[str, Any], *options: str, pipelining: bool = True,
    tasks: list[dict[str, Any]] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one task (or other `tasks`) on this machine as a host, through ansible-playbook."""
    playbook = [{"hosts": "all", "gather_facts": False, "roles": ["judge_node"],
                 "tasks": tasks or [{"name": "Ask", "judge_node": task, "register": "asked"},
                                    {"name": "Show", "ansible.builtin.debug": {"msg": "told={{ asked | to_json }}"}}]}]
    (content / "play.yml").write_text(yaml.safe_dump(playbook))
    (content / "ansible.cfg").touch()
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "-e",
         f"ansible_python_interpreter={sys.executable}", *options, "play.yml"],
        cwd=content, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "ANSIBLE_CONFIG": str(content / "ansible.cfg"), "ANSIBLE_PIPELINING": str(pipelining),
             "ANSIBLE_ROLES_PATH": str(content / "roles"), "ANSIBLE_LOCAL_TEMP": str(content / "tmp"),
             "ANSIBLE_REMOTE_TEMP": str(content / "remote")})


@pytest.mark.parametrize("pipelining", [True, False])
def test_ansible_runs_both_halves(content: Path, pipelining: bool) -> None:
    done = play(content, {"command": "disks status", "mount_path": "/m"}, pipelining=pipelining)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--mount-path=/m" in done.stdout


def test_a_task_is_one_remote_call(content: Path) -> None:
    done = play(content, {"command": "disks status", "mount_path": "/m"}, "-vvv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" EXEC ") == 1


def test_a_host_without_the_program_costs_one_more_call(content: Path) -> None:
    done = play(content, {"command": "cache list", "store": "/s"}, "-vvv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" EXEC ") == 2


def test_the_program_does_not_show_up_in_any_output(content: Path) -> None:
    done = play(content, {"command": "disks status", "mount_path": "/m"}, "-vvv")
    sent = base64.b64encode(zlib.compress(for_nodes((content / "judge-node.pyz").read_bytes()), 9)).decode()
    assert sent[:60] not in done.stdout + done.stderr


def test_a_wrong_option_is_refused_by_name(content: Path) -> None:
    done = play(content, {"command": "disks ensure", "mount_path": "/m", "force": True})
    assert done.returncode == 2
    assert "Unsupported parameters for (judge_node) module: force" in done.stdout


# Runs on at the first calls, and says how it was called.
SLOW_STAND_IN = f"""
import json, os, sys
def main():
    with open(os.environ["HOME"] + "/calls", "a+") as file:
        file.write(" ".join(sys.argv[1:3] + [word for word in sys.argv if "--wait" in word]) + "\\n")
        file.seek(0)
        calls = len(file.readlines())
    print({json.dumps(RUNNING)!r} if calls < 4 else {json.dumps(COMPLETE)!r})
    return 0
"""


def test_progress_is_shown_while_the_task_runs(content: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(content / "judge-node.pyz", "w") as archive:
        archive.writestr("judge_node/__init__.py", "")
        archive.writestr("judge_node/__main__.py", SLOW_STAND_IN)
    monkeypatch.setenv("HOME", str(content))
    done = play(content, {"command": "cache follow", "store": "/s", "manifest": {"repo_id": "a/b"},
                          "good_states": ["complete"]})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines().count("localhost: syncing a/b: 1.0 GiB of 4.0 GiB (25 %)") == 3
    assert (content / "calls").read_text().splitlines() == [
        "cache follow --wait=2", "cache follow --wait=3", "cache follow --wait=4.5", "cache follow --wait=6.75"]


def test_a_start_waits_for_no_end(content: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(content / "judge-node.pyz", "w") as archive:
        archive.writestr("judge_node/__init__.py", "")
        archive.writestr("judge_node/__main__.py", SLOW_STAND_IN)
    monkeypatch.setenv("HOME", str(content))
    done = play(content, {"command": "cache start", "store": "/s", "manifest": {"repo_id": "a/b"},
                          "good_states": ["complete", "running"]}, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (content / "calls").read_text().splitlines() == ["cache start --wait=0"]


def sync_role(content: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> subprocess.CompletedProcess[str]:
    """Run what the role model_cache does on a host, against a stand-in for the program."""
    shutil.copytree(ROOT / "roles/model_cache", content / "roles/model_cache")
    with zipfile.ZipFile(content / "judge-node.pyz", "w") as archive:
        archive.writestr("judge_node/__init__.py", "")
        archive.writestr("judge_node/__main__.py", program)
    monkeypatch.setenv("HOME", str(content))
    tasks = [{"name": "Sync", "ansible.builtin.include_role": {"name": "model_cache", "tasks_from": "sync"}}]
    return play(content, {"command": "status"}, "-vvv", "--check", "-e", json.dumps(
        {"ansible_become": False, "model_cache_manifest": {"repo_id": "a/b"}}), tasks=tasks)


def test_a_complete_model_costs_a_host_one_remote_call(content: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"def main():\n    print({json.dumps(COMPLETE)!r})\n    return 0\n"
    done = sync_role(content, program, monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" EXEC ") == 1


def test_a_model_that_is_fetched_is_waited_for(content: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = sync_role(content, SLOW_STAND_IN, monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (content / "calls").read_text().splitlines() == [
        "cache start --wait=0", "cache follow --wait=2", "cache follow --wait=3", "cache follow --wait=4.5"]
