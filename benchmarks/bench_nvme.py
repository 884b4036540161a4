"""P5, P6: the role over many ssh hosts against plain parallel ssh. P7: format and mount against what others run.

P5 and P6 compare `ansible-playbook playbooks/nvme.yml` with `xargs -P FORKS ssh HOST 'install the program from stdin;
python3 PROGRAM disks ensure ...'`: the same arguments, program, ssh options and parallelism, connections opened anew in
every run, hosts with equal blank disks. P5 is the first run, P6 the second. Controller and hosts share this machine's
processors, so the ratio is one of processor time; on a real fleet the hosts' share is spread over the hosts.

P7 formats and mounts a sparse disk of 250 GB with judge-node, with mkfs' own defaults, and as the EKS AMI's
setup-local-disks does in its mode `mount` (mkfs.xfs -l su=8b, then a mount with noatime). Bytes are what the loop
device counts as written when the filesystem is synced; times are those of mkfs and mount alone, taken by the same
wrapper for all; what judge-node takes as a whole, the proof that the disk is blank included, stands in the detail.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figures import Figure, report, small
from nvme_hosts import MOUNT_PATH, CannotRun, Host, Hosts, check_machine, disk_hosts, run

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "/usr/bin/python3"  # as ansible.cfg names it
GIB, MIB = 1 << 30, 1 << 20
# Big enough to be proven blank by samples, as a real one is; sparse, so it costs what mkfs.xfs writes.
FLEET_DISK_BYTES, FLEET_USED_BYTES = GIB, 80 * MIB
BIG_DISK_BYTES, BIG_USED_BYTES = 250 * 10**9, 2 * GIB
DEFAULT_MODEL = "Amazon EC2 NVMe Instance Storage"
MORE = 4


def judge_node_action() -> Any:
    """Return the action plugin of the judge_node module: it packs the program and writes its command line."""
    path = ROOT / "roles/judge_node/action_plugins/judge_node.py"
    spec = spec_from_file_location("bench_judge_node", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- P5 and P6 --------------------------------------------------------------------------------------------------------


@dataclass
class Spent:
    """What the runs of one way took, in seconds of time and of this side's processors."""

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    first_cpu: list[float] = field(default_factory=list)
    second_cpu: list[float] = field(default_factory=list)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return (seconds, processor seconds of the processes it started and waited for)."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@dataclass
class Fleet:
    """The hosts, and the two ways to bring a mounted disk to them."""

    hosts: Hosts
    forks: int
    program: Path
    arguments: Callable[[Host], list[str]]
    ssh_options: list[str]
    connections: int = 0  # numbers the folders of control sockets

    def plain(self, *, changed: bool) -> None:
        """Run the one command on every host by ssh, `forks` at a time. Raises RuntimeError unless all is as wanted."""
        folder = "/usr/local/lib/judge-bootstrap"
        lines = []
        for host in self.hosts.hosts:
            ensure = shlex.join([PYTHON, f"{folder}/judge-node.pyz", *self.arguments(host)])
            remote = (f"mkdir -p {folder} && cat >{folder}/.new && chmod 755 {folder}/.new && "
                      f"mv {folder}/.new {folder}/judge-node.pyz && {ensure}")
            ssh = shlex.join(["ssh", *self.ssh_options, "-p", str(host.port), "root@127.0.0.1", remote])
            lines.append(f"{ssh} <{self.program} >{host.folder}/answer\0")
        done = subprocess.run(["xargs", "-0", "-P", str(self.forks), "-n", "1", "sh", "-c"], input="".join(lines),
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"plain ssh: xargs ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        for host in self.hosts.hosts:
            answer = json.loads((host.folder / "answer").read_text())
            if (answer["ok"], answer["state"], answer["changed"]) != (True, "ours", changed):
                raise RuntimeError(f"plain ssh: {host.name} answered {answer}")

    def ansible(self, *, changed: bool) -> None:
        """Run the playbook. Raises RuntimeError unless every host is as wanted."""
        done = self.playbook(ROOT / "playbooks/nvme.yml")
        recap = dict(re.findall(r"^(\S+)\s+: (ok=.*)$", done, re.MULTILINE))
        wanted = f"ok=1 changed={int(changed)} unreachable=0 failed=0"
        for host in self.hosts.hosts:
            found = " ".join(recap.get(host.name, "nothing").split())
            if not found.startswith(wanted):
                raise RuntimeError(f"ansible: {host.name}: found {found}, wanted {wanted}:\n{done[-2000:]}")

    def playbook(self, path: Path) -> str:
        """Run a playbook over connections of its own and return what it printed."""
        self.connections += 1
        sockets = self.hosts.folder / f"c{self.connections}"
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.hosts.folder / "inventory.json"),
             "-f", str(self.forks), str(path)],
            cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            env={**{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
                 "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets)})
        if done.returncode != 0:
            raise RuntimeError(f"ansible-playbook {path} ended with {done.returncode}:\n"
                               f"{done.stdout[-3000:]}{done.stderr}")
        return done.stdout

    def hang_up(self) -> None:
        """End the connections that ssh keeps open after a playbook, so that the next run opens its own."""
        for socket in self.hosts.folder.glob("c*/*"):
            subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "host"], capture_output=True,
                           check=False)


