"""R5 in a virtual machine: the power goes during a sync, or the disk below it begins to fail.

The store is on real NVMe devices: one that `disks ensure` prepared (XFS), one with ext4, and one behind device mapper,
whose table is changed to `error` in the middle. The Hub is this process; the guest reaches it through ssh. Each point
follows from the seed and its number, but for how far a machine without a real CPU is by then.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from judge_lab import LabError
from judge_lab.vm import Machine
from judge_node.cache.store import OWN_FOLDER
from nvme_drills.node import COMMAND_SECONDS, GATE, PATH, Node, tell

from .disks import Outcome
from .models import MIB, pair
from .oracle import complete, orphans, unverified
from .source import Site, serve

POWER, DISK = "power cut", "disk begins to fail"
XFS, EXT4, MAPPED = PATH, "/mnt/ext4", "/mnt/mapped"
_SHARDS = (18 * MIB, 2 * MIB)
_DISK_BYTES = 400 * MIB
_UNIT = "drill-sync"
_SETUP = """
mkfs.ext4 -q $B && mkdir -p {ext4} || exit 1
echo "$(blkid -o export $B | grep ^UUID=) {ext4} ext4 noatime,nofail 0 2" >> /etc/fstab
modprobe dm-mod && systemctl daemon-reload && mount {ext4}
"""
_MAP = """
size=$(blockdev --getsz $C)
dmsetup info drill >/dev/null 2>&1 || echo "0 $size linear $C 0" | dmsetup create drill
udevadm settle
mkdir -p {mapped}
"""
_BREAK = """
dmsetup suspend --noflush --nolockfs drill && echo "0 $(blockdev --getsz $C) error" | dmsetup load drill || exit 1
dmsetup resume drill
"""
_MEND = """
umount {mapped} || umount -f {mapped} || umount -l {mapped}
dmsetup suspend --noflush --nolockfs drill && echo "0 $(blockdev --getsz $C) linear $C 0" | dmsetup load drill || exit 1
dmsetup resume drill
mount /dev/mapper/drill {mapped}
"""


class Cuts:
    """The machine, with a store that has the old commit on each of its disks."""

    def __init__(self, made: Machine, seed: int) -> None:
        self.machine, self.seed = made, seed
        self.node = Node(made, {letter: made.new_disk(size_bytes=_DISK_BYTES) for letter in "ABC"})
        self.old, self.new = pair(seed, _SHARDS)
        self._serving = contextlib.ExitStack()
        self.site: Site = self._serving.enter_context(serve([self.old, self.new]))
        self._tunnel: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End what was started beside the machine."""
        self._hang_up()
        self._serving.close()

    def start(self) -> None:
        """Switch on, prepare the disks, and sync the old commit to each."""
        node = self.node
        node.start("RABC")
        node.install()
        self.machine.put(Path(__file__).with_name("oracle.py").read_bytes(), "/opt/oracle.py", 0o644)
        for name, model in (("old", self.old), ("new", self.new)):
            self.machine.put(json.dumps(model.manifest()).encode(), f"/opt/{name}.json", 0o644)
        answer = node.ensure(f"--gate {GATE} --wait 5 --device {node.disks['A'].by_id()}")
        if answer.code != 0:
            raise LabError(f"`disks ensure` did not prepare the disk: {answer}")
        node.sh(_SETUP.format(ext4=EXT4))
        node.sh(_MAP.format(mapped=MAPPED) + f"mkfs.ext4 -q /dev/mapper/drill && mount /dev/mapper/drill {MAPPED}")
        self._connect()
        for mounted in (XFS, EXT4, MAPPED):
            said = self._sync("old", f"{mounted}/before")
            if not said.get("ok"):
                raise LabError(f"the first sync to {mounted} failed: {said}")
        node.sh("sync")

    def play(self, number: int, what: str = POWER) -> Outcome:
        """Cut one sync off; look at what a reader finds then, and run again."""
        rng = random.Random(f"{what} {self.seed} {number}")
        mounted = MAPPED if what == DISK else (XFS, EXT4)[number % 2]
        size = sum(len(data) for blob, data in self.new.by_blob().items() if blob not in self.old.by_blob())
        # Half of them while bytes come, half while the rest is done.
        due, delay = (rng.randrange(size), 0.0) if rng.random() < 0.5 else (size, rng.uniform(0, 1))
        outcome = Outcome(self.seed, number, what, f"{mounted}, after {due} of {size} bytes and {delay:.1f} s")
        self.node.sh(f"rm -rf {mounted}/hub && cp -a {mounted}/before {mounted}/hub && sync")
        if self._tunnel is None:
            self._connect()
        self._begin(f"{mounted}/hub", due)
        time.sleep(delay)
        if what == POWER:
            # What it has said to be complete must be so after the cut, too.
            outcome.state = "complete" if due == size and '"ok": true' in self._said() else "cut"
            self.machine.kill()
            self._hang_up()
            self.machine.start()
            self.node.booted()
            self.machine.run("systemctl is-system-running --wait >/dev/null 2>&1", timeout=COMMAND_SECONDS, check=False)
            self.node.sh(f"wait_for 'mountpoint -q {mounted}'")
            self.node.sh(_MAP.format(mapped=MAPPED) + f"mount /dev/mapper/drill {MAPPED}")
        else:
            self.node.sh(_BREAK)
            outcome.state = self._ended()
            if outcome.state not in ("complete", "DISK_FAILED"):
                outcome.wrong.append("not DISK_FAILED")
            self.node.sh(_MEND.format(mapped=MAPPED))
        found = self._look(outcome, f"{mounted}/hub")
        if not complete(found, self.old):
            outcome.wrong.append("the old commit is not whole any more")
        if outcome.state == "complete" and what == POWER and not complete(found, self.new, "main"):
            outcome.wrong.append("it said complete, and is not")
        if self._tunnel is None:
            self._connect()
        said = self._sync("new", f"{mounted}/hub")
        found = self._look(outcome, f"{mounted}/hub")
        if not said.get("ok") or not complete(found, self.new, "main") or not complete(found, self.old):
            outcome.wrong.append(f"the next run did not complete: {said.get('reason')} {said.get('message')}")
        outcome.wrong += [f"left behind: {path}" for path in orphans(found, OWN_FOLDER)]
        tell(f"  {outcome}")
        return outcome

    def _begin(self, store: str, due: int) -> None:
        """Start the sync of the new commit, and return when so many bytes are on their way."""
        self.site.sent.clear()
        reached = threading.Event()
        self.site.on_sent = lambda total: reached.set() if total >= due else None
        self.machine.run(
            f"rm -f /run/sync.json; systemd-run --quiet --unit={_UNIT} --collect "
            f"sh -c '{self._command('new', store)} > /run/sync.json'"
        )
        deadline = time.monotonic() + COMMAND_SECONDS
        while not reached.wait(0.2):
            ended = self.machine.run("test -s /run/sync.json", check=False).returncode == 0
            # What is asked of a machine takes a while, in which the last bytes may have gone out.
            if (ended and not reached.is_set()) or time.monotonic() > deadline:
                raise LabError(f"the sync ended before it was cut: {self._said()[-400:]}")
        self.site.on_sent = lambda total: None

    def _ended(self) -> str:
        """Wait for the end of the sync; return complete or the reason code."""
        self.node.sh(f"wait_for '! systemctl is-active -q {_UNIT}'")
        said = self._said()
        try:
            answer = json.loads(said)
        except ValueError:
            return f"no answer: {said[-200:]}"
        return str(answer["reason"] or answer["state"])

    def _said(self) -> str:
        return self.machine.run("cat /run/sync.json", check=False).stdout

    def _command(self, name: str, store: str) -> str:
        return f"judge-node cache sync /opt/{name}.json --store {store} --endpoint {self.site.hub} --json"

    def _sync(self, name: str, store: str) -> dict[str, Any]:
        done = self.machine.run(self._command(name, store), timeout=COMMAND_SECONDS, check=False)
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return {"message": done.stderr[-300:]}
        return answer

    def _look(self, outcome: Outcome, store: str) -> dict[str, Any]:
        done = self.machine.run(f"python3 /opt/oracle.py {store}", timeout=COMMAND_SECONDS)
        found: dict[str, Any] = json.loads(done.stdout)
        bad = unverified(found, [self.old, self.new])
        outcome.unverified += len(bad)
        outcome.wrong += [f"UNVERIFIED: {text}" for text in bad]
        return found

    def _connect(self) -> None:
        """Let the guest reach the Hub at the same addresses as this machine."""
        ports = [str(urlsplit(url).port) for url in (self.site.hub, self.site.blobs)]
        words = [word for port in ports for word in ("-R", f"127.0.0.1:{port}:127.0.0.1:{port}")]
        words += ["-o", "ExitOnForwardFailure=yes", f"root@{self.machine.address}"]
        self._tunnel = subprocess.Popen(
            [*self.machine.ssh_command(), "-N", *words],
            cwd=self.machine.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.node.sh(f"wait_for 'bash -c \"exec 3<>/dev/tcp/127.0.0.1/{ports[0]}\" 2>/dev/null'")

    def _hang_up(self) -> None:
        if self._tunnel is not None:
            self._tunnel.kill()
            self._tunnel.wait()
        self._tunnel = None


@contextlib.contextmanager
def cuts(made: Machine, seed: int) -> Iterator[Cuts]:
    """Yield the drill on a machine that is switched off, started."""
    drill = Cuts(made, seed)
    try:
        drill.start()
        yield drill
    finally:
        drill.close()
