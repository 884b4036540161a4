"""How a batch went, as one small JSON file beside its output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from judge_client.batch.canaries import Sighting
from judge_client.files import write_whole

SCHEMA = 1
Kind = Literal["judgements", "comparisons"]


@dataclass(frozen=True)
class Summary:
    """How a batch went. `coverage` is the share that is scored; below `floor`, or with canaries that drift, it failed.

    `resumed` counts the items whose answer an earlier run of the same batch had; `seconds`, `requests` and
    `window_low` are this run's. `window` is the ceiling of the requests at a time, `window_low` the least that the
    server's state made of it. `provenance` is that of the first scored item. `batch` says what the batch is of, and
    `output_sha256` what it wrote: both together prove that the output is this batch's, and whole.
    """

    kind: Kind
    total: int
    scored: int
    unscored: int
    errored: int
    floor: float
    suspects: int
    canaries: tuple[Sighting, ...]
    canaries_ok: bool
    seconds: float
    resumed: int
    reasons: Mapping[str, int]
    reason: str | None
    message: str
    model: str | None
    provenance: Mapping[str, Any] | None
    requests: int
    window: int
    window_low: int
    batch: Mapping[str, Any] = field(default_factory=dict)
    output_sha256: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether the batch holds: enough of it is scored, and the canaries were told apart."""
        return self.reason is None

    @property
    def coverage(self) -> float:
        """The share of the items that is scored, from 0 to 1."""
        return self.scored / self.total

    @property
    def failed(self) -> int:
        """How many items have no score."""
        return self.total - self.scored

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values that JSON can hold."""
        document = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"schema": SCHEMA, "ok": self.ok, **document, "coverage": round(self.coverage, 6),
                "reasons": dict(self.reasons), "canaries": [one.to_dict() for one in self.canaries]}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Return what to_dict() wrote. Raises LookupError, TypeError or ValueError for anything else."""
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema is {document['schema']!r}, wanted {SCHEMA}")
        values = {one.name: document[one.name] for one in fields(cls)}
        return cls(**{**values, "canaries": tuple(Sighting.from_dict(one) for one in values["canaries"])})


def summary_path(out_path: Path) -> Path:
    """Return where the summary of an output is."""
    return out_path.with_name(f"{out_path.name}.summary.json")


def save_summary(summary: Summary, out_path: Path) -> None:
    """Write the summary of an output, whole or not at all. Raises OSError."""
    write_whole(summary_path(out_path), json.dumps(summary.to_dict(), indent=2) + "\n")


def load_summary(out_path: Path) -> Summary | None:
    """Return the summary of an output; None where there is none that can be read."""
    try:
        return Summary.from_dict(json.loads(summary_path(out_path).read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
