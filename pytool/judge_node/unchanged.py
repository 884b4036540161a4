"""The short way of `cache sync MANIFEST --store PATH --json` when nothing has changed since the last one.

A sync that brought something leaves a note: the bytes of its manifest, the answer that a sync with nothing to do gives,
and what every file of the snapshot looked like (inode, size and time of the blob, target of the link, the directories,
our own copy of the manifest, the branch). When all of it is still so, that answer is the answer; when anything is not,
whatever it is, the note counts for nothing and the sync looks for itself. Only what Python has loaded anyway is
imported here: a third of the time of a sync with nothing to do is imports.
"""

from __future__ import annotations

import os
import stat
import sys
import zlib

_VERSION = "judge-node unchanged 1"
_MOST_BYTES = 32 << 20
_VALUED = ("--store", "--endpoint", "--source")


def answer(arguments: list[str]) -> str | None:
    """Return what `cache sync` prints for these arguments, or None when it has to look for itself. Writes nothing."""
    found = _read_arguments(arguments)
    if found is None:
        return None
    manifest_path, root = found
    try:
        manifest = _read(manifest_path)
        note = _read(_note(root, manifest))
        if os.stat(root).st_dev == os.stat("/").st_dev:  # noqa: PTH116 - pathlib costs as much as all of this
            return None
        head, size, rest = note.split(b"\n", 2)
        length = int(size)
        if head.decode() != _VERSION or rest[:length] != manifest:
            return None
        printed, *lines = rest[length:].decode().split("\n")
        if not lines or lines[-1] != "end" or _look(root, [line.split("\t")[1] for line in lines[:-1]]) != lines[:-1]:
            return None
    except (OSError, ValueError, IndexError):
        return None
    return printed + "\n"


def remember(manifest_path: str, root: str, printed: str, paths: list[str]) -> None:
    """Leave the note. `printed` is the answer's line; `paths` is what it depends on, below `root`.

    A saving and no more: not to be able to write it is no failure.
    """
    try:
        manifest = _read(manifest_path)
        lines = "\n".join([*_look(root, paths), "end"])
        note = f"{_VERSION}\n{len(manifest)}\n".encode() + manifest + f"{printed}\n{lines}".encode()
        place = _note(root, manifest)
        os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
        # In its place at once: a note that was cut has no end, and is as good as none.
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, note)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        pass


def _read_arguments(arguments: list[str]) -> tuple[str, str] | None:
    """Return manifest and store, when nothing else is asked for than the short way can answer."""
    if arguments[:2] != ["cache", "sync"] or "--json" not in arguments:
        return None
    words = iter(arguments[2:])
    manifest = store = None
    for word in words:
        name, equals, value = word.partition("=")
        if name in _VALUED:
            value = value if equals else next(words, "-")
            if value.startswith("-"):
                return None
            if name == "--store":
                store = value
        elif word == "--json":
            continue
        elif word.startswith("-") or manifest is not None:
            return None
        else:
            manifest = word
    if manifest is None or store is None or not store.startswith("/") or ".." in store.split("/"):
        return None
    return manifest, store


def _note(root: str, manifest: bytes) -> str:
    return f"{root}/.locks/judge-bootstrap/unchanged/{zlib.crc32(manifest):08x}"


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise OSError("no regular file")
        data = os.read(fd, status.st_size + 1)
    finally:
        os.close(fd)
    if len(data) != status.st_size:
        raise OSError("it changed while it was read")
    return data


def _look(root: str, paths: list[str]) -> list[str]:
    """Return what each path is now: a link by its target, anything else by inode, size and time. Raises OSError."""
    found = []
    for path in paths:
        status = os.lstat(f"{root}/{path}")
        if stat.S_ISLNK(status.st_mode):
            found.append(f"link\t{path}\t{os.readlink(f'{root}/{path}')}")  # noqa: PTH115
        else:
            mode, size = status.st_mode, 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            found.append(f"file\t{path}\t{mode:o} {status.st_ino} {size} {status.st_mtime_ns}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Answer the short way when that is possible, else with all of the program."""
    arguments = sys.argv[1:] if arguments is None else arguments
    printed = answer(arguments)
    if printed is not None:
        sys.stdout.write(printed)
        return 0
    from .cli import main as run

    return run(arguments)
