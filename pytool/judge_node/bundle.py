"""Build judge-node.pyz: the whole package as one file that any Python from 3.9 runs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from zipimport import zipimporter

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
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, entries[name])
    return _SHEBANG + buffer.getvalue()
