"""The first-boot script of `disks user-data`, run by a real shell, with a program that says how it was called."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import judge_node
import pytest
from judge_node.bundle import build_pyz
from judge_node.cli import main
from judge_node.disks.facts import Wanted
from judge_node.disks.unit import BOOT_UNIT, INSTALL_PATH, boot_arguments
from judge_node.disks.user_data import MOST_BYTES, first_boot, user_data
from judge_node.result import NodeError

WANTED = Wanted(mount_path="/mnt/nvme", owner="judge", gates=("kubelet.service",), wait_seconds=300)
URL = "https://mirror.example/judge-node.pyz"
PROGRAM = b'#!/bin/sh\necho "started with $*"\n'
SHA256 = hashlib.sha256(PROGRAM).hexdigest()
FOLDER = INSTALL_PATH.rpartition("/")[0]
# What the script calls. Nothing else is on its PATH, so that neither an aws CLI nor systemd of this machine is.
TOOLS = ("cat", "chmod", "cut", "mkdir", "mktemp", "mv", "rm", "sh", "sha256sum", "sync", "timeout", "wc")


@dataclass
class Node:
    """A root disk: the script's folder, systemd's, and the programs on PATH."""

    root: Path
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in ("bin", "lib", "system"):
            (self.root / folder).mkdir()
        for name in TOOLS:
            (self.root / "bin" / name).symlink_to(shutil.which(name) or name)
        self.puts("python3", f'exec {sys.executable} "$@"')
        self.puts("sleep", "")
        # As systemd does: the unit starts what it names, and what that prints goes to the journal.
        self.puts("systemctl", f'echo "systemctl $*" >>{self.root}/systemctl\n'
                               f'case $1 in start) exec {self.program.parent}/first-boot.sh ;; esac')

    @property
    def program(self) -> Path:
        return self.root / "lib" / Path(INSTALL_PATH).name

    def puts(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        # A link to a program of this machine: written through, it would be that program which is replaced.
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def boots(self, script: str, before: str = "") -> subprocess.CompletedProcess[str]:
        text = script.replace(FOLDER, str(self.program.parent)).replace("/etc/systemd/system", f"{self.root}/system")
        path = self.root / "part-001"
        path.write_text(before + text)
        return subprocess.run(["/bin/sh", path], env={"PATH": f"{self.root}/bin"}, text=True, capture_output=True,
                              check=False, timeout=300)

    def has(self) -> list[str]:
        return sorted(path.name for path in self.program.parent.iterdir())

    def systemctl(self) -> list[str]:
        return [line.removeprefix("systemctl ") for line in (self.root / "systemctl").read_text().splitlines()]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


class Source:
    """A server that has the program, after the answers that are listed first."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                how = outer.first.pop(0) if outer.first else "whole"
                body = b"another program" if how == "other" else PROGRAM
                self.send_response(503 if how == "busy" else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:-4] if how == "cut" else body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/judge-node.pyz"


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_first_boot_fetches_the_program_and_runs_it_as_the_boot_unit_will(node: Node, source: Source) -> None:
    done = node.boots(first_boot(WANTED, source.url, SHA256))
    assert done.returncode == 0, done.stderr
    assert f"started with {' '.join(boot_arguments(WANTED, 'judge'))}\n" in done.stdout
    assert f"<6>judge-node came from {source.url}\n" in done.stdout
    assert node.has() == ["first-boot.sh", "judge-node.pyz"]


def test_first_boot_enables_its_unit_before_it_starts_it(node: Node, source: Source) -> None:
    node.boots(first_boot(WANTED, source.url, SHA256))
    assert node.systemctl() == ["daemon-reload", f"reenable {BOOT_UNIT}", f"start {BOOT_UNIT}"]
    unit = (node.root / "system" / BOOT_UNIT).read_text().splitlines()
    assert "RequiredBy=kubelet.service" in unit and "Before=kubelet.service containerd.service" in unit


def test_first_boot_does_not_wait_for_nodeadm_which_waits_for_cloud_init() -> None:
    last = {owner: first_boot(replace(WANTED, owner=owner), URL, SHA256).splitlines()[-1]
            for owner in ("judge", "nodeadm", "auto")}
    assert last == {"judge": f"systemctl start {BOOT_UNIT}", "nodeadm": f"systemctl start --no-block {BOOT_UNIT}",
                    "auto": f"systemctl start {BOOT_UNIT}"}


def test_first_boot_again_changes_nothing_and_needs_no_network(node: Node, source: Source) -> None:
    script = first_boot(WANTED, source.url, SHA256)
    node.boots(script)
    before = {path: path.read_bytes() for path in node.root.rglob("*") if path.is_file()}
    source.first = ["busy"] * 100
    done = node.boots(script)
    assert (done.returncode, source.requests) == (0, 1), done.stdout
    after = {path: path.read_bytes() for path in node.root.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} == {node.root / "systemctl"}


@pytest.mark.parametrize("fault", ["busy", "cut", "other"])
def test_first_boot_tries_again_after_a_fault_of_the_source(node: Node, source: Source, fault: str) -> None:
    source.first = [fault, fault]
    done = node.boots(first_boot(WANTED, source.url, SHA256))
    assert (done.returncode, source.requests) == (0, 3), done.stderr
    assert done.stdout.count(f"<4>judge-node did not come from {source.url}") == 2
    assert node.program.read_bytes() == PROGRAM


