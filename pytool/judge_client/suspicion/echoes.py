"""The judge's own words in an answer: its prompt, its rubric's levels, its criteria with the highest score."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from judge_client.prompts import JUDGE_USER_PROMPT_TEMPLATE, system_prompt
from judge_client.rubric import Rubric
from judge_client.suspicion.views import WORD, folded
from judge_client.suspicion.words import ANY, Idea, vocabulary
from judge_client.verdict import Ground, GroundCode

_WORDS_IN_A_ROW: Final = 6
_KEPT: Final = 32


@dataclass(frozen=True)
class Told:
    """What a judge is told by a rubric: the names of its criteria, its levels, and all stretches of six words."""

    names: frozenset[str]
    phrases: frozenset[str]
    stretches: frozenset[tuple[str, ...]]


_told: dict[str, Told] = {}


def told(rubric: Rubric) -> Told:
    """Return what a judge is told by a rubric; kept for the last few rubrics."""
    found = _told.get(rubric.digest)
    if found is None:
        phrases = [one for criterion in rubric.all for one in (criterion.question, *criterion.levels.values())]
        texts = (system_prompt(rubric), JUDGE_USER_PROMPT_TEMPLATE)
        found = Told(
            frozenset(folded(name) for name in rubric.names),
            frozenset(" ".join(words) for one in phrases if len(words := WORD.findall(folded(one))) >= 4),
            frozenset(row for text in texts for row in _rows(WORD.findall(folded(text)))))
        while len(_told) >= _KEPT:
            _told.pop(next(iter(_told)))
        _told[rubric.digest] = found
    return found


def _rows(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(_WORDS_IN_A_ROW)), strict=False)


def echoes(words: Sequence[str], unique: Collection[str], said: Told) -> Iterator[Ground]:
    """Yield the first words of the judge's own prompt: six in a row, or two of its levels."""
    if not said.stretches.isdisjoint(_rows(words)):
        place = next(number for number, row in enumerate(_rows(words)) if row in said.stretches)
        yield Ground(GroundCode.RUBRIC_ECHO, " ".join(words[place:place + 2 * _WORDS_IN_A_ROW]))
    elif len(said.names.intersection(unique)) >= 2:
        joined = " ".join(words)
        found = [phrase for phrase in said.phrases if phrase in joined]
        if len(found) >= 2:
            yield Ground(GroundCode.RUBRIC_ECHO, min(found, key=joined.find))


def all_criteria(words: Sequence[str], unique: Collection[str], said: Told) -> Iterator[Ground]:
    """Yield the place where most of the criteria are named one after the other and the highest score with them."""
    wanted = max(3, len(said.names) // 2)
    if len(said.names.intersection(unique)) < wanted:
        return
    places = [place for place, word in enumerate(words) if word in said.names]
    for place, end in zip(places, places[wanted - 1:], strict=False):
        around = words[max(0, place - 8):end + 12]
        if end - place <= 12 * wanted and any(_is_top(word) for word in around):
            yield Ground(GroundCode.ASKS_FOR_SCORE, " ".join(around))
            return


def _is_top(word: str) -> bool:
    return any(idea & Idea.TOP for language, idea in vocabulary().get(word, ()) if language in (ANY, "en"))
