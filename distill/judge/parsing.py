"""From what a judge answered to a grade, or to why there is none.

Nothing is guessed: an answer is one of the rubric's texts, in any case of its letters, or it is unparsable. A list of
answers is taken only if it is the very object that was asked for; anything around or beside it may be a seller's doing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from distill.data.json_objects import unique_keys
from distill.judge.rubric import Answer, Rubric

_TINY = 1e-30  # a probability from which no ratio can be taken
_ROUNDING = 1e-3  # by which reported probabilities may exceed 1
_LETTERS_AROUND = 64  # characters of id, punctuation and blanks that one answer of a list may take
_FENCE = re.compile(r"```(?:json)?[ \t]*\r?\n(.*)\n[ \t]*```", re.DOTALL)
_SPACE_MARKERS = " ▁Ġ"  # of SentencePiece and of byte-level BPE


@dataclasses.dataclass(frozen=True)
class Parsed:
    """`grade` is 0–3 exactly where `status` is `graded`, else None."""

    status: str  # `graded`, `abstained` or `unparsable`
    grade: int | None = None
    raw_score: float | None = None  # the expected grade, 0–3, where the judge's probabilities are known


_UNPARSABLE = Parsed("unparsable")


def parse_choice(rubric: Rubric, text: str) -> Parsed:
    """Reads one answer's text; white space around it and one full stop after it are allowed, nothing else is."""
    return _meaning(rubric, text.strip().removesuffix("."))


def parse_choice_logprobs(rubric: Rubric, logprobs: Mapping[str, float], least_mass: float = 0.5) -> Parsed:
    """Reads the probabilities of the first token instead of the token itself.

    A token counts for the answer that it begins (the first characters of answers differ); one that begins none counts
    against the answers' mass. The grade is the most probable answer's, the first of equals in the rubric's order;
    `raw_score` is the expected grade, over the graded answers alone (as in G-Eval, arXiv 2303.16634).

    Args:
      logprobs: token text → log-probability, of the first token's most probable tokens.
      least_mass: probability that the answers must have together, or the judge speaks of something else.

    Returns:
      `unparsable` where the answers have less than that, or none at all, or a number is not a log-probability.
    """
    mass = dict.fromkeys(rubric.answers, 0.0)
    for token, logprob in logprobs.items():
        if math.isnan(logprob) or logprob > _ROUNDING:
            return _UNPARSABLE
        start = token.lstrip(_SPACE_MARKERS).casefold()
        for answer in rubric.answers:
            if start and answer.text.casefold().startswith(start):
                mass[answer] += math.exp(logprob)
    total = sum(mass.values())
    if not max(least_mass, _TINY) <= total <= 1 + _ROUNDING:
        return _UNPARSABLE
    best = max(mass, key=mass.__getitem__)
    if best.grade is None:
        return Parsed("abstained")
    graded = [(answer.grade, share) for answer, share in mass.items() if answer.grade is not None]
    expected = sum(grade * share for grade, share in graded) / sum(share for _, share in graded)
    return Parsed("graded", best.grade, min(expected, 3.0))


def least_mass_mark(least_mass: float) -> str:
    """What a judge's name ends in for a `least_mass` that is not the usual one: it changes what counts as an answer."""
    return "" if least_mass == 0.5 else f":mass{least_mass:g}"


def parse_list(rubric: Rubric, ids: Sequence[str], text: str) -> list[Parsed]:
    """Reads the JSON object that `list_prompt` asks for, alone or in a markdown fence.

    Returns:
      One for each of `ids`, in their order. An id that is missing, or whose answer is not the rubric's, is unparsable
      by itself; with an unknown id, an id given twice, text around the object, or no object, all are.
    """
    longest = max(len(answer.text) for answer in rubric.answers)
    text = text.strip(" \t\r\n")
    if len(text) > (len(ids) + 1) * (longest + _LETTERS_AROUND):
        return [_UNPARSABLE] * len(ids)
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    try:
        answers = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return [_UNPARSABLE] * len(ids)
    if not isinstance(answers, dict) or not answers.keys() <= set(ids):
        return [_UNPARSABLE] * len(ids)
    return [_meaning(rubric, answers.get(one)) for one in ids]


def _meaning(rubric: Rubric, text: Any) -> Parsed:
    if not isinstance(text, str):
        return _UNPARSABLE
    found: Answer | None = next((a for a in rubric.answers if a.text.casefold() == text.casefold()), None)
    if found is None:
        return _UNPARSABLE
    return Parsed("abstained") if found.grade is None else Parsed("graded", found.grade)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
