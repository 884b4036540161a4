"""Who uses a model now, read from /proc. What cannot be read is unknown, and unknown is never taken for unused.

A process uses a snapshot when it has one of its blobs open or mapped, works or is rooted in it, has it (or a blob)
mounted, or names its commit in its arguments or its environment: vLLM closes the weights once they are loaded, and
needs them again when it is restarted with the same arguments. Naming the repository counts for all its commits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..disks.facts import Mount
from ..disks.sysfs import parse_mountinfo, read_text
from ..files import make_directory
from .catalog import Key, Model
from .manifest import Manifest
from .store import Store

# The first PID and user namespaces of a kernel have fixed numbers (include/linux/proc_ns.h).
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
_FIRST_USER_NAMESPACE = "user:[4026531837]"
# Written by whoever makes a node out of namespaces: the one in which all processes of that node can be seen. It names
# the namespace by its number, so a container that has this file mounted is not taken for the node.
NODE_NAMESPACE = Path("/run/judge-bootstrap/pid-namespace")
_CAP_SYS_PTRACE = 19
_GONE = (errno.ENOENT, errno.ESRCH, errno.EINVAL)  # EINVAL: the mounts of a process that has ended
_HASH = re.compile(rb"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{40})(?![0-9a-f])")
# kubelet's cgroups, with either driver, and its folders.
_POD = re.compile(r"(?:/pods/|[-/]pod)([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?![0-9a-f])")


@dataclass(frozen=True)
class User:
    """One process that uses a model, and by what it is known."""

    pid: int
    command: str
    pod_uid: str | None
    how: str

    def __str__(self) -> str:
        pod = f", pod {self.pod_uid}" if self.pod_uid else ""
        return f"process {self.pid} ({self.command}{pod}) {self.how}"


@dataclass(frozen=True)
class Use:
    """Who uses what. `unknown` says why it could not be read; then `users` proves nothing for what it lacks."""

    unknown: str | None = None
    users: dict[Key, tuple[User, ...]] = field(default_factory=dict)

    def of(self, model: Model) -> tuple[User, ...]:
        """Return the users of one model that were seen."""
        return self.users.get(model.key, ())

    def note(self, store: Store) -> None:
        """Leave for the next prune when each model was last seen in use. Writes, where it may."""
        for repo_id, commit in self.users:
            noted = store.own / "used" / store.folder(repo_id).name / commit
            with contextlib.suppress(OSError):  # a store that is mounted read-only, or another user's
                make_directory(noted.parent)
                noted.touch()


class Processes:
    """The processes of a node, as /proc shows them to this one."""

    def __init__(self, proc: Path = Path("/proc"), node_namespace: Path = NODE_NAMESPACE) -> None:
        self.proc = proc
        self._node_namespace = node_namespace

    def blind(self) -> str | None:
        """Return why this process cannot see all others, or None when it can."""
        if os.geteuid() != 0:
            return f"other users' processes can be read by root only, and this runs as user {os.geteuid()}"
        here = self._link("self/ns/pid")
        if here != _FIRST_PID_NAMESPACE and here != self._namespace_of_node():
            return "this runs in a container, from which the node's other processes cannot be seen"
        if self._link("self") != str(os.getpid()):
            return "/proc shows the processes of another container"
        if self._hides_processes() and not self._sees_hidden():
            return "/proc is mounted with hidepid"
        return None

    def pids(self) -> list[int]:
        """Return all processes but this one."""
        own = os.getpid()
        return [int(path.name) for path in self.proc.iterdir() if path.name.isdigit() and int(path.name) != own]

    def ancestors(self) -> set[int]:
        """Return this process's parents: the shell and ssh session that were told to run it name what it is told."""
        found: set[int] = set()
        pid = os.getppid()
        while pid > 1 and pid not in found:
            found.add(pid)
            said = read_text(self.proc / str(pid) / "stat") or ""
            fields = said.rpartition(")")[2].split()
            pid = int(fields[1]) if len(fields) > 1 else 0
        return found

    def _link(self, name: str) -> str | None:
        try:
            return str((self.proc / name).readlink())
        except OSError:
            return None

    def _namespace_of_node(self) -> str | None:
        try:
            status = self._node_namespace.lstat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
            return None
        return read_text(self._node_namespace)

    def _hides_processes(self) -> bool:
        for line in (read_text(self.proc / "self/mounts") or "").splitlines():
            fields = line.split(" ")
            if len(fields) > 3 and fields[1] == str(self.proc) and fields[2] == "proc":
                hidden = [option for option in fields[3].split(",") if option.startswith("hidepid=")]
                if hidden and hidden[-1] not in ("hidepid=0", "hidepid=off"):
                    return True
        return False

    def _sees_hidden(self) -> bool:
        """hidepid does not bind who may trace every process."""
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", read_text(self.proc / "self/status") or "", re.MULTILINE)
        capable = found is not None and bool(int(found[1], 16) >> _CAP_SYS_PTRACE & 1)
        return capable and self._link("self/ns/user") == _FIRST_USER_NAMESPACE


def read_use(store: Store, processes: Processes | None = None) -> Use:
    """Return who uses each snapshot of ours now, those included that are on their way out."""
    processes = processes or Processes()
    kinds = ("manifests", "withdrawn", "removing")
    looking = _Looking(store, [manifest for kind in kinds for manifest in store.all_noted(kind)], processes)
    unknown = processes.blind()
    denied = None
    spared = processes.ancestors()
    for pid in processes.pids():
        try:
            looking.look_at(pid, named=pid not in spared)
        except OSError as error:
            # Process 1 is init: it holds no model, and on some machines it is closed even to root.
            if error.errno not in _GONE and pid != 1:
                denied = f"process {pid} ({looking.command(pid)}) cannot be read: {error.strerror}"
    return Use(unknown or denied, {key: tuple(found.values()) for key, found in looking.users.items()})


