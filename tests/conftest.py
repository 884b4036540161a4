"""What every suite shares, and what only CI does.

In CI a test that would skip fails, so that no missing part goes unnoticed. The one exception is Terraform
(terraform_missing.py): tests/terraform may skip for want of it, and `make test` says so.

In CI a test that fails is tried once more: machines, clusters and servers are real there, and share two processors.
What the first try met is printed at the end and is a bug of the test or of the product, to be mended like any other.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from terraform_missing import TerraformMissing

# A shell that starts a job in the background makes it ignore SIGINT, and every child inherits that: the drills that
# press Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# An example that a busy machine holds up for 200 ms says nothing of the code. (In CI, hypothesis does so by itself.)
settings.register_profile("any-machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

_TERRAFORM_TESTS = Path(__file__).parent / "terraform"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CI"):
        for item in items:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    first_tries = terminalreporter.getreports("rerun")
    if first_tries:
        terminalreporter.section("FAILED AT FIRST, AND TRIED ONCE MORE")
    for report in first_tries:
        terminalreporter.write_line(f"RERUN {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
        item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        missing = call.excinfo is not None and isinstance(call.excinfo.value, TerraformMissing)
        if missing and item.path.is_relative_to(_TERRAFORM_TESTS):
            return report
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
