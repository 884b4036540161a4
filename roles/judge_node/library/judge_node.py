#!/usr/bin/python
"""Ansible module: run judge-node once on the host and hand its answer on.

This half runs on the host; the action plugin of the same name, on the controller, checks the options and reads the
answer. It takes its arguments as JSON instead of through ansible.module_utils, and runs the program in its own
process: a task then costs the host what one plain ssh command does (README, "What a task costs").
"""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: judge_node
short_description: Run one judge-node command on the host
description:
  - Runs C(judge-node COMMAND --json) on the host and returns its answer as changed, diff and failed.
  - The program itself comes with the call (the action plugin of the same name adds it), unless the host has it already.
    C(disks ensure) and C(cache start) install it first, when it is not there or differs; a read-only command and check
    mode install nothing.
  - When the connection to the controller is gone, the command is stopped, so that an interrupted run leaves no process.
    The sync that C(cache start) started is none of it, and goes on; C(cache follow) waits for its end, and
    C(cache stop) ends it.
options:
  command:
    description: What judge-node does.
    type: str
    required: true
    choices:
      - disks ensure
      - disks status
      - cache start
      - cache follow
      - cache stop
      - cache verify
      - cache list
      - cache prune
      - cache pin
      - cache unpin
      - cache update
      - cache rollback
      - cache rm
      - status
  good_states:
    description:
      - States that count as success, of those that judge-node itself calls good; all of them when not given.
        In check mode nothing has been done yet, and every state counts.
    type: list
    elements: str
  mount_path:
    description: Absolute path where the instance store is mounted. For C(disks) commands.
    type: str
  device:
    description: The disk to take; without it, disks are found by their model. For C(disks) commands.
    type: str
  fstype:
    description: Filesystem of disks that have to be formatted. For C(disks) commands.
    type: str
    choices: [xfs, ext4]
  strategy:
    description: How several disks become one filesystem. For C(disks) commands.
    type: str
    choices: [RAID0, RAID10, Mount]
  accept_models:
    description: Controller models that count as instance store. For C(disks) commands.
    type: list
    elements: str
  owner:
    description: Who builds the filesystem. For C(disks) commands.
    type: str
    choices: [auto, nodeadm, judge]
  nodeadm_path:
    description: Absolute path below which nodeadm mounts what it builds. For C(disks) commands.
    type: str
  group:
    description: Group that may write at the mount path. For C(disks) commands.
    type: str
  proof:
    description: How a disk is proven blank. For C(disks) commands.
    type: str
    choices: [samples, full]
  gate_units:
    description: The systemd units that do not start at boot before the disks are ready. For C(disks) commands.
    type: list
    elements: str
  wait_seconds:
    description: Seconds to wait for a disk to appear. For C(disks) commands.
    type: int
  store:
    description: Absolute path of the model store's root. For C(cache) commands.
    type: str
  manifest:
    description: The manifest of the model, as model_manifest_info returns it. For C(cache) commands.
    type: dict
  endpoint:
    description:
      - Base URL of the Hub or of a mirror that speaks its API. Empty, it is never asked. For C(cache start).
    type: str
  sources:
    description: Mirrors to ask before the Hub, in this order. For C(cache start).
    type: list
    elements: str
  connections:
    description: How many connections fetch at a time. For C(cache start).
    type: int
  limit_rate:
    description: Bytes a second at most, such as C(200M). For C(cache start) and C(cache verify).
    type: str
  token_file:
    description: File on the host that holds the Hub token. The token itself never travels. For C(cache start).
    type: str
  token_secret:
    description: Secret of AWS Secrets Manager from which the host takes the Hub token itself. For C(cache start).
    type: str
  token_parameter:
    description: Parameter of AWS SSM from which the host takes the Hub token itself. For C(cache start).
    type: str
  aws_region:
    description: Region of the secret or parameter; the host's own when not given. For C(cache start).
    type: str
  deep:
    description: Read every file again instead of trusting size and manifest. For C(cache start) and C(cache verify).
    type: bool
    default: false
  stage:
    description: Bring the files, but leave the branch where it is. For C(cache start).
    type: bool
    default: false
  model:
    description: The model, as C(ORG/NAME) or C(ORG/NAME@COMMIT). For C(cache) commands about one that is there already.
    type: str
  why:
    description: What the model is kept for. For C(cache pin).
    type: str
  revision:
    description: The branch to switch. For C(cache update) and C(cache rollback).
    type: str
  current:
    description: Remove the model also when it is the one that the next pod would want. For C(cache rm).
    type: bool
    default: false
  max_size:
    description: Remove models until the store is no bigger, such as C(200G). For C(cache prune).
    type: str
  keep_free:
    description: Remove models until so much of the filesystem is free, as C(50G) or C(20%). For C(cache prune).
    type: str
  unused_for:
    description: Remove models that nobody used for so many days. For C(cache prune).
    type: str
  verify_quick_every:
    description:
      - How often a timer on the host verifies links, sizes and headers, such as C(15min). Empty, there is no such
        timer; when not given, timers are left alone. For C(cache start).
    type: str
  verify_deep_every:
    description: As O(verify_quick_every), for every byte. For C(cache start).
    type: str
  reconnect_seconds:
    description: How long a host that does not answer is asked again before it is unreachable. For C(cache follow).
    type: int
    default: 300