@contextlib.contextmanager
def fleet(count: int) -> Iterator[Fleet]:
    """Have `count` hosts and what both ways need to reach them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "ansible.cfg")
    action = judge_node_action()
    with disk_hosts(count, FLEET_DISK_BYTES, FLEET_USED_BYTES) as hosts:
        ours = f"-o UserKnownHostsFile={hosts.known_hosts} -o IdentitiesOnly=yes -o IdentityFile={hosts.key}"
        program = hosts.folder / "judge-node.pyz"
        program.write_bytes(action.read_bundle(ROOT)[1])
        (hosts.folder / "inventory.json").write_text(json.dumps({"gpu_nodes": {
            "hosts": {host.name: {"ansible_port": host.port, "nvme_device": host.device} for host in hosts.hosts},
            "vars": {"ansible_host": "127.0.0.1", "ansible_user": "root", "ansible_ssh_common_args": ours}}}))

        def arguments(host: Host) -> list[str]:
            # What the role's defaults come to.
            return list(action.build_arguments({
                "command": "disks ensure", "mount_path": MOUNT_PATH, "device": host.device, "strategy": "RAID0",
                "fstype": "xfs", "owner": "auto", "nodeadm_path": "/mnt/k8s-disks", "accept_models": [DEFAULT_MODEL],
                "proof": "samples", "gate_units": ["kubelet.service"], "wait_seconds": 60}, False))

        shared = [option for option in re.findall(r"-o \S+", config["ssh_connection"]["ssh_args"])
                  if "Control" not in option]
        yield Fleet(hosts, int(config["defaults"]["forks"]), program, arguments, shlex.split(" ".join([*shared, ours])))


def fixed_cost(count: int, runs: int) -> list[Figure]:
    """Return P5 and P6. Where so few runs fall short on a machine with other work, up to MORE times as many decide."""
    spent = {"plain": Spent(), "ansible": Spent()}
    startup = []
    changed_again = 0
    with fleet(count) as made:
        ways = {"plain": made.plain, "ansible": made.ansible}
        empty = made.hosts.folder / "empty.yml"
        empty.write_text("- hosts: gpu_nodes\n  gather_facts: false\n  tasks: []\n")
        made.hosts.renew()
        made.playbook(empty)  # fills the page cache
        for turn in range(MORE * runs):
            if turn >= runs and all(_ratio(spent, which) <= 1.3 for which in ("first", "second")):
                break
            startup.append(timed(lambda: made.playbook(empty) and None)[0])
            for way in sorted(ways, reverse=bool(turn % 2)):  # each goes first in turn, as often as the other
                made.hosts.renew()
                for again, times, cpu in ((False, spent[way].first, spent[way].first_cpu),
                                          (True, spent[way].second, spent[way].second_cpu)):
                    took, used = timed(lambda again=again, way=way: ways[way](changed=not again))
                    times.append(took)
                    cpu.append(used)
                    made.hang_up()
        forks = made.forks
    shared = {"hosts": count, "runs": len(startup), "forks": forks, "cores": os.cpu_count(),
              "playbook_start_up_s": round(statistics.median(startup), 2)}
    figures = []
    for name, which in (("P5", "first"), ("P6", "second")):
        median = {way: statistics.median(getattr(spent[way], which)) for way in spent}
        cpu = {way: statistics.median(getattr(spent[way], f"{which}_cpu")) for way in spent}
        figures.append(Figure(name, round(median["ansible"] / median["plain"], 2), "<= 1.3", {
            "what": f"{which} run of the role over plain parallel ssh", "ansible_s": round(median["ansible"], 2),
            "plain_ssh_s": round(median["plain"], 2), "controller_cpu_s": round(cpu["ansible"], 2),
            "plain_ssh_cpu_s": round(cpu["plain"], 2),
            "all_ansible_s": [round(value, 2) for value in getattr(spent["ansible"], which)],
            "all_plain_ssh_s": [round(value, 2) for value in getattr(spent["plain"], which)], **shared}))
    # A host that changed something again has failed the run above: `ansible` demands changed=0 of each.
    figures.append(Figure("P6", changed_again, "== 0", {"what": "hosts changed by the second run", "hosts": count}))
    return figures


def _ratio(spent: Mapping[str, Spent], which: str) -> float:
    return statistics.median(getattr(spent["ansible"], which)) / statistics.median(getattr(spent["plain"], which))


# --- P7 ---------------------------------------------------------------------------------------------------------------

_WRAPPER = """#!/bin/bash
started=$EPOCHREALTIME
/run/real/{tool} "$@"
code=$?
echo "{tool} $started $EPOCHREALTIME" >>/run/took
exit $code
"""
_WRAP = r"""
set -eu
mkdir -p /run/real
for tool in mkfs.xfs mkfs.ext4 mount; do
  path=$(command -v $tool)
  cp -L "$path" /run/real/$tool
  chmod 755 /run/wrapped/$tool
  mount --bind /run/wrapped/$tool "$(readlink -f "$path")"
