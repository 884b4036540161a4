"""Many answers judged: several at a time, in their order, and going on where a killed batch was.

Without a file: judge_all (asyncio) and judge_in_thread. From file to file, with a journal: run_batch.
"""

from __future__ import annotations

from judge_client.batch.canaries import CANARIES, Canary, Sighting, read_canaries
from judge_client.batch.engine import run_batch
from judge_client.batch.items import Item, PairItem, read_items
from judge_client.batch.problems import BatchStopped
from judge_client.batch.progress import Progress
from judge_client.batch.stream import judge_all, judge_in_thread
from judge_client.batch.summary import Summary, load_summary, summary_path

__all__ = [
    "CANARIES",
    "BatchStopped",
    "Canary",
    "Item",
    "PairItem",
    "Progress",
    "Sighting",
    "Summary",
    "judge_all",
    "judge_in_thread",
    "load_summary",
    "read_canaries",
    "read_items",
    "run_batch",
    "summary_path",
]
