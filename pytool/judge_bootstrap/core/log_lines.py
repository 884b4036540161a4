"""Lines of pods' logs: when each was written, in which order they belong, and which were shown already. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
# Colours that a program gives its own lines. All other signs that a terminal obeys are shown, not obeyed.
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
SECOND = 1_000_000_000


@dataclass(frozen=True, order=True)
class Source:
    """One container of one pod."""

    namespace: str
    pod: str
    container: str


@dataclass(frozen=True)
class Line:
    """One line: `at` is nanoseconds since 1970 (UTC), by the node's clock; `text` is as the program wrote it."""

    at: int
    source: Source
    text: str


def parse_line(raw: str, source: Source, before: int = 0) -> Line:
    """Return a line as the API server sends it with timestamps; one without a stamp belongs to the one `before`."""
    stamp, _, text = raw.partition(" ")
    at = nanoseconds(stamp)
    return Line(before, source, raw) if at is None else Line(at, source, text)


def nanoseconds(stamp: str) -> int | None:
    """Return a time as kubelet writes it (RFC 3339, up to nanoseconds, any offset), None where it is none."""
    found = _STAMP.fullmatch(stamp)
    if not found:
        return None
    try:
        whole = datetime.fromisoformat(found[1] + ("+00:00" if found[3] == "Z" else found[3]))
    except ValueError:
        return None
    return int(whole.timestamp()) * SECOND + int((found[2] or "0").ljust(9, "0"))


def stamp_of(at: int) -> str:
    """Return a line's time as UTC with milliseconds."""
    whole = datetime.fromtimestamp(at // SECOND, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at % SECOND // 1_000_000:03d}Z"


def printable(text: str) -> list[str]:
    """Return what a person is to see of a line, without the program's colours.

    A progress bar is one line that returns to its start again and again: each state becomes a line of its own, so that
    nothing hides what stood there before.
    """
    parts = [part for part in _COLOURS.sub("", text).split("\r") if part.strip()]
    return parts or [""]


@dataclass
class Seen:
    """What was shown of one container, so that a stream that is opened again doubles and loses nothing.

    The API server takes a start in whole seconds only, so all of the last second comes again; what was shown of it is
    known by stamp and text, and counted, because a program may write one line twice.
    """

    newest: int = 0
    _shown: Counter[tuple[int, str]] = field(default_factory=Counter)
    _again: Counter[tuple[int, str]] = field(default_factory=Counter)
    _left: int = 0

    @property
    def since(self) -> int | None:
        """The whole second from which the stream has to be opened again; None before the first line."""
        return self.newest // SECOND if self.newest else None

    def reopened(self) -> None:
        """Say that a stream begins, from `since`."""
        self._again = Counter(self._shown)
        self._left = self._again.total()

    def is_other(self, line: Line) -> bool:
        """Tell whether a stream that was opened again is another one: what was shown last would come before this."""
        return self._left > 0 and line.at > self.newest

    def is_new(self, line: Line) -> bool:
        """Tell whether a line was not shown yet, and remember it."""
        key = (line.at, line.text)
        if self._again[key] > 0:
            self._again[key] -= 1
            self._left -= 1
            return False
        if self._left > 0 and line.at <= self.newest:
            # Before the first line that was shown: of the same second, and left out by a tail.
            return False
        self._left = 0
        if line.at // SECOND > self.newest // SECOND:
            # Nothing before this second will come again.
            self._shown.clear()
        self.newest = max(self.newest, line.at)
        if line.at // SECOND >= self.newest // SECOND:
            self._shown[key] += 1
        return True


def short_names(pods: Iterable[tuple[str, str]], service: str) -> dict[tuple[str, str], str]:
    """Return a short name for each (namespace, pod): `server-x7k2p`, `loader-9qw3z`; in full where two would be one."""
    everything = sorted(set(pods))
    short = {pod: _short(pod[1], service) for pod in everything}
    often = Counter(short.values())
    return {pod: name if often[name] == 1 else pod[1] for pod, name in short.items()}


def _short(pod: str, service: str) -> str:
    end = pod.rpartition("-")[2]
    if pod.startswith("judge-loader-"):
        return f"loader-{end}"
    # NAME-HASH-END of a Deployment
    return f"server-{end}" if re.fullmatch(rf"{re.escape(service)}-[a-z0-9]+-[a-z0-9]+", pod) else pod


def in_order(streams: Sequence[Iterator[Line]]) -> Iterator[Line]:
    """Yield the lines of several containers, oldest first; each container's own lines keep their order."""
    import heapq

    def rising(stream: Iterator[Line]) -> Iterator[tuple[int, Line]]:
        newest = 0
        for line in stream:
            # A clock that was set back must not pull a program's lines apart.
            newest = max(newest, line.at)
            yield newest, line

    for _, line in heapq.merge(*map(rising, streams), key=lambda pair: pair[0]):
        yield line
