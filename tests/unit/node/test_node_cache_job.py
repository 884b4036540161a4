"""`cache start`, `follow` and `stop`: a sync that goes on without its starter, and is always told the truth about."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import judge_node
import pytest
from judge_node.bundle import build_pyz
from judge_node.cache.progress import progress_text
from judge_node.cli import main
from unit.node.fake_hub import COMMIT, REPO, FakeHub, Fault, manifest_of, serve

SOURCES = str(Path(judge_node.__file__).parents[1])
BIG = "tokenizer.json"
FILES = {"config.json": b'{"model_type": "qwen2"}', BIG: os.urandom(3 << 20)}
HANG = Fault(body="hang", at=1 << 20)
# /run is this machine's; a test has a folder of its own.
DRIVER = """
import sys
from pathlib import Path
from judge_node.cache import job
from judge_node.cli import main
job.RUNS = Path(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


class Node:
    """A store, a Hub, and the program as a process for each command."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self.hub, self.store, self.runs = hub, folder / "hub", folder / "run" / "sync"
        self.manifest = folder / "manifest.json"
        self.manifest.write_text(json.dumps(manifest_of(FILES)))
        self.program = str(Path(SOURCES))

    def command(self, verb: str, *more: str) -> list[str]:
        source = ["--endpoint", self.hub.url] if verb in ("start", "sync") else []
        return [sys.executable, "-c", DRIVER, str(self.runs), "cache", verb, str(self.manifest),
                "--store", str(self.store), *source, "--json", *more]  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": self.program}

    def __call__(self, verb: str, *more: str) -> tuple[int, dict[str, Any]]:
        """Run one command; return its exit code and answer."""
        done = subprocess.run(
            self.command(verb, *more), capture_output=True, text=True, timeout=300, env=self.environment()
        )
        assert done.stdout.count("\n") == 1, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, answer

    def start(self, *more: str) -> int:
        """Start a sync that goes on; return its process."""
        code, answer = self("start", "--wait", "0", *more)
        assert (code, answer["state"], answer["changed"]) == (0, "running", True), answer
        assert f"fetch {BIG}" in answer["diff"]["after"], "what a plan has listed"
        return int(answer["facts"]["pid"])

    def about(self) -> dict[str, Any]:
        [path] = self.runs.glob("*/job.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def pids(self) -> list[int]:
        return [json.loads(path.read_text())["pid"] for path in self.runs.glob("*/job.json")]


@pytest.fixture
def node(memory: Path) -> Iterator[Node]:
    """A node whose Hub stops in the middle of the big file until `node.hub.go_on` is set."""
    with serve(dict(FILES)) as hub:
        hub.faults[BIG] = [HANG]
        made = Node(memory, hub)
        yield made
        for pid in made.pids():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_sync_that_ends_in_time_answers_as_sync_does(node: Node) -> None:
    node.hub.faults.clear()
    code, answer = node("start", "--wait", "30")
    assert (code, answer["state"], answer["changed"], answer["command"]) == (0, "complete", True, "cache sync")
    assert answer["facts"]["fetched_bytes"] == sum(map(len, FILES.values()))
    assert f"publish snapshot {REPO} at {COMMIT[:12]}" in answer["diff"]["after"]


def test_a_complete_model_starts_no_process(node: Node) -> None:
    node.hub.faults.clear()
    assert node("sync")[0] == 0
    code, answer = node("start")
    assert (code, answer["state"], answer["changed"]) == (0, "complete", False)
    assert not node.runs.exists()


def test_check_mode_says_what_would_be_fetched_and_starts_no_process(node: Node) -> None:
    code, answer = node("start", "--check")
    assert (code, answer["state"], answer["changed"]) == (0, "absent", True)
    assert f"fetch {BIG} (3.0 MiB)" in answer["diff"]["after"]
    assert answer["message"] == f"would fetch 2 files, 3.0 MiB, from {node.hub.url}"
    assert not node.runs.exists()
    assert not node.store.exists()


def test_a_sync_that_goes_on_is_told_with_its_progress(node: Node) -> None:
    pid = node.start()

    def all_that_is_sent_is_here() -> bool:
        progress = node("follow", "--wait", "0")[1]["facts"]["progress"]
        return progress is not None and progress["bytes_done"] >= HANG.at

    wait_until(all_that_is_sent_is_here)
    code, answer = node("follow", "--wait", "0")
    assert (code, answer["ok"], answer["state"], answer["changed"]) == (0, True, "running", False)
    assert answer["facts"]["progress"]["bytes"] == sum(map(len, FILES.values()))
    assert f"is being synced (process {pid}): 1.0 MiB of 3.0 MiB (33 %)" in answer["message"]


def test_a_second_start_attaches_to_the_first(node: Node) -> None:
    assert node.start() == node.start()
    node.hub.go_on.set()
    code, answer = node("start", "--wait", "30")
    assert (code, answer["state"], answer["changed"]) == (0, "complete", True)
    assert len([asked for asked in node.hub.asked if asked.path == "config.json"]) == 1


def test_follow_gives_the_result_of_the_sync(node: Node) -> None:
    node.start()
    node.hub.go_on.set()
    code, answer = node("follow", "--wait", "30")
    assert (code, answer["state"], answer["changed"]) == (0, "complete", True)
    assert node("follow", "--wait", "0") == (code, answer)


def test_a_failure_keeps_its_reason_and_exit_code(node: Node) -> None:
    node.hub.faults[BIG] = [Fault(status=403)] * 9
    code, answer = node("start", "--wait", "30")
    assert (code, answer["ok"], answer["reason"]) == (1, False, "SOURCE_DENIED")


def test_a_start_after_a_failure_starts_anew(node: Node) -> None:
    node.hub.faults[BIG] = [Fault(status=403)] * 9
    node("start", "--wait", "30")
    node.hub.faults.clear()
    code, answer = node("start", "--wait", "30")
    assert (code, answer["state"]) == (0, "complete")


def test_a_killed_sync_is_told_as_lost_with_the_command_that_goes_on(node: Node) -> None:
    pid = node.start()
    os.kill(pid, signal.SIGKILL)
    code, answer = node("follow", "--wait", "30")
    assert (code, answer["ok"], answer["reason"]) == (1, False, "JOB_LOST")
    assert answer["message"].endswith(f"(process {pid}) ended without a result: something killed it")
    assert answer["repair"] == f"judge-node cache sync MANIFEST --store {node.store}"


def test_the_next_start_goes_on_where_a_killed_sync_was(node: Node) -> None:
    pid = node.start()
    wait_until(lambda: node.hub.sent_bytes(BIG) >= HANG.at)
    os.kill(pid, signal.SIGKILL)
    node.hub.go_on.set()
    code, answer = node("start", "--wait", "30")
    assert (code, answer["state"]) == (0, "complete")


def test_a_sync_that_was_never_started_is_lost_too(node: Node) -> None:
    code, answer = node("follow", "--wait", "30")
    assert (code, answer["reason"]) == (1, "JOB_LOST")
    assert answer["message"] == "no sync of this manifest was started on this node since it booted"


def test_a_recycled_pid_is_not_taken_for_the_sync(node: Node) -> None:
    os.kill(node.start(), signal.SIGKILL)
    [path] = node.runs.glob("*/job.json")
    with subprocess.Popen(["sleep", "60"]) as other:
        path.write_text(json.dumps({**node.about(), "pid": other.pid}))
        assert node("follow", "--wait", "0")[1]["reason"] == "JOB_LOST"
        assert node("stop")[1]["message"] == "no sync is running"
        assert other.poll() is None
        other.kill()


def test_stop_ends_the_sync_and_keeps_what_it_fetched(node: Node) -> None:
    pid = node.start()
    wait_until(lambda: node.hub.sent_bytes(BIG) >= HANG.at)
    code, answer = node("stop")
    assert (code, answer["ok"], answer["state"], answer["changed"]) == (0, True, "stopped", True)
    assert answer["message"] == f"stopped the sync of {REPO} at {COMMIT[:12]}; the next goes on from here"
    assert not alive(pid)
    code, answer = node("follow", "--wait", "0")
    assert (code, answer["reason"]) == (130, "INTERRUPTED")


def test_stop_without_a_manifest_ends_every_sync_of_the_store(node: Node) -> None:
    pid = node.start()
    command = [word for word in node.command("stop") if word != str(node.manifest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=node.environment())
    assert json.loads(done.stdout)["facts"]["stopped"][0]["pid"] == pid
    assert not alive(pid)


def test_stop_is_content_when_nothing_runs(node: Node) -> None:
    code, answer = node("stop")
    assert (code, answer["ok"], answer["changed"], answer["message"]) == (0, True, False, "no sync is running")


def test_a_sync_that_does_not_listen_is_killed(node: Node) -> None:
    pid = node.start()
    os.kill(pid, signal.SIGSTOP)
    code, answer = node("stop")
    assert (code, answer["changed"]) == (0, True)
    assert not alive(pid)


def test_the_sync_goes_on_when_its_starter_is_killed_with_its_group(node: Node) -> None:
    starter = subprocess.Popen(
        node.command("start", "--wait", "60"), stdout=subprocess.DEVNULL, start_new_session=True, env=node.environment()
    )
    wait_until(lambda: bool(node.pids()) and node.hub.sent_bytes(BIG) >= HANG.at)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    node.hub.go_on.set()
    code, answer = node("follow", "--wait", "30")
    assert (code, answer["state"]) == (0, "complete")


def test_the_sync_is_a_session_of_its_own_without_terminal_or_pipe(node: Node) -> None:
    pid = node.start()
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/comm").read_text() == "judge-node\n"
    ends = [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (0, 1, 2)]
    assert ends[:2] == ["/dev/null", "/dev/null"]
    assert ends[2] == str(next(node.runs.glob("*/log")))


def test_the_program_may_be_replaced_while_the_sync_runs(node: Node, tmp_path: Path) -> None:
    pyz = tmp_path / "judge-node.pyz"
    pyz.write_bytes(build_pyz())
    node.program = str(pyz)
    node.start()
    pyz.write_bytes(b"another version, with other places for everything")
    node.hub.go_on.set()
    node.program = SOURCES
    code, answer = node("follow", "--wait", "30")
    assert (code, answer["state"]) == (0, "complete")


def test_the_job_folder_is_only_for_root_and_holds_no_token(node: Node, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hf_secretSecretSecret")
    node.start("--token-file", str(token))
    [folder] = node.runs.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    wait_until(lambda: (folder / "progress.json").exists())
    assert b"hf_secret" not in b"".join(path.read_bytes() for path in folder.iterdir())


def test_two_starts_at_once_are_one_sync(node: Node) -> None:
    both = [
        subprocess.Popen(node.command("start", "--wait", "0"), stdout=subprocess.PIPE, env=node.environment())
        for _ in range(2)
    ]
    pids = {json.loads(process.communicate(timeout=300)[0])["facts"]["pid"] for process in both}
    assert len(pids) == 1


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the timers were asked to be; they always differ."""
    asked: list[tuple[Any, ...]] = []

    def ensure(root: Path, quick: str | None, deep: str | None, *, check: bool) -> list[str]:
        asked.append((quick, deep, check))
        return ["write judge-node-verify-quick.timer"]

    monkeypatch.setattr("judge_node.cache.schedule.ensure_schedule", ensure)
    return asked


def in_this_process(
    node: Node, capsys: pytest.CaptureFixture[str], verb: str, *more: str
) -> dict[str, Any]:
    node.hub.faults.clear()
    main(node.command(verb, *more)[4:])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_timers_that_differ_are_a_change_of_a_complete_model(
    node: Node, timers: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(node, capsys, "sync")
    answer = in_this_process(node, capsys, "start", "--verify-quick-every", "6h", "--verify-deep-every", "")
    assert timers == [("6h", None, False)]
    assert (answer["changed"], answer["diff"]["after"]) == (True, "write judge-node-verify-quick.timer\n")
    assert answer["message"] == f"{REPO} at {COMMIT[:12]} is complete; write judge-node-verify-quick.timer"


def test_check_mode_lists_the_timers_after_the_files(
    node: Node, timers: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = in_this_process(node, capsys, "start", "--verify-quick-every", "6h", "--check")
    assert timers == [("6h", None, True)]
    assert answer["diff"]["after"].splitlines()[-1] == "write judge-node-verify-quick.timer"


def test_without_a_word_on_timers_they_are_left_alone(
    node: Node, timers: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(node, capsys, "sync")
    assert timers == []


def test_a_span_that_no_timer_can_have_is_refused_before_the_first_byte(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = in_this_process(node, capsys, "start", "--verify-quick-every", "7min")
    assert answer["ok"] is False
    assert answer["message"].startswith("argument --verify-quick-every: ")
    assert not node.store.exists()


@pytest.mark.parametrize(("found", "wanted"), [
    (None, "not fetching yet"),
    ({"bytes_done": 0, "bytes": 0, "bytes_per_second": 0, "limited_by": None, "eta_seconds": None},
     "0 B of 0 B, 0 B/s"),
    ({"bytes_done": 1 << 30, "bytes": 4 << 30, "bytes_per_second": 100 << 20, "limited_by": "network",
      "eta_seconds": 30.7}, "1.0 GiB of 4.0 GiB (25 %), 100.0 MiB/s, limited by the network, 31 s left"),
    ({"bytes_done": 1, "bytes": 3, "bytes_per_second": 1, "limited_by": "hash", "eta_seconds": 600},
     "1 B of 3 B (33 %), 1 B/s, limited by hashing, 10 min left"),
])  # fmt: skip
def test_progress_is_one_line(found: dict[str, Any] | None, wanted: str) -> None:
    assert progress_text(found) == wanted
