"""Build judge-node.pyz: the whole package as one file that any Python from 3.9 runs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from zipimport import zipimporter

# What only pods run, out of the whole program in a ConfigMap. Nothing else may import it.
POD_PACKAGES = ("loader", "serving")
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = b"import sys\n\nfrom judge_node.__main__ import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows; the same sources must give the same bytes


def build_pyz() -> bytes:
    """Return the bytes of judge-node.pyz; the same sources give the same bytes."""
    loader = globals().get("__loader__")
    if isinstance(loader, zipimporter):  # we run from one: it is its own copy
        return Path(loader.archive).read_bytes()
    package = Path(__file__).parent
    entries = {
        f"{package.name}/{path.relative_to(package).as_posix()}": path.read_bytes() for path in package.rglob("*.py")
    }
    entries["__main__.py"] = _MAIN
    return _pack(entries, zipfile.ZIP_DEFLATED)


def for_nodes(pyz: bytes) -> bytes:
    """Return the program that nodes get over ssh: `pyz` without POD_PACKAGES, and with nothing in it compressed.

    So it travels smaller: compressed as a whole, it is a fifth smaller than a file of compressed files. And these bytes
    depend on no version of zlib, so that two controllers agree on whether a node has them.
    """
    with zipfile.ZipFile(io.BytesIO(pyz)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist() if not _is_for_pods(name)}
    return _pack(entries, zipfile.ZIP_STORED)


def _is_for_pods(name: str) -> bool:
    package, _, inside = name.partition("/")
    return package == "judge_node" and inside.partition("/")[0] in POD_PACKAGES


def _pack(entries: Mapping[str, bytes], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=9) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o100644 << 16
            info.compress_type = compression
            archive.writestr(info, entries[name])
    return _SHEBANG + buffer.getvalue()
