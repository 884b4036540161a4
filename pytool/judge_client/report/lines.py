"""Reading the results of a batch line by line: each is checked, and no more than one is held."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from judge_client.errors import InputProblem
from judge_client.pairs import Comparison
from judge_client.rubric import HIGHEST, LOWEST
from judge_client.verdict import Status, Verdict

# A line holds one answer. What is longer is no results file, and would only fill the memory.
MAX_LINE_BYTES: Final = 64 << 20
MAX_CRITERIA: Final = 64


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One line: `number` counts from 1. The texts are None where the batch left them out; a comparison has two."""

    number: int
    id: str
    index: int | None
    prompt: str | None
    responses: tuple[str | None, ...]
    result: Verdict | Comparison


class ResultLines:
    """The lines of a results file, in its order.

    After the last one, `cut_line` is the number of a last line that is not complete (a batch that still runs, or was
    cut off), None where there is none, and `sha256` the digest of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut_line: int | None = None
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The digest of what was read."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[ResultLine]:
        """Yield the lines. Raises InputProblem, naming the line, for one that is no result, and for a file without."""
        kinds: set[type] = set()
        for number, line in self._raw():
            try:
                found = read_line(number, line)
            except _NotJson as error:
                if not line.endswith(b"\n"):
                    self.cut_line = number
                    continue
                raise self._problem(number, str(error)) from None
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise self._problem(number, _told(error)) from None
            kinds.add(type(found.result))
            if len(kinds) > 1:
                raise self._problem(number, "judgements and comparisons in one file")
            yield found
        if not kinds:
            raise InputProblem(f"{self.path} holds no result" + (" yet, only the beginning of one" if self.cut_line
                                                                 else ""), reason="REPORT_UNUSABLE",
                               hint="judge-bootstrap judge batch ITEMS --out RESULTS.jsonl")

    def _raw(self) -> Iterator[tuple[int, bytes]]:
        try:
            with self.path.open("rb") as file:
                number = 0
                while line := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if len(line) > MAX_LINE_BYTES:
                        raise self._problem(number, f"a line of more than {MAX_LINE_BYTES >> 20} MiB")
                    self._digest.update(line)
                    if line.strip():
                        yield number, line
        except OSError as error:
            raise InputProblem(f"{self.path} cannot be read: {error.strerror}", reason="REPORT_UNUSABLE",
                               hint=f"ls -l {shlex.quote(str(self.path))}") from error

    def _problem(self, number: int, found: str) -> InputProblem:
        show = f"sed -n {number}p {shlex.quote(str(self.path))} | head -c 200 | cat -v   # shows the line"
        return InputProblem(f"{self.path} line {number}: found {found}, wanted a result as `judge batch` writes it",
                            reason="REPORT_UNUSABLE", hint=show)


class _NotJson(ValueError):
    """The line is not JSON: the only thing that may be wrong with a last line that is not complete."""


def read_line(number: int, line: bytes) -> ResultLine:
    """Return what a line says. Raises ValueError, LookupError, TypeError or AttributeError: what is wrong with it."""
    try:
        document = json.loads(line.decode())
    except UnicodeDecodeError:
        raise _NotJson("bytes that are not UTF-8") from None
    except (ValueError, RecursionError):
        raise _NotJson("what is not JSON") from None
    if not isinstance(document, dict):
        raise ValueError(f"JSON that is no object ({type(document).__name__})")
    identity, index = document["id"], document.get("index")
    if type(identity) not in (str, int):
        raise ValueError("an id that is neither text nor a number")
    if index is not None and (type(index) is not int or index < 0):
        raise ValueError("an index that is no whole number from 0")
    prompt = _text(document, "original_prompt")
    if "comparison" in document:
        comparison = Comparison.from_dict(document["comparison"])
        _check_common(comparison)
        return ResultLine(number, str(identity), index, prompt,
                          (_text(document, "response_a"), _text(document, "response_b")), comparison)
    if "verdict" not in document:
        raise ValueError("neither a verdict nor a comparison")
    verdict = Verdict.from_dict(document["verdict"])
    _check_common(verdict)
    _check_scores(verdict)
    return ResultLine(number, str(identity), index, prompt, (_text(document, "model_response"),), verdict)


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} that is no text")
    return value


def _check_common(result: Verdict | Comparison) -> None:
    for name in ("message", "model"):
        value = getattr(result, name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} that is no text")
    if type(result.requests) is not int or result.requests < 0:
        raise ValueError("requests that is no whole number from 0")
    if not _number(result.latency_ms, 0, math.inf):
        raise ValueError("latency_ms that is no time")
    if result.status is not Status.SCORED and result.reason is None:
        raise ValueError(f"status {result.status} without a reason")
    if result.provenance is not None:
        datetime.datetime.fromisoformat(result.provenance.time)
        if not isinstance(result.provenance.sampling, dict):
            raise ValueError("sampling that is no object")


def _check_scores(verdict: Verdict) -> None:
    if verdict.reasoning is not None and not isinstance(verdict.reasoning, str):
        raise ValueError("reasoning that is no text")
    if (verdict.score is None) is (verdict.status is Status.SCORED):
        raise ValueError(f"status {verdict.status} with score {verdict.score!r}"[:120])
    if verdict.score is None:
        return
    if len(verdict.categories) > MAX_CRITERIA:
        raise ValueError(f"more than {MAX_CRITERIA} criteria")
    for name, score in (("score", verdict.score), *verdict.categories.items()):
        if type(score) is not int or not LOWEST <= score <= HIGHEST:
            raise ValueError(f"{name[:40]} {score!r}"[:120] + f", no whole number from {LOWEST} to {HIGHEST}")
    if verdict.weighted_score is not None and not _number(verdict.weighted_score, LOWEST, HIGHEST):
        raise ValueError(f"weighted_score that is no number from {LOWEST} to {HIGHEST}")


def _number(value: Any, lowest: float, highest: float) -> bool:
    return type(value) in (int, float) and lowest <= value <= highest and math.isfinite(value)


def _told(error: Exception) -> str:
    if isinstance(error, LookupError):
        return f"no {error.args[0]!r} in it" if error.args else "something missing"
    if isinstance(error, ValueError):
        return str(error)[:200]
    return "a verdict that is not built as one"