author: judge-bootstrap
"""

EXAMPLES = r"""
- name: Prepare the instance store
  judge_node:
    command: disks ensure
    mount_path: /mnt/nvme
  become: true
"""

RETURN = r"""
judge:
  description: The object that judge-node printed (ok, changed, state, reason, message, repair, diff, facts).
  returned: when judge-node answered
  type: dict
rc:
  description: What judge-node ended with (0 holds, 1 failed, 2 wrong usage, 3 refused for safety, 130 interrupted).
  returned: when judge-node ran
  type: int
"""

import sys

# A program that comes through stdin has the folder that ssh starts in on its path: no place to take code from as root.
sys.path[:] = [folder for folder in sys.path if folder]

import binascii
import contextlib
import io
import json
import marshal
import os
import select
import signal
import threading
import time
import zipimport
import zlib
from importlib.machinery import ModuleSpec
from importlib.util import MAGIC_NUMBER
from pathlib import Path

INSTALL_PATH = "/usr/local/lib/judge-bootstrap/judge-node.pyz"
LINK_PATH = "/usr/local/bin/judge-node"
# Beside the program: its bytecode, as __pycache__ is beside a folder's sources. A zip file has no such place.
BYTECODE_PATH = f"/usr/local/lib/judge-bootstrap/judge-node.{sys.implementation.cache_tag}.bytecode"
STOP_GRACE_SECONDS = 10
STDERR_TAIL_CHARACTERS = 4096
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

# Ansible writes the call in here. In JSON three quotation marks never follow each other, and in a raw string a
# backslash stays one.
CALL = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""


class Stopped(BaseException):
    """This process was told to end: by the watcher, or by a signal from outside."""


class Tail(io.TextIOBase):
    """A stream that keeps the end of what is written to it."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        """Take `text`."""
        self.text = (self.text + text)[-STDERR_TAIL_CHARACTERS:]
        return len(text)


def raise_stopped(signal_number, frame):
    """Turn a signal into an exception, so that what is staged is removed on the way out."""
    raise Stopped()


def stop_when_unheard(descriptor, grace_seconds=STOP_GRACE_SECONDS):
    """End this process as soon as nobody reads `descriptor` any more, from a thread that is returned.

    The descriptor is our stdout: its reader goes away when the controller is interrupted or the connection is cut.
    TERM first, so that judge-node leaves a clean state; after `grace_seconds` KILL, for it and what it started.
    """
    main = threading.main_thread().ident

    def watch():
        # judge-node defers signals by blocking them in the main thread; they must not be delivered here instead.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        poller = select.poll()
        poller.register(descriptor, 0)  # no event asked for: POLLERR and POLLHUP are always reported
        if any(event & select.POLLNVAL for _, event in poller.poll()):
            return  # no stdout at all, so there is nothing to watch
        signal.pthread_kill(main, signal.SIGTERM)
        time.sleep(grace_seconds)
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    return thread


def be_a_process_of_its_own():
    """Lead a session, so that KILL reaches what judge-node started and nothing else; and show as `judge-node`."""
    with contextlib.suppress(OSError):  # we lead a group already
        os.setsid()
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("judge-node")


def digest_of(program):
    """Return the BLAKE2b digest (32 bytes, as hexadecimal digits) of these bytes."""
    try:
        # What hashlib has, without loading OpenSSL: 3 ms of each call.
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b
    return blake2b(program, digest_size=32).hexdigest()


def read_installed(digests, path):
    """Return (program, digest) at `path` when it has one of these digests; else (None, None)."""
    try:
        program = Path(path).read_bytes()
    except OSError:
        return None, None
    digest = digest_of(program)
    return (program, digest) if digest in digests else (None, None)


def write_whole(path, content, mode):
    """Write the file by one rename, after its content is on the disk. Raises OSError."""
    import tempfile

    descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=".judge-node.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(staged).replace(path)
    except BaseException:
        Path(staged).unlink()
        raise


def install(program, path, link):
    """Put the program at `path`, by one rename, and `link` beside the other commands. Raises OSError."""
    target, command = Path(path), Path(link)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(target, program, 0o755)
    if not (command.is_symlink() and command.resolve() == target.resolve()):
        command.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if command.is_symlink() or command.exists():
            command.unlink()
        command.symlink_to(target)


class Program:
    """Imports judge-node from its archive in memory, and keeps what it compiles.

    Compiling is a third of what a short command costs the host. The bytecode counts only for this very archive and this
    Python, when nobody but us can have written it; else the sources are compiled as if it were not there.
    """

    def __init__(self, archive, digest):
        """`archive` is the path of the program with this digest; what was kept of it is read from BYTECODE_PATH."""
        self.importer = zipimport.zipimporter(archive)
        self.head = MAGIC_NUMBER + bytes.fromhex(digest)
        self.codes, self.compiled = self.read(), False

    def read(self):
        """Return {module name: (code, whether it is a package)} as far as it was kept."""
        try:
            with open(BYTECODE_PATH, "rb") as file:  # noqa: PTH123 - to ask of the same file who can write it
                status, content = os.fstat(file.fileno()), file.read()
        except OSError:
            return {}
        body = content[len(self.head) + 4:]
        if status.st_uid != os.geteuid() or status.st_mode & 0o022 or content[:len(self.head)] != self.head:
            return {}
        if content[len(self.head):len(self.head) + 4] != zlib.crc32(body).to_bytes(4, "big"):
            return {}
        return marshal.loads(body)

    def keep(self):
        """Write what was compiled, for the next command. A saving and no more: not to be able to is no failure."""
        if not self.compiled:
            return
        body = marshal.dumps(self.codes)
        with contextlib.suppress(OSError):
            write_whole(Path(BYTECODE_PATH), self.head + zlib.crc32(body).to_bytes(4, "big") + body, 0o644)

    def find_spec(self, name, path=None, target=None):
        """Return where a module of the program comes from (importlib.abc.MetaPathFinder)."""
        if name.partition(".")[0] != "judge_node":
            return None
        place = path[0] if path else self.importer.archive
        if name not in self.codes:
            try:
                importer = zipimport.zipimporter(place)
                self.codes[name] = importer.get_code(name), importer.is_package(name)
            except zipimport.ZipImportError:
                return None
            self.compiled = True
        code, is_package = self.codes[name]
        spec = ModuleSpec(name, self, origin=code.co_filename, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [place + "/" + name.rpartition(".")[2]]
        return spec

    def create_module(self, spec):
        """Let importlib make the module, by returning none (importlib.abc.Loader)."""

    def exec_module(self, module):
        """Run the module's code (importlib.abc.Loader); the program asks its loader which archive it comes from."""
        module.__loader__ = self.importer
        exec(self.codes[module.__spec__.name][0], module.__dict__)


