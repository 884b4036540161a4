"""Judged texts as a page may show them: short, in one paragraph, and with everything that nobody sees written out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

SHORT: Final = 80
LONG: Final = 320

# What has no shape of its own: controls, format and bidi characters, tags, fillers, selectors in a row, noncharacters,
# halves of surrogate pairs, and a carriage return unless it ends a line. One selector after a character is how emoji
# are written.
_HIDDEN: Final = re.compile(
    "(?:[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ufdd0-\ufdef\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]|\r(?!\n))+"
    "|[\ufe00-\ufe0f]{2,}"
)
_BREAKS: Final = re.compile(r"[ \t]*(?:\r\n|\n)\s*")
_JOINERS: Final = "\u200c\u200d"
_NAMED: Final = 3

Kind = Literal["text", "hidden", "break"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an excerpt: text as it is, hidden characters by their names, or a line break; `found` marks a hit."""

    kind: Kind
    text: str
    found: bool = False


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Part of a text; `before` and `after` count the characters that were left out."""

    pieces: tuple[Piece, ...]
    before: int = 0
    after: int = 0

    @property
    def plain(self) -> str:
        """Return it without marks."""
        return "".join(f"[{piece.text}]" if piece.kind == "hidden" else piece.text for piece in self.pieces)


def excerpt(text: str, limit: int = LONG, found: str = "") -> Excerpt:
    """Return at most `limit` characters of a text: its beginning, or what stands around `found` where that is in it."""
    at, length = _place(text, found)
    start = max(0, at - limit // 3) if at + length > limit else 0
    end = min(len(text), start + limit)
    hit = (max(at, start), min(at + length, end)) if length else (end, end)
    pieces = [*_pieces(text, start, hit[0], False), *_pieces(text, *hit, True), *_pieces(text, hit[1], end, False)]
    return Excerpt(tuple(pieces), start, len(text) - end)


def _place(text: str, found: str) -> tuple[int, int]:
    """Return where `found` stands and how long it is; its length is 0 where it does not stand there.

    What was found may have been cut or cleaned, so its beginning is enough.
    """
    wanted = found.strip()
    for part in (wanted, wanted.rstrip("."), wanted[:24]):
        at = text.find(part) if part.strip() else -1
        if at >= 0:
            return at, len(part)
    return 0, 0


def _pieces(text: str, start: int, end: int, found: bool) -> Iterator[Piece]:
    """Yield the pieces of text[start:end]."""
    done = start
    for match in _HIDDEN.finditer(text, start, end):
        if _joins(text, match):
            continue
        yield from _visible(text[done:match.start()], found)
        yield Piece("hidden", named(match[0]), found)
        done = match.end()
    yield from _visible(text[done:end], found)


def _visible(text: str, found: bool) -> Iterator[Piece]:
    done = 0
    for match in _BREAKS.finditer(text):
        if match.start() > done:
            yield Piece("text", text[done:match.start()], found)
        yield Piece("break", "\u23ce", found)
        done = match.end()
    if done < len(text):
        yield Piece("text", text[done:], found)


def _joins(text: str, match: re.Match[str]) -> bool:
    """Tell whether it is one joiner between letters beyond Latin or emoji: these are written with joiners."""
    if match[0] not in _JOINERS or match.start() == 0 or match.end() == len(text):
        return False
    return all(ord(one) > 0x5FF and not one.isspace() for one in (text[match.start() - 1], text[match.end()]))


def named(characters: str) -> str:
    """Return hidden characters by their code points, and what they spell where they are Unicode's "tag" letters."""
    codes = [f"U+{ord(one):04X}" for one in characters[:_NAMED]]
    rest = len(characters) - _NAMED
    told = " ".join(codes) + (f" and {rest:,} more" if rest > 0 else "")
    spelt = "".join(chr(ord(one) - 0xE0000) for one in characters if 0xE0020 <= ord(one) <= 0xE007E)
    return f"{told}: \u201c{spelt}\u201d" if spelt else told
