"""What is to be judged, read from JSONL, CSV or Parquet one item at a time: a million of them are never held.

Columns: `original_prompt` (or `prompt`) and `model_response` (or `response`); pairs have `response_a` and `response_b`
instead of the latter. `id` is optional: without it an item is called by its line (JSONL) or row (CSV, Parquet), from 1.
All other columns are kept as `extra`.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, overload

from judge_client.errors import InputProblem

# One line of a file, in bytes. Longer is no item but a file of another form, and would fill the memory.
LONGEST_LINE_BYTES: Final = 64 * 2**20
# Rows that are taken from a Parquet file at a time: its columns hold many more in one piece.
_ROWS: Final = 256
UNUSABLE: Final = "ITEMS_UNUSABLE"

_PROMPT: Final = ("original_prompt", "prompt")
_COLUMNS: Final[Mapping[bool, Mapping[str, Sequence[str]]]] = {
    False: {"original_prompt": _PROMPT, "model_response": ("model_response", "response")},
    True: {"original_prompt": _PROMPT, "response_a": ("response_a",), "response_b": ("response_b",)},
}


@dataclass(frozen=True, slots=True)
class Item:
    """A response that is to be judged. `extra` is what else stood beside it, and is handed through."""

    id: str
    original_prompt: str
    model_response: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairItem:
    """Two responses that are to be compared."""

    id: str
    original_prompt: str
    response_a: str
    response_b: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@overload
def read_items(path: Path | str, pairs: Literal[False] = False) -> Iterator[Item]: ...
@overload
def read_items(path: Path | str, pairs: Literal[True]) -> Iterator[PairItem]: ...
@overload
def read_items(path: Path | str, pairs: bool) -> Iterator[Item | PairItem]: ...
def read_items(path: Path | str, pairs: bool = False) -> Iterator[Item | PairItem]:
    """Yield the items of a .jsonl (.ndjson), .csv or .parquet file, in its order.

    What JSON has no word for (NaN, 1e999) becomes null in `extra`. Raises InputProblem (ITEMS_UNUSABLE), naming the
    file and the line, for a file or an item that cannot be read; ids may repeat here (survey.py tells).
    """
    path = Path(path)
    read = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet}.get(path.suffix.lower())
    if read is None:
        raise InputProblem(f"{path} ends in {path.suffix or 'nothing'!r}, wanted .jsonl, .ndjson, .csv or .parquet",
                           reason=UNUSABLE, hint="name the file by what it is")
    try:
        for where, number, row in read(path):
            yield _item(f"{path}, {where} {number}", number, row, pairs)
    except OSError as error:
        raise InputProblem(f"{path} cannot be read: {error.strerror or error}", reason=UNUSABLE,
                           hint=f"ls -l {path}") from None


def _item(place: str, number: int, row: Mapping[str, Any], pairs: bool) -> Item | PairItem:
    left = dict(row)
    name = left.pop("id", None)
    if name is None or name == "":
        name = number
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise _problem(place, f"id is {_shown(name)}, wanted text or a whole number")
    texts: dict[str, str] = {}
    for wanted, columns in _COLUMNS[pairs].items():
        column = next((one for one in columns if one in left), None)
        if column is None:
            raise _missing(place, wanted, columns, row, pairs)
        text = left.pop(column)
        if not isinstance(text, str):
            raise _problem(place, f"{column} is {_shown(text)}, wanted text")
        texts[wanted] = text
    return PairItem(str(name), extra=left, **texts) if pairs else Item(str(name), extra=left, **texts)


def _missing(place: str, wanted: str, columns: Sequence[str], row: Mapping[str, Any], pairs: bool) -> InputProblem:
    found = ", ".join(list(row)[:12]) or "nothing"
    also = f" (or {columns[1]})" if len(columns) > 1 else ""
    problem = _problem(place, f"found {found[:200]}, wanted {wanted}{also}")
    if pairs:
        problem.hint = "correct the file; its columns: judge-bootstrap judge compare --help"
    elif {"response_a", "response_b"} <= set(row):
        problem.hint = "two responses are compared: judge-bootstrap judge compare"
    return problem


def _problem(place: str, what: str) -> InputProblem:
    return InputProblem(f"{place}: {what}", reason=UNUSABLE,
                        hint="correct the file; its columns: judge-bootstrap judge batch --help")


def _shown(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


# --- the three forms: each yields what its rows are called, the row's number, and the row ---------------------------

Rows = Iterator[tuple[str, int, Mapping[str, Any]]]


def _jsonl(path: Path) -> Rows:
    with path.open("rb") as file:
        for number, line in _lines(path, file):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=lambda _: None, parse_float=lambda text: _finite(float(text)))
            except (ValueError, RecursionError) as error:
                raise _problem(f"{path}, line {number}", f"{error}, wanted a JSON object; it starts with "
                               f"{line[:40]!r}") from None
            if not isinstance(row, dict):
                raise _problem(f"{path}, line {number}", f"found {_shown(row)}, wanted a JSON object")
            yield "line", number, row


def _csv(path: Path) -> Rows:
    # The limit of the whole process, 128 KiB, is less than a long answer.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE_BYTES))
    with path.open("rb") as file:
        reader = csv.reader((line for _, line in _lines(path, file)), strict=True)
        try:
            head = [name.strip() for name in next(reader, [])]
            if len(set(head)) < len(head):
                raise _problem(f"{path}, line 1", f"found {', '.join(head)[:200]}, wanted each column once")
            number = 0
            for values in reader:
                if not values:
                    continue
                number += 1
                if len(values) != len(head):
                    raise _problem(f"{path}, line {reader.line_num}", f"found {len(values)} values, wanted {len(head)} "
                                   "as in line 1 (a text with a comma or a line end stands in quotes)")
                yield "row", number, dict(zip(head, values, strict=True))
        except csv.Error as error:
            raise _problem(f"{path}, line {reader.line_num}", f"{error}, wanted CSV as of RFC 4180") from None


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    number = 0
    while line := file.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if len(line) > LONGEST_LINE_BYTES:
            raise _problem(f"{path}, line {number}", f"longer than {LONGEST_LINE_BYTES // 2**20} MiB, wanted one item")
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _problem(f"{path}, line {number}", f"{error.reason} at byte {error.start}, wanted UTF-8") from None


def _parquet(path: Path) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputProblem(f"{path}: reading Parquet needs pyarrow, which is not installed", reason=UNUSABLE,
                           hint="pip install 'judge-bootstrap[evaluation]'") from None
    try:
        with path.open("rb") as source, parquet.ParquetFile(source) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield "row", number, {name: _plain(value) for name, value in row.items()}
    except pyarrow.ArrowException as error:
        raise _problem(str(path), f"{' '.join(str(error).split())[:200]}, wanted a Parquet file") from None


def _finite(number: float) -> float | None:
    """Return a number; None for what JSON has no word for: NaN, and what is beyond a float (1e999) and so Infinity."""
    return number if math.isfinite(number) else None


def _plain(value: Any) -> Any:
    """Return a value of a Parquet column as one that JSON can hold."""
    if isinstance(value, float):
        return _finite(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
