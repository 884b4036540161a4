"""One page about a results file: what the scores are, what has none and why, what is suspect, and who judged.

report = read_report(Path("answers.scored.jsonl"))
Path("report.html").write_text(render(report))
"""

from __future__ import annotations

from judge_client.report.page import GENERATOR, need_packages, render
from judge_client.report.report import Report, read_report

__all__ = ["GENERATOR", "Report", "need_packages", "read_report", "render"]
