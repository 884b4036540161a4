"""The command line: arguments in, one result out, and every known failure as one line with its exit code."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from . import __version__
from .options import add_changing, add_json, seconds
from .result import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, NodeError, Result, printable


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises instead of exiting, so that wrong usage is a result like any other failure."""

    def error(self, message: str) -> NoReturn:
        raise NodeError(message, repair=f"{self.prog} --help")


def build_parser(group: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands; with `group`, the other groups have no commands: to load them takes time."""
    parser = _Parser(
        prog="judge-node",
        description="Prepare this node's local disk and its model store. Safe to run at any time: "
        "what is right already is left alone, and a disk that is not proven blank is never formatted.",
    )
    parser.add_argument("--version", action="version", version=f"judge-node {__version__}")
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True, parser_class=_Parser)
    disks = groups.add_parser("disks", help="the local disks: plan, ensure, status, release")
    if group in (None, "disks"):
        _add_disks(disks)
    cache = groups.add_parser("cache", help="the model store: fetch, list, verify, update, prune")
    if group in (None, "cache"):
        from .cache.arguments import add_cache

        add_cache(cache.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=_Parser))
    loader = groups.add_parser("loader", help="in a pod of Kubernetes: keep the node's models, and say so on the Node")
    if group in (None, "loader"):
        verbs = loader.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=_Parser)
        _loader_commands().add_loader(verbs)
    status = groups.add_parser("status", help="what this node has: disks, models, and whether they are complete")
    add_json(status)
    program = groups.add_parser("program", help="write this program as one file, for nodes to fetch")
    program.add_argument("--out", required=True, metavar="FILE", help="file to write, such as judge-node.pyz")
    add_json(program)
    reasons = groups.add_parser("reasons", help="every reason code with its meaning and repair")
    reasons.add_argument("--markdown", action="store_true", help="print docs/reason-codes.md")
    add_json(reasons)
    return parser


def _add_disks(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=_Parser)
    for verb, text in (
        ("plan", "show every disk with its evidence, and what ensure would do"),
        ("ensure", "make the blank local disks one filesystem, mount it, keep it mounted"),
        ("status", "is the right disk mounted?"),
    ):
        command = commands.add_parser(verb, help=text, description=text[0].upper() + text[1:] + ".")
        _add_selection(command)
        add_json(command)
        if verb == "ensure":
            add_changing(command, 60)
    text = "print the first-boot script for EC2 user data"
    script = commands.add_parser("user-data", help=text, description=text[0].upper() + text[1:] + ".")
    _add_selection(script)
    script.add_argument(
        "--url", required=True, metavar="URL", help="where the node finds judge-node.pyz: https://... or s3://..."
    )
    text = "wipe one disk on purpose: all that is on it is lost"
    release = commands.add_parser("release", help=text, description=text[0].upper() + text[1:] + ".")
    release.add_argument("disk", metavar="DISK", help="the disk, as a path or a kernel name")
    release.add_argument("--serial", metavar="SERIAL", help="its serial number; asked for on a terminal")
    add_json(release)
    add_changing(release, 60)


def _add_selection(command: argparse.ArgumentParser) -> None:
    from .disks.facts import OWNERS, STRATEGIES

    command.add_argument(
        "--mount-path",
        metavar="PATH",
        help="where the disk is to be mounted; left out, this and all other options are those of the boot unit",
    )
    command.add_argument("--device", metavar="PATH", help="use this disk whatever its model; all other proofs stay")
    command.add_argument("--fstype", choices=("xfs", "ext4"), default="xfs", help="filesystem (default: %(default)s)")
    command.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="RAID0",
        help="how several disks are joined; Mount takes the first one only (default: %(default)s)",
    )
    command.add_argument(
        "--accept-model",
        action="extend",
        nargs="+",
        metavar="NAME",
        default=None,
        help="controller models that count as instance store, exactly as in sysfs",
    )
    command.add_argument(
        "--owner",
        choices=OWNERS,
        default="auto",
        help="who builds the filesystem; auto uses what nodeadm or cloud-init built (default: %(default)s)",
    )
    command.add_argument(
        "--nodeadm-path",
        default="/mnt/k8s-disks",
        metavar="PATH",
        help="where nodeadm mounts what it builds (default: %(default)s)",
    )
    command.add_argument("--group", dest="owning_group", metavar="NAME", help="group that may write at the mount path")
    command.add_argument(
        "--proof",
        choices=("samples", "full"),
        default="samples",
        help="how a disk is proven blank: by 4,096 samples and the places where filesystems survive, or byte by byte",
    )
    command.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="UNIT",
        help="systemd unit that must not start at boot before the disk is ready; may be given again",
    )
    command.add_argument(
        "--wait",
        type=seconds,
        default=0,
        metavar="SECONDS",
        help="how long to wait for a disk to appear (default: %(default)s)",
    )



def _disks(options: argparse.Namespace) -> Result | str:
    from .disks.commands import check_mount_path, ensure, plan, status
    from .disks.facts import INSTANCE_STORE_MODEL, Wanted

    if options.verb == "release":
        from .disks.release import by_name, release

        return release(
            by_name(options.disk),
            serial=options.serial,
            check=options.check,
            lock_wait_seconds=options.lock_wait,
            report=_report,
        )
    if options.mount_path is None:
        options = argparse.Namespace(**{**vars(_of_boot_unit()), **_own(options)})
    wanted = Wanted(
        mount_path=check_mount_path(options.mount_path),
        fstype=options.fstype,
        device=options.device or None,
        models=tuple(options.accept_model or (INSTANCE_STORE_MODEL,)),
        strategy=options.strategy,
        owner=options.owner,
        nodeadm_path=options.nodeadm_path,
        read_all=options.proof == "full",
        group=options.owning_group or None,
        gid=_gid(options.owning_group),
        gates=tuple(_unit(name) for name in options.gate),
        wait_seconds=options.wait,
    )
    if options.verb == "user-data":
        from .bundle import build_pyz
        from .disks.user_data import user_data

        return user_data(wanted, options.url, build_pyz())
    if options.verb == "ensure":
        return ensure(wanted, check=options.check, lock_wait_seconds=options.lock_wait)
    return {"plan": plan, "status": status}[options.verb](wanted)


def _own(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is said of this run, and not of the disks."""
    return {name: getattr(options, name) for name in ("verb", "json", "check", "lock_wait", "url") if name in options}


def _of_boot_unit() -> argparse.Namespace:
    """Return the options that the boot unit has: on the node at night nobody remembers them."""
    from .disks.unit import BOOT_UNIT, read_boot_arguments
    from .systemd import UNIT_FOLDER

    try:
        arguments = read_boot_arguments((UNIT_FOLDER / BOOT_UNIT).read_text())
    except OSError:
        arguments = []
    if "--mount-path" not in arguments:
        raise NodeError(
            f"found neither --mount-path nor a {BOOT_UNIT} that says it",
            repair="judge-node disks plan --mount-path /mnt/nvme",
        )
    return build_parser("disks").parse_args(arguments)


def _gid(name: str | None) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid if name else 0
    except KeyError:
        raise NodeError(f"--group {name}: this node has no such group", repair="getent group") from None


def _unit(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9:_.@-]+\.(service|target|socket|mount)", name):
        raise NodeError(f"--gate is {name!r}, wanted the name of a systemd unit", repair="--gate kubelet.service")
    return name





def _cache(options: argparse.Namespace) -> Result:
    from .cache.arguments import run_cache

    return run_cache(options, _report)


def _loader(options: argparse.Namespace) -> Result:
    result: Result = _loader_commands().run_loader(options)
    return result


def _loader_commands() -> Any:
    """Return the loader's commands. Raises NodeError in the copy that travels over ssh, which leaves them out."""
    try:
        from .loader import commands
    except ImportError:
        raise NodeError(
            "this copy of judge-node has no loader, which runs in pods only", repair="judge-node --help"
        ) from None
    return commands


def _reasons(options: argparse.Namespace) -> Result | str:
    from .reasons import REASONS, as_markdown, as_text

    if options.json:
        facts = {
            code: {"meaning": r.meaning, "causes": list(r.causes), "repair": r.repair, "exit_code": r.exit_code}
            for code, r in REASONS.items()
        }
        return Result(command="reasons", message=f"{len(REASONS)} reason codes", facts=facts)
    return as_markdown() if options.markdown else as_text()


def _program(options: argparse.Namespace) -> Result:
    import hashlib

    from .bundle import build_pyz
    from .files import write_file

    program = build_pyz()
    write_file(Path(options.out).absolute(), program, 0o755)
    digest = hashlib.sha256(program).hexdigest()
    return Result(
        command="program",
        changed=True,
        message=f"{options.out}: judge-node {__version__}, {len(program)} bytes, sha256 {digest}",
        facts={"path": options.out, "size_bytes": len(program), "sha256": digest},
    )


def _status(options: argparse.Namespace) -> Result:
    from .status import status

    return status()


def _run(options: argparse.Namespace) -> Result | str:
    commands: dict[str, Any] = {
        "disks": _disks,
        "cache": _cache,
        "loader": _loader,
        "program": _program,
        "reasons": _reasons,
        "status": _status,
    }
    answer: Result | str = commands[options.group](options)
    return answer


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (0 holds, 1 failed, 2 wrong usage, 3 refused, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    command = " ".join([word for word in arguments if not word.startswith("-")][:2])
    previous = signal.signal(signal.SIGTERM, _interrupt), signal.signal(signal.SIGHUP, _interrupt)
    mask = os.umask(0o022)
    try:
        group = next((word for word in arguments if not word.startswith("-")), "")
        answer = _run(build_parser(group).parse_args(arguments))
    except NodeError as error:
        answer = Result.of_error(command, error)
    except KeyboardInterrupt:
        answer = Result(
            command=command, ok=False, message="interrupted; the next run goes on from here", exit_code=EXIT_INTERRUPTED
        )
    except OSError as error:
        answer = Result.of_error(command, _of_os_error(error))
    finally:
        os.umask(mask)
        signal.signal(signal.SIGTERM, previous[0])
        signal.signal(signal.SIGHUP, previous[1])
    if isinstance(answer, str):
        return EXIT_OK if _say(sys.stdout, answer) else EXIT_FAILED
    if as_json:
        said = _say(sys.stdout, answer.as_json())
    else:
        said = _say(sys.stdout if answer.ok else sys.stderr, answer.as_text())
    return answer.exit_code if said else answer.exit_code or EXIT_FAILED


def _of_os_error(error: OSError) -> NodeError:
    from .cache.failures import of_os_error

    return of_os_error(error, error.filename or "the disk")


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _report(line: str) -> None:
    _say(sys.stderr, line + "\n")


def _say(stream: Any, text: str) -> bool:
    """Write, without signs that a terminal obeys; a reader that is gone is no failure. False: no room."""
    text = printable(text)
    try:
        stream.write(text.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace").decode())
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:
        # What was done is done; only its report has no place. Python would say so again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is not sys.stderr:
            _say(sys.stderr, f"Error: the output cannot be written: {error.strerror}\nHint: df -h\n")
        return False
    return True