class _Looking:
    """What to look for, and what was found so far."""

    def __init__(self, store: Store, manifests: list[Manifest], processes: Processes) -> None:
        self.users: dict[Key, dict[int, User]] = {}
        self._proc = processes.proc
        self._names: dict[bytes, set[Key]] = {}
        self._files: dict[tuple[int, int], set[Key]] = {}
        self._repos: dict[bytes, set[Key]] = {}
        folders = set()
        self._mounts: dict[str, tuple[Mount, ...]] = {}
        device = store.root.stat().st_dev
        self._device = f"{os.major(device)}:{os.minor(device)}"
        for manifest in manifests:
            key = (manifest.repo_id, manifest.commit)
            self._names.setdefault(manifest.commit.encode(), set()).add(key)
            folder = store.folder(manifest.repo_id).name
            folders.add(folder)
            for word in (manifest.repo_id, folder):
                self._repos.setdefault(word.encode(), set()).add(key)
            self._add_file(store.snapshot(manifest), key)
            for name, file in manifest.blobs().items():
                self._names.setdefault(name.encode(), set()).add(key)
                self._add_file(store.blob(manifest, file), key)
        # ORG/NAME as a word, not as a part of a path or of a longer name; the folder's name also within a path.
        ids = _any(word for word in self._repos if word.decode() not in folders)
        names = _any(word.encode() for word in folders)
        either = rb"(?:(?<![\w.-]/)(" + ids + rb")(?!/)|(" + names + rb"))"
        self._repo = re.compile(rb"(?<![\w.-])" + either + rb"(?![\w-]|\.\w)")

    def _add_file(self, path: Path, key: Key) -> None:
        with contextlib.suppress(OSError):
            status = path.lstat()
            self._files.setdefault((status.st_dev, status.st_ino), set()).add(key)

    def look_at(self, pid: int, *, named: bool) -> None:
        """Note all that one process uses; `named` also looks at its arguments and environment.

        Raises OSError: one of _GONE when it has ended meanwhile.
        """
        folder = self._proc / str(pid)
        mounts, first = self._mounts_of(folder)
        for mount in mounts if first else ():
            pod = _POD.search(mount.path)
            self._note(self._named(mount.root.encode()), pid, f"has it mounted at {mount.path}", pod)
        for fd in (folder / "fd").iterdir():
            self._note(self._link_keys(fd), pid, "has a file of it open")
        self._note(self._map_keys((folder / "maps").read_bytes()), pid, "has it in memory")
        for name, how in (("cwd", "works in it"), ("root", "is rooted in it")):
            self._note(self._link_keys(folder / name), pid, how)
        if named:
            arguments = (folder / "cmdline").read_bytes()
            keys = self._named(arguments)
            self._note(keys, pid, "names it in its arguments")
            self._note(self._named((folder / "environ").read_bytes()), pid, "names it in its environment")
            # A proxy or a client names the model as well: only who can see the store can need its files.
            if not mounts or any(mount.devno == self._device for mount in mounts):
                repos = {key[0] for key in keys}
                found = {key for key in self._repo_keys(arguments) if key[0] not in repos}
                self._note(found, pid, "names its repository in its arguments")

    def command(self, pid: int) -> str:
        """Return the process's name."""
        return read_text(self._proc / str(pid) / "comm") or "?"

    def _note(self, keys: Iterable[Key], pid: int, how: str, pod: re.Match[str] | None = None) -> None:
        for key in keys:
            found = self.users.setdefault(key, {})
            if pid not in found:
                pod = pod or _POD.search(read_text(self._proc / str(pid) / "cgroup") or "")
                uid = pod[1].replace("_", "-") if pod else None
                found[pid] = User(pid, self.command(pid), uid, how)

    def _link_keys(self, link: Path) -> set[Key]:
        try:
            target = str(link.readlink())
        except OSError as error:
            if error.errno in _GONE:  # closed, or a kernel thread
                return set()
            raise
        if not target.startswith("/"):
            return set()  # a pipe, a socket, an anonymous inode
        found = self._named(os.fsencode(target))
        with contextlib.suppress(OSError):  # a path of a network filesystem that is gone
            status = link.stat()
            found |= self._files.get((status.st_dev, status.st_ino), set())
        return found

    def _map_keys(self, maps: bytes) -> set[Key]:
        found = self._named(maps)
        for line in maps.splitlines():
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[4] != b"0":
                major, _, minor = fields[3].partition(b":")
                device = os.makedev(int(major, 16), int(minor, 16))
                found |= self._files.get((device, int(fields[4])), set())
        return found

    def _mounts_of(self, folder: Path) -> tuple[tuple[Mount, ...], bool]:
        """Return what the process has mounted, and whether it is the first one seen with these mounts."""
        try:
            namespace = str((folder / "ns/mnt").readlink())
        except PermissionError:
            namespace = folder.name
        first = namespace not in self._mounts
        if first:
            self._mounts[namespace] = parse_mountinfo((folder / "mountinfo").read_text(errors="replace"))
        return self._mounts[namespace], first

    def _named(self, text: bytes) -> set[Key]:
        found: set[Key] = set()
        for match in _HASH.finditer(text):
            found |= self._names.get(match[0], set())
        return found

    def _repo_keys(self, text: bytes) -> Iterator[Key]:
        for match in self._repo.finditer(text):
            yield from self._repos[match[1] or match[2]]


def _any(words: Iterable[bytes]) -> bytes:
    """Return the expression that matches any of the words; it matches nothing when there is none."""
    return b"|".join(re.escape(word) for word in sorted(words)) or b"(?!)"
