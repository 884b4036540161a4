"""The lock, the private directory, the processes of a run, and the environment that Ansible gets."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from judge_bootstrap.adapters import lock, private, processes, state, tools
from judge_bootstrap.adapters.runner import Drain, PlaybookRun, child_environment, to_event
from judge_bootstrap.core.errors import Refusal, UsageProblem


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have private directories below the test's own folder, not in /dev/shm."""
    monkeypatch.setattr(private, "parents", lambda: [tmp_path])
    return tmp_path


def sleeper(run_id: str, code: str = "import time; time.sleep(60)") -> subprocess.Popen[bytes]:
    """Start a process of a run, in a session of its own as Ansible's workers have it."""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE,
                               env={**os.environ, processes.RUN_ID_VARIABLE: run_id})
    while process.pid not in processes.carriers(run_id):
        time.sleep(0.01)
    return process


def request(run_id: str = "run-1") -> PlaybookRun:
    return PlaybookRun(run_id, Path("/content"), (Path("/content/playbooks/site.yml"),), Path("/content/inventory/x"))


def test_end_finds_processes_by_the_run_id_and_leaves_others_alone() -> None:
    mine, other = sleeper("run-mine"), sleeper("run-mine-too")
    try:
        assert processes.end("run-mine") == 1
        assert mine.wait(60) == -15
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()
        mine.communicate()


def test_end_kills_what_does_not_listen_to_term() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    process = sleeper("run-deaf", code)
    assert process.stdout is not None and process.stdout.readline() == b"deaf\n"
    processes.end("run-deaf", grace_seconds=0.1)
    assert process.wait(60) == -9
    process.communicate()


def test_an_ssh_master_is_found_by_its_title_for_it_writes_over_its_environment(tmp_path: Path) -> None:
    def master(folder: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([f"ssh: {folder}/cp/0123456789 [mux]", "60"], executable="/bin/sleep", env={})
        # Popen returns when the kernel closes its pipe, a moment before the new program's title can be read.
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        return process

    ours, others = master(tmp_path / "jb-ours"), master(tmp_path / "jb-others")
    try:
        assert processes.end("run-of-no-process", tmp_path / "jb-ours") == 1
        assert ours.wait(60) == -15
        assert others.poll() is None
    finally:
        for process in (ours, others):
            process.kill()
            process.wait()


def test_a_reused_pid_is_not_taken_for_the_process_that_had_it() -> None:
    ticks = processes.started_ticks(os.getpid())
    assert ticks is not None
    assert processes.is_alive(os.getpid(), ticks)
    assert not processes.is_alive(os.getpid(), ticks - 1)


def test_the_lock_is_free_again_after_an_exception(tmp_path: Path) -> None:
    holder = lock.new_holder("run-1", "judge-bootstrap site")
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path / "lock", "prod", holder):
        raise ZeroDivisionError
    with lock.held(tmp_path / "lock", "prod", holder):
        assert json.loads((tmp_path / "lock").read_text())["run_id"] == "run-1"


def test_the_lock_names_its_holder_and_is_private(tmp_path: Path) -> None:
    with lock.held(tmp_path / "lock", "prod", lock.new_holder("run-1", "judge-bootstrap site")):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
        with pytest.raises(Refusal, match=rf"`judge-bootstrap site` .*pid {os.getpid()}, run run-1") as caught, \
                lock.held(tmp_path / "lock", "prod", lock.new_holder("run-2", "x")):
            pass
    assert caught.value.reason == "LOCKED"
    assert caught.value.hint == (f"wait for it, or end it with Ctrl-C where it runs (kill -INT {os.getpid()} on "
                                 f"{lock.new_holder('x', 'x').host})")


def test_a_lock_file_with_nonsense_in_it_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\xff\x00{]")
    with lock.held(tmp_path / "lock", "prod", lock.new_holder("run-1", "x"), on_stale=lambda _: pytest.fail("stale")):
        pass


def test_a_state_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageProblem, match="the lock .* cannot be made: ") as caught, \
            lock.held(tmp_path / "file" / "lock", "prod", lock.new_holder("run-1", "x")):
        pass
    assert caught.value.hint == "set JUDGE_BOOTSTRAP_STATE to a folder that is yours"


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (125, "2 min"), (7300, "2 h"), (200000, "2 d")])
def test_a_holders_age_is_said_in_words(seconds: int, words: str) -> None:
    holder = lock.Holder(1, "h", "u", "r", "c", "2026-11-24T10:00:00+00:00")
    assert (
        holder.age(datetime.fromtimestamp(datetime(2026, 11, 24, 10, tzinfo=UTC).timestamp() + seconds, UTC)) == words
    )


def test_the_private_directory_is_closed_to_others_and_gone_after_an_error(shelf: Path) -> None:
    with pytest.raises(ZeroDivisionError), private.private_directory("run-1") as path:
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "deep").mkdir()
        raise ZeroDivisionError
    assert list(shelf.iterdir()) == []


def test_ssh_control_sockets_fit_into_the_private_directory() -> None:
    # sun_path has 108 bytes; Ansible names a socket with 10 digits, ssh adds a dot and 16 while it makes it.
    with private.private_directory("run-1") as path:
        assert len(str(path / "cp" / ("0" * 10 + "." + "x" * 16))) < 108


def test_sweep_removes_what_dead_runs_left_and_ends_their_processes(shelf: Path) -> None:
    left = sleeper("run-dead")
    dead = shelf / "jb-dead"
    dead.mkdir()
    (dead / private.OWNER_FILE).write_text(json.dumps({"pid": os.getpid(), "ticks": 1, "run_id": "run-dead"}))
    with private.private_directory("run-alive") as alive:
        assert private.sweep() == []
        assert alive.exists()
    assert left.wait(60) == -15
    left.communicate()
    assert not dead.exists()


