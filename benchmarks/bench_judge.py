"""P8: judgements per second on a real vLLM, ours against what one writes by hand, and against what the server can give.

The server is vLLM on the CPU with the tiny judge behind its gateway, started as the pod starts it. All ask the same
server in turns, each first in turn, for verdicts on texts that nobody asked about before, with the client's own
prompts, schema and sampling; figures are ratios of medians.

ours: judge_client.batch.run_batch from file to file, with its journal. gather: AsyncOpenAI with asyncio.gather and a
semaphore of the same window; it parses the replies as JSON and keeps them in memory. flood: as many connections, and
requests made beforehand as bytes, answers thrown away. one_by_one: JudgeClient.judge in a loop.

Over gather: server and clients share all processors, so that what a client itself costs counts. Over saturation (the
best of floods with 32 and 64 connections, under the better of ours at 32 and 64) and with faults: the server has a part
of the processors to itself, as a GPU has; otherwise the flood's server would have processors that ours lacks, and the
figure would say what a client costs instead of whether it keeps a server busy. With one processor all share it.

With faults: ours through a proxy that answers 5 % of the requests badly (all that passes: refusals, resets, no answer
for as long as the client waits, cut and empty answers), over ours through the same proxy without faults. It is the rate
while the window can be full: until the last item has been asked for. What the last items' faults take after that is a
second or two, of a batch of any size; the whole run stands in the detail.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

import openai
from figures import Figure, report, small
from judge_client import DEFAULT_RUBRIC, AsyncJudgeClient, JudgeClient, Status, build_judge_prompt
from judge_client.batch import run_batch
from judge_client.judging import request_body
from judge_drills import batches, faults, texts, vllm
from judge_drills.processes import Running
from judge_drills.wire import Message, read_message

WINDOW = 32
# So many that what a batch costs once (a survey of its file, a connection, two fsyncs) is little of it.
ITEMS = 256 if small() else 512
FAULTY_ITEMS = 256 if small() else 1_536
ROUNDS, MOST_ROUNDS = (3, 12) if small() else (7, 20)
# Two of a hundred are lost in any case, with answers that are computed and then spoilt: little is left for noise.
FAULTY_ROUNDS, MOST_FAULTY_ROUNDS = (2, 10) if small() else (5, 20)
RATE = 0.05
# How long the client waits for an answer behind the proxy, in judgements: a fault that gives none costs a place for so
# long. In seconds it would be too short for a machine with other work, where whole answers are then thrown away, and
# dear on a fast one.
PATIENCE, LEAST_PATIENCE_SECONDS = 4, 2.0


@dataclass
class Bench:
    """The server, a proxy before it, and texts that were not used yet."""

    server: vllm.Server
    proxy: Running
    folder: Path
    seed: int
    server_cores: set[int]
    _used: int = 0
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)

    def fresh(self, count: int) -> list[texts.Pair]:
        """Return texts that nobody asked about."""
        self._used += 1
        return texts.learnt(count, self.seed * 100_000 + self._used)

    def measure(self, name: str, count: int, work: Callable[[Sequence[texts.Pair]], Awaitable[None]]) -> None:
        """Let a contender judge so many items, and keep its rate."""
        pairs = self.fresh(count)
        cpu, started = time.process_time(), time.perf_counter()
        asyncio.run(work(pairs))
        self.rates.setdefault(name, []).append(count / (time.perf_counter() - started))
        self.cpu_ms.setdefault(name, []).append(1000 * (time.process_time() - cpu) / count)

    def measure_through_proxy(self, name: str, rate: float, timeout_seconds: float) -> None:
        """Let ours judge with so many faults; keep its rate while the window could be full, and that of the whole."""
        turn = len(self.rates.get(name, ()))
        faults.plan(self.proxy, rate, seed=self.seed + turn, kinds=faults.TRANSIENT, retry_after_seconds=0.2)
        self.measure(f"{name}_whole", FAULTY_ITEMS, ours(self, self.proxy.url, WINDOW, timeout_seconds=timeout_seconds))
        done = FAULTY_ITEMS - WINDOW
        self.rates.setdefault(name, []).append(done / faults.passed_at(self.proxy)[done - 1])

    def rate(self, name: str) -> float:
        """Return the median rate of a contender, in judgements per second."""
        return statistics.median(self.rates[name])


# --- contenders -------------------------------------------------------------------------------------------------------


def ours(bench: Bench, url: str, window: int, **options: float) -> Callable[[Sequence[texts.Pair]], Awaitable[None]]:
    """Ours, from file to file, with options of the client. Raises RuntimeError unless all are scored."""

    async def work(pairs: Sequence[texts.Pair]) -> None:
        asked = batches.write_items(bench.folder / "items.jsonl", pairs, bench.seed)
        out = bench.folder / "out.jsonl"
        async with AsyncJudgeClient(url, bench.server.model, bench.server.key, **options) as judge:
            summary = await run_batch(judge, asked.path, out, window=window, canaries=())
        for path in bench.folder.glob("out.jsonl*"):
            path.unlink()
        if summary.scored != len(pairs):
            raise RuntimeError(f"{summary.scored} of {len(pairs)} scored: {dict(summary.reasons)}")

    return work


def one_by_one(bench: Bench) -> Callable[[Sequence[texts.Pair]], Awaitable[None]]:
    """One after the other, with the client that waits."""

    async def work(pairs: Sequence[texts.Pair]) -> None:
        with JudgeClient(bench.server.url, bench.server.model, bench.server.key) as judge:
            for pair in pairs:
                verdict = judge.judge(*pair)
                if verdict.status is not Status.SCORED:
                    raise RuntimeError(f"one by one: {verdict.message}")

    return work


def gather(bench: Bench, window: int) -> Callable[[Sequence[texts.Pair]], Awaitable[None]]:
    """What one writes by hand."""

    async def work(pairs: Sequence[texts.Pair]) -> None:
        places = asyncio.Semaphore(window)
        async with openai.AsyncOpenAI(base_url=f"{bench.server.url}/v1", api_key=bench.server.key) as client:

            async def one(pair: texts.Pair) -> Any:
                async with places:
                    done = await client.chat.completions.create(**body_of(bench, pair))
                    return json.loads(done.choices[0].message.content)

            found = await asyncio.gather(*(one(pair) for pair in pairs))
        if not all("scores" in reply for reply in found):
            raise RuntimeError("gather: a reply has no scores")

    return work


def flood(bench: Bench, window: int) -> Callable[[Sequence[texts.Pair]], Awaitable[None]]:
    """As little as a client can do: bodies made beforehand, one connection a place, answers thrown away."""

    async def work(pairs: Sequence[texts.Pair]) -> None:
        requests = iter([request_of(bench, pair) for pair in pairs])
        address = urlsplit(bench.server.url)

        async def place() -> None:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            for request in requests:
                writer.write(request)
                answer = await read_message(reader)
                if answer is None or answer.status != 200:
                    raise RuntimeError(f"flood: {answer}")
            writer.close()

        await asyncio.gather(*(place() for _ in range(window)))

    return work


def body_of(bench: Bench, pair: texts.Pair) -> dict[str, Any]:
    """Return the body of the request that our client sends for these texts."""
    return request_body(bench.server.model, build_judge_prompt(*pair), DEFAULT_RUBRIC.schema)


def request_of(bench: Bench, pair: texts.Pair) -> bytes:
    """Return that request as it goes over the wire."""
    headers = {"host": "judge", "authorization": f"Bearer {bench.server.key}", "content-type": "application/json"}
    body = json.dumps(body_of(bench, pair)).encode()
    return Message(("POST", "/v1/chat/completions", "HTTP/1.1"), headers, body).bytes()


# --- figures ----------------------------------------------------------------------------------------------------------


def over_gather(bench: Bench) -> list[Figure]:
    """Return the first of P8. A shared machine is noisy: where few rounds fall short, more decide."""
    _in_turns(bench, {"ours_32": ours(bench, bench.server.url, WINDOW), "gather_32": gather(bench, WINDOW)},
              _over_gather)
    narrow = {"ours_8": ours(bench, bench.server.url, 8), "gather_8": gather(bench, 8),
              "ours_1": ours(bench, bench.server.url, 1), "gather_1": gather(bench, 1),
              "one_by_one_1": one_by_one(bench)}
    for name, work in narrow.items():
        bench.measure(name, ITEMS // 16 if name.endswith("_1") else ITEMS // 4, work)
    return [_over_gather(bench)]


def _over_gather(bench: Bench) -> Figure:
    return Figure("P8", round(bench.rate("ours_32") / bench.rate("gather_32"), 3), ">= 1", {
        "what": f"judgements per second at window {WINDOW}, over openai + asyncio.gather", **_measured(bench)})


def over_saturation(bench: Bench) -> list[Figure]:
    """Return the second of P8, in as many rounds as it takes."""
    return _in_turns(bench, {"ours_32": ours(bench, bench.server.url, WINDOW), "flood_32": flood(bench, WINDOW),
                             "ours_64": ours(bench, bench.server.url, 64), "flood_64": flood(bench, 64)},
                     _over_saturation)


def _over_saturation(bench: Bench) -> Figure:
    saturation = max(("flood_32", "flood_64"), key=bench.rate)
    ours_at_best = max(("ours_32", "ours_64"), key=bench.rate)
    return Figure("P8", round(bench.rate(ours_at_best) / bench.rate(saturation), 3), ">= 0.95", {
        "what": "ours over the server's saturation, each with the better of the windows 32 and 64",
        "ours": ours_at_best, "saturation": saturation, **_measured(bench)})


def _in_turns(bench: Bench, everyone: Mapping[str, Callable[[Sequence[texts.Pair]], Awaitable[None]]],
              figure: Callable[[Bench], Figure]) -> list[Figure]:
    names = list(everyone)
    for turn in range(MOST_ROUNDS):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            bench.measure(name, ITEMS, everyone[name])
        found = figure(bench)
        if turn + 1 >= ROUNDS and found.ok:
            break
    return [found]


def _measured(bench: Bench) -> dict[str, Any]:
    return {"per_second": {name: round(bench.rate(name), 1) for name in bench.rates},
            "client_cpu_ms_each": {name: round(statistics.median(found), 2) for name, found in bench.cpu_ms.items()},
            "all_per_second": {name: [round(rate, 1) for rate in found] for name, found in bench.rates.items()},
            "items": ITEMS, "cores": os.cpu_count(), "server_cores": len(bench.server_cores)}


def with_faults(bench: Bench) -> list[Figure]:
    """Return the third of P8."""
    figures: list[Figure] = []
    timeouts = []
    for turn in range(MOST_FAULTY_ROUNDS):
        latest = bench.rates.get("clean", bench.rates["ours_32"])[-1]
        timeouts.append(max(LEAST_PATIENCE_SECONDS, round(PATIENCE * WINDOW / latest, 1)))
        for name, rate in sorted({"faults": RATE, "clean": 0.0}.items(), reverse=bool(turn % 2)):
            bench.measure_through_proxy(name, rate, timeouts[-1])
        rates = {name: bench.rate(name) for name in ("faults", "clean", "faults_whole", "clean_whole")}
        figures = [Figure("P8", round(rates["faults"] / rates["clean"], 3), ">= 0.95", {
            "what": f"ours with {100 * RATE:g} % faults over ours without, through the same proxy",
            "per_second": {name: round(rate, 1) for name, rate in rates.items()},
            "whole_run": round(rates["faults_whole"] / rates["clean_whole"], 3),
            "all_per_second": {name: [round(rate, 1) for rate in bench.rates[name]] for name in ("faults", "clean")},
            "kinds": list(faults.TRANSIENT), "timeout_seconds": timeouts, "rounds": turn + 1,
            "items": FAULTY_ITEMS})]
        if turn + 1 >= FAULTY_ROUNDS and figures[0].ok:
            break
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Print P8."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args(arguments)
    missing = vllm.available()
    if missing:
        sys.stderr.write(f"bench-judge: {missing}\n")
        return 2
    all_cores = os.sched_getaffinity(0)
    for_server = set(sorted(all_cores)[:(len(all_cores) + 1) // 2])
    with ready(options.seed, all_cores, all_cores) as bench:
        first = report(*over_gather(bench))
    with ready(options.seed + 1, for_server, all_cores - for_server or all_cores) as bench:
        return max(first, report(*over_saturation(bench)), report(*with_faults(bench)))


@contextlib.contextmanager
def ready(seed: int, server_cores: set[int], client_cores: set[int]) -> Iterator[Bench]:
    """Have a server that has answered both kinds of client, on its processors, and us on ours."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, server_cores)  # what is started inherits it
        with tempfile.TemporaryDirectory(prefix="judge-p8-") as name, vllm.serving() as server:
            os.sched_setaffinity(0, client_cores)
            with faults.faulty(server.url) as proxy:
                bench = Bench(server, proxy, Path(name), seed, server_cores)
                # What is loaded once: modules here, and in the server what compiles at its first requests.
                asyncio.run(gather(bench, WINDOW)(bench.fresh(WINDOW)))
                asyncio.run(ours(bench, server.url, WINDOW)(bench.fresh(WINDOW)))
                yield bench
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    sys.exit(main())
