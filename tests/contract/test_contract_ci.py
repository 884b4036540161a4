"""In CI nothing may skip, but for the tests that want a Terraform which is not there, and these say so.

And what fails there is tried once more, which nobody can overlook.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
_FORBIDDEN = "would skip, which CI does not allow"
_MISSING = "terraform_missing.TerraformMissing: not on PATH"
_SKIPS = "import pytest\ndef test_it(): pytest.skip('no scissors')\n"
_MISSES_TERRAFORM = ("from terraform_missing import TerraformMissing\n"
                     "def test_it(): raise TerraformMissing('not on PATH')\n")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of its own that is under the rules of this one."""
    for name in ("conftest.py", "terraform_missing.py"):
        shutil.copy(TESTS / name, tmp_path / name)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\naddopts = --import-mode=importlib -ra\n")
    return tmp_path


def _run(suite: Path, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words], cwd=suite,
                          env=kept | {"CI": "true"} | environ, text=True, capture_output=True, timeout=600, check=False)


@pytest.mark.parametrize(("file", "text", "code", "said"), [
    ("unit/test_a.py", _SKIPS, 1, f"{_FORBIDDEN}: Skipped: no scissors"),
    ("terraform/test_a.py", _SKIPS, 1, f"{_FORBIDDEN}: Skipped: no scissors"),
    ("unit/test_a.py", _MISSES_TERRAFORM, 1, f"{_FORBIDDEN}: {_MISSING}"),
    ("terraform/test_a.py", _MISSES_TERRAFORM, 0, f"SKIPPED [1] terraform/test_a.py:2: {_MISSING}"),
])
def test_in_ci_only_terraforms_tests_may_skip_and_only_for_want_of_it(
        suite: Path, file: str, text: str, code: int, said: str) -> None:
    (suite / file).parent.mkdir()
    (suite / file).write_text(text)
    answer = _run(suite)
    assert (answer.returncode, said in answer.stdout) == (code, True), answer.stdout


def test_outside_ci_a_skip_stays_a_skip(suite: Path) -> None:
    (suite / "test_a.py").write_text(_SKIPS)
    answer = _run(suite, CI="")
    assert (answer.returncode, "SKIPPED [1]" in answer.stdout) == (0, True), answer.stdout


def test_where_there_is_no_terraform_its_tests_say_so_and_pass_in_ci(tmp_path: Path) -> None:
    answer = _run(TESTS.parent, TESTS / "terraform" / "test_terraform_static.py", PATH=str(tmp_path))
    assert (answer.returncode, "neither terraform nor tofu is on PATH" in answer.stdout) == (0, True), answer.stdout
    assert " passed" not in answer.stdout


@pytest.mark.parametrize(("needs", "environ", "code", "said"), [
    (2, "true", 0, "RERUN test_a.py::test_it"),
    (3, "true", 1, "FAILED test_a.py::test_it"),
    (2, "", 1, "FAILED test_a.py::test_it"),
])
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_in_ci_a_test_gets_a_second_try_and_what_the_first_met_is_printed(
        suite: Path, needs: int, environ: str, code: int, said: str, workers: tuple[str, ...]) -> None:
    tries = suite / "tries"
    (suite / "test_a.py").write_text(
        f"def test_it():\n    with open({str(tries)!r}, 'a') as file: file.write('x')\n"
        f"    assert len(open({str(tries)!r}).read()) >= {needs}, 'the machine was slow'\n")
    answer = _run(suite, *workers, CI=environ)
    assert (answer.returncode, said in answer.stdout) == (code, True), answer.stdout
    assert "the machine was slow" in answer.stdout
    assert ("FAILED AT FIRST, AND" in answer.stdout) == bool(environ)
