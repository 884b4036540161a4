"""`judge-node cache schedule`: systemd timers that verify the store, quickly and often, deeply and rarely.

With jitter, and at a time of its own for each node: a fleet would otherwise read all its disks in the same minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..disks.unit import INSTALL_PATH
from ..files import write_file
from ..result import NodeError, Result
from ..shell import checked, run
from ..systemd import SYSTEMD_RUNS, UNIT_FOLDER, exec_start, install, is_installed, unit_text
from .times import DEEP_EVERY, DEEP_LIMIT_RATE, QUICK_EVERY, calendar

QUICK, DEEP = "quick", "deep"
_MOST_JITTER_SECONDS = 86_400
_SERVICE = """\
# Written by `judge-node cache schedule`, which also rewrites it.
[Unit]
Description=Verify the model store: {what}
After=judge-node-disks.service

[Service]
Type=oneshot
ExecStart={command}
TimeoutStartSec={timeout}
# What serves and what fetches comes first.
Nice=19
IOSchedulingClass=idle
"""
_TIMER = """\
# Written by `judge-node cache schedule`, which also rewrites it.
[Unit]
Description=When to verify the model store: {what}

[Timer]
OnCalendar={when}
# Each node has a moment of its own, always the same.
RandomizedDelaySec={jitter}
FixedRandomDelay=true
# One that was missed while the node was off is made up for.
Persistent=true

[Install]
WantedBy=timers.target
"""
_WHAT = {QUICK: "links, sizes and headers", DEEP: "every byte"}


@dataclass(frozen=True)
class Units:
    """Where a node keeps its units and the program, and how systemd is told."""

    folder: Path = UNIT_FOLDER
    runs: Path = SYSTEMD_RUNS
    program: Path = Path(INSTALL_PATH)

    def systemd(self) -> bool:
        """Return whether systemd runs here."""
        return self.runs.is_dir()

    def is_active(self, name: str) -> bool:
        """Return whether the timer waits for its time, now and after the next boot."""
        enabled = (self.folder / "timers.target.wants" / name).is_symlink()
        return enabled and run(["systemctl", "is-active", "--quiet", name]).returncode == 0


def unit_texts(program: Path, root: Path, kind: str, every: str, limit_rate: int) -> dict[str, str]:
    """Return {name: text} of the service and the timer. Raises ValueError for a span that no timer can have."""
    when, seconds = calendar(every)
    arguments = ["cache", "verify", "--store", str(root), f"--{kind}"]
    if kind == DEEP and limit_rate:
        arguments += ["--limit-rate", str(limit_rate)]
    timeout = "infinity" if kind == DEEP else "10min"
    return {
        _name(kind, "service"): _SERVICE.format(
            what=_WHAT[kind], command=exec_start([str(program), *arguments]), timeout=timeout
        ),
        _name(kind, "timer"): _TIMER.format(
            what=_WHAT[kind], when=when, jitter=min(seconds // 3, _MOST_JITTER_SECONDS)
        ),
    }


def ensure_schedule(
    root: Path,
    quick: str | None = QUICK_EVERY,
    deep: str | None = DEEP_EVERY,
    limit_rate: int = DEEP_LIMIT_RATE,
    *,
    check: bool = False,
    units: Units | None = None,
) -> list[str]:
    """Have the two timers as wanted; None for a span means that there is no such timer. Returns what was changed.

    Nothing is done, and nothing returned, where systemd does not run. Raises NodeError for a wrong span, or when
    systemctl fails.
    """
    units = units or Units()
    wanted: dict[str, str] = {}
    for kind, every in ((QUICK, quick), (DEEP, deep)):
        try:
            wanted.update(unit_texts(units.program, root, kind, every, limit_rate) if every else {})
        except ValueError as error:
            raise NodeError(f"--{kind}-every: {error}", repair=f"--{kind}-every 1d") from None
    if not units.systemd():
        return []
    steps = _steps(wanted, units)
    if not check:
        for _, step in steps:
            step()
    return [text for text, _ in steps]


def _steps(wanted: dict[str, str], units: Units) -> list[tuple[str, Callable[[], object]]]:
    """Return what is to be done, in order, each in words and as what does it."""
    steps: list[tuple[str, Callable[[], object]]] = []
    stale = [name for name in _all_names() if name not in wanted and unit_text(units.folder / name) is not None]
    changed = [name for name, text in wanted.items() if unit_text(units.folder / name) != text]
    if wanted and not is_installed(units.program):
        steps.append((f"install {units.program}", partial(install, units.program)))
    steps += [(f"remove {name}", partial(_remove, units.folder / name)) for name in stale]
    steps += [(f"write {name}", partial(write_file, units.folder / name, wanted[name].encode())) for name in changed]
    if stale or changed:
        steps.append(("systemctl daemon-reload", partial(_systemctl, "daemon-reload")))
    for name in wanted:
        if name.endswith(".timer") and (name in changed or not units.is_active(name)):
            steps.append((f"start {name}", partial(_start, name)))
    return steps


def _start(name: str) -> None:
    _systemctl("enable", name)
    _systemctl("restart", name)  # a timer that runs keeps its old times


def _remove(path: Path) -> None:
    if path.suffix == ".timer":
        _systemctl("disable", "--now", path.name)
    path.unlink(missing_ok=True)


def _systemctl(*arguments: str) -> None:
    checked(["systemctl", *arguments], reason="UNIT_FAILED")


def _all_names() -> list[str]:
    return [_name(kind, suffix) for kind in (QUICK, DEEP) for suffix in ("timer", "service")]


def _name(kind: str, suffix: str) -> str:
    return f"judge-node-verify-{kind}.{suffix}"


def schedule(
    root: Path,
    *,
    quick: str | None = QUICK_EVERY,
    deep: str | None = DEEP_EVERY,
    limit_rate: int = DEEP_LIMIT_RATE,
    check: bool = False,
    units: Units | None = None,
) -> Result:
    """Have the timers as wanted, and say so."""
    units = units or Units()
    lines = ensure_schedule(root, quick, deep, limit_rate, check=check, units=units)
    wanted = [f"{kind} every {every}" for kind, every in ((QUICK, quick), (DEEP, deep)) if every]
    result = Result(
        command="cache schedule",
        changed=bool(lines),
        state="on" if wanted else "off",
        message=f"{root} is verified: {', '.join(wanted)}" if wanted else "no timer verifies the store",
        after="".join(f"{line}\n" for line in lines),
        facts={"store": str(root), "quick_every": quick, "deep_every": deep, "limit_rate": limit_rate, "systemd": True},
    )
    if not units.systemd():
        result.state, result.facts["systemd"] = "off", False
        result.message = "systemd does not run here, so no timer verifies the store; judge-node cache verify does"
    elif check and lines:
        result.message = f"would {', then '.join(lines)}"
    return result
