"""How far a judge can be trusted: against gold scores, against itself, and against how it judged before.

gold.py reads answers with the scores that people gave them; agreement.py compares a judge's with those;
repeatability.py compares several rounds of one judge; baseline.py keeps an accepted calibration and finds drift from
it. The statistics are scipy's and scikit-learn's (the extra `evaluation`), imported when the first one is reckoned.
"""

from __future__ import annotations

from judge_client.calibration.agreement import Matched, Pair, agreement, pairs_of
from judge_client.calibration.baseline import Baseline, check_place, drift, read_baseline, write_baseline
from judge_client.calibration.gold import GoldItem, built_in_gold, check_criteria, gold_digest, read_gold
from judge_client.calibration.repeatability import repeatability
from judge_client.calibration.rounds import Judged, judge_rounds
from judge_client.calibration.statistics import Estimate, need_statistics

__all__ = [
    "Baseline",
    "Estimate",
    "GoldItem",
    "Judged",
    "Matched",
    "Pair",
    "agreement",
    "built_in_gold",
    "check_criteria",
    "check_place",
    "drift",
    "gold_digest",
    "judge_rounds",
    "need_statistics",
    "pairs_of",
    "read_baseline",
    "read_gold",
    "repeatability",
    "write_baseline",
]