def test_first_boot_never_runs_what_has_another_hash(node: Node, source: Source) -> None:
    source.first = ["other"] * 100
    done = node.boots(first_boot(WANTED, source.url, SHA256))
    found = hashlib.sha256(b"another program").hexdigest()
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        f"<3>SOURCE_UNREACHABLE: 15 bytes from {source.url}, sha256 {found}, wanted {SHA256}")
    assert node.has() == ["first-boot.sh"], "what was fetched is gone"


def test_first_boot_says_why_nothing_came(node: Node) -> None:
    done = node.boots(first_boot(WANTED, "http://127.0.0.1:9/judge-node.pyz", SHA256))
    assert done.returncode == 1
    assert set(done.stderr.splitlines()) == {"URLError: <urlopen error [Errno 111] Connection refused>"}
    assert "<3>SOURCE_UNREACHABLE: 0 bytes from http://127.0.0.1:9/judge-node.pyz" in done.stdout


def test_first_boot_leaves_nothing_half_written_on_a_disk_that_is_full(node: Node, source: Source) -> None:
    # A file may have 0 blocks: as a full disk, the write fails.
    node.puts("python3", f'ulimit -f 0\nexec {sys.executable} "$@"')
    done = node.boots(first_boot(WANTED, source.url, SHA256))
    assert done.returncode == 1
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert node.has() == ["first-boot.sh"]


def test_first_boot_removes_what_a_run_that_was_cut_left(node: Node, source: Source) -> None:
    for left in ("judge-node.pyz.a1B2c3", "judge-node.pyz.a1B2c3.9f8e7d6c"):
        (node.root / "lib" / left).write_bytes(b"half")
    node.boots(first_boot(WANTED, source.url, SHA256))
    assert node.has() == ["first-boot.sh", "judge-node.pyz"]


def test_first_boot_fetches_from_s3_with_the_aws_cli(node: Node) -> None:
    (node.root / "given").write_bytes(PROGRAM)
    node.puts("aws", f'echo "$*" >>{node.root}/aws\nfor last; do :; done\ncat {node.root}/given >"$last"')
    done = node.boots(first_boot(WANTED, "s3://bucket/judge-node.pyz", SHA256))
    assert done.returncode == 0, done.stderr
    assert (node.root / "aws").read_text().startswith("s3 cp --only-show-errors s3://bucket/judge-node.pyz ")


def test_first_boot_says_at_once_that_there_is_no_aws_cli(node: Node) -> None:
    node.puts("sleep", "exit 1")
    done = node.boots(first_boot(WANTED, "s3://bucket/judge-node.pyz", SHA256))
    assert (done.returncode, done.stdout) == (
        1, "<3>SOURCE_UNREACHABLE: s3://bucket/judge-node.pyz needs the aws CLI, which this image lacks\n")


def test_first_boot_takes_a_url_as_it_is(node: Node) -> None:
    url = 's3://bucket/$(id)`id`"\\;&|*?{}#%20'
    (node.root / "given").write_bytes(PROGRAM)
    node.puts("aws", f'printf %s "$4" >{node.root}/aws\ncat {node.root}/given >"$5"')
    done = node.boots(first_boot(WANTED, url, SHA256))
    assert done.returncode == 0, done.stderr
    assert (node.root / "aws").read_text() == url


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "file:///x", "https://", "https:///x", "https://user:secret@host/x", "s3://b/it's",
     "https://h/a b", "https://h/a\nb", "https://h/\u00e4", "https://h/\x7f", "//host/x", "https://@h/x"],
)  # fmt: skip
def test_first_boot_refuses_a_url_it_cannot_quote_or_must_not_hold(url: str) -> None:
    with pytest.raises(NodeError, match=r"--url is .*, wanted https://HOST/PATH or s3://BUCKET/KEY without"):
        first_boot(WANTED, url, SHA256)


@pytest.mark.parametrize("device", ["/dev/disk/by-id/a\nEND_OF_SCRIPT", "/dev/n\u00e4me"])
def test_first_boot_refuses_an_argument_that_no_script_can_hold(device: str) -> None:
    with pytest.raises(NodeError, match="is no printable ASCII"):
        first_boot(replace(WANTED, device=device), URL, SHA256)


def test_first_boot_unit_has_time_for_the_tries_the_wait_and_the_work() -> None:
    assert "TimeoutStartSec=1800" in first_boot(WANTED, URL, SHA256).splitlines()
    assert "TimeoutStartSec=8400" in first_boot(replace(WANTED, read_all=True), URL, SHA256).splitlines()


def test_first_boot_comes_before_every_gate() -> None:
    lines = first_boot(replace(WANTED, gates=("kubelet.service", "proxy.service")), URL, SHA256).splitlines()
    assert "Before=kubelet.service containerd.service proxy.service" in lines
    assert "RequiredBy=kubelet.service proxy.service" in lines


def test_user_data_is_the_script_for_this_very_program(capsys: pytest.CaptureFixture[str]) -> None:
    command = "disks user-data --mount-path /mnt/nvme --owner judge --gate kubelet.service --wait 300 --url"
    assert main([*command.split(), URL]) == 0
    printed = capsys.readouterr().out
    digest = hashlib.sha256(build_pyz()).hexdigest()
    assert printed == first_boot(WANTED, URL, digest) == user_data(WANTED, URL, build_pyz())


def test_user_data_is_small_ascii_and_says_nothing_that_terraform_cannot_know() -> None:
    script = first_boot(WANTED, URL, SHA256)
    assert script.isascii() and len(script) < MOST_BYTES // 4
    assert script.startswith("#!/bin/sh\n") and judge_node.__version__ not in script
