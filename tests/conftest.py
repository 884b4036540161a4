"""What every suite shares: in CI a test that would skip fails, so that no missing part goes unnoticed."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest

# A shell that starts a job in the background makes it ignore SIGINT, and every child inherits that: the drills that
# press Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} would skip, which CI does not allow: {reason}"
    return report


@pytest.fixture(autouse=True)
def environment_is_given_back() -> Iterator[None]:
    """Undo what a test, or a command that it ran in this process, did to the environment."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
