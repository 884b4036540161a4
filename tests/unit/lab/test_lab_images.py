"""The nodes' images: a docker-archive under the real name, whose command finds the vLLM that came with the GPU."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from judge_lab import LabError, images


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CACHE", str(tmp_path))
    return tmp_path / "images"


def test_an_archive_names_its_image_and_its_layer_by_content(tmp_path: Path) -> None:
    image = images.Image("docker.io/vllm/vllm-openai:v0.32.0", tmp_path / "image.tar")
    images.write_archive(image, b"the layer", ["vllm", "serve"])
    with tarfile.open(image.archive) as archive:
        content = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    assert json.loads(content["manifest.json"])[0]["RepoTags"] == ["docker.io/vllm/vllm-openai:v0.32.0"]
    config = json.loads(content["config.json"])
    assert config["config"]["Entrypoint"] == ["vllm", "serve"]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(b"the layer").hexdigest()]
    assert content["layer.tar"] == b"the layer"
    assert [path.name for path in tmp_path.iterdir()] == ["image.tar"]


def test_missing_packages_are_named_with_the_command_that_brings_them(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_installed", lambda packages: {name: "1" for name in packages if name != "libstdc++6"})
    with pytest.raises(LabError, match=r"not installed: libstdc\+\+6") as caught:
        images.ensure(lambda line: None)
    assert caught.value.hint == "apt-get install -y libstdc++6"


def test_a_layer_has_each_file_once_below_the_place_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/libx.so.1").write_text("library")
    (tmp_path / "lib").symlink_to("usr/lib")
    files = [tmp_path / "lib/libx.so.1", tmp_path / "usr/lib/libx.so.1", tmp_path / "gone"]
    layer = tmp_path / "layer.tar"
    layer.write_bytes(images._layer(files, "3.11"))
    with tarfile.open(layer) as content:
        names = content.getnames()
        links = {entry.name: entry.linkname for entry in content if entry.issym()}
    inside = str(tmp_path / "usr/lib/libx.so.1").lstrip("/")
    assert names.count(inside) == 1
    assert links["lib"] == "usr/lib"
    assert links["usr/bin/python3"] == "python3.11"


def vllm_command(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the image's `vllm` as it is, but for the place where it looks for the GPU's vLLM."""
    script = tmp_path / "vllm"
    script.write_text(images._VLLM_COMMAND.replace(images.CONTAINER_VLLM_DIR, str(tmp_path / "gpu")))
    return subprocess.run(["sh", script, *arguments], capture_output=True, text=True, check=False)


def test_a_container_without_a_gpu_is_told_what_it_lacks(tmp_path: Path) -> None:
    done = vllm_command(tmp_path, "serve", "/models/x")
    assert done.returncode == 1
    assert "wanted nvidia.com/gpu: 1 in the limits" in done.stderr


def test_serve_runs_the_gpus_vllm_with_the_pods_own_arguments_and_eager(tmp_path: Path) -> None:
    python = tmp_path / "gpu" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nfor word in "$@"; do echo "[$word]"; done\n')
    python.chmod(0o755)
    done = vllm_command(tmp_path, "serve", "/models/x", "--config", '{"a b": 1}')
    assert done.stdout.splitlines() == [
        "[-m]", "[vllm.entrypoints.cli.main]", "[serve]", "[/models/x]", "[--config]", '[{"a b": 1}]',
        "[--enforce-eager]",
    ]  # fmt: skip
    assert "[--enforce-eager]" not in vllm_command(tmp_path, "--version").stdout