def run_program(content, digest, arguments, given, keep):
    """Run judge-node in this process with `given` on stdin; return (exit status, stdout, end of stderr).

    It runs out of memory, whether it is installed or not: nothing is left behind, and nobody can change it meanwhile.
    With `keep`, its bytecode is left for the next run.
    """
    memory = os.memfd_create("judge-node.pyz")
    with os.fdopen(memory, "wb") as file:
        file.write(content)
        file.flush()
        program = Program(f"/proc/self/fd/{memory}", digest)
        streams, argv = (sys.stdin, sys.stdout, sys.stderr), list(sys.argv)
        sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(given)), io.StringIO(), Tail()
        sys.meta_path.insert(0, program)
        sys.argv[:] = [LINK_PATH, *arguments]
        try:
            from judge_node.__main__ import main as judge_node

            status = judge_node()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                sys.stderr.write(end.code)
        except Exception:
            import traceback

            status = 1
            traceback.print_exc()
        finally:
            printed, errors = sys.stdout.getvalue(), sys.stderr.text
            sys.stdin, sys.stdout, sys.stderr = streams
            sys.meta_path.remove(program)
            sys.argv[:] = argv
    if keep:
        program.keep()
    return status, printed, errors


def answer_call(call):
    """Do what the action plugin asks for; return {"rc", "stdout", "stderr", "program_changed"}. Raises OSError.

    Without a program on this host and in the call, nothing is done, and the answer is {"program_missing": True}.
    """
    program, digest = read_installed(call["digests"], INSTALL_PATH)
    program_changed = call["changes"] and program is None
    may_write = call["changes"] and not call["check"]
    if program is None:
        if call["bundle"] is None:
            return {"changed": False, "program_missing": True}
        program, digest = zlib.decompress(binascii.a2b_base64(call["bundle"])), call["digests"][0]
        if program_changed and may_write:
            install(program, INSTALL_PATH, LINK_PATH)
    given = call["input"].encode("utf-8")
    status, printed, errors = run_program(program, digest, call["arguments"], given, keep=may_write)
    return {"changed": False, "rc": status, "stdout": printed, "stderr": errors, "program_changed": program_changed}


def main():
    """Answer the call on stdout, as Ansible expects it from a module."""
    be_a_process_of_its_own()
    for number in STOP_SIGNALS:
        signal.signal(number, raise_stopped)
    stop_when_unheard(sys.stdout.fileno())
    try:
        answer = answer_call(json.loads(CALL))
    except OSError as error:
        answer = {"failed": True, "msg": f"cannot run judge-node on this host: {error}"}
    except Stopped:
        os._exit(1)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    # The answer is out and the program has ended: taking the interpreter apart would only cost time.
    os._exit(1 if "msg" in answer else 0)


if __name__ == "__main__":
    main()
