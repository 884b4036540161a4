"""Weight files for tests and drills: real safetensors files around any bytes."""

from __future__ import annotations

import json
from typing import Any

HEAD_BYTES = 128  # what weights() puts before the body


def weights(body: bytes, *names: str) -> bytes:
    """Return a valid file of which `body` is the first tensor; the others are empty."""
    first, *others = names or ("weight",)
    header = {name: {"dtype": "U8", "shape": [0], "data_offsets": [len(body), len(body)]} for name in others}
    header[first] = {"dtype": "U8", "shape": [len(body)], "data_offsets": [0, len(body)]}
    text = json.dumps(header).encode()
    return raw(text if others else text.ljust(HEAD_BYTES - 8), body)


def raw(header: Any, body: bytes = b"") -> bytes:
    """Return a file with this header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body
