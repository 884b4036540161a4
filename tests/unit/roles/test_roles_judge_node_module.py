"""The host's half of the judge_node module, run as Ansible runs it: one process, one answer, nothing left of it."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, load

MODULE = ROOT / "roles/judge_node/library/judge_node.py"
PLACEHOLDER = "<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"


def program(body: str) -> bytes:
    """Return a stand-in for judge-node.pyz with this body of main(); the same body gives the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("judge_node/__init__.py"), "")
        archive.writestr(zipfile.ZipInfo("judge_node/__main__.py"),
                         "def main():\n" + textwrap.indent(textwrap.dedent(body), "    "))
    return packed.getvalue()


ECHO = program("""
    import json, sys
    print(json.dumps({"argv": sys.argv[1:], "in": sys.stdin.read(), "path": sys.path}))
    return 0
""")
# A command with a child of its own; both write their pid, so that the test can ask whether they live.
SLEEPER = program("""
    import os, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
    try:
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        time.sleep(60)
    finally:
        child.kill()
""")
STUBBORN = program("""
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(60)
""")


class Place:
    """Where the module installs in a test, and how it is started: its source through stdin, as with pipelining."""

    def __init__(self, folder: Path) -> None:
        """`folder` stands for the host's /usr/local."""
        self.folder = folder
        self.installed, self.link = folder / "lib" / "judge-node.pyz", folder / "bin" / "judge-node"
        self.bytecode = folder / "lib" / "judge-node.bytecode"

    def source(self, bundle: bytes, arguments: list[str], *, given: str = "{}", changes: bool = False,
               check: bool = False, grace_seconds: float = 10, light: bool = False,
               also: tuple[bytes, ...] = ()) -> bytes:
        """Return the module's source with the call in it: without the program if `light`; it may do with `also`."""
        call = {"bundle": None if light else base64.b64encode(zlib.compress(bundle)).decode(),
                "digests": [hashlib.blake2b(program, digest_size=32).hexdigest() for program in (bundle, *also)],
                "arguments": arguments, "input": given, "changes": changes, "check": check}
        text = MODULE.read_text()
        for old, new in ((PLACEHOLDER, json.dumps(call)),
                         ('"/usr/local/lib/judge-bootstrap/judge-node.pyz"', repr(str(self.installed))),
                         ('"/usr/local/bin/judge-node"', repr(str(self.link))),
                         ('f"/usr/local/lib/judge-bootstrap/judge-node.{sys.implementation.cache_tag}.bytecode"',
                          repr(str(self.bytecode))),
                         ("STOP_GRACE_SECONDS = 10", f"STOP_GRACE_SECONDS = {grace_seconds}")):
            assert text.count(old) == 1, f"{old} is not in the module once"
            text = text.replace(old, new)
        return text.encode()

    def run(self, bundle: bytes, *arguments: str, cwd: Path | None = None, **call: Any) -> dict[str, Any]:
        """Run the module to its end and return what it says."""
        done = subprocess.run([sys.executable, "-"], input=self.source(bundle, list(arguments), **call), cwd=cwd,
                              capture_output=True, check=False, timeout=300)
        assert not done.stderr, done.stderr.decode()
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def start(self, bundle: bytes, *arguments: str, **call: Any) -> subprocess.Popen[bytes]:
        """Start the module; the caller holds the reading end of its stdout, as ssh does."""
        process = subprocess.Popen([sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(self.source(bundle, list(arguments), **call))
        process.stdin.close()
        return process


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_answer_is_handed_on_as_it_was_printed(place: Place) -> None:
    told = place.run(program("print('{\"ok\": true}')\nreturn 3"), "status", "--json")
    assert told == {"changed": False, "rc": 3, "stdout": "{\"ok\": true}\n", "stderr": "", "program_changed": False}


def test_arguments_and_input_reach_the_program(place: Place) -> None:
    printed = json.loads(place.run(ECHO, "cache", "verify", "-", "--json", given='{"name": "é\\u2028\\\\"}')["stdout"])
    assert printed["argv"] == ["cache", "verify", "-", "--json"]
    assert printed["in"] == '{"name": "é\\u2028\\\\"}'


@pytest.mark.parametrize("text", ['"""', "'''", "\\", "\\n", '\\"', "\x00", PLACEHOLDER, "é\U0001f600"])
def test_no_text_breaks_out_of_the_call(place: Place, text: str) -> None:
    assert json.loads(place.run(ECHO, "status", text)["stdout"])["argv"] == ["status", text]


def test_a_changing_command_installs_the_program_and_its_link_once(place: Place) -> None:
    first = place.run(ECHO, "disks", "ensure", changes=True)
    second = place.run(ECHO, "disks", "ensure", changes=True)
    assert (first["program_changed"], second["program_changed"]) == (True, False)
    assert place.link.read_bytes() == ECHO
    assert os.access(place.link, os.X_OK)
    assert sorted(path.name for path in place.installed.parent.iterdir()) == ["judge-node.bytecode", "judge-node.pyz"]


def saying(word: str) -> bytes:
    """Return a program that prints the word; programs with words of the same length differ in nothing else."""
    return program(f"print({word!r})\nreturn 0")


def keep_bytecode(place: Place, of: bytes, under: bytes) -> None:
    """Leave the bytecode of one program as if it were that of another one."""
    place.run(of, "disks", "ensure", changes=True)
    kept = place.bytecode.read_bytes()
    place.run(under, "disks", "ensure", changes=True)
    head = 4 + 32  # Python's magic number, the program's digest
    place.bytecode.write_bytes(place.bytecode.read_bytes()[:head] + kept[head:])


def test_the_second_run_takes_the_bytecode_of_the_first(place: Place) -> None:
    keep_bytecode(place, of=saying("cat"), under=saying("dog"))
    assert place.run(saying("dog"), "disks", "status")["stdout"] == "cat\n"


def test_the_bytecode_of_another_program_is_not_taken(place: Place) -> None:
    place.run(saying("cat"), "disks", "ensure", changes=True)
    assert place.run(saying("dog"), "disks", "status")["stdout"] == "dog\n"


def test_bytecode_that_somebody_else_can_write_is_not_taken(place: Place) -> None:
    keep_bytecode(place, of=saying("cat"), under=saying("dog"))
    place.bytecode.chmod(0o664)
    assert place.run(saying("dog"), "disks", "status")["stdout"] == "dog\n"


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:200], lambda data: data[:-1],
                                    lambda data: data[:300] + b"\xff" + data[301:], lambda data: b"\0" * len(data)])
