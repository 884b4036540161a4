"""R9: a host cut off in the middle of a run, Ctrl-C, kill -9: what is left behind, and whether the next run converges.

Real ansible, ssh and node program against hosts in mount namespaces of this machine; 10 hosts, 4 with SCALE=small.
A sync outlives a lost link and a killed run on purpose. So it counts as left behind when it lives after Ctrl-C, or
after the time in which it could have ended: the drills make the source fast again, and look then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

from figures import Figure, report, small
from run_drills import REPOSITORY, SLOW_MODEL_BYTES, Drill, drill, finish, hear, interrupt
from ssh_hosts import can_run

_APART = "JUDGE_DRILL_APART"  # set for the run inside


def apart() -> None:
    """Go on, from the start, with a /dev/shm of our own, where the private directories of runs lie.

    Whatever run begins on this machine clears away what dead ones left there; here that is for the drill's next run.
    """
    if _APART not in os.environ:
        os.execvpe("unshare", ["unshare", "--mount", "--propagation", "private", "sh", "-euc",
                               'mount -t tmpfs tmpfs /dev/shm; exec "$@"', "sh", sys.executable, *sys.argv],
                   {**os.environ, _APART: "1"})


def cut_for_a_moment(field: Drill, process: subprocess.Popen[str]) -> None:
    """Cut the first host off and let it come back: the same run goes on, and nothing is fetched twice."""
    cut = field.hosts.hosts[0]
    hear(process, f"{cut.name}: syncing")
    cut.cut()
    hear(process, f"{cut.name}: syncing {REPOSITORY}: no answer over ssh")
    cut.start()
    while "no answer" in hear(process, f"{cut.name}: syncing").splitlines()[-1]:
        pass  # until it has been heard of again
    field.fast()
    code, answer = finish(process, seconds=600)
    assert (code, field.downloads()) == (0, len(field.hosts.hosts)), answer
    assert {host["state"] for host in answer["hosts"].values()} == {"complete"}, answer


def cut_one_host(field: Drill, process: subprocess.Popen[str]) -> None:
    """Cut the first host off until the run asks for it no more: it fails alone, its sync goes on, and so do others.

    The next run finds everything there, and fetches nothing.
    """
    cut = field.hosts.hosts[0]
    hear(process, f"{cut.name}: syncing")
    cut.cut()
    field.fast()
    code, answer = finish(process, seconds=600)
    failed = [name for name, host in answer["hosts"].items() if not host["ok"]]
    assert (code, failed) == (1, [cut.name]), answer
    assert answer["hosts"][cut.name]["reason"] == "NODE_UNREACHABLE", answer
    command, _, advice = answer["hosts"][cut.name]["repair"].partition("   # ")
    assert command == f"judge-bootstrap --env drill run model_cache --limit {cut.name}", command
    assert "ssh" in advice, advice
    assert field.orphans() == [], "a sync that was cut off ends by itself"
    cut.start()
    code, answer = field.run("run", "model_cache")
    assert (code, answer["changed"], field.downloads()) == (0, 0, 0), answer


def ctrl_c(field: Drill, process: subprocess.Popen[str]) -> None:
    """Interrupt the run once: nothing is left, here or on a host."""
    interrupt(process)
    code, answer = finish(process)
    assert (code, answer["interrupted"], answer["reason"]) == (130, True, "INTERRUPTED"), answer
    assert answer["message"] == "interrupted; nothing is left running", answer
    assert field.folders, "the drill is broken: the run had no private directory"
    assert field.folders_left() == set(), "private directories are left"


def kill_9(field: Drill, process: subprocess.Popen[str]) -> None:
    """Kill the CLI; the next run ends what it left here, and takes up the syncs that go on."""
    hear(process, "syncing")
    syncs = [field.sync_of(host) for host in field.hosts.hosts]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert field.folders_left() == field.folders, "the drill is broken: who removed the directories?"
    following = field.start("run", "model_cache", "--forks", str(len(syncs)))
    heard = hear(following, "is being synced")
    field.fast()
    heard += following.communicate(timeout=600)[1]
    assert following.returncode == 0, heard
    assert "ended without finishing; this run goes on where it stopped" in heard, heard
    assert ([field.sync_of(host) for host in field.hosts.hosts], field.downloads()) == (syncs, 0), heard
    assert field.orphans() == [], "something is left of the run that was killed"
    assert field.folders_left() == set(), "private directories are left"


def play(count: int, name: str, disturb: Any) -> dict[str, Any]:
    """Play one drill on fresh hosts; return what it left running, and the share of hosts the next run completed.

    An answer that is not as it should be is an AssertionError.
    """
    started = time.monotonic()
    # Only where it is to be given up, a host is not asked for long: how soon it comes back depends on the machine.
    reconnect_seconds = 20 if disturb is cut_one_host else 300
    with (tempfile.TemporaryDirectory(prefix="judge-drill.") as folder,
          drill(Path(folder), count, model_bytes=SLOW_MODEL_BYTES) as field):
        field.slow()
        process = field.start("run", "model_cache", "--forks", str(count), "-e",
                              f"model_cache_reconnect_seconds={reconnect_seconds}")
        field.wait_until_working(process)
        disturb(field, process)
        orphans = field.orphans() if disturb is ctrl_c else []
        field.fast()
        orphans += field.orphans()
        code, answer = field.run("run", "model_cache")
        good = [host for host in answer.get("hosts", {}).values() if host["ok"] and host["state"] == "complete"]
        return {"drill": name, "orphans": orphans, "next_run": code,
                "converged_percent": round(100 * len(good) / count, 1),
                "seconds": round(time.monotonic() - started, 1)}


def main() -> int:
    """Print R9."""
    if not can_run():
        sys.stderr.write("R9 needs root, sshd and unshare. Next: apt-get install openssh-server util-linux, as root\n")
        return 2
    apart()
    count = 4 if small() else 10
    drills = [play(count, name, disturb) for name, disturb in (
        ("ssh of 1 host cut for a moment", cut_for_a_moment), ("ssh of 1 host cut", cut_one_host), ("Ctrl-C", ctrl_c),
        ("kill -9", kill_9))]
    orphans = sum(len(item["orphans"]) for item in drills)
    converged = min(item["converged_percent"] for item in drills)
    return report(
        Figure("R9", orphans, "== 0", {"what": "orphans", "hosts": count, "drills": drills}),
        Figure("R9", converged, ">= 100 %", {"what": "hosts that the next run made complete", "hosts": count}))


if __name__ == "__main__":
    sys.exit(main())
