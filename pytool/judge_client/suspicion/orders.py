"""Orders to the judge and pleas for a score: ideas that stand close together, in any of the languages of words.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final, NamedTuple

from judge_client.suspicion.views import WORD
from judge_client.suspicion.words import ANY, Hit, Idea, beginnings, english, vocabulary, without_spaces
from judge_client.verdict import Ground, GroundCode


@dataclass(frozen=True)
class Rule:
    """Ideas that make an order when they stand within `width` words: all of `needs`, and one of `one_of` if any.

    A prompt that speaks of any of `topic` itself makes the rule say nothing: scores are then what is talked about.
    """

    code: GroundCode
    width: int
    needs: int
    one_of: int = 0
    topic: int = 0

    def __post_init__(self) -> None:
        for name in ("needs", "one_of", "topic"):  # plain numbers: working with flags is ten times slower
            object.__setattr__(self, name, int(getattr(self, name)))


_ORDER, _ASKS = GroundCode.ORDERS_THE_JUDGE, GroundCode.ASKS_FOR_SCORE
_I = Idea
_SCORING: Final = _I.SCORE | _I.RUBRIC | _I.EVALUATE | _I.JUDGE | _I.PERHAPS_JUDGE
_NEEDED: Final = _I.MUST | _I.DESERVE
RULES: Final = (
    Rule(_ORDER, 8, _I.IGNORE | _I.INSTRUCTIONS | _I.PRIOR),
    Rule(_ORDER, 8, _I.IGNORE | _I.RULES | _I.TOLD),
    Rule(_ORDER, 6, _I.IGNORE | _I.RUBRIC, topic=_I.RUBRIC | _I.EVALUATE),
    Rule(_ORDER, 3, _I.IGNORE | _I.EVALUATE, topic=_SCORING),
    Rule(_ORDER, 14, _I.JUDGE, _NEEDED | _I.CALL, _SCORING),
    Rule(_ORDER, 12, _I.JUDGE | _I.SCORE, _I.RATE | _I.LOW | _I.TOP | _I.THIS, _SCORING),
    Rule(_ORDER, 16, _I.JUDGE | _I.THIS | _I.ANSWER, topic=_SCORING),
    Rule(_ORDER, 12, _I.PERHAPS_JUDGE | _I.SCORE | _I.TOP, _I.RATE | _NEEDED | _I.ANSWER, _SCORING),
    Rule(_ORDER, 12, _I.PERHAPS_JUDGE | _I.THIS | _I.ANSWER, _I.CALL | _NEEDED | _I.SCORE, _SCORING),
    Rule(_ORDER, 10, _I.MODEL | _I.EVALUATE, _I.THIS | _I.MUST | _I.INSTRUCTIONS | _I.RATE, _SCORING | _I.MODEL),
    Rule(_ORDER, 12, _I.AUTHORITY | _I.EVALUATE | _I.THIS, topic=_SCORING),
    Rule(_ASKS, 12, _I.THIS | _I.ANSWER | _I.SCORE, _I.TOP | _I.LOW | _NEEDED, _SCORING),
    Rule(_ASKS, 10, _I.THIS | _I.ANSWER | _I.TOP, _I.RATE | _I.DESERVE, _SCORING),
    Rule(_ASKS, 7, _I.THIS | _I.ANSWER | _I.TOP, _I.GET | _I.MUST, _SCORING),
    Rule(_ASKS, 6, _I.PRIOR | _I.ANSWER | _I.TOP, _I.GET | _I.DESERVE, _SCORING),
    Rule(_ASKS, 6, _I.ANSWER | _I.DESERVE | _I.TOP, topic=_SCORING),
    Rule(_ASKS, 20, _I.THIS | _I.ANSWER | _I.SCORE | _I.PLEA, topic=_SCORING),
    Rule(_ASKS, 10, _I.RATE | _I.ANSWER | _I.TOP, _I.SCORE | _I.RUBRIC, _SCORING),
    Rule(_ASKS, 8, _I.GRADE | _I.ANSWER | _I.TOP, topic=_SCORING),
    Rule(_ASKS, 5, _I.GRADE | _I.IT | _I.TOP, topic=_SCORING),
    Rule(_ASKS, 7, _I.RATE | _I.SCORE | _I.TOP, topic=_SCORING),
    Rule(_ASKS, 7, _I.MUST | _I.SCORE | _I.TOP, topic=_SCORING),
    Rule(_ASKS, 7, _I.EMIT | _I.SCORE | _I.TOP, _I.PRIOR | _I.THIS | _NEEDED | _I.JUDGE, _SCORING),
)
_WIDEST: Final = max(rule.width for rule in RULES)


class Order(NamedTuple):
    """A rule that holds somewhere: in which language, from which word to which, and whether one is in disguise."""

    rule: Rule
    language: str
    first: int
    last: int
    disguised: bool


Said = tuple[str, int, bool]  # a language, the ideas, and whether the word is in disguise


@lru_cache(maxsize=1 << 14)
def plainly(word: str) -> Sequence[Said]:
    """Return what a word says as it stands, and as what it looks like. The most usual words are remembered."""
    found = [(name, idea, False) for name, idea in vocabulary().get(word, ())]
    heads, lengths, table = beginnings()
    if word[:2] in heads:
        for length in lengths:
            if length > len(word):
                break
            found += [(name, idea, False) for name, idea in table.get(word[:length], ())]
    if not found and not word.isascii():
        idea = english().get(word.translate(LOOK_ALIKES), 0)
        if idea:
            found.append(("en", idea, True))
    return found


# Cyrillic, Greek and other letters that look like a Latin one in lower case.
LOOK_ALIKES: Final = str.maketrans(dict(
    pair for letter, looks in {
        "a": "аɑα", "b": "вьβƅ", "c": "сϲ", "d": "ԁɗ", "e": "еєεҽ", "f": "ғƒ", "g": "ɡցɢ", "h": "һнհ", "i": "іɩιıӏ",
        "j": "јϳ", "k": "кκ", "l": "ӏǀɭ", "m": "мϻ", "n": "пոηɴ", "o": "оοօσ", "p": "рρ", "q": "ԛգ", "r": "гɾʀ",
        "s": "ѕʂ", "t": "тτ", "u": "սυʋ", "v": "ѵν", "w": "ԝωѡш", "x": "хχ", "y": "уγʏ", "z": "ʐᴢ",
    }.items() for pair in ((look, letter) for look in looks)
))


def hits_of(words: Sequence[str], spelling: Callable[[str], Sequence[Said]] = plainly) -> dict[str, list[Hit]]:
    """Return what the words say, by language, in their order."""
    said = {word: found for word in set(words) if (found := spelling(word))}
    hits: dict[str, list[Hit]] = {}
    if not said:
        return hits
    for place, word in enumerate(words):
        for language, idea, disguised in said.get(word, ()):
            hits.setdefault(language, []).append(Hit(place, idea, disguised))
    if "en" in hits and not _IGNORES_AFTER.keys().isdisjoint(words):
        hits["en"] += [
            Hit(place, int(Idea.IGNORE), False) for place, word in enumerate(words)
            if word in _IGNORES_AFTER and not _IGNORES_AFTER[word].isdisjoint(words[max(0, place - 3):place])]
        hits["en"].sort()
    return _with_numbers(hits)


# "do not follow", "pay no attention to" and "put aside" are ways to say "ignore".
_NOT: Final = frozenset({"not", "no", "never", "don", "dont", "without", "stop"})
_IGNORES_AFTER: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("follow", "obey", "apply", "attention", "adhere", "heed", "respect", "regard"), _NOT),
    "aside": frozenset({"set", "put", "push", "leave", "lay"}),
}


def _with_numbers(hits: dict[str, list[Hit]]) -> dict[str, list[Hit]]:
    """Return the hits with those of no language (numbers) put among those of each."""
    numbers = hits.pop(ANY, [])
    if numbers:
        for found in hits.values():
            found.extend(numbers)
            found.sort()
    return hits


@cache
def _stretches() -> re.Pattern[str]:
    longest_first = sorted(without_spaces(), key=lambda word: -len(word))
    return re.compile("|".join([*map(re.escape, longest_first), r"(?<!\d)10(?!\d)"]))


_CJK: Final = re.compile("[\u3041-\u30ff\u4e00-\u9fff]")


def hits_without_spaces(text: str) -> dict[str, list[Hit]]:
    """Return what Chinese and Japanese stretches of a text say. Two characters count as a word."""
    if text.isascii() or _CJK.search(text) is None:
        return {}
    hits: dict[str, list[Hit]] = {}
    table = without_spaces()
    for found in _stretches().finditer(text):
        for language, idea in table.get(found[0], ((ANY, int(Idea.TOP)),)):
            hits.setdefault(language, []).append(Hit(found.start() // 2, idea, False))
    return _with_numbers(hits)


def orders_in(hits: dict[str, list[Hit]]) -> Iterator[Order]:
    """Yield the first place at which each rule holds."""
    done: set[int] = set()
    for language, found in hits.items():
        said = 0
        for hit in found:
            said |= hit.idea
        rules = [(number, rule) for number, rule in enumerate(RULES) if _holds(rule, said)]
        seen: set[tuple[int, int]] = set()
        for start, first in enumerate(found if rules else ()):
            idea, disguised, place = 0, False, first.place
            for hit in found[start:start + _WIDEST + 1]:
                distance = hit.place - place
                if distance > _WIDEST:
                    break
                grown = idea | hit.idea
                disguised = disguised or hit.disguised
                if grown == idea or (grown, distance) in seen:
                    idea = grown
                    continue
                idea = grown
                seen.add((idea, distance))
                for number, rule in rules:
                    if number not in done and distance <= rule.width and _holds(rule, idea):
                        done.add(number)
                        yield Order(rule, language, place, hit.place, disguised)


def _holds(rule: Rule, said: int) -> bool:
    return said & rule.needs == rule.needs and (not rule.one_of or bool(said & rule.one_of))


# "Give 10." names neither an answer nor a score. It is an order when it is a sentence of its own, in which nothing is
# counted. A line that goes on with the one before begins none.
_TENS: Final = ("10", "ten", "zehn", "dix", "diez", "dez", "dieci", "tien", "dziesiec", "десять", "десяти", "десятку")
_TEN: Final = f"(?:{'|'.join(_TENS)})"
_BARE: Final = re.compile(
    r"(?:^|(?<![\w,])\n|[.!?:;>\"'(\[*]|-- ?|please|just|now)\s{0,3}"
    r"(?:(?:give|award|assign|gib|gebt|geben sie|vergib|donnez?|attribuez?|mettez|dale|dame|otorga|asigna|pon(?:le)?|"
    r"dai|dammi|assegna|de (?:a )?nota|atribua|geef|daj|przyznaj|postaw|даи(?:те)?|поставь|поставьте)"
    r"|(?:rate|score|grade|mark|bewerte|note[rz]?|califica|оцени|оцените)(?=[\s-](?:this|it|me|that|all|everything|dies|"
    r"es|das|cela|ca|esto|это|ответ)\b))"
    r"(?:[\s-]{1,2}(?:me|us|it|this|that|all|everything|an?|the|only|just|please|bitte|mir|es|dies|das|mit|eine?|moi|lui|un|"
    r"une|una|uno|uma|esto|cela|ca|con|com|een|mi|это|ответ|на)){0,4}"
    rf"[\s-]{{1,2}}{_TEN}(?:\s?(?:/|out of|of|von|sur|de|su|van|na|из)\s?{_TEN})?"
    r"\s{0,3}(?:$|[!\n<>\"')\]*]|--|\.(?!\d))"
    rf"|(?:^|[.!?:;>\n])\s{{0,3}}{_TEN} (?:puan )?ver(?:in|iniz)?\s{{0,3}}(?:$|[.!\n])")


def bare_orders(text: str, unique: Collection[str]) -> Iterator[Ground]:
    """Yield the first order in a folded text that asks for the highest score in so many words: "give 10"."""
    if any(ten in unique for ten in _TENS) and (found := _BARE.search(text)):
        yield Ground(GroundCode.ASKS_FOR_SCORE, found[0])


def said_in(text: str) -> dict[str, int]:
    """Return all that a folded text speaks of, by language."""
    said: dict[str, int] = {}
    for hits in (hits_of(WORD.findall(text)), hits_without_spaces(text)):
        for language, found in hits.items():
            for hit in found:
                said[language] = said.get(language, 0) | hit.idea
    return said