def test_damaged_bytecode_is_not_taken(place: Place, damage: Callable[[bytes], bytes]) -> None:
    keep_bytecode(place, of=saying("cat"), under=saying("dog"))
    place.bytecode.write_bytes(damage(place.bytecode.read_bytes()))
    assert place.run(saying("dog"), "disks", "status")["stdout"] == "dog\n"


def test_bytecode_that_cannot_be_written_is_no_failure(place: Place) -> None:
    place.bytecode.mkdir(parents=True)
    assert place.run(saying("dog"), "disks", "ensure", changes=True)["stdout"] == "dog\n"


def test_the_program_still_knows_the_archive_it_comes_from(place: Place) -> None:
    # judge-node installs itself from there (bundle.build_pyz).
    copy = program("import sys\nfrom pathlib import Path\n"
                   "print(Path(__loader__.archive).read_bytes().hex())\nreturn 0")
    for _ in range(2):
        assert bytes.fromhex(place.run(copy, "disks", "ensure", changes=True)["stdout"]) == copy


def test_another_program_at_the_same_place_is_replaced(place: Place) -> None:
    place.run(program("return 0"), "disks", "ensure", changes=True)
    assert place.run(ECHO, "disks", "ensure", changes=True)["program_changed"] is True
    assert place.installed.read_bytes() == ECHO


def test_a_call_without_the_program_takes_the_one_that_is_there(place: Place) -> None:
    place.run(ECHO, "disks", "ensure", changes=True)
    told = place.run(ECHO, "cache", "list", light=True)
    assert json.loads(told["stdout"])["argv"] == ["cache", "list"]
    assert told["program_changed"] is False


@pytest.mark.parametrize("installed", [None, b"", saying("dog"), ECHO[:-1], ECHO + b"\n"])
def test_a_call_without_the_program_runs_no_other_one(place: Place, installed: bytes | None) -> None:
    if installed is not None:
        place.installed.parent.mkdir()
        place.installed.write_bytes(installed)
    told = place.run(ECHO, "cache", "prune", changes=True, light=True)
    assert told == {"changed": False, "program_missing": True}
    assert (place.installed.read_bytes() if installed is not None else None) == installed


@pytest.mark.parametrize("light", [True, False])
def test_a_larger_edition_of_the_same_program_is_left_alone_and_used(place: Place, light: bool) -> None:
    place.run(saying("cat"), "disks", "ensure", changes=True)
    told = place.run(saying("dog"), "disks", "ensure", changes=True, light=light, also=(saying("cat"),))
    assert (told["stdout"], told["program_changed"]) == ("cat\n", False)
    assert place.installed.read_bytes() == saying("cat")


def test_a_python_without_its_inner_blake2_gives_the_same_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("roles/judge_node/library/judge_node.py")
    quick = module.digest_of(ECHO)
    monkeypatch.setitem(sys.modules, "_blake2", None)
    assert quick == module.digest_of(ECHO) == hashlib.blake2b(ECHO, digest_size=32).hexdigest()


def test_a_command_of_that_name_is_replaced_by_the_link(place: Place) -> None:
    place.link.parent.mkdir()
    place.link.write_text("somebody's")
    place.run(ECHO, "disks", "ensure", changes=True)
    assert place.link.resolve() == place.installed


def test_check_mode_says_that_the_program_would_be_installed_and_writes_nothing(place: Place) -> None:
    assert place.run(ECHO, "disks", "ensure", changes=True, check=True)["program_changed"] is True
    assert list(place.folder.iterdir()) == []


