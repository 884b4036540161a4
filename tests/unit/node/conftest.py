"""A folder in memory, and loop devices for the tests that need root.

Each of those starts without a note of a run, and leaves this machine's alone: the note has one place on a machine,
whoever runs, and without it a disk that a test left half-made is somebody's data. So one of these tests runs at a time,
whichever process of pytest has it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judge_node.disks.record import RECORD, RESULT
from unit.node.loop_disks import Disk

_CLONE_NEWNS = 0x00020000


@pytest.hookimpl(tryfirst=True)  # before pytest picks by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "own_mounts" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.root)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder of the test's own on another filesystem than /, as the guard of a store demands."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == Path("/").stat().st_dev:
        pytest.skip("needs /dev/shm on a filesystem of its own")
    with tempfile.TemporaryDirectory(prefix="judge-node-", dir=shm) as folder:
        yield Path(folder)


@pytest.fixture
def alone() -> Iterator[None]:
    """Wait until no other process has a test that writes the note."""
    with (Path(tempfile.gettempdir()) / f"judge-node-disks-{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def no_record(alone: None) -> Iterator[None]:
    """Start without the note and the result of a run, and leave those of this machine as they were."""
    kept = {path: path.read_bytes() if path.exists() else None for path in (RECORD, RESULT)}
    for path in kept:
        path.unlink(missing_ok=True)
    yield
    for path, data in kept.items():
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(data)


@pytest.fixture(scope="session")
def own_mounts() -> None:
    """Go on in a mount namespace that no other starts from.

    What starts beside a test (a node of the lab, a test of another process) takes a copy of all mounts with it, and
    would hold the test's disk long after the test has unmounted it.
    """
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices: run as root on a machine with /dev/loop-control")
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:  # os.unshare is of Python 3.12
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    subprocess.run(["mount", "--make-rslave", "/"], check=True)


@pytest.fixture
def make_disk(tmp_path: Path, own_mounts: None, no_record: None) -> Iterator[Callable[[], Disk]]:
    disks: list[Disk] = []

    def make() -> Disk:
        disks.append(Disk(tmp_path, len(disks) + 1))
        return disks[-1]

    yield make
    for disk in disks:
        disk.clean()


@pytest.fixture
def disk(make_disk: Callable[[], Disk]) -> Disk:
    return make_disk()
