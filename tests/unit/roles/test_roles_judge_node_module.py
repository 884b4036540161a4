"""The judge_node module: one command, one answer, and no process left when nobody listens any more."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .conftest import load

RunModule = Callable[..., dict[str, Any]]

GOOD = {"ok": True, "command": "disks ensure", "changed": True, "state": "ours", "reason": None, "message": "mounted",
        "repair": None, "diff": {"before": "blank", "after": "mkfs"}, "facts": {}}


@pytest.fixture
def judge_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("roles/judge_node/library/judge_node.py")
    monkeypatch.setattr(module, "INSTALL_PATH", str(tmp_path / "lib" / "judge-node.pyz"))
    monkeypatch.setattr(module, "LINK_PATH", str(tmp_path / "bin" / "judge-node"))
    install = module.install
    monkeypatch.setattr(module, "install", lambda b: install(b, module.INSTALL_PATH, module.LINK_PATH))
    is_installed = module.is_installed
    monkeypatch.setattr(module, "is_installed", lambda b: is_installed(b, module.INSTALL_PATH))
    return module


@pytest.fixture(autouse=True)
def restore_signals() -> Any:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def program(body: str) -> str:
    """Return a stand-in for judge-node.pyz, base64: a zip with this __main__."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__main__.py", textwrap.dedent(body))
    return base64.b64encode(packed.getvalue()).decode()


def answering(answer: dict[str, Any], status: int = 0) -> str:
    return program(f"import sys; sys.stdin.read(); print({json.dumps(answer)!r}); sys.exit({status})")


ECHO = program("""
    import json, sys
    facts = {"argv": sys.argv[1:], "in": sys.stdin.read()}
    print(json.dumps({"ok": True, "changed": False, "message": "", "facts": facts}))
""")


def test_the_answer_becomes_changed_diff_and_judge(judge_node: ModuleType, run_module: RunModule) -> None:
    result = run_module(judge_node, {"command": "disks ensure", "mount_path": "/mnt/x", "bundle": answering(GOOD)})
    assert (result["changed"], result["judge"]["state"], result["msg"]) == (True, "ours", "mounted")
    assert result["diff"]["after"].splitlines()[-1] == "mkfs"


def test_a_changing_command_installs_the_program_and_its_link(judge_node: ModuleType, run_module: RunModule) -> None:
    bundle = answering({**GOOD, "changed": False})
    first = run_module(judge_node, {"command": "disks ensure", "mount_path": "/mnt/x", "bundle": bundle})
    second = run_module(judge_node, {"command": "disks ensure", "mount_path": "/mnt/x", "bundle": bundle})
    assert (first["changed"], second["changed"]) == (True, False)
    installed = Path(judge_node.LINK_PATH)
    assert installed.read_bytes() == base64.b64decode(bundle)
    assert os.access(installed, os.X_OK)
    assert [path.name for path in installed.resolve().parent.iterdir()] == ["judge-node.pyz"]


def test_check_mode_says_what_would_change_and_writes_nothing(
    judge_node: ModuleType, run_module: RunModule, tmp_path: Path
) -> None:
    result = run_module(judge_node, {"command": "disks ensure", "mount_path": "/mnt/x", "bundle": ECHO}, check=True)
    assert result["changed"] is True
    assert result["diff"]["after"].startswith("install ")
    assert "--check" in result["judge"]["facts"]["argv"]
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_command_installs_nothing_and_changes_nothing(
    judge_node: ModuleType, run_module: RunModule, tmp_path: Path
) -> None:
    result = run_module(judge_node, {"command": "disks status", "mount_path": "/mnt/x", "bundle": ECHO})
    assert result["changed"] is False
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_goes_through_stdin(judge_node: ModuleType, run_module: RunModule) -> None:
    result = run_module(judge_node, {"command": "cache verify", "store": "/mnt/x/hub", "manifest": {"schema": 1},
                                     "bundle": ECHO})
    assert json.loads(result["judge"]["facts"]["in"]) == {"schema": 1}
    assert result["judge"]["facts"]["argv"] == ["cache", "verify", "-", "--store", "/mnt/x/hub", "--json"]


