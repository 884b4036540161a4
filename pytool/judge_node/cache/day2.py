"""The verbs for a store that is there already: list, verify, prune, pin, unpin, update, rollback, rm, schedule."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..options import add_changing, add_json
from ..result import NodeError, Result
from .arguments import add_verb, read_manifest, size, store_root
from .times import DEEP_EVERY, DEEP_LIMIT_RATE, QUICK_EVERY, calendar

_DAY_SECONDS = 86_400
_VERIFY_LOCK_SECONDS = 600
_LOCK_SECONDS = 60


def add_day2(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    listed = add_verb(commands, "list", "what is in the store, how it is, who uses it, and why it is kept")
    _add_store(listed)
    add_json(listed)

    verify = add_verb(commands, "verify", "check again what the store vouches for, or the model of one manifest")
    verify.add_argument("manifest", metavar="MANIFEST", nargs="?", help="only this one: its path, or - for stdin")
    _add_store(verify)
    how = verify.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="links, sizes and the headers of the weights (the default)")
    how.add_argument("--deep", action="store_true", help="hash every byte, read from the disk and not from memory")
    _add_rate(verify, 0, "no limit")
    add_json(verify)

    prune = add_verb(commands, "prune", "make room: remove what was used least recently and is not needed")
    _add_store(prune)
    goal = prune.add_mutually_exclusive_group(required=True)
    goal.add_argument("--max-size", type=size, metavar="SIZE", help="until the store is no bigger, such as 200G")
    goal.add_argument(
        "--keep-free", type=_free, metavar="SIZE", help="until so much of the filesystem is free: 50G, or 20%%"
    )
    goal.add_argument("--unused-for", type=_days, metavar="DAYS", help="all that nobody used for so many days")
    add_json(prune)
    add_changing(prune, _LOCK_SECONDS)

    pin = add_verb(commands, "pin", "keep a model: no prune and no rm removes it")
    _add_model(pin)
    pin.add_argument("--why", default="", metavar="TEXT", help="what it is kept for; list shows it")
    unpin = add_verb(commands, "unpin", "let a pinned model go again")
    _add_model(unpin)

    update = add_verb(commands, "update", "point the branch at a commit that `sync --stage` has brought")
    update.add_argument("model", metavar="REPO@COMMIT", help="such as ORG/NAME@0123456789ab")
    rollback = add_verb(commands, "rollback", "point the branch at the commit that it pointed at before")
    rollback.add_argument("model", metavar="REPO", help="such as ORG/NAME")
    for command in (update, rollback):
        command.add_argument("--revision", default="main", metavar="NAME", help="the branch (default: %(default)s)")

    rm = add_verb(commands, "rm", "remove one model, and the blobs that only it has")
    _add_model(rm)
    rm.add_argument("--current", action="store_true", help="also when it is the one that the next pod would want")
    for command in (pin, unpin, update, rollback, rm):
        _add_store(command)
        add_json(command)
        add_changing(command, _LOCK_SECONDS)

    schedule = add_verb(commands, "schedule", "have systemd verify the store, quickly and often, deeply and rarely")
    _add_store(schedule)
    for kind, default in (("quick", QUICK_EVERY), ("deep", DEEP_EVERY)):
        schedule.add_argument(
            f"--{kind}-every", type=_every, default=default, metavar="SPAN", help="15min, 6h, 7d (default: %(default)s)"
        )
    schedule.add_argument(
        "--deep-limit-rate",
        type=size,
        default=DEEP_LIMIT_RATE,
        metavar="SIZE",
        help="bytes a second that the deep check reads at most (default: 200M)",
    )
    schedule.add_argument("--off", action="store_true", help="remove the timers")
    schedule.add_argument("--check", action="store_true", help="say what would be done, and change nothing")
    add_json(schedule)


def run_day2(options: argparse.Namespace) -> Result:
    """Answer one of the verbs. Raises NodeError."""
    return _VERBS[options.verb](options)


def _list(options: argparse.Namespace) -> Result:
    from .listing import list_models

    return list_models(_root(options))


def _verify(options: argparse.Namespace) -> Result:
    from .verify import verify, verify_all

    how = {"deep": options.deep, "limit_rate": options.limit_rate, "lock_wait_seconds": _VERIFY_LOCK_SECONDS}
    if options.manifest is not None:
        return verify(read_manifest(options.manifest), _root(options), **how)
    try:
        result = verify_all(_root(options), **how)
    except NodeError as error:
        _leave(Result.of_error("cache verify", error))
        raise
    _leave(result)
    return result


def _leave(result: Result) -> None:
    from ..last import CACHE_RESULT, leave

    if os.geteuid() == 0:
        leave(CACHE_RESULT, result)


def _prune(options: argparse.Namespace) -> Result:
    from .prune import Goal, prune

    root = _root(options)
    goal = Goal(
        max_bytes=options.max_size,
        keep_free_bytes=options.keep_free(root) if options.keep_free else None,
        unused_for_seconds=options.unused_for,
    )
    return prune(root, goal, check=options.check, lock_wait_seconds=options.lock_wait)


def _pin(options: argparse.Namespace) -> Result:
    from .pins import pin

    return pin(_root(options), options.model, why=options.why, **_changing(options))


def _unpin(options: argparse.Namespace) -> Result:
    from .pins import unpin

    return unpin(_root(options), options.model, **_changing(options))


def _update(options: argparse.Namespace) -> Result:
    from .refs import update

    return update(_root(options), options.model, revision=options.revision, **_changing(options))


def _rollback(options: argparse.Namespace) -> Result:
    from .refs import rollback

    return rollback(_root(options), options.model, revision=options.revision, **_changing(options))


def _rm(options: argparse.Namespace) -> Result:
    from .prune import rm

    return rm(_root(options), options.model, current=options.current, **_changing(options))


def _schedule(options: argparse.Namespace) -> Result:
    from .schedule import schedule

    # Taking the timers away must work when the store is gone, too.
    root = Path("/") if options.off and options.store is None else _root(options)
    return schedule(
        root,
        quick=None if options.off else options.quick_every,
        deep=None if options.off else options.deep_every,
        limit_rate=options.deep_limit_rate,
        check=options.check,
    )


_VERBS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "list": _list,
    "verify": _verify,
    "prune": _prune,
    "pin": _pin,
    "unpin": _unpin,
    "update": _update,
    "rollback": _rollback,
    "rm": _rm,
    "schedule": _schedule,
}
VERBS = frozenset(_VERBS)


def _root(options: argparse.Namespace) -> Path:
    if options.store is not None:
        return store_root(options.store)
    from .catalog import find_store

    return find_store()


def _changing(options: argparse.Namespace) -> dict[str, Any]:
    return {"check": options.check, "lock_wait_seconds": options.lock_wait}


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="REPO[@COMMIT]", help="such as ORG/NAME, or ORG/NAME@0123456 of several")


def _add_store(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--store", metavar="PATH", help="root of the model store; left out, the one on this node's prepared disk"
    )


def _add_rate(command: argparse.ArgumentParser, default: int, text: str) -> None:
    command.add_argument(
        "--limit-rate",
        type=size,
        default=default,
        metavar="SIZE",
        help=f"bytes a second to read at most, such as 200M (default: {text})",
    )


def _free(text: str) -> Callable[[Path], int]:
    """Return what tells how many bytes are to be free on the filesystem of a folder (argparse type)."""
    percent = re.fullmatch(r"(\d{1,2}(?:\.\d{1,3})?)%", text.strip())
    if percent is None:
        wanted = size(text)
        return lambda root: wanted

    def of(root: Path) -> int:
        found = os.statvfs(root)
        return math.ceil(found.f_blocks * found.f_frsize * float(percent[1]) / 100)

    return of


def _days(text: str) -> float:
    if not re.fullmatch(r"\d{1,4}(\.\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text} is not a number of days")
    return float(text) * _DAY_SECONDS


def _every(text: str) -> str:
    try:
        calendar(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
