"""`judge-node cache ...`: its options, and which function answers each verb."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from ..result import NodeError, Result
from .manifest import MAX_BYTES, Manifest, parse

_TOKEN_MOST_BYTES = 4096  # a file such as /dev/zero must not fill the memory
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of `judge-node cache`."""
    sync = _verb(commands, "sync", "bring the model of a manifest into the store")
    _add_manifest(sync)
    _add_store(sync)
    _add_sources(sync)
    sync.add_argument("--deep", action="store_true", help="hash every byte that is there, instead of comparing sizes")
    sync.add_argument(
        "--stage",
        action="store_true",
        help="bring the snapshot, but leave the branch where it is (cache update moves it)",
    )
    _add_json(sync)
    _add_changing(sync, 3600)
    verify = _verb(commands, "verify", "is the model of a manifest complete?")
    _add_manifest(verify)
    _add_store(verify)
    verify.add_argument("--deep", action="store_true", help="hash every byte, instead of comparing sizes")
    _add_json(verify)


def run_cache(options: argparse.Namespace, say: Callable[[str], None]) -> Result:
    """Answer one verb; `say` prints a line for people. Raises NodeError."""
    if options.verb == "verify":
        from .verify import verify

        return verify(read_manifest(options.manifest), store_root(options.store), deep=options.deep)
    return _sync(options, say)


def _sync(options: argparse.Namespace, say: Callable[[str], None]) -> Result:
    from .sync import sync

    return sync(
        read_manifest(options.manifest),
        store_root(options.store),
        sources=tuple(options.source),
        endpoint=options.endpoint or None,
        token=read_token(options.token_file),
        connections=options.connections,
        limit_rate=options.limit_rate,
        check=options.check,
        deep=options.deep,
        stage=options.stage,
        lock_wait_seconds=options.lock_wait,
        report=say,
    )


def _verb(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")


def _add_manifest(command: argparse.ArgumentParser) -> None:
    command.add_argument("manifest", metavar="MANIFEST", help="path of the manifest, or - for stdin")


def _add_store(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--store", required=True, metavar="PATH", help="root of the model store, on a mounted local disk"
    )


def _add_sources(command: argparse.ArgumentParser) -> None:
    """Add what says where bytes come from, and how many at a time."""
    command.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="URL",
        help="mirror to ask before the Hub: a URL or a folder, with {repo_id}, {commit}, {path} or {blob} in it "
        "(without any: URL/{repo_id}/blobs/{blob}); may be given again, and is asked in that order",
    )
    command.add_argument(
        "--endpoint",
        default="https://huggingface.co",
        metavar="URL",
        help="the Hub, asked last (default: %(default)s); empty: never ask it",
    )
    command.add_argument(
        "--token-file", metavar="PATH", help="file with the Hub token; there is no option for the token itself"
    )
    command.add_argument(
        "--connections", type=_count, default=8, metavar="N", help="connections at a time (default: %(default)s)"
    )
    command.add_argument(
        "--limit-rate",
        type=size,
        default=0,
        metavar="SIZE",
        help="bytes a second at most, such as 200M (default: no limit)",
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _add_changing(command: argparse.ArgumentParser, lock_wait_seconds: int) -> None:
    command.add_argument("--check", action="store_true", help="say what would be done, and change nothing")
    command.add_argument(
        "--lock-wait",
        type=seconds,
        default=lock_wait_seconds,
        metavar="SECONDS",
        help="how long to wait for another judge-node (default: %(default)s)",
    )


def seconds(text: str) -> float:
    """Return a number of seconds, at most a day (argparse type)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 86400")
    return value


def size(text: str) -> int:
    """Return bytes for a size such as 500M or 1.5G, in powers of 1024 (argparse type)."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500M or 1.5G")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,3}", text) or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 64")
    return int(text)


def store_root(text: str) -> Path:
    """Return the store's root. Raises NodeError for a path that is not absolute."""
    root = Path(text)
    if not root.is_absolute() or "\0" in text or ".." in root.parts:
        raise NodeError(
            f"--store is {text!r}, wanted an absolute path without '..'", repair="use a path such as /mnt/nvme/hub"
        )
    return root


def read_manifest(name: str) -> Manifest:
    """Return the manifest in the file `name`, or on stdin for `-`. Raises NodeError."""
    if name == "-":
        return parse(sys.stdin.buffer.read(MAX_BYTES + 1))
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise NodeError(
            f"manifest {name!r} cannot be read: {getattr(error, 'strerror', None) or error}",
            repair="give the path of a manifest, or - for stdin",
        ) from None
    return parse(data)


def read_token(name: str | None) -> str | None:
    """Return the token in a file, or None without one. Raises NodeError."""
    if not name:
        return None
    try:
        with Path(name).open("rb") as file:
            token = file.read(_TOKEN_MOST_BYTES + 1).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise NodeError(
            f"token file {name!r} cannot be read: {getattr(error, 'strerror', None) or 'not text'}",
            repair="give a file with the token in one line, or leave --token-file out",
        ) from None
    if not token or len(token) > _TOKEN_MOST_BYTES or not all("!" <= char <= "~" for char in token):
        raise NodeError(
            f"token file {name!r} does not hold one token in one line",
            repair="write the token, and nothing else, into it",
        )
    return token