def test_a_refusal_fails_with_reason_and_repair(judge_node: ModuleType, run_module: RunModule) -> None:
    answer = {**GOOD, "ok": False, "changed": False, "reason": "DISK_FOREIGN_DATA", "message": "/dev/x has ext4",
              "repair": "wipefs -n /dev/x"}
    result = run_module(judge_node, {"command": "disks ensure", "mount_path": "/mnt/x", "bundle": answering(answer, 3)})
    assert result["failed"] is True
    assert result["msg"] == "DISK_FOREIGN_DATA: /dev/x has ext4 (repair: wipefs -n /dev/x)"
    assert (result["rc"], result["judge"]["reason"]) == (3, "DISK_FOREIGN_DATA")


def test_a_program_that_breaks_fails_with_what_it_said(judge_node: ModuleType, run_module: RunModule) -> None:
    broken = program("import sys; sys.exit('no such disk tool')")
    result = run_module(judge_node, {"command": "disks status", "mount_path": "/mnt/x", "bundle": broken})
    assert result["msg"] == "judge-node ended with status 1 and no answer: no such disk tool"


def test_the_program_does_not_show_up_in_the_result(judge_node: ModuleType, run_module: RunModule) -> None:
    result = run_module(judge_node, {"command": "disks status", "mount_path": "/mnt/x", "bundle": ECHO})
    assert ECHO not in json.dumps(result)


@pytest.mark.parametrize(("params", "wanted"), [
    ({"command": "disks ensure", "mount_path": "/m", "device": "/dev/d", "fstype": "xfs",
      "accept_models": ["A b", "C"]},
     ["disks", "ensure", "--accept-model", "A b", "--accept-model", "C", "--device", "/dev/d", "--fstype", "xfs",
      "--mount-path", "/m", "--json"]),
    ({"command": "disks status", "mount_path": "/m", "device": None, "accept_models": None, "fstype": "xfs"},
     ["disks", "status", "--mount-path", "/m", "--json"]),
    ({"command": "cache sync", "store": "/s", "endpoint": "http://h", "token_file": "/t"},
     ["cache", "sync", "-", "--endpoint", "http://h", "--store", "/s", "--token-file", "/t", "--json"]),
    ({"command": "cache verify", "store": "/s", "deep": True},
     ["cache", "verify", "-", "--deep", "--store", "/s", "--json"]),
    ({"command": "status"}, ["status", "--json"]),
])
def test_parameters_become_arguments(judge_node: ModuleType, params: dict[str, Any], wanted: list[str]) -> None:
    assert judge_node.build_arguments(params, check_mode=False) == wanted


# A child with a child of its own; both write their pid, so that the test can ask whether they live.
SLEEPER = ("import os, subprocess, sys, time\n"
           "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
           "open(sys.argv[1] + '.new', 'w').write(f'{os.getpid()} {child.pid}')\n"
           "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
           "time.sleep(60)\n")


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_command_and_its_children_end_when_the_connection_goes_away(judge_node: ModuleType, tmp_path: Path) -> None:
    reader, writer = os.pipe()  # stands for the ssh channel: our stdout is its writing end
    pids = tmp_path / "pids"
    closer = threading.Thread(target=lambda: (wait_until(pids.exists), os.close(reader)))
    closer.start()
    with pytest.raises(judge_node.ConnectionGone):
        judge_node.run_watched([sys.executable, "-c", SLEEPER, str(pids)], b"", watched=writer)
    closer.join()
    os.close(writer)
    assert all(wait_until(lambda pid=pid: not is_alive(int(pid))) for pid in pids.read_text().split())


def test_the_command_ends_when_the_module_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    library = Path(load("roles/judge_node/library/judge_node.py").__file__ or "").parent
    caller = subprocess.Popen([sys.executable, "-c", (
        f"import sys; sys.path.insert(0, {str(library)!r}); import judge_node\n"
        f"judge_node.run_watched([sys.executable, '-c', {SLEEPER!r}, {str(pids)!r}], b'')")], stdout=subprocess.DEVNULL)
    assert wait_until(pids.exists)
    caller.kill()
    caller.wait()
    command, grandchild = (int(pid) for pid in pids.read_text().split())
    assert wait_until(lambda: not is_alive(command))
    os.kill(grandchild, signal.SIGKILL)  # the stand-in's own child; judge-node ends its children itself