def test_sweep_leaves_alone_what_is_not_ours(shelf: Path) -> None:
    (shelf / "jb-theirs").mkdir()
    (shelf / "jb-link").symlink_to(shelf / "jb-theirs")
    assert private.sweep() == []
    assert (shelf / "jb-theirs").exists()


def test_the_hub_token_reaches_ansible_as_a_private_file_and_not_as_a_variable(tmp_path: Path) -> None:
    ours = {"HF_TOKEN": "hf_secret", "HUGGING_FACE_HUB_TOKEN": "hf_old", "AWS_SECRET_ACCESS_KEY": "key", "PATH": "/bin"}
    environment = child_environment(ours, request(), tmp_path, of_runner={**ours, "AWX_X": "1"})
    assert "hf_" not in json.dumps(environment)
    token_file = Path(environment["HF_TOKEN_PATH"])
    assert token_file.read_text() == "hf_secret"
    assert token_file.stat().st_mode & 0o777 == 0o600
    assert environment["AWS_SECRET_ACCESS_KEY"] == "key"
    assert environment["AWX_X"] == "1"


def test_without_a_token_a_users_own_token_file_stays(tmp_path: Path) -> None:
    ours = {"HF_TOKEN_PATH": "/home/ann/token"}
    assert child_environment(ours, request(), tmp_path, of_runner=ours)["HF_TOKEN_PATH"] == "/home/ann/token"


def test_ansible_finds_its_tools_its_configuration_and_checks_host_keys(tmp_path: Path) -> None:
    environment = child_environment(
        {"PATH": "/bin"}, request(), tmp_path, of_runner={"ANSIBLE_HOST_KEY_CHECKING": "False"}
    )
    assert environment["PATH"] == f"{Path(sys.executable).parent}:/bin"
    assert environment["ANSIBLE_CONFIG"] == "/content/ansible.cfg"
    assert environment["ANSIBLE_COLLECTIONS_PATH"].startswith("/content/.collections:")
    # ansible-runner says False by itself; only the user may.
    assert environment["ANSIBLE_HOST_KEY_CHECKING"] == "True"
    assert child_environment({"ANSIBLE_HOST_KEY_CHECKING": "False"}, request(), tmp_path,
                             of_runner={})["ANSIBLE_HOST_KEY_CHECKING"] == "False"


def test_a_drain_takes_what_is_written_and_keeps_nothing(tmp_path: Path) -> None:
    path = tmp_path / "command"
    drain = Drain(path)
    with path.open("w") as writer:  # more than a pipe holds: it would block unless somebody reads
        writer.write("secret " * 50_000)
    drain.close()
    assert path.is_fifo()


def test_the_recap_event_gives_each_hosts_counts() -> None:
    event = to_event(
        {"event": "playbook_on_stats", "event_data": {"ok": {"a": 2}, "failures": {"b": 1}, "dark": {"c": 1}}}
    )
    assert event.stats == {"a": {"ok": 2}, "b": {"failures": 1}, "c": {"dark": 1}}


def test_a_line_of_progress_becomes_an_event_of_its_host() -> None:
    event = to_event({"event": "verbose", "stdout": "node-1: syncing a/b: 1.0 GiB of 4.0 GiB (25 %)\n"})
    assert (event.kind, event.host, event.stdout) == ("progress", "node-1", "syncing a/b: 1.0 GiB of 4.0 GiB (25 %)")


@pytest.mark.parametrize("said", ["Using ansible.cfg", "syncing a/b", "node 1: syncing a/b", "a: syncing b\nc"])
def test_other_things_that_ansible_says_stay_what_they_are(said: str) -> None:
    assert to_event({"event": "verbose", "stdout": said}).kind == "verbose"


def test_an_event_of_an_unknown_kind_passes() -> None:
    assert to_event({"event": "something_new", "stdout": "x"}).kind == "something_new"
    assert to_event({}).kind == ""


@pytest.mark.parametrize("content", [
    {"pid": 1, "run_id": "r", "started": "yesterday"},
    {"pid": "1", "run_id": "r", "started": "2026-11-24T10:00:00+00:00"},
    {"pid": 1, "run_id": ["r"], "started": "2026-11-24T10:00:00+00:00"},
    {"pid": 1, "run_id": "r", "started": "2026-11-24T10:00:00"}])
def test_a_held_lock_that_does_not_say_who_holds_it_is_a_refusal_all_the_same(
        tmp_path: Path, content: dict[str, object]) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "h", "user": "u", "command": "c", **content}))
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Refusal, match="held by another run"), \
                lock.held(path, "prod", lock.new_holder("run-2", "x")):
            pass


def test_a_lock_that_is_a_link_is_refused_and_what_it_points_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(UsageProblem, match="it is a symbolic link"), \
            lock.held(tmp_path / "lock", "prod", lock.new_holder("run-1", "x")):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_lock_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(UsageProblem, match="it is no regular file"), \
            lock.held(tmp_path / "lock", "prod", lock.new_holder("run-1", "x")):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="C.UTF-8 is not everywhere else")
def test_ansible_runs_under_a_locale_that_exists_and_speaks_english(tmp_path: Path) -> None:
    assert child_environment({"LC_ALL": "C"}, request(), tmp_path, of_runner={"LC_ALL": "C"})["LC_ALL"] == "C.UTF-8"


def test_a_user_without_a_home_is_told_to_name_a_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME", state.ENV_VAR):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # a container's numeric user: no line in /etc/passwd
    with pytest.raises(UsageProblem, match="HOME is not set, and user 54321 has no home directory") as caught:
        state.state_dir("prod")
    assert caught.value.hint == "export HOME=DIR, a folder that is yours (Ansible needs one too)"
    assert tools.collection_paths()
