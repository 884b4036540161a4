"""`cache schedule`: the timers' text held against systemd's own tools, and what a run changes."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from judge_node.cache.schedule import Units, ensure_schedule, schedule, unit_texts
from judge_node.cache.times import calendar
from judge_node.cli import build_parser
from judge_node.result import NodeError

ROOT = Path("/mnt/nvme/hub")
# Stands in for systemctl: writes down what it was told, keeps the links, and answers is-active by them.
_SYSTEMCTL = """\
#!/bin/sh
[ "$1" = is-active ] || echo "$*" >>LOG
case "$1" in
is-active) [ -e "RUNNING/$3" ] ;;
daemon-reload) ;;
enable) mkdir -p UNITS/timers.target.wants; ln -sf "../$2" "UNITS/timers.target.wants/$2" ;;
restart) [ -e UNITS/"$2" ] && touch "RUNNING/$2" ;;
disable) rm -f "UNITS/timers.target.wants/$3" "RUNNING/$3" ;;
*) echo "not expected: $*" >&2; exit 1 ;;
esac
"""


class Node:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log, self.running, units = folder / "log", folder / "running", folder / "units"
        for path in (self.running, units, folder / "bin"):
            path.mkdir(parents=True)
        tool = folder / "bin/systemctl"
        text = _SYSTEMCTL.replace("LOG", str(self.log)).replace("UNITS", str(units))
        tool.write_text(text.replace("RUNNING", str(self.running)))
        tool.chmod(0o755)
        monkeypatch.setattr("judge_node.shell._PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
        self.units = Units(folder=units, runs=units, program=folder / "lib/judge-node.pyz")

    def told(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def files(self) -> list[str]:
        return sorted(path.name for path in self.units.folder.iterdir() if path.is_file())


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


ALL = [f"judge-node-verify-{kind}.{suffix}" for kind in ("deep", "quick") for suffix in ("service", "timer")]
STARTED = [f"{verb} judge-node-verify-{kind}.timer" for kind in ("quick", "deep") for verb in ("enable", "restart")]


def test_first_run_installs_writes_and_starts(node: Node) -> None:
    lines = ensure_schedule(ROOT, units=node.units)
    assert lines[0] == f"install {node.units.program}" and lines[-1] == "start judge-node-verify-deep.timer"
    assert node.files() == ALL and node.told() == ["daemon-reload", *STARTED]
    assert os.access(node.units.program, os.X_OK)


def test_second_run_changes_nothing(node: Node) -> None:
    ensure_schedule(ROOT, units=node.units)
    node.told()
    assert ensure_schedule(ROOT, units=node.units) == [] and node.told() == []


def test_check_says_what_would_be_done_and_does_nothing(node: Node) -> None:
    result = schedule(ROOT, check=True, units=node.units)
    assert result.changed and result.message.startswith(f"would install {node.units.program}, then write judge-node")
    assert node.files() == [] and node.told() == [] and not node.units.program.exists()
    assert ensure_schedule(ROOT, units=node.units) == result.after.splitlines()


def test_another_span_is_written_and_taken_up(node: Node) -> None:
    ensure_schedule(ROOT, units=node.units)
    node.told()
    assert ensure_schedule(ROOT, "6h", units=node.units) == [
        "write judge-node-verify-quick.timer", "systemctl daemon-reload", "start judge-node-verify-quick.timer"
    ]  # fmt: skip
    assert node.told() == ["daemon-reload", *STARTED[:2]]
    assert "OnCalendar=*-*-* 0/6:00\n" in (node.units.folder / "judge-node-verify-quick.timer").read_text()


def test_timer_that_was_stopped_or_disabled_is_started_again(node: Node) -> None:
    ensure_schedule(ROOT, units=node.units)
    (node.running / "judge-node-verify-quick.timer").unlink()
    assert ensure_schedule(ROOT, units=node.units) == ["start judge-node-verify-quick.timer"]
    (node.units.folder / "timers.target.wants/judge-node-verify-deep.timer").unlink()
    assert ensure_schedule(ROOT, units=node.units) == ["start judge-node-verify-deep.timer"]


def test_off_removes_all_and_a_second_time_nothing(node: Node) -> None:
    ensure_schedule(ROOT, units=node.units)
    node.told()
    result = schedule(ROOT, quick=None, deep=None, units=node.units)
    assert (result.changed, result.state, result.message) == (True, "off", "no timer verifies the store")
    assert node.files() == [] and list((node.units.folder / "timers.target.wants").iterdir()) == []
    assert node.told() == [
        "disable --now judge-node-verify-quick.timer", "disable --now judge-node-verify-deep.timer", "daemon-reload"
    ]  # fmt: skip
    assert not schedule(ROOT, quick=None, deep=None, units=node.units).changed


def test_one_of_the_two_can_be_left_out(node: Node) -> None:
    ensure_schedule(ROOT, units=node.units)
    ensure_schedule(ROOT, deep=None, units=node.units)
    assert node.files() == [name for name in ALL if "quick" in name]


def test_where_systemd_does_not_run_it_says_so_and_is_no_failure(node: Node, tmp_path: Path) -> None:
    units = Units(folder=node.units.folder, runs=tmp_path / "nothing", program=node.units.program)
    result = schedule(ROOT, units=units)
    assert (result.ok, result.changed, result.facts["systemd"]) == (True, False, False)
    assert result.message.startswith("systemd does not run here, so no timer verifies the store")
    assert node.files() == [] and not node.units.program.exists()


def test_systemctl_that_fails_is_a_failure_and_the_next_run_goes_on(node: Node) -> None:
    tool = Path(shutil.which("systemctl", path=str(node.log.parent / "bin")) or "")
    text = tool.read_text()
    tool.write_text(text.replace("daemon-reload) ;;", "daemon-reload) echo 'Failed: masked' >&2; exit 1 ;;"))
    with pytest.raises(NodeError) as caught:
        ensure_schedule(ROOT, units=node.units)
    assert caught.value.reason == "UNIT_FAILED" and "Failed: masked" in caught.value.message
    tool.write_text(text)
    node.told()
    assert ensure_schedule(ROOT, units=node.units)[-1] == "start judge-node-verify-deep.timer"
    assert node.told()[-4:] == STARTED


def test_unit_runs_what_the_parser_takes() -> None:
    texts = unit_texts(Path("/usr/lib/judge-node.pyz"), ROOT, "deep", "7d", 200 << 20)
    start = next(line for line in texts["judge-node-verify-deep.service"].splitlines() if line.startswith("ExecStart="))
    program, *arguments = start[len("ExecStart=") :].split(" ")
    said = build_parser().parse_args(arguments)
    assert program == "/usr/lib/judge-node.pyz"
    assert (said.verb, said.store, said.deep, said.manifest, said.limit_rate) == (
        "verify", str(ROOT), True, None, 200 << 20
    )  # fmt: skip
    quick = unit_texts(Path("/x"), ROOT, "quick", "15min", 200 << 20)["judge-node-verify-quick.service"]
    assert "ExecStart=/x cache verify --store /mnt/nvme/hub --quick\n" in quick


def test_store_with_odd_signs_in_its_path_is_quoted_for_systemd() -> None:
    texts = unit_texts(Path("/x"), Path("/mnt/50% $HOME"), "quick", "15min", 0)
    assert "--store '/mnt/50%% $$HOME' --quick" in texts["judge-node-verify-quick.service"]


@pytest.mark.parametrize("kind", ["quick", "deep"])
def test_what_serves_comes_first_and_a_fleet_does_not_read_in_the_same_minute(kind: str) -> None:
    texts = unit_texts(Path("/x"), ROOT, kind, "1d", 0)
    service, timer = (texts[f"judge-node-verify-{kind}.{suffix}"].splitlines() for suffix in ("service", "timer"))
    assert {"Nice=19", "IOSchedulingClass=idle", "Type=oneshot"} <= set(service)
    assert {"RandomizedDelaySec=28800", "FixedRandomDelay=true", "Persistent=true"} <= set(timer)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = tmp_path / "judge-node.pyz"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for kind, every in (("quick", "15min"), ("deep", "7d")):
        for name, text in unit_texts(program, ROOT, kind, every, 200 << 20).items():
            (tmp_path / name).write_text(text)
    units = sorted(tmp_path.glob("judge-node-verify-*"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "judge-node" in line]
    assert complaints == [], done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(
    ("every", "wanted"),
    [("1min", 60), ("15min", 900), ("1h", 3600), ("6h", 21_600), ("1d", 86_400), ("2d", 172_800), ("7d", 604_800)],
)
def test_systemd_reads_the_calendar_as_the_span(every: str, wanted: int) -> None:
    when, seconds = calendar(every)
    assert seconds == wanted
    argv = ["systemd-analyze", "calendar", "--iterations=4", "--base-time=2026-03-03 01:01", when]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    times = [
        datetime.strptime(line.split(": ", 1)[1].strip(), "%a %Y-%m-%d %H:%M:%S %Z")
        for line in done.stdout.splitlines()
        if line.strip().startswith(("Next elapse:", "Iter. #"))
    ]
    assert len(times) == 4
    assert {(b - a).total_seconds() for a, b in zip(times, times[1:], strict=False)} == {seconds}


@pytest.mark.parametrize("every", ["", "15", "0min", "7min", "60min", "5h", "24h", "16d", "1w", "-1d", "1.5h"])
def test_span_that_no_calendar_can_have_is_refused(every: str) -> None:
    with pytest.raises(ValueError, match="is no span such as 15min, 6h, 1d or 7d"):
        calendar(every)
    if every:
        with pytest.raises(NodeError, match="--quick-every: "):
            ensure_schedule(ROOT, every, units=Units(runs=Path("/nothing")))
