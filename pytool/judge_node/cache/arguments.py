"""`judge-node cache ...`: its options, and which function answers each verb."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..options import add_changing, add_json, seconds
from ..result import NodeError, Result
from .manifest import MAX_BYTES, Manifest, parse

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of `judge-node cache`."""
    for verb, text in (
        ("sync", "bring the model of a manifest into the store"),
        ("start", "sync as a process of its own, which goes on when this one ends; what is complete costs none"),
    ):
        sync = add_verb(commands, verb, text)
        _add_manifest(sync)
        _add_store(sync)
        _add_sources(sync)
        sync.add_argument(
            "--deep", action="store_true", help="hash every byte that is there, instead of comparing sizes"
        )
        sync.add_argument(
            "--stage",
            action="store_true",
            help="bring the snapshot, but leave the branch where it is (cache update moves it)",
        )
        for kind, what in (("quick", "links, sizes and headers"), ("deep", "every byte")):
            sync.add_argument(
                f"--verify-{kind}-every",
                type=_span,
                metavar="SPAN",
                help=f"have a timer that verifies {what}, such as 6h; empty: no such timer (default: leave the timers)",
            )
        if verb == "start":
            _add_wait(sync, 5, "how long to wait for its end before answering that it runs")
        add_json(sync)
        add_changing(sync, 3600)
    follow = add_verb(commands, "follow", "wait for a sync that `cache start` has started, and give its result")
    _add_manifest(follow)
    _add_store(follow)
    _add_wait(follow, 86_400, "how long to wait before answering how far it is")
    add_json(follow)
    stop = add_verb(commands, "stop", "end the syncs that `cache start` has started; what they fetched stays")
    stop.add_argument("manifest", metavar="MANIFEST", nargs="?", help="only the sync of this manifest")
    _add_store(stop)
    stop.add_argument("--check", action="store_true", help="say what would be done, and change nothing")
    add_json(stop)
    from .day2 import add_day2  # which uses what stands below

    add_day2(commands)


def run_cache(options: argparse.Namespace, say: Callable[[str], None]) -> Result:
    """Answer one verb; `say` prints a line for people. Raises NodeError."""
    from .day2 import VERBS, run_day2

    if options.verb in VERBS:
        return run_day2(options)
    if options.verb in ("follow", "stop"):
        from .job import Job, stop

        root = store_root(options.store)
        if options.verb == "stop":
            named = options.manifest is not None
            jobs = [Job.of(read_manifest(options.manifest), root)] if named else Job.all_of(root)
            return stop(jobs, check=options.check)
        job = Job.of(read_manifest(options.manifest), root)
        return job.follow(options.wait, (lambda line: None) if options.json else say)
    if options.verb == "start":
        return _start(options, say)
    manifest = read_manifest(options.manifest)
    result = _sync(options, manifest, say, _said_now_and_then(say))
    if result.changed and not (options.check or options.stage or options.deep or options.manifest == "-"):
        _remember(options, manifest)
    return result


def _remember(options: argparse.Namespace, manifest: Manifest) -> None:
    """Note what the snapshot looks like now, so that the next sync of this manifest need not look far."""
    from ..unchanged import remember
    from .store import Store
    from .sync import nothing_to_do

    root = store_root(options.store)
    store = Store(root)
    paths = [path.relative_to(root).as_posix() for path in store.everything(manifest)]
    remember(options.manifest, str(root), nothing_to_do(store, manifest).as_json().rstrip("\n"), paths)


def _said_now_and_then(say: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """Return an on_progress that says every tenth one: a line in ten seconds is enough for a log."""
    count = 0

    def on_progress(progress: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count % 10 == 0:
            from .progress import progress_text

            say(progress_text(progress))

    return on_progress


def _start(options: argparse.Namespace, say: Callable[[str], None]) -> Result:
    """Answer as sync does when there is nothing to do, or nothing may be done; else have a job do it."""
    from .store import Store, check_not_on_root
    from .sync import before_and_after, plan_work

    manifest, root = read_manifest(options.manifest), store_root(options.store)
    store = Store(root)
    if options.check or check_not_on_root(root):
        return _sync(options, manifest, say)
    work = plan_work(store, manifest, deep=options.deep, stage=options.stage)
    if not work:
        return _sync(options, manifest, say)
    from .job import Job

    diff, job = before_and_after(store, manifest, work), Job.of(manifest, root)
    job.start(manifest, root, lambda on_progress: _sync(options, manifest, lambda line: None, on_progress))
    result = job.follow(options.wait, (lambda line: None) if options.json else say)
    if result.state == "running":  # what a plan has listed, whoever looks at it next
        result.changed, (result.before, result.after) = True, diff
    return result


def _sync(
    options: argparse.Namespace,
    manifest: Manifest,
    say: Callable[[str], None],
    on_progress: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> Result:
    from .sync import sync

    result = sync(
        manifest,
        store_root(options.store),
        sources=tuple(options.source),
        endpoint=options.endpoint or None,
        token=_token(options),
        connections=options.connections,
        limit_rate=options.limit_rate,
        check=options.check,
        deep=options.deep,
        stage=options.stage,
        lock_wait_seconds=options.lock_wait,
        report=say,
        on_progress=on_progress,
    )
    spans = options.verify_quick_every, options.verify_deep_every
    if result.ok and spans != (None, None):
        _schedule(result, store_root(options.store), *spans, check=options.check)
    return result


def _schedule(result: Result, root: Path, quick: str | None, deep: str | None, *, check: bool) -> None:
    """Have the timers that verify the store, and add to the result what had to be changed for that."""
    from .schedule import ensure_schedule

    lines = ensure_schedule(root, quick or None, deep or None, check=check)
    if lines:
        result.changed = True
        result.before = result.before or "the timers that verify the store differ\n"
        result.after += "".join(f"{line}\n" for line in lines)
        result.message += f"; {'would ' if check else ''}{', '.join(lines)}"


def add_verb(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    """Add one verb, with its help."""
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
    _add_token(command)
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


def _add_token(command: argparse.ArgumentParser) -> None:
    """Add the ways to name a token; at most one may be given."""
    ways = command.add_mutually_exclusive_group()
    ways.add_argument(
        "--token-file", metavar="PATH", help="file with the Hub token; there is no option for the token itself"
    )
    ways.add_argument(
        "--token-secret",
        metavar="NAME",
        help="name or ARN of the secret in AWS Secrets Manager that holds the Hub token, read with the node's own role",
    )
    ways.add_argument(
        "--token-parameter",
        metavar="NAME",
        help="name or ARN of the SSM parameter that holds the Hub token, read with the node's own role",
    )
    command.add_argument(
        "--aws-region",
        metavar="REGION",
        help="region of that secret or parameter (default: the ARN's, AWS_REGION, or the instance's own)",
    )


def _token(options: argparse.Namespace) -> Callable[[], str] | str | None:
    """Return the token that the options name, or what gets it when it is needed. Raises NodeError."""
    if not (options.token_file or options.token_secret or options.token_parameter):
        return None
    from .tokens import token_of

    return token_of(
        options.token_file,
        secret=options.token_secret,
        parameter=options.token_parameter,
        region=options.aws_region,
    )


def _add_wait(command: argparse.ArgumentParser, default: int, text: str) -> None:
    command.add_argument(
        "--wait", type=seconds, default=default, metavar="SECONDS", help=f"{text} (default: %(default)s)"
    )


def _span(text: str) -> str:
    """Return a span that a timer can have, or an empty one (argparse type)."""
    from .times import calendar

    try:
        if text:
            calendar(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


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
