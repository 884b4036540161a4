"""The images that the nodes' containerd gets without a registry: one small root, under the real image's name.

The root is copied from the Debian packages that are installed here, so its Python is the one that the CPU build of vLLM
was made with. What stands for the GPU brings vLLM itself into the container (gpu.py), as a driver would be brought.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from judge_lab import LabError
from judge_lab.layout import cache_dir
from judge_lab.process import run

VLLM_REFERENCE = "docker.io/vllm/vllm-openai:v0.32.0"
PAUSE_REFERENCE = "judge-bootstrap.io/lab/pause:1"
# Where the container finds the vLLM that came with its GPU.
CONTAINER_VLLM_DIR = "/opt/judge-lab/vllm"

_PACKAGES = (
    "base-files",
    "coreutils",
    "dash",
    "libacl1",
    "libattr1",
    "libbz2-1.0",
    "libc-bin",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "libgmp10",
    "liblzma5",
    "libncursesw6",
    "libnsl2",
    "libnuma1",
    "libpcre2-8-0",
    "libreadline8",
    "libselinux1",
    "libsqlite3-0",
    "libssl3",
    "libstdc++6",
    "libtinfo6",
    "libtirpc3",
    "libuuid1",
    "media-types",
    "sed",
    "grep",
    "zlib1g",
    "util-linux",
    "libsmartcols1",  # vLLM on a CPU runs lscpu
)
# All that a pod's sandbox runs is `sleep`.
_PAUSE_FILES = tuple(
    Path(name)
    for name in (
        "/usr/bin/sleep",
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/libc.so.6",
    )
)
# Taken along where the machine has them.
_OPTIONAL_PACKAGES = ("ca-certificates", "libproc2-0", "netbase", "procps", "tzdata")
_SKIPPED = (
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/locale/",
    "/usr/share/info/",
    "/usr/share/lintian/",
    "/usr/share/bug/",
    "/var/lib/dpkg/",
)

# The real image's command, in front of the CPU build. `--enforce-eager` is the stand-in's part: there are no CUDA
# graphs to capture on a CPU, and compiling instead takes a minute of every start.
_VLLM_COMMAND = f"""\
#!/bin/sh
if [ ! -x {CONTAINER_VLLM_DIR}/bin/python ]; then
  echo "vllm: found no GPU (wanted nvidia.com/gpu: 1 in the limits); the lab's vLLM comes with the GPU" >&2
  exit 1
