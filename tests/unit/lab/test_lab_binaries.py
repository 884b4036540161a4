"""Where the Kubernetes binaries come from, and that a wrong one is never used."""

from __future__ import annotations

import hashlib
import io
import tarfile
import urllib.error
from pathlib import Path
from typing import NoReturn

import pytest
from judge_lab import LabError, binaries

CONTENT = {name: f"#!/bin/sh\n# {name}\n".encode() for name in binaries.NAMES}
SUMS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


def write_archive(path: Path, content: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name, body in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache; the pinned sums are those of CONTENT, and nothing can be downloaded."""

    def no_network(*_: object, **__: object) -> NoReturn:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("JUDGE_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("JUDGE_BOOTSTRAP_KUBE_ARCHIVE", raising=False)
    monkeypatch.setattr(binaries, "ARCHIVE_SHA256", SUMS)
    monkeypatch.setattr(binaries.urllib.request, "urlopen", no_network)
    return tmp_path / "cache" / f"kube-{binaries.KUBERNETES_VERSION}"


def find() -> dict[str, Path]:
    return binaries.find(lambda line: None)


def test_the_cache_is_filled_from_the_archive_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path / "kube.tar.xz", {**CONTENT, "kwok": b"not wanted"})
    monkeypatch.setenv("JUDGE_BOOTSTRAP_KUBE_ARCHIVE", str(archive))
    assert find() == {name: cache / name for name in binaries.NAMES}
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == CONTENT
    assert all(path.stat().st_mode & 0o111 for path in cache.iterdir())
    archive.unlink()
    assert find() == {name: cache / name for name in binaries.NAMES}


def test_another_build_is_refused_and_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path / "kube.tar.xz", {**CONTENT, "coredns": b"tampered"})
    monkeypatch.setenv("JUDGE_BOOTSTRAP_KUBE_ARCHIVE", str(archive))
    with pytest.raises(LabError, match=f"coredns in .* has sha256 .*, wanted {SUMS['coredns']}"):
        find()
    assert list(cache.iterdir()) == []


def test_an_archive_without_a_binary_is_told_by_its_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(
        tmp_path / "kube.tar.xz", {name: CONTENT[name] for name in binaries.NAMES if name != "kubelet"}
    )
    monkeypatch.setenv("JUDGE_BOOTSTRAP_KUBE_ARCHIVE", str(archive))
    with pytest.raises(LabError, match="has no kubelet"):
        find()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("missing", "cannot read .*kube.tar.xz"),
        ("other", "cannot read .*kube.tar.xz"),
        ("cut", "kubelet, or is cut off"),
    ],
)
def test_an_archive_that_cannot_be_read_is_a_known_error(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, told: str
) -> None:
    archive = write_archive(tmp_path / "kube.tar.xz", CONTENT)
    if damage == "missing":
        archive.unlink()
    else:
        archive.write_bytes(archive.read_bytes()[:200] if damage == "cut" else b"<html>not found</html>")
    monkeypatch.setenv("JUDGE_BOOTSTRAP_KUBE_ARCHIVE", str(archive))
    with pytest.raises(LabError, match=told) as caught:
        find()
    assert caught.value.hint == binaries.HOW_TO_GET


def test_with_neither_archive_nor_network_the_error_says_how_to_get_them(cache: Path) -> None:
    with pytest.raises(LabError, match="no Kubernetes binaries: .* cannot be downloaded") as caught:
        find()
    assert caught.value.hint is not None
    assert "JUDGE_BOOTSTRAP_KUBE_ARCHIVE" in caught.value.hint


def envtest(folder: Path, version: str) -> None:
    folder.mkdir()
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (folder / name).write_text(f"#!/bin/sh\necho Kubernetes {version}\n")
        (folder / name).chmod(0o755)


def test_kubebuilder_assets_give_etcd_and_api_server_and_the_archive_the_rest(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    envtest(tmp_path / "assets", "v1.36.0")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("JUDGE_BOOTSTRAP_KUBE_ARCHIVE", str(write_archive(tmp_path / "kube.tar.xz", CONTENT)))
    found = find()
    assert {name for name, path in found.items() if path.parent == tmp_path / "assets"} == {"etcd", "kube-apiserver"}
    assert not (cache / "etcd").exists()


def test_an_api_server_older_than_the_kubelets_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    envtest(tmp_path / "assets", "v1.31.0")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    with pytest.raises(LabError, match=r"KUBEBUILDER_ASSETS holds Kubernetes v1\.31\.0, wanted 1\.36 or newer"):
        find()


class Releases:
    """The official downloads, as far as they are asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def __call__(self, url: str, timeout: float) -> io.BytesIO:
        if url not in self.files:
            raise urllib.error.URLError(f"404 {url}")
        return io.BytesIO(self.files[url])


def release_files() -> dict[str, bytes]:
    files = {}
    for name in binaries.NAMES:
        if name.startswith("kube"):
            url = f"https://dl.k8s.io/release/v1.36.3/bin/linux/amd64/{name}"
            files |= {url: CONTENT[name], f"{url}.sha256": SUMS[name].encode()}
    for name, url, member, sums in (
        ("etcd", "https://github.com/etcd-io/etcd/releases/download/v3.6.16/etcd-v3.6.16-linux-amd64.tar.gz",
         "etcd-v3.6.16-linux-amd64/etcd", "https://github.com/etcd-io/etcd/releases/download/v3.6.16/SHA256SUMS"),
        ("coredns", "https://github.com/coredns/coredns/releases/download/v1.15.0/coredns_1.15.0_linux_amd64.tgz",
         "coredns", "https://github.com/coredns/coredns/releases/download/v1.15.0/coredns_1.15.0_linux_amd64.tgz.sha256"),
    ):  # fmt: skip
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            entry = tarfile.TarInfo(member)
            entry.size = len(CONTENT[name])
            archive.addfile(entry, io.BytesIO(CONTENT[name]))
        body = buffer.getvalue()
        files |= {url: body, sums: f"{hashlib.sha256(body).hexdigest()}  {url.rpartition('/')[2]}\n".encode()}
    return files


def test_official_downloads_are_checked_against_the_sums_published_beside_them(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries.urllib.request, "urlopen", Releases(release_files()))
    find()
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == CONTENT


@pytest.mark.parametrize("name", ["kubelet", "etcd-v3.6.16-linux-amd64.tar.gz", "coredns_1.15.0_linux_amd64.tgz"])
def test_a_download_that_was_changed_on_its_way_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files = release_files()
    url = next(url for url in files if url.endswith(f"/{name}"))
    monkeypatch.setattr(binaries.urllib.request, "urlopen", Releases({**files, url: files[url] + b"x"}))
    with pytest.raises(LabError, match="has sha256 .*, wanted"):
        find()
    assert name not in {path.name for path in cache.iterdir()}


def test_the_pinned_sums_are_sha256_of_each_binary_that_is_used() -> None:
    assert set(binaries.NAMES) == {
        "etcd", "coredns", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
    }  # fmt: skip
