"""V1 and V3: no judgement is lost, doubled or untyped, whatever happens; and the same answer gets the same scores.

V1 judges many items in a process of its own, through a proxy that answers one request in twenty badly (429 with and
without Retry-After, 500, 503, no answer, connections that are reset, JSON and bodies that are cut, empty and slow
answers, a login page, replies that break the schema or were cut), and kills that process with SIGKILL at random points,
until it has ended by itself. The server is a stand-in whose verdict follows from the judged texts, so that each line of
the output can be held against its item.

V3 judges the same items twice at temperature 0 on a real vLLM (CPU, the tiny judge), several at a time, the second time
in another order, so that each is computed beside others: the share of items that got the same scores. The detail has
the share on texts unlike anything that this judge has learnt, and with other codes in the fences around the texts.

Every point follows from the seed; `--seed N` takes another one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

from figures import Figure, report, small
from judge_client import AsyncJudgeClient, Status
from judge_client.batch import CANARIES
from judge_drills import batches, faults, texts, vllm
from judge_drills.processes import Running
from judge_drills.standin import completions, standing_in

RATE = 0.05
ITEMS, KILLS = (2_000, 2) if small() else (10_000, 8)
TWICE = 200 if small() else 1_000
TWICE_AT_A_TIME = 8
_BATCH_SECONDS = 600
# What of a judgement is answered by the server, and not by the proxy alone, and brings the client no verdict.
_WASTED = ("reset_within", "truncated_json", "truncated_body", "empty", "login_page", "invalid_reply")


# --- V1 ---------------------------------------------------------------------------------------------------------------


def judged_under_faults(seed: int) -> list[Figure]:
    """Return V1."""
    good, bad = (one.model_response for one in CANARIES)
    with (tempfile.TemporaryDirectory(prefix="judge-v1-") as name,
          standing_in(seconds=0.02, fixed={good: 9, bad: 2}) as server, faults.faulty(server.url) as proxy):
        folder = Path(name)
        asked = batches.write_items(folder / "items.jsonl", texts.unseen(ITEMS, seed), seed)
        out = folder / "verdicts.jsonl"
        faults.plan(proxy, RATE, seed=seed, retry_after_seconds=1)
        started = time.monotonic()
        kills, summary = _run_with_kills(proxy, asked, out, random.Random(seed))
        seconds = time.monotonic() - started
        found = batches.check(asked, out, summary)
        told = faults.counted(proxy)
        asked_of = {one: count for one, count in completions(server).items() if one in asked.digests}
        left = sorted(path.name for path in folder.iterdir()
                      if path.name not in ("items.jsonl", "verdicts.jsonl", "verdicts.jsonl.summary.json"))
    wasted = sum(told["struck"].get(kind, 0) for kind in _WASTED)
    again = sum(asked_of.values()) - len(asked_of) - wasted
    detail = {"seed": seed, "items": ITEMS, "kills": len(kills), "killed_after_items": kills,
              "requests": told["requests"], "struck": told["struck"], "resumed": summary.get("resumed"),
              "reasons": dict(found.reasons),
              "seconds": round(seconds, 1)}
    return [
        Figure("V1", len(found.lost), "== 0", {"what": "items lost", **detail, "cases": found.lost[:5]}),
        Figure("V1", len(found.doubled), "== 0", {"what": "items doubled", "cases": found.doubled[:5]}),
        Figure("V1", len(found.untyped), "== 0", {
            "what": "neither a verdict that holds to the schema nor a typed error", "cases": found.untyped[:5]}),
        Figure("V1", len(found.misplaced) + len(found.miscounted) + len(left), "== 0", {
            "what": "out of the input's order, another item's verdict, counted wrongly in the summary, files left over",
            "cases": [*found.misplaced[:5], *found.miscounted, *left]}),
        Figure("V1", len(kills), ">= 1", {"what": "processes killed within the batch"}),
        # Asked again: what was in flight when the process was killed, and what had come and was not yet in the journal.
        Figure("V1", max(0, again), f"<= {len(kills) * 2 * batches.WINDOW}", {
            "what": "judgements asked again, beyond those that a fault struck", "judgements": sum(asked_of.values())}),
    ]  # fmt: skip


def _run_with_kills(proxy: Running, asked: batches.Asked, out: Path, rng: random.Random
                    ) -> tuple[list[int], dict[str, Any]]:
    """Run the batch until it has ended by itself; return after how many answers it was killed, and its summary."""
    points = sorted(rng.randrange(ITEMS // 50, ITEMS * 19 // 20) for _ in range(KILLS))
    kills: list[int] = []
    until = time.monotonic() + _BATCH_SECONDS
    while True:
        process = batches.start(proxy.url, asked, out)
        try:
            while process.poll() is None:
                passed = faults.counted(proxy)["passed"]
                if len(kills) < len(points) and passed >= points[len(kills)]:
                    process.kill()
                    kills.append(passed)
                    break
                if time.monotonic() > until:
                    raise RuntimeError(f"the batch did not end within {_BATCH_SECONDS} s")
                time.sleep(rng.uniform(0.02, 0.1))
        finally:
            process.kill()
            told, errors = process.communicate()
        if process.returncode == 0:
            summary: dict[str, Any] = json.loads(told)
            return kills, summary
        if process.returncode > 0:
            raise RuntimeError(f"the batch ended with {process.returncode}: {errors[-2000:]}")


# --- V3 ---------------------------------------------------------------------------------------------------------------


def judged_twice(server: vllm.Server, seed: int) -> list[Figure]:
    """Return V3."""
    learnt, unseen = texts.learnt(TWICE, seed), texts.unseen(TWICE, seed)
    first, other = asyncio.run(_scores(server, learnt)), asyncio.run(_scores(server, unseen))
    again = asyncio.run(_scores(server, learnt, seed))
    shares = {"unlike_anything_learnt": _same(other, asyncio.run(_scores(server, unseen, seed))),
              "with_other_fences": _same(first, asyncio.run(_scores(server, learnt, seed, fence="5eed" * 4)))}
    apart = [{"response": pair[1][:60], "scores": [one, two]}
             for pair, one, two in zip(learnt, first, again, strict=True) if one is None or one != two]
    return [Figure("V3", _same(first, again), ">= 99 %", {
        "what": "percent of items with the same scores when they are judged again at temperature 0", "items": TWICE,
        "at_a_time": TWICE_AT_A_TIME, "percent": shares, "apart": apart[:3], "seed": seed,
        "kinds_of_scores": len({json.dumps(one) for one in first})})]


def _same(first: Sequence[Any], second: Sequence[Any]) -> float:
    """Return the percentage that is alike. Without a score nothing is."""
    same = sum(one is not None and one == two for one, two in zip(first, second, strict=True))
    return round(100 * same / len(first), 2)


async def _scores(server: vllm.Server, pairs: Sequence[texts.Pair], shuffle: int | None = None,
                  fence: str | None = None) -> list[dict[str, int] | None]:
    """Return the scores of each pair in their order, asked in that order or a shuffled one; None for no verdict."""
    order = list(range(len(pairs)))
    if shuffle is not None:
        random.Random(shuffle).shuffle(order)
    places = asyncio.Semaphore(TWICE_AT_A_TIME)
    found: list[dict[str, int] | None] = [None] * len(pairs)

    async with AsyncJudgeClient(server.url, server.model, server.key) as judge:

        async def one(index: int) -> None:
            async with places:
                verdict = await judge.judge(*pairs[index], fence=fence)
            if verdict.status is Status.SCORED:
                found[index] = dict(verdict.categories)

        await asyncio.gather(*(one(index) for index in order))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print V1 and V3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--figure", choices=("V1", "V3"), action="append", help="only this one; may be repeated")
    options = parser.parse_args(arguments)
    wanted = options.figure or ["V1", "V3"]
    missing = vllm.available() if "V3" in wanted else None
    if missing:
        sys.stderr.write(f"faults-judge: {missing}\n")
        return 2
    failed = 0
    if "V1" in wanted:
        failed |= report(*judged_under_faults(options.seed))
    if "V3" in wanted:
        with vllm.serving() as server:
            failed |= report(*judged_twice(server, options.seed))
    return failed


if __name__ == "__main__":
    sys.exit(main())