done
"""


def sectors(device: str, field_number: int) -> int:
    """Return a counter of a block device's `stat` (kernel: Documentation/block/stat.rst)."""
    return int(Path(f"/sys/block/{Path(device).name}/stat").read_text().split()[field_number])


@dataclass(frozen=True)
class Formatted:
    """What one format and mount came to."""

    written_bytes: int
    mkfs_s: float
    mount_s: float
    whole_s: float

    @property
    def tools_s(self) -> float:
        """Return the seconds of mkfs and mount."""
        return self.mkfs_s + self.mount_s


def formatted(hosts: Hosts, command: str) -> Formatted:
    """Give the host a blank disk, run the command on it, and return what it came to."""
    (host,) = hosts.hosts
    hosts.renew()
    inside = ["nsenter", "--mount", "--pid", "--target", str(host.first_process())]
    for tool in ("mkfs.xfs", "mkfs.ext4", "mount"):
        subprocess.run([*inside, "sh", "-c", f"mkdir -p /run/wrapped; cat >/run/wrapped/{tool}"], text=True,
                       input=_WRAPPER.format(tool=tool), check=True)
    run(*inside, "bash", "-c", _WRAP)
    before = sectors(host.device, 6)
    started = time.perf_counter()
    run(*inside, "sh", "-ec", command)
    whole = time.perf_counter() - started
    mounted = run(*inside, "findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", MOUNT_PATH).strip()
    if mounted != host.device:
        raise RuntimeError(f"found {mounted or 'nothing'} mounted after `{command}`, wanted {host.device}")
    run(*inside, "sync", "--file-system", MOUNT_PATH)
    took: dict[str, float] = {}
    for line in run(*inside, "cat", "/run/took").splitlines():
        tool, begun, ended = line.split()
        kind = tool.split(".")[0]
        took[kind] = took.get(kind, 0.0) + float(ended) - float(begun)
    if set(took) != {"mkfs", "mount"}:
        raise RuntimeError(f"`{command}` called {sorted(took)}, wanted mkfs and mount")
    return Formatted(512 * (sectors(host.device, 6) - before), took["mkfs"], took["mount"], whole)