def test_a_read_only_command_installs_nothing(place: Place) -> None:
    assert place.run(ECHO, "disks", "status")["program_changed"] is False
    assert list(place.folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_message(place: Place) -> None:
    place.installed.parent.write_text("a file where the folder should be")
    told = place.run(ECHO, "disks", "ensure", changes=True)
    assert told["failed"] is True
    assert told["msg"].startswith("cannot run judge-node on this host: ")


def test_a_program_that_breaks_hands_on_its_status_and_what_it_said(place: Place) -> None:
    told = place.run(program("import sys; sys.exit('no such disk tool')"), "status")
    assert (told["rc"], told["stdout"], told["stderr"]) == (1, "", "no such disk tool")


def test_an_unexpected_error_of_the_program_is_handed_on_with_its_traceback(place: Place) -> None:
    told = place.run(program("raise ValueError('odd disk')"), "status")
    assert told["rc"] == 1
    assert told["stderr"].strip().endswith("ValueError: odd disk")


def test_only_the_end_of_a_long_stderr_is_kept(place: Place) -> None:
    told = place.run(program("import sys; sys.stderr.write('x' * 100000 + 'the end'); return 0"), "status")
    assert len(told["stderr"]) == 4096
    assert told["stderr"].endswith("xthe end")


def test_a_module_in_the_folder_that_ssh_starts_in_is_not_taken(place: Place, tmp_path: Path) -> None:
    for name in ("json", "tempfile", "zipimport"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the current folder')")
    printed = json.loads(place.run(ECHO, "status", cwd=tmp_path)["stdout"])
    assert "" not in printed["path"]
    assert str(tmp_path) not in printed["path"]


def test_the_process_shows_as_judge_node(place: Place) -> None:
    name = program("print(open('/proc/self/comm').read().strip())\nreturn 0")
    assert place.run(name, "status")["stdout"] == "judge-node\n"


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


def started_pids(path: Path) -> list[int]:
    assert wait_until(path.exists), "the program did not start"
    return [int(pid) for pid in path.read_text().split()]


def test_the_program_ends_cleanly_when_the_connection_goes_away(place: Place, tmp_path: Path) -> None:
    process = place.start(SLEEPER, str(tmp_path / "pids"))
    found = started_pids(tmp_path / "pids")
    assert process.stdout is not None
    process.stdout.close()  # what is left of an ssh session that was cut
    assert all(wait_until(lambda pid=pid: not is_alive(pid)) for pid in found)
    assert process.wait(30) == 1  # not a signal: the program had time for its `finally`


def test_a_program_that_will_not_stop_is_killed_with_its_children(place: Place, tmp_path: Path) -> None:
    process = place.start(STUBBORN, str(tmp_path / "pids"), grace_seconds=0.2)
    found = started_pids(tmp_path / "pids")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == -signal.SIGKILL
    assert all(wait_until(lambda pid=pid: not is_alive(pid)) for pid in found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_from_outside_ends_the_program(place: Place, tmp_path: Path, number: signal.Signals) -> None:
    process = place.start(SLEEPER, str(tmp_path / "pids"))
    found = started_pids(tmp_path / "pids")
    process.send_signal(number)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.read() == b""
    assert process.wait(30) == 1
    assert all(wait_until(lambda pid=pid: not is_alive(pid)) for pid in found)


def test_a_program_that_holds_signals_back_gets_them_when_it_lets_them_in(place: Place, tmp_path: Path) -> None:
    # judge-node does so around mkfs: a thread of the module that took the signal would break the promise.
    holding = program("""
        import os, signal, sys, time
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        open(sys.argv[1], "w").write(str(os.getpid()))
        give_up = time.monotonic() + 60
        while signal.SIGTERM not in signal.sigpending() and time.monotonic() < give_up:
            time.sleep(0.01)
        open(sys.argv[1] + ".held", "w").close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        open(sys.argv[1] + ".late", "w").close()
        return 0
    """)
    process = place.start(holding, str(tmp_path / "pid"))
    started_pids(tmp_path / "pid")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 1
    assert (tmp_path / "pid.held").exists()
    assert not (tmp_path / "pid.late").exists()


def test_the_module_runs_on_python_3_9(place: Place) -> None:
    ast.parse(place.source(ECHO, []), feature_version=(3, 9))


def test_the_module_needs_nothing_but_the_standard_library() -> None:
    # One import of ansible.module_utils and Ansible would wrap it anew: a second interpreter and 200 ms a host.
    imported = {name.name.split(".")[0] for node in ast.walk(ast.parse(MODULE.read_text()))
                if isinstance(node, ast.Import) for name in node.names}
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(ast.parse(MODULE.read_text()))
                 if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"judge_node"}


def test_both_halves_name_the_same_place() -> None:
    here, there = load("roles/judge_node/library/judge_node.py"), load("roles/judge_node/action_plugins/judge_node.py")
    assert (here.INSTALL_PATH, here.LINK_PATH) == (there.INSTALL_PATH, there.LINK_PATH)
