"""Is a safetensors file what its header says? Eight bytes of length, a JSON object, then the tensors without a gap.

A hash shows that the bytes are those the manifest names; this shows that they are weights, and with a read of a few KiB
it shows most of what goes wrong on a disk: a file cut short, zeros in place of the start, another file under the name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_MOST_DIMENSIONS = 64
_LENGTH_BYTES = 8
# Bits of one element. A type that is not here (a newer one) has its place checked, but not its size.
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class HeaderWrong(Exception):
    """The file is not what its header says; the message says where."""


def tensor_names(path: Path) -> frozenset[str]:
    """Return the names of the tensors in the file.

    Raises HeaderWrong when its header is damaged or does not describe exactly the bytes that follow, OSError when it
    cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        size = os.fstat(fd).st_size
        head = file.read(_LENGTH_BYTES)
        if len(head) < _LENGTH_BYTES:
            raise HeaderWrong(f"it has {size} bytes, wanted a header")
        length = int.from_bytes(head, "little")
        if not 2 <= length <= min(MOST_HEADER_BYTES, size - _LENGTH_BYTES):
            raise HeaderWrong(f"its header is said to have {length} bytes, the file has {size}")
        text = file.read(length)
    return _checked(text, size - _LENGTH_BYTES - length)


def _checked(text: bytes, data_bytes: int) -> frozenset[str]:
    try:
        header = json.loads(text, object_pairs_hook=_no_name_twice)
    except (ValueError, RecursionError):
        raise HeaderWrong("its header is not JSON") from None
    if not isinstance(header, dict):
        raise HeaderWrong("its header is not a JSON object")
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise HeaderWrong("its __metadata__ is not an object of strings")
    end = 0
    for name, (start, stop) in sorted(((name, _place(name, header[name])) for name in header), key=lambda p: p[1]):
        if start != end:
            how = "overlaps another" if start < end else f"leaves a gap of {start - end} bytes before it"
            raise HeaderWrong(f"tensor {_short(name)} {how}")
        end = stop
    if end != data_bytes:
        raise HeaderWrong(f"its tensors have {end} bytes, the file has {data_bytes} for them")
    return frozenset(header)


def _place(name: str, found: Any) -> tuple[int, int]:
    """Return where the tensor's bytes start and stop."""
    if not isinstance(found, dict) or set(found) != {"dtype", "shape", "data_offsets"}:
        raise HeaderWrong(f"tensor {_short(name)} has not the keys dtype, shape and data_offsets")
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets):
        raise HeaderWrong(f"tensor {_short(name)} has a dtype, shape or place that is none")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderWrong(f"tensor {_short(name)} has no place in the file")
    start, stop = offsets
    if dtype in _BITS:
        bits = _BITS[dtype]
        for count in shape:
            bits *= count
        if bits != (stop - start) * 8:
            wanted = f"{(bits + 7) // 8}" if bits < 1 << 66 else "more than any file has"
            raise HeaderWrong(f"tensor {_short(name)} ({dtype}) has {stop - start} bytes, its shape wants {wanted}")
    return start, stop


def _are_counts(found: Any) -> bool:
    return (
        isinstance(found, list)
        and len(found) <= _MOST_DIMENSIONS
        and all(type(count) is int and 0 <= count < 1 << 63 for count in found)
    )


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _short(name: str) -> str:
    text = ascii(name)
    return text if len(text) <= 80 else text[:77] + "..."
