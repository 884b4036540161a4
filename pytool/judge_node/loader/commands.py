"""`judge-node loader run`: its options, and how it starts and ends."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ..cache.arguments import add_verb, size, store_root
from ..options import add_json
from ..result import NodeError, Result, printable
from .api import Api
from .reporter import Aloud, Reporter
from .run import Loader, Settings

# Connections that do not answer are waited for no longer than this after a SIGTERM.
_END_SECONDS = 8
_SPAN = re.compile(r"([1-9]\d{0,5})(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
_LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def add_loader(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of `judge-node loader`."""
    run = add_verb(commands, "run", "in a pod: keep the models of its node there and verified, and say so on the Node")
    run.allow_abbrev = False  # --token would be taken for --token-file, and a token for its name
    run.add_argument(
        "--models",
        required=True,
        metavar="DIR",
        help="folder with wanted.json (fetched), next.json (fetched after it) and previous.json (only verified)",
    )
    run.add_argument("--store", required=True, metavar="PATH", help="root of the model store, on a mounted local disk")
    run.add_argument(
        "--node",
        type=_node,
        metavar="NAME",
        help="name of the Node that the pod runs on; with --once it may be left out: then nothing is said on a Node",
    )
    run.add_argument(
        "--taint",
        type=_key,
        metavar="KEY",
        help="taint that the Node has until the wanted model is complete (default: leave taints alone)",
    )
    run.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="URL",
        help="mirror to ask before the Hub, as for `cache sync`; may be given again",
    )
    run.add_argument(
        "--endpoint",
        default="https://huggingface.co",
        metavar="URL",
        help="the Hub, asked last (default: %(default)s); empty: never ask it",
    )
    run.add_argument("--token-file", metavar="PATH", help="file with the Hub token, read at each sync")
    run.add_argument(
        "--connections", type=int, choices=range(1, 65), default=8, metavar="N",
        help="connections at a time, 1 to 64 (default: %(default)s)",
    )
    run.add_argument(
        "--limit-rate", type=size, default=0, metavar="SIZE", help="bytes a second at most, such as 200M"
    )
    for kind, default, what in (("quick", "15min", "links, sizes and headers"), ("deep", "7d", "every byte")):
        run.add_argument(
            f"--verify-{kind}-every",
            type=span,
            default=default,
            metavar="SPAN",
            help=f"how often to verify {what}: 30s, 15min, 6h, 7d; empty: never (default: %(default)s)",
        )
    run.add_argument(
        "--compile-cache",
        metavar="PATH",
        help="folder of the servers' compile caches: made, and rid of those of models that are gone",
    )
    run.add_argument("--once", action="store_true", help="bring wanted.json, say so on the Node, and end")
    add_json(run)


def run_loader(options: argparse.Namespace) -> Result:
    """Run until a signal, or once. Raises NodeError."""
    settings = Settings(
        models=Path(options.models),
        store=store_root(options.store),
        node=options.node or "",
        sources=tuple(options.source),
        endpoint=options.endpoint or None,
        token_file=options.token_file,
        connections=options.connections,
        limit_rate=options.limit_rate,
        verify_quick_seconds=options.verify_quick_every,
        verify_deep_seconds=options.verify_deep_every,
        compile_cache=_absolute(options.compile_cache),
    )
    if options.once:
        return Loader(settings, Aloud(_reporter(options) if options.node else None, _log), _log).once()
    if not options.node:
        raise NodeError("--node is missing, wanted the name of the Node that the pod runs on",
                        repair="judge-node loader run --help")
    loader = Loader(settings, _reporter(options), _log)
    signal.signal(signal.SIGTERM, _end)
    try:
        loader.run()
    except KeyboardInterrupt:
        signal.alarm(0)
    return Result(command="loader run", state="stopped", message="stopped; the next one goes on from here")


def _reporter(options: argparse.Namespace) -> Reporter:
    return Reporter(Api.in_cluster(), options.node, options.taint, _log)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    """End the loop from wherever it is; and the process a little later, whatever still waits for a network."""
    signal.signal(signal.SIGALRM, lambda signum, frame: os._exit(0))
    signal.alarm(_END_SECONDS)
    raise KeyboardInterrupt


def span(text: str) -> float | None:
    """Return the seconds of a span such as 15min, None for an empty one (argparse type)."""
    if not text:
        return None
    found = _SPAN.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span such as 30s, 15min, 6h or 7d")
    return float(found[1]) * _SECONDS[found[2]]


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def matched(text: str) -> str:
        if not pattern.fullmatch(text):
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
        return text

    return matched


_node = _matching(_NODE_NAME, "name of a Node")
_key = _matching(_LABEL_KEY, "key of a taint")


def _absolute(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts:
        raise NodeError(
            f"--compile-cache is {text!r}, wanted an absolute path", repair="--compile-cache /mnt/nvme/vllm-cache"
        )
    return path


def _log(line: str) -> None:
    """One line an event, as `kubectl logs` shows it."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stdout.write(printable(f"{at} {' '.join(line.split())}\n"))
    sys.stdout.flush()
