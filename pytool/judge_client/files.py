"""Files that are read or written as a whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def read_whole(path: Path, largest_bytes: int) -> bytes:
    """Return what a file holds. Raises ValueError, which says of the file why it cannot be had: "does not exist"."""
    try:
        # A pipe or a device might never end.
        if not path.is_file():
            raise ValueError("is not a file" if path.exists() else "does not exist")
        with path.open("rb") as file:
            content = file.read(largest_bytes + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    if len(content) > largest_bytes:
        raise ValueError(f"has more than {largest_bytes} bytes")
    return content


def write_whole(path: Path, text: str) -> None:
    """Write a file at once or not at all, and make it last. Raises OSError."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with staged.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        with suppress(OSError):
            staged.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