def formatting(runs: int) -> list[Figure]:
    """Return P7. As above, more runs decide where few fall short."""
    action = judge_node_action()
    taken: dict[str, list[Formatted]] = {}
    with (disk_hosts(1, BIG_DISK_BYTES, BIG_USED_BYTES) as hosts,
          tempfile.NamedTemporaryFile(prefix="judge-node.", suffix=".pyz") as program):
        program.write(action.read_bundle(ROOT)[1])
        program.flush()
        device = hosts.hosts[0].device

        def ensure(fstype: str) -> str:
            return shlex.join([PYTHON, program.name, *action.build_arguments(
                {"command": "disks ensure", "mount_path": MOUNT_PATH, "device": device, "fstype": fstype}, False)])

        where = f"{device} {MOUNT_PATH}"
        commands = {
            "judge-node": ensure("xfs"),
            "mkfs.xfs": f"mkdir {MOUNT_PATH}; mkfs.xfs -q {device}; mount {where}",
            "mkfs.ext4": f"mkdir {MOUNT_PATH}; mkfs.ext4 -q {device}; mount {where}",
            "eks": f"mkdir {MOUNT_PATH}; mkfs.xfs -q -l su=8b {device}; mount -o defaults,noatime {where}",
            "judge-node ext4": ensure("ext4"),
        }
        for turn in range(MORE * runs + 1):
            for name, command in commands.items():
                came_to = formatted(hosts, command)
                if turn:  # the first turn fills the page cache
                    taken.setdefault(name, []).append(came_to)
            if turn >= runs and all(figure.ok for figure in _format_figures(taken)):
                break
    return _format_figures(taken)


def _format_figures(taken: Mapping[str, Sequence[Formatted]]) -> list[Figure]:
    def median(name: str, what: str) -> float:
        return statistics.median(getattr(item, what) for item in taken[name])

    detail = {name: {"written_mib": round(median(name, "written_bytes") / MIB, 1),
                     "mkfs_s": round(median(name, "mkfs_s"), 3), "mount_s": round(median(name, "mount_s"), 3),
                     "whole_s": round(median(name, "whole_s"), 3)} for name in taken}
    ours = detail["judge-node"]
    shared = {"disk_gb": BIG_DISK_BYTES // 10**9, "runs": len(taken["judge-node"])}
    figures = [
        Figure("P7", ours["written_mib"], "<= 200", {"what": "MiB written by format and mount", **ours, **shared}),
        Figure("P7", round(median("judge-node", "tools_s"), 3), "<= 1", {
            "what": "seconds of mkfs and mount", "whole_s": ours["whole_s"], **shared})]
    for rivals, what in ((("mkfs.xfs", "mkfs.ext4"), "mkfs' defaults"), (("eks",), "the EKS AMI's script")):
        ratios = {f"{kind}_over_{rival}": round(median("judge-node", key) / median(rival, key), 3)
                  for rival in rivals for kind, key in (("bytes", "written_bytes"), ("time", "tools_s"))}
        figures.append(Figure("P7", max(ratios.values()), "< 1", {
            "what": f"bytes and time of mkfs and mount over {what}, the worst of them", **ratios,
            **{rival: detail[rival] for rival in rivals}, "judge-node ext4": detail["judge-node ext4"], **shared}))
    return figures


def end(signal_number: int, frame: object) -> None:
    """End as Ctrl-C does, with hosts and loop devices removed."""
    raise KeyboardInterrupt


def main() -> int:
    """Print P5, P6 and P7."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job would ignore the first
        signal.signal(number, end)
    try:
        check_machine()
    except CannotRun as problem:
        sys.stderr.write(f"bench-nvme: {problem}\n")
        return 2
    try:
        figures = fixed_cost(32 if small() else 50, 4 if small() else 6) + formatting(5 if small() else 11)
    except KeyboardInterrupt:
        return 130
    return report(*figures)


if __name__ == "__main__":
    sys.exit(main())
