"""The search for planted secrets of `make faults-secrets` finds one, and looks at every verb of the CLI."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from secret_drill import Watch, canaries, scenarios, verbs


@pytest.fixture
def watch() -> Watch:
    return Watch(canaries(), set())


def test_every_verb_of_the_cli_has_a_scenario() -> None:
    assert verbs() - {scenario.verb for scenario in scenarios("typed")} == set()


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_the_search_finds_a_secret_in_base64_at_any_alignment(watch: Watch, shift: int) -> None:
    secret = watch.secrets["HF_TOKEN"].encode()
    watch.look("x", "stdout", b"data: " + base64.b64encode(b"user:"[:shift] + secret + b" and more"))
    assert {finding.canary for finding in watch.findings} == {"HF_TOKEN"}


def test_the_search_finds_a_secret_that_is_quoted_for_a_url(watch: Watch) -> None:
    watch.look("x", "stdout", quote(watch.secrets["AWS_SECRET_ACCESS_KEY"], safe="").encode())
    assert {finding.canary for finding in watch.findings} == {"AWS_SECRET_ACCESS_KEY"}


def test_the_search_finds_a_secret_in_an_argument_and_in_a_file(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "left").write_text(f"x{watch.secrets['KUBE_TOKEN']}x")
    watch.look_at_files("x", tmp_path)
    command = [sys.executable, "-c", "input()", watch.secrets["TYPED_TOKEN"]]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        # Popen returns when the kernel closes its pipe, a moment before the new program's arguments can be read.
        while not Path(f"/proc/{other.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        watch.look_at_processes("x", cli_pid=0)
        other.communicate(b"\n")
    assert {finding.canary for finding in watch.findings} == {"KUBE_TOKEN", "TYPED_TOKEN"}
