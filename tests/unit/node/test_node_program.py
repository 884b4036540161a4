"""judge-node as a program: the command line, the one-file bundle, Python 3.9, kill -9 and signals."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import judge_node
import pytest
from judge_node.__main__ import main
from judge_node.bundle import POD_PACKAGES, build_pyz, for_nodes
from judge_node.cache.journal import boot_id, read
from judge_node.cache.partial import journal_path
from judge_node.reasons import REASONS, as_markdown
from judge_node.result import NodeError
from unit.node.fake_hub import COMMIT, REPO, FakeHub, Fault, manifest_of, serve
from weights import weights

PACKAGE = Path(judge_node.__file__).parent
ROOT = PACKAGE.parents[1]
WEIGHTS = "model.safetensors"
FILES = {"config.json": b'{"model_type": "qwen2"}', WEIGHTS: weights(os.urandom(6 << 20))}
KEYS = {"ok", "command", "changed", "state", "reason", "message", "repair", "diff", "facts"}


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "judge-node.pyz"
    path.write_bytes(build_pyz())
    path.chmod(0o755)
    return path


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve(dict(FILES)) as server:
        yield server


@pytest.fixture
def store(memory: Path) -> Path:
    return memory / "hub"


def sync_argv(program: list[str], hub: FakeHub, store: Path, *more: str) -> list[str]:
    return [*program, "cache", "sync", "-", "--store", str(store), "--endpoint", hub.url, "--json", *more]


def run_sync(program: list[str], hub: FakeHub, store: Path, *more: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        sync_argv(program, hub, store, *more), input=json.dumps(manifest_of(FILES)), capture_output=True, text=True
    )
    assert done.stdout.count("\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout)


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    code = main([*argv, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == KEYS
    return code, found


def test_sync_then_verify_through_the_one_file(pyz: Path, hub: FakeHub, store: Path) -> None:
    program = [sys.executable, str(pyz)]
    code, result = run_sync(program, hub, store)
    assert (code, result["ok"], result["changed"], result["state"]) == (0, True, True, "complete"), result
    assert run_sync(program, hub, store)[1]["changed"] is False
    manifest = store.parent / "manifest.json"
    manifest.write_text(json.dumps(manifest_of(FILES)))
    done = subprocess.run(
        [*program, "cache", "verify", str(manifest), "--store", str(store), "--deep"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{REPO} at {COMMIT[:12]} is complete (2 files, every byte hashed)\n")


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_half_way_the_next_run_fetches_only_the_rest(
    pyz: Path, hub: FakeHub, store: Path, kill: signal.Signals
) -> None:
    half = 3 << 20
    hub.faults[WEIGHTS] = [Fault(body="hang", at=half + 5)]
    argv = sync_argv([sys.executable, str(pyz)], hub, store)
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(manifest_of(FILES)).encode())
    process.stdin.close()
    process.stdin = None
    partial = store / ".locks/judge-bootstrap/partial"
    deadline = time.monotonic() + 60
    blob = partial / hashlib.sha256(FILES[WEIGHTS]).hexdigest()
    size = len(FILES[WEIGHTS])
    while hub.sent_bytes(WEIGHTS) < half + 5 or read(journal_path(blob), size, boot_id()).missing(half):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(kill)
    out, _ = process.communicate(timeout=30)
    if kill != signal.SIGKILL:
        assert process.returncode == 130
        assert json.loads(out)["message"] == "interrupted; the next run goes on from here"
    assert not (store / "models--judge-lab--tiny/snapshots").exists(), "nothing unverified is reachable"
    hub.go_on.set()
    code, result = run_sync([sys.executable, str(pyz)], hub, store)
    assert (code, result["state"]) == (0, "complete")
    kept = result["facts"]["resumed_bytes"]
    assert kept in (half, half + 5)  # one that is asked to stop also writes the piece that it had begun
    assert hub.ranges(WEIGHTS) == [None, f"bytes={kept}-{size - 1}"]
    # The other file may still have been on its way.
    assert result["facts"]["fetched_bytes"] - (size - kept) in (0, sum(map(len, FILES.values())) - size)
    assert (store / "models--judge-lab--tiny/snapshots" / COMMIT / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert not list(partial.iterdir())


def test_token_reaches_the_source_and_nothing_else(pyz: Path, hub: FakeHub, store: Path) -> None:
    token = store.parent / "token"
    token.write_text("hf_planted_4711\n")
    done = subprocess.run(
        sync_argv([sys.executable, str(pyz)], hub, store, "--token-file", str(token)),
        input=json.dumps(manifest_of(FILES)), capture_output=True, text=True,
    )  # fmt: skip
    assert {asked.headers["authorization"] for asked in hub.asked} == {"Bearer hf_planted_4711"}
    assert "hf_planted" not in done.stdout + done.stderr
    kept = [path for path in store.rglob("*") if path.is_file() and b"hf_planted" in path.read_bytes()]
    assert kept == []


def test_disk_that_is_full_is_space_short(pyz: Path, hub: FakeHub, store: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    small = store.parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", str(small)], check=True)
    try:
        code, result = run_sync([sys.executable, str(pyz)], hub, small / "hub")
        assert (code, result["reason"]) == (1, "SPACE_SHORT")
        assert hub.asked == [] and "free, wanted 6.0 MiB and 16.0 MiB of reserve" in result["message"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_reader_that_goes_away_is_no_failure(pyz: Path) -> None:
    done = subprocess.run(f'"{sys.executable}" "{pyz}" reasons | head -n 1', shell=True, capture_output=True, text=True)  # noqa: S602
    assert done.stdout.startswith("DISK_NONE") and done.stderr == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("disks",), "the following arguments are required: COMMAND"),
        (("cache", "sync"), "the following arguments are required: MANIFEST, --store"),
        (("frobnicate",), "invalid choice: 'frobnicate'"),
        (
            ("cache", "sync", "/nowhere", "--store", "/x"),
            "manifest '/nowhere' cannot be read: No such file or directory",
        ),
        (("cache", "sync", "\0", "--store", "/x"), "cannot be read"),
        (("cache", "sync", "/etc/hostname", "--store", "/x"), "the manifest is not usable: it is not JSON"),
        (("disks", "ensure", "--mount-path", "/mnt/x", "--lock-wait", "-1"), "not a number of seconds"),
        (("disks", "ensure", "--mount-path", "/mnt/x", "--lock-wait", "nan"), "not a number of seconds"),
    ],
)
def test_wrong_usage_is_one_line_with_a_next_command(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    code, found = answer(capsys, *argv)
    assert (code, found["ok"]) == (2, False)
    assert message in found["message"] and "\n" not in found["message"] and found["repair"]


@pytest.mark.parametrize("store", ["relative", "/mnt/../etc", ""])
def test_store_must_be_an_absolute_path(capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str) -> None:
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps(manifest_of(FILES)))
    code, found = answer(capsys, "cache", "verify", str(manifest), "--store", store)
    assert code == 2 and "wanted an absolute path without '..'" in found["message"]


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff\xfe", b"a" * 5000])
def test_unusable_token_file_is_wrong_usage_and_is_not_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None
) -> None:
    manifest, token = tmp_path / "m.json", tmp_path / "token"
    manifest.write_text(json.dumps(manifest_of(FILES)))
    if content is not None:
        token.write_bytes(content)
    code, found = answer(capsys, "cache", "sync", str(manifest), "--store", "/x/y", "--token-file", str(token))
    assert code == 2 and "token file" in found["message"] and "two words" not in found["message"]


def test_text_for_people_has_a_hint_on_stderr(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps(manifest_of(FILES)))
    assert main(["cache", "verify", str(manifest), "--store", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        f"MODEL_INCOMPLETE: {REPO} at {COMMIT[:12]} is incomplete: nothing vouches for {REPO} at {COMMIT[:12]}",
        f"Hint: judge-node cache sync MANIFEST --store {tmp_path}",
    ]


def test_bundle_is_the_same_bytes_every_time_and_begins_with_a_shebang() -> None:
    first = build_pyz()
    assert first == build_pyz() and first.startswith(b"#!/usr/bin/env python3\n")


def entries(program: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_nodes_get_is_the_program_without_what_only_pods_run() -> None:
    whole, sent = entries(build_pyz()), entries(for_nodes(build_pyz()))
    left_out = {name for name in whole if name.startswith(tuple(f"judge_node/{name}/" for name in POD_PACKAGES))}
    assert {name.split("/")[1] for name in left_out} == set(POD_PACKAGES)
    assert sent == {name: source for name, source in whole.items() if name not in left_out}


def test_what_nodes_get_is_the_same_bytes_whatever_zlib_packed_the_program() -> None:
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as archive:
        for name, source in reversed(entries(build_pyz()).items()):
            archive.writestr(name, source)
    assert for_nodes(stored.getvalue()) == for_nodes(build_pyz())
    assert for_nodes(for_nodes(build_pyz())) == for_nodes(build_pyz())


def test_nothing_that_nodes_get_loads_what_only_pods_run() -> None:
    groups = {"loader": "loader.commands"}  # asked for by name only, and refused in one line where it is not there
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in POD_PACKAGES:
            continue
        for found in ast.walk(ast.parse(path.read_text())):
            if isinstance(found, ast.ImportFrom) and (found.module or "").split(".")[0] in POD_PACKAGES:
                assert path.name == "cli.py" and found.module in groups, f"{path}:{found.lineno}"


def test_what_nodes_get_runs_on_its_own_and_says_that_it_has_no_loader(tmp_path: Path) -> None:
    path = tmp_path / "judge-node.pyz"
    path.write_bytes(for_nodes(build_pyz()))
    said = [subprocess.run([sys.executable, "-I", str(path), *arguments], capture_output=True, text=True)
            for arguments in (["--version"], ["--help"], ["cache", "--help"], ["loader", "run"])]
    assert [done.returncode for done in said] == [0, 0, 0, 2], said
    assert said[0].stdout == f"judge-node {judge_node.__version__}\n"
    assert "this copy of judge-node has no loader" in said[3].stderr and "Traceback" not in said[3].stderr


def test_bundle_builds_itself(pyz: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(pyz)!r}); from judge_node.bundle import build_pyz; " \
              "sys.stdout.buffer.write(build_pyz())"  # fmt: skip
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=True)
    assert done.stdout == pyz.read_bytes()


def test_bundle_needs_nothing_but_python(pyz: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(pyz), "--version"], capture_output=True, text=True, env={}, check=True
    )
    assert done.stdout == f"judge-node {judge_node.__version__}\n"
    assert pyz.stat().st_mode & stat.S_IXUSR


def test_docs_list_the_registry_as_it_is() -> None:
    assert (ROOT / "docs/reason-codes.md").read_text() == as_markdown(), (
        "docs/reason-codes.md is stale: run `judge-node reasons --markdown > docs/reason-codes.md`"
    )


def test_every_reason_that_the_code_names_is_in_the_registry() -> None:
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "reasons.py")
    named = set(re.findall(r'"((?:DISK|FS|MOUNT|SOURCE|MODEL|SPACE|TOOL|FILE|INTEGRITY)_[A-Z_]+|LOCKED)"', text))
    assert len(named) > 15 and named <= set(REASONS)


def test_every_reason_has_causes_a_repair_and_an_exit_code() -> None:
    for reason in REASONS.values():
        assert reason.meaning.endswith(".") and reason.causes and reason.repair, reason
        assert reason.exit_code in (1, 2, 3, 130), reason


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_source_is_python_3_9_and_imports_only_the_standard_library(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    for found in ast.walk(tree):
        if isinstance(found, ast.Import):
            assert all(name.name.split(".")[0] in sys.stdlib_module_names for name in found.names)
        if isinstance(found, ast.ImportFrom) and found.level == 0:
            assert found.module is not None and found.module.split(".")[0] in sys.stdlib_module_names
        assert not isinstance(found, ast.Match)


def python39() -> str | None:
    """Return an interpreter of that version that really starts (a pyenv shim may not)."""
    candidates = [shutil.which("python3.9"), *map(str, sorted(Path.home().glob(".pyenv/versions/3.9*/bin/python3.9")))]
    for candidate in filter(None, candidates):
        said = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        if said.returncode == 0 and said.stdout.startswith("Python 3.9"):
            return candidate
    return None


@pytest.fixture(scope="module")
def old_python() -> str:
    found = python39()
    if found is None:
        # Not a skip: those fail in CI, and the grammar test above holds on every machine.
        pytest.xfail("no Python 3.9 on PATH or in ~/.pyenv/versions")
    return found


def test_program_runs_under_python_3_9(old_python: str, pyz: Path, hub: FakeHub, store: Path) -> None:
    program = [old_python, "-W", "error", str(pyz)]
    said = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"judge-node {judge_node.__version__}\n"
    said = subprocess.run([*program, "reasons", "--markdown"], capture_output=True, text=True, check=True)
    assert said.stdout == as_markdown()
    hub.faults[WEIGHTS] = [Fault(body="truncate", at=2 << 20), Fault(status=503)]
    code, result = run_sync(program, hub, store)
    assert (code, result["state"], result["changed"]) == (0, "complete", True), result
    assert run_sync(program, hub, store)[1]["changed"] is False


def test_status_and_disk_commands_run_under_python_3_9(old_python: str, pyz: Path) -> None:
    for arguments in (["status"], ["disks", "status", "--mount-path", "/mnt/judge-node-test"]):
        done = subprocess.run(
            [old_python, "-W", "error", str(pyz), *arguments, "--json"], capture_output=True, text=True
        )
        assert json.loads(done.stdout)["command"] == " ".join(
            arguments[:2] if arguments[0] == "disks" else arguments[:1]
        )
        assert "Traceback" not in done.stderr


def test_a_token_file_without_an_end_is_not_read_to_its_end(
        capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest_of(FILES)))
    code = main(["cache", "sync", str(path), "--store", str(tmp_path / "hub"), "--token-file", "/dev/zero"])
    assert code == 2
    assert "token file '/dev/zero' does not hold one token in one line" in capsys.readouterr().err


@pytest.mark.parametrize("error", [NodeError("it says \x1b[2J\u202e\udcff"), OSError(5, "I/O", "/mnt/\x1b[2J")])
def test_text_for_people_cannot_drive_the_terminal(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def status() -> None:
        raise error

    monkeypatch.setattr("judge_node.status.status", status)
    main(["status"])
    said = capsys.readouterr().err
    assert r"\x1b[2J" in said and said.replace("\n", "").isprintable()


@pytest.mark.parametrize(("path", "hint"), [("/", "choose a directory of its own"), ("LINK", "use "),
                                            ("SYSTEM", "choose a directory of its own")])
def test_the_hint_for_a_mount_path_is_one_that_works(
        capsys: pytest.CaptureFixture[str], tmp_path: Path, path: str, hint: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "LINK").symlink_to(tmp_path / "real")
    (tmp_path / "SYSTEM").symlink_to("/etc")
    assert main(["disks", "status", "--mount-path", path if path == "/" else str(tmp_path / path)]) == 2
    assert f"Hint: {hint}" in capsys.readouterr().err
