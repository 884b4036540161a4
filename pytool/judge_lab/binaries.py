"""The Kubernetes binaries: found, or fetched once into the cache and checked there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from judge_lab import LabError
from judge_lab.layout import cache_dir
from judge_lab.process import run

KUBERNETES_VERSION = "1.36.3"
ETCD_VERSION = "3.6.16"
COREDNS_VERSION = "1.15.0"

# sha256 of the archive's own builds (static, stripped, from the public Go modules of exactly these versions). Official
# release files are other builds of the same sources: they are checked against the sums published beside them.
ARCHIVE_SHA256 = {
    "coredns": "9c593c3e63c0d87574b9696598e5a9ac7f92ba1fee42767aebdb3c2bac577ae5",
    "etcd": "aad8eb2d2750b8829f8049466b7056dd9db1551add13010fc6cb03be76789df0",
    "kube-apiserver": "970ececc3acf846a30b98dcca03f9d61cae154477d5d32dd3b9d5961ca7ecdf2",
    "kube-controller-manager": "014944d494e7e8935aece72f5859049b9516dc747a3306aa82f05692545c1134",
    "kube-proxy": "bb2ae4b2b8f62554451d4cbd49a798629cc4404e1b89d0b8f77d6743ef087d20",
    "kube-scheduler": "66ad31ec1c164d778fb0ace19a9513b9c57f3aea89373b767777176843615396",
    "kubelet": "277622f1731865462fd3152b75b08385f95b30478d4944c1437b5d66ee899370",
}
NAMES = tuple(ARCHIVE_SHA256)
# What envtest's KUBEBUILDER_ASSETS holds; nothing else is taken from there.
_ENVTEST_NAMES = ("etcd", "kube-apiserver")
_CHUNK_BYTES = 1 << 20

HOW_TO_GET = (
    f"set JUDGE_BOOTSTRAP_KUBE_ARCHIVE to an archive of the Kubernetes {KUBERNETES_VERSION} binaries, or allow "
    "downloads from dl.k8s.io and github.com"
)


class Unavailable(LabError):
    """Nothing names the binaries, none are in the cache, and they cannot be downloaded."""


def at_hand() -> bool:
    """Say whether find() would need no download."""
    folder = cache_dir() / f"kube-{KUBERNETES_VERSION}"
    missing = [name for name in NAMES if not (folder / name).exists()]
    if os.environ.get("KUBEBUILDER_ASSETS"):
        missing = [name for name in missing if name not in _ENVTEST_NAMES]
    return not missing or bool(os.environ.get("JUDGE_BOOTSTRAP_KUBE_ARCHIVE"))


def find(report: Callable[[str], None]) -> dict[str, Path]:
    """Return the path of each binary of NAMES; fetch and check what is not there yet.

    KUBEBUILDER_ASSETS gives etcd and kube-apiserver where it is set. The rest lies in the cache, filled from the
    archive that JUDGE_BOOTSTRAP_KUBE_ARCHIVE names, or from the official release downloads.
    Raises Unavailable, with how to get them, when neither can be had; LabError for what is named and no good.
    """
    assets = _from_assets()
    folder = cache_dir() / f"kube-{KUBERNETES_VERSION}"
    missing = [name for name in NAMES if name not in assets and not (folder / name).exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        archive = os.environ.get("JUDGE_BOOTSTRAP_KUBE_ARCHIVE")
        if archive:
            report(f"Unpacking {', '.join(missing)} from {archive}")
            unpack(Path(archive), folder, {name: ARCHIVE_SHA256[name] for name in missing})
        else:
            _download(missing, folder, report)
    return {name: assets.get(name, folder / name) for name in NAMES}


def _from_assets() -> dict[str, Path]:
    configured = os.environ.get("KUBEBUILDER_ASSETS")
    if not configured:
        return {}
    found = {name: Path(configured) / name for name in _ENVTEST_NAMES if (Path(configured) / name).exists()}
    if "kube-apiserver" in found:
        # A kubelet may be older than the API server but never newer.
        said = run(found["kube-apiserver"], "--version").stdout
        version = re.search(r"v1\.(\d+)", said)
        wanted = int(KUBERNETES_VERSION.split(".")[1])
        if version is None or int(version[1]) < wanted:
            raise LabError(
                f"KUBEBUILDER_ASSETS holds {said.strip()}, wanted 1.{wanted} or newer, as the nodes have",
                hint=f"setup-envtest use 1.{wanted}, or unset KUBEBUILDER_ASSETS",
            )
    return found


def unpack(archive: Path, folder: Path, wanted: Mapping[str, str]) -> None:
    """Unpack the named members of an archive into `folder`, each checked against its sha256 before it gets its name.

    Raises LabError if the archive cannot be read, lacks one of them, or holds another build.
    """
    left = dict(wanted)
    try:
        with tarfile.open(archive, "r|xz") as members:
            for member in members:
                expected = left.get(member.name)
                source = members.extractfile(member) if expected else None
                if expected and source:
                    _keep(source, folder / member.name, expected, f"{member.name} in {archive}")
                    del left[member.name]
                if not left:
                    return
    except (OSError, EOFError, tarfile.TarError) as err:
        raise LabError(f"cannot read {archive}: {err}", hint=HOW_TO_GET) from err
    raise LabError(f"{archive} has no {', '.join(left)}, or is cut off", hint=HOW_TO_GET)


def _keep(source: IO[bytes], target: Path, expected: str, what: str) -> None:
    """Copy `source` to the executable `target`, which appears only when its sha256 is the expected one."""
    digest = hashlib.sha256()
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with staging.open("wb") as output:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                output.write(chunk)
        if digest.hexdigest() != expected:
            raise LabError(f"{what} has sha256 {digest.hexdigest()}, wanted {expected}", hint="get the file anew")
        staging.chmod(0o755)
        staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)


def _download(names: list[str], folder: Path, report: Callable[[str], None]) -> None:
    for name in names:
        report(f"Downloading {name}")
        try:
            if name == "etcd":
                base = f"https://github.com/etcd-io/etcd/releases/download/v{ETCD_VERSION}"
                file = f"etcd-v{ETCD_VERSION}-linux-amd64.tar.gz"
                _from_release_archive(f"{base}/{file}", f"{base}/SHA256SUMS", file, name, folder)
            elif name == "coredns":
                base = f"https://github.com/coredns/coredns/releases/download/v{COREDNS_VERSION}"
                file = f"coredns_{COREDNS_VERSION}_linux_amd64.tgz"
                _from_release_archive(f"{base}/{file}", f"{base}/{file}.sha256", file, name, folder)
            else:
                url = f"https://dl.k8s.io/release/v{KUBERNETES_VERSION}/bin/linux/amd64/{name}"
                expected = _get(f"{url}.sha256").decode().split()[0]
                with urllib.request.urlopen(url, timeout=60) as source:
                    _keep(source, folder / name, expected, url)
        except OSError as err:  # URLError is one
            raise Unavailable(
                f"no Kubernetes binaries: {name} is not in {folder} and cannot be downloaded ({err})", hint=HOW_TO_GET
            ) from err


def _from_release_archive(url: str, sums_url: str, file: str, name: str, folder: Path) -> None:
    """Take one binary out of a release's .tar.gz, after the archive's sum was compared with the published one."""
    sums = {
        parts[-1].removeprefix("*"): parts[0]
        for line in _get(sums_url).decode().splitlines()
        if (parts := line.split())
    }
    archive = folder / f".{file}.{os.getpid()}"  # two may download at once
    with urllib.request.urlopen(url, timeout=60) as source:
        _keep(source, archive, sums[file] if file in sums else next(iter(sums.values())), url)
    try:
        with tarfile.open(archive) as members:
            member = next(entry for entry in members if entry.isfile() and Path(entry.name).name == name)
            content = members.extractfile(member)
            assert content is not None
            staging = folder / f".{name}.{os.getpid()}"
            with staging.open("wb") as output:
                shutil.copyfileobj(content, output)
            staging.chmod(0o755)
            staging.replace(folder / name)
    finally:
        archive.unlink(missing_ok=True)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
    return content
