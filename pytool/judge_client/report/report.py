"""A report: figures of the results, how their batch ended, how far they agree with people, and what to beware of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from judge_client.batch.journal import journal_path
from judge_client.batch.summary import summary_path
from judge_client.report.batch_end import BatchEnd, read_batch_end
from judge_client.report.figures import Figures, collect
from judge_client.report.lines import ResultLine, ResultLines
from judge_client.verdict import Verdict

_SAID: Final = {"rubric digest": "rubric", "manifest": "weights"}


@dataclass(frozen=True)
class Agreement:
    """How far the judge agrees with people: calibration.agreement()'s measures, and gold items that found no pair."""

    measures: Mapping[str, Any]
    gold_items: int
    other_text: int


@dataclass(frozen=True)
class Report:
    """Everything a page shows. `warnings` come first on it: each is a reason to read its figures with care."""

    path: Path
    figures: Figures
    end: BatchEnd | None
    agreement: Agreement | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return its figures as plain values, without any judged text."""
        return {**self.figures.to_dict(), "batch": self.end and asdict(self.end),
                "agreement": self.agreement and asdict(self.agreement), "warnings": list(self.warnings)}


def read_report(path: Path, gold: Path | None = None) -> Report:
    """Read a results file once, and what stands beside it.

    Raises InputProblem: REPORT_UNUSABLE for results that are none, GOLD_UNUSABLE for such a gold file.
    """
    golden = _Golden(gold) if gold else None
    lines = ResultLines(path)
    collector = collect(golden.watching(lines) if golden else lines)
    figures = collector.figures(lines.cut_line)
    # While there is a journal, a summary is that of an earlier run over the same items.
    unfinished = journal_path(path).exists()
    end, trouble = None, None
    try:
        end = None if unfinished else read_batch_end(path)
    except ValueError as error:
        trouble = f"{summary_path(path).name} cannot be used: {error}"
    agreement = golden.agreement(figures) if golden else None
    warnings = _warnings(figures, end, agreement, lines, unfinished=unfinished)
    return Report(path, figures, end, agreement, (*([trouble] if trouble else []), *warnings))


class _Golden:
    """The gold set, and the results that are of its items: as many as it has, whatever the file's size."""

    def __init__(self, path: Path) -> None:
        from judge_client.calibration import read_gold

        self._gold = read_gold(path)
        self._ids = {one.id for one in self._gold}
        self._records: dict[str, dict[str, Any]] = {}

    def watching(self, lines: ResultLines) -> Iterator[ResultLine]:
        """Yield the lines, and keep those of the gold set."""
        for line in lines:
            if line.id in self._ids and line.id not in self._records and isinstance(line.result, Verdict):
                texts = {"original_prompt": line.prompt, "model_response": line.responses[0]}
                self._records[line.id] = {"id": line.id, "verdict": line.result.to_dict(),
                                          **{name: text for name, text in texts.items() if text is not None}}
            yield line

    def agreement(self, figures: Figures) -> Agreement:
        from judge_client.calibration import agreement, pairs_of

        matched = pairs_of(self._gold, list(self._records.values()))
        names = [one.name for one in figures.spreads]
        return Agreement(agreement(matched.pairs, names), len(self._gold), matched.other_text)


def _warnings(figures: Figures, end: BatchEnd | None, agreement: Agreement | None, lines: ResultLines, *,
              unfinished: bool) -> Iterator[str]:
    if figures.mixed:
        several = ", ".join(dict.fromkeys(_SAID.get(name, name) for name in figures.mixed))
        yield (f"The results are not all of one judge: more than one {several}. Scores of different judges are not "
               "comparable, and every mean below mixes them; see Provenance.")
    if end is not None and figures.coverage < end.floor:
        yield (f"Only {100 * figures.coverage:.1f} % have a verdict, and the floor is {100 * end.floor:g} %. What "
               "could not be judged is often what is hard to judge, so the means do not speak for it.")
    if end is not None and not end.canaries_ok:
        yield "A known answer got a score that it must not get: the judge was not itself during this batch."
    if end is not None and (end.total, end.scored) != (figures.total, figures.scored):
        yield (f"The batch's summary counts {end.total:,} items and {end.scored:,} scored, the results "
               f"{figures.total:,} and {figures.scored:,}: one of the two files is of another run.")
    elif end is not None and end.output_sha256 not in (None, lines.sha256):
        yield "The results are not what the batch wrote: the file was changed since."
    if figures.cut_line is not None:
        yield (f"Line {figures.cut_line:,} is not complete: the batch still runs, or was cut off there. "
               "The figures cover the lines before it.")
    elif unfinished:
        yield "The batch is not complete: its journal is still there. The figures cover what is written so far."
    if figures.out_of_place:
        yield (f"Lines that do not follow on the line before: {figures.out_of_place:,}. Items are lost, doubled or out "
               "of order.")
    if agreement is not None and not agreement.measures["scored"]:
        yield "No result is of an item of the gold file, so nothing says how far the judge agrees with people."
    elif agreement is not None and agreement.other_text:
        yield f"{agreement.other_text:,} results have the id of a gold item and another text; they are not compared."