fi
if [ "$1" = serve ]; then set -- "$@" --enforce-eager; fi
exec {CONTAINER_VLLM_DIR}/bin/python -m vllm.entrypoints.cli.main "$@"
"""


@dataclass(frozen=True)
class Image:
    """An image of the lab: its name as containerd writes it, and the docker-archive that holds it."""

    reference: str
    archive: Path


def ensure(report: Callable[[str], None]) -> list[Image]:
    """Return the lab's images, built if the cache has none for this Python and this recipe.

    Raises LabError, with the apt line, if a Debian package that the root is copied from is not installed.
    """
    version = python_version()
    packages = [
        *_PACKAGES,
        *(
            f"{stem}{version}{tail}"
            for stem, tail in (
                ("python", ""),
                ("python", "-minimal"),
                ("libpython", "-minimal"),
                ("libpython", "-stdlib"),
            )
        ),
    ]
    versions = _installed([*packages, *_OPTIONAL_PACKAGES])
    missing = [package for package in packages if package not in versions]
    if missing:
        raise LabError(
            f"the image is made of Debian packages of which these are not installed: {', '.join(missing)}",
            hint=f"apt-get install -y {' '.join(missing)}",
        )
    recipe = hashlib.sha256(json.dumps([versions, _VLLM_COMMAND, _RECIPE]).encode()).hexdigest()[:16]
    folder = cache_dir() / "images"
    found = [
        Image(VLLM_REFERENCE, folder / f"vllm-{recipe}.tar"),
        Image(PAUSE_REFERENCE, folder / f"pause-{recipe}.tar"),
    ]
    if not all(image.archive.exists() for image in found):
        report("Building the nodes' images")
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.tar"):
            stale.unlink()
        layer = _layer(_files_of(sorted(versions)), version)
        write_archive(found[0], layer, ["vllm", "serve"])
        write_archive(found[1], _layer(_PAUSE_FILES, version), ["/usr/bin/sleep", "infinity"])
    return found


# Counts changes of how the root is put together, so that a cache made by an older version is not used.
_RECIPE = 3


def python_version() -> str:
    """Return the version of Debian's own Python, as in 3.11."""
    return run("/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout.strip()


def _installed(packages: Iterable[str]) -> dict[str, str]:
    """Return {package: version} of those that are installed."""
    listed = run("dpkg-query", "-W", "-f", "${Package}\t${Status}\t${Version}\n", *packages, check=False).stdout
    rows = [line.split("\t") for line in listed.splitlines()]
    return {name: version for name, status, version in rows if status.endswith(" installed")}


def _files_of(packages: list[str]) -> Iterator[Path]:
    for line in dict.fromkeys(run("dpkg-query", "-L", *packages).stdout.splitlines()):
        if line.startswith("/") and line != "/." and not line.startswith(_SKIPPED):
            yield Path(line)


def _layer(files: Iterable[Path], version: str) -> bytes:
    """Return an uncompressed layer with these files of the host and the few that make it the image it stands for."""
    buffer = io.BytesIO()
    written: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for top in ("bin", "sbin", "lib", "lib64"):
            _link(layer, written, top, f"usr/{top}")
        for path in files:
            # Packages still name /lib/...; in the root as on the host that is a link to /usr/lib.
            real = Path(os.path.realpath(path.parent)) / path.name
            inside = str(PurePosixPath(real)).lstrip("/")
            if inside in written or not os.path.lexists(real) or inside in ("bin", "sbin", "lib", "lib64"):
                continue
            written.add(inside)
            entry = layer.gettarinfo(str(real), arcname=inside)
            if entry.isreg():
                # A hard link in the list would point at a member that may be left out: write each file whole.
                with real.open("rb") as content:
                    layer.addfile(entry, content)
            elif entry.isdir() or entry.issym():
                layer.addfile(entry)
        for folder, mode in (
            ("tmp", 0o1777),
            ("run", 0o755),
            ("proc", 0o755),
            ("sys", 0o755),
            ("dev", 0o755),
            ("usr/local/bin", 0o755),
            ("root", 0o700),
            ("opt", 0o755),
            ("mnt", 0o755),
        ):
            if folder not in written:
                written.add(folder)
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, mode
                layer.addfile(entry)
        _link(layer, written, "usr/bin/python3", f"python{version}")
        _link(layer, written, "usr/bin/sh", "dash")
        _file(layer, "usr/local/bin/vllm", _VLLM_COMMAND.encode(), 0o755)
        _file(
            layer,
            "etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        )
        _file(layer, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        _file(layer, "etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
        authorities = Path("/etc/ssl/certs/ca-certificates.crt")
        if authorities.exists():
            _file(layer, "etc/ssl/certs/ca-certificates.crt", authorities.read_bytes())
    return buffer.getvalue()


def _link(layer: tarfile.TarFile, written: set[str], name: str, target: str) -> None:
    if name not in written:
        written.add(name)
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        layer.addfile(entry)


def _file(layer: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    layer.addfile(entry, io.BytesIO(content))


def unpack_root(image: Image, folder: Path) -> None:
    """Unpack the image's one layer into `folder`, which appears only when it is whole; what is there stays."""
    if folder.exists():
        return
    staging = folder.with_name(f".{folder.name}.{os.getpid()}")
    with tarfile.open(image.archive) as archive:
        content = archive.extractfile("layer.tar")
        assert content is not None
        with tarfile.open(fileobj=content) as layer:
            # Made by us, of absolute links and owners on purpose, so nothing is filtered.
            layer.extraction_filter = lambda member, path: member
            layer.extractall(staging, numeric_owner=True)
    staging.chmod(0o755)
    staging.replace(folder)


def write_archive(image: Image, layer: bytes, entrypoint: list[str]) -> None:
    """Write a docker-archive with one layer; it appears under its name only when it is whole."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [image.reference], "Layers": ["layer.tar"]}]).encode()
    staging = image.archive.with_suffix(f".{os.getpid()}")
    with tarfile.open(staging, "w") as archive:
        for name, content in (("manifest.json", manifest), ("config.json", config), ("layer.tar", layer)):
            _file(archive, name, content)
    staging.replace(image.archive)
