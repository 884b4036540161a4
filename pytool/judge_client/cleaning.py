"""Making a text safe to stand as data in a judge's chat message, and telling what was done to it.

Four things happen, in this order: characters that nobody sees are left out, what a server or a model would take for a
role or a control token is broken up, what looks like one of our own marker lines is broken up, and what is longer than
the limit is cut, with a sentence in its place. Meaning is kept: a person reads the same text before and after.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

# What a judge with a context of 8,192 tokens reads whole, even where three characters take a token.
MAX_CHARACTERS: Final = 16_000

# Written between the characters of a token that must not be read as one.
_BREAK: Final = " "
# Control tokens of the chat formats in use. A tokenizer knows them by their exact spelling alone, so that only a whole
# <|name|> is broken up, and the pipes of Elixir and F# are left as they are.
TOKENS: Final = re.compile(
    r"<(?=[|\uff5c][^\s|\uff5c<>]{1,60}[|\uff5c]>)"  # ChatML, Llama 3, Phi, Command R; DeepSeek with fullwidth bars
    r"|\[(?=\|/?[a-z_]{1,30}\|\])"  # EXAONE
    r"|<(?=/?s>|<\s?/?SYS\s?>>|/?(?:start|end)_of_(?:turn|image|utterance)>|/?(?:bos|eos|pad|unk|sop|eop)(?:_token)?>"
    r"|/?think>|/?tool_(?:call|response)>)"  # Llama 2, Gemma, Command R; thinking models
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|gMASK)\])",  # Llama 2, Mistral, GLM
    re.IGNORECASE,
)
_ROLE_HEADINGS: Final = re.compile(r"^(#{2,6}[ \t]{0,8})(system|instruction|assistant|human|user|response)(?=\s{0,8}:)",
                                   re.IGNORECASE | re.MULTILINE)
MARKERS: Final = re.compile(r"\[(?=\s{0,8}(?:END\s{1,8}OF\s{1,8})?(?:USER\s{1,8}PROMPT|(?:(?:FIRST|SECOND)\s{1,8})?"
                            r"RESPONSE)\b)", re.IGNORECASE)
# What ends a line for Unicode, and for a terminal, too.
_LINE_ENDS: Final = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# What nobody sees: controls, the format characters of Unicode that have no shape, fillers, the tags that can spell a
# whole hidden order, and halves of surrogate pairs, which no server can be sent. Selectors of a variant count where
# they stand for no variant: several in a row, or an ideograph's after something else, can carry bytes.
INVISIBLE: Final = re.compile(
    "(?P<control>[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]+)"
    "|(?P<bidi>[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+)"
    "|(?P<joiner>[\u200c\u200d\u180e])"
    "|(?P<zero_width>(?:[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u200b\u2060-\u2065\u206a-\u206f\u3164"
    "\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff]"
    "|(?<![\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])[\U000e0100-\U000e01ef]"
    "|(?<=[\ufe00-\ufe0f\U000e0100-\U000e01ef])[\ufe00-\ufe0f\U000e0100-\U000e01ef])+)"
    "|(?P<unencodable>[\ud800-\udfff]+)"
)
# One class of characters is looked for much faster than the groups above; what holds none of these is clean.
_PERHAPS_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]")
# A joiner shapes letters in Persian, Mongolian and Indic scripts, and makes one emoji of several: there it stays.
_JOINERS: Final = "\u200c\u200d\u180e"
_EMOJI_SELECTOR: Final = "\ufe0f"
_SKIN_TONES: Final = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
# The only flags that are written with tags.
_REGIONS: Final = ("".join(chr(0xE0000 + ord(letter)) for letter in region) for region in ("gbeng", "gbsct", "gbwls"))
FLAGS: Final = re.compile(f"\U0001f3f4(?:{'|'.join(_REGIONS)})\U000e007f")


@dataclass(frozen=True)
class Cleaned:
    """A text that may stand as data, and what was done to it.

    `changes` counts, by kind, only where something was done: `control`, `bidi`, `zero_width` and `unencodable`
    (characters left out), `special_token` and `marker` (broken up), `fence` (the request's own code), `cut`
    (characters left out in the middle because the text is too long).
    """

    text: str
    changes: Mapping[str, int]


def clean(text: str, fence: str, max_characters: int = MAX_CHARACTERS) -> Cleaned:
    """Return `text` as data between marker lines with the code `fence`."""
    counted: Counter[str] = Counter()
    text = visible(text, counted)
    if "<" in text or "[" in text:
        text, counted["special_token"] = TOKENS.subn(lambda found: found[0] + _BREAK, text)
        text, counted["marker"] = MARKERS.subn("(", text)
    if "##" in text:
        text, headings = _ROLE_HEADINGS.subn(r"\1\2" + _BREAK, text)
        counted["special_token"] += headings
    counted["fence"] += text.count(fence)
    text = text.replace(fence, _BREAK.join((fence[:4], fence[4:])))
    text = _cut(text, max_characters, counted)
    return Cleaned(text, MappingProxyType({kind: count for kind, count in counted.items() if count}))


def visible(text: str, counted: Counter[str] | None = None) -> str:
    """Return the text without what nobody sees, and with one kind of line end; count by kind what was left out."""
    if _PERHAPS_INVISIBLE.search(text) is None:
        return text
    text = _LINE_ENDS.sub("\n", text)
    if INVISIBLE.search(text) is None:
        return text
    flags = {found.start() + 1: found.end() for found in FLAGS.finditer(text)}

    def left(found: re.Match[str]) -> str:
        kind, place = found.lastgroup, found.start()
        end = flags.get(place)
        if end is not None:
            return text[place:end] + left_of(found[0][end - place:])
        if kind == "joiner":
            if _joins(text, place):
                return found[0]
            kind = "zero_width"
        if counted is not None and kind is not None:
            counted[kind] += len(found[0])
        return ""

    def left_of(rest: str) -> str:
        if counted is not None and rest:
            counted["zero_width"] += len(rest)
        return ""

    return INVISIBLE.sub(left, text)


def _joins(text: str, position: int) -> bool:
    """Tell whether a joiner stands between two characters that it shapes: letters beyond Latin, or emoji."""
    before = text[position - 1] if position else ""
    if before == _EMOJI_SELECTOR and position > 1:
        before = text[position - 2]
    after = text[position + 1] if position + 1 < len(text) else ""
    return all(one > "\u05ff" and one not in _JOINERS and (unicodedata.category(one)[0] in "LMS" or one in _SKIN_TONES)
               for one in (before, after))


def _cut(text: str, limit: int, counted: Counter[str]) -> str:
    """Cut the middle out of a text that is too long, and say so in its place: beginnings and ends decide most."""
    left_out = len(text) - limit
    if left_out <= 0:
        return text
    counted["cut"] += left_out
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]}\n(... {left_out} characters left out here ...)\n{text[len(text) - tail:]}"
