"""Keyphrases: what buyers type, how often, and what it requires of an item."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from distill.data.marketplace.catalogue import FAMILIES, TYPE_INDEX, TYPES
from distill.data.marketplace.relevance import ANYTHING, FACET_INDEX, FACETS, Requirements
from distill.data.marketplace.vocabulary import Term
from distill.data.text import normalise_keyphrase

_FACET_WEIGHTS = {
    "brand": 1.3, "model": 1.0, "size": 1.0, "colour": 1.4, "material": 1.4,
    "audience": 1.2, "feature": 1.4, "trim": 1.2, "target": 2.0,
}  # fmt: skip
_TERM_COUNTS = (0.04, 0.42, 0.40, 0.14)  # how many requirements beside the product type
_AFTER = ("for", "with", "without", "in", "no", "not", "that")  # phrases that follow the product's name
_ZIPF = 1.05
_TOP_VOLUME = 50_000


@dataclasses.dataclass(frozen=True)
class _Subject:
    """A product type or a family of types: its names, and the terms that may narrow it."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    terms: dict[str, tuple[Term, ...]]  # facet → terms
    models: tuple[str, ...]


def _subjects() -> tuple[list[_Subject], np.ndarray]:
    """Every type and family with its sampling weight."""
    subjects, weights = [], []
    for types, names in [*(((t.key,), t.buyers) for t in TYPES), *FAMILIES.items()]:
        members = [TYPES[TYPE_INDEX[key]] for key in types]
        terms = {}
        for facet, (table, _) in members[0].facets.items():
            if all(facet in m.facets and m.facets[facet][0] is table for m in members):
                values = tuple(dict.fromkeys(key for m in members for key in m.facets[facet][1]))
                if found := table.terms_for(values):
                    terms[facet] = found
        models = tuple(name for name, _ in members[0].models) if len(members) == 1 else ()
        subjects.append(_Subject(names, types, terms, models))
        weights.append(1.0 if len(types) == 1 else 0.5)
    return subjects, np.array(weights) / sum(weights)


def _mask(types: set[str]) -> int:
    return sum(1 << TYPE_INDEX[key] for key in types)


def _phrase(rng: np.random.Generator, subject: _Subject, count: int) -> tuple[str, dict[str, int]]:
    """One search with up to `count` requirements: its text and the masks by facet."""
    facets = [*subject.terms, *(["model"] if subject.models else [])]
    odds = np.array([_FACET_WEIGHTS[facet] for facet in facets])
    chosen = [facets[i] for i in rng.choice(len(facets), min(count, len(facets)), replace=False, p=odds / odds.sum())]
    before, after, allowed = [], [], {}
    name = subject.names[rng.integers(len(subject.names))]
    for facet in chosen:
        if facet == "model":
            line = int(rng.integers(len(subject.models)))
            allowed["model"] = 1 << line
            before.insert(0, subject.models[line])
            if len(chosen) == 1 and rng.random() < 0.4:
                name = ""  # the line's name says what it is
            continue
        terms = subject.terms[facet]
        term = terms[rng.integers(len(terms))]
        allowed[facet] = term.allowed
        if term.phrase.split()[0] in _AFTER:
            after.append(term.phrase)
        elif facet == "brand":
            before.insert(0, term.phrase)
        else:
            before.append(term.phrase) if rng.random() < 0.85 else after.append(term.phrase)
    return " ".join([*before, *([name] if name else []), *after]), allowed


def make_requirements(wanted: Sequence[tuple[tuple[str, ...], dict[str, int]]]) -> Requirements:
    """Requirements of M keyphrases, each given as the product types it names and, by facet, the values it allows."""
    same, near, complement = (np.zeros(len(wanted), np.uint64) for _ in range(3))
    masks = np.full((len(wanted), len(FACETS)), ANYTHING, np.uint64)
    for k, (types, allowed) in enumerate(wanted):
        members = [TYPES[TYPE_INDEX[key]] for key in types]
        nearby = {key for m in members for key in m.near} - set(types)
        same[k], near[k] = _mask(set(types)), _mask(nearby)
        complement[k] = _mask({key for m in members for key in m.complements} - set(types) - nearby)
        for facet, mask in allowed.items():
            masks[k, FACET_INDEX[facet]] = mask
    return Requirements(same, near, complement, masks)


def make_keyphrases(count: int, seed: int) -> tuple[list[str], np.ndarray, Requirements]:
    """`count` distinct keyphrases, their search volumes [count] int64 (Zipf) and their requirements.

    Raises:
        ValueError: when the catalogue's words cannot make so many distinct keyphrases.
    """
    rng = np.random.default_rng([seed, 2])
    subjects, weights = _subjects()
    found: dict[str, tuple[_Subject, dict[str, int]]] = {}
    attempts = 0
    while len(found) < count:
        attempts += 1
        if attempts > 40 * count + 1000:
            raise ValueError(
                f"data.marketplace.keyphrases: {count}, but the catalogue's words made {len(found)}: ask for fewer"
            )
        subject = subjects[rng.choice(len(subjects), p=weights)]
        text, allowed = _phrase(rng, subject, int(rng.choice(len(_TERM_COUNTS), p=_TERM_COUNTS)))
        words = text.split()
        if len(set(words)) == len(words):
            found.setdefault(normalise_keyphrase(text), (subject, allowed))

    wanted = [(subject.types, allowed) for subject, allowed in found.values()]
    generality = np.array([len(allowed) - 0.5 * (len(types) > 1) for types, allowed in wanted])
    ranks = np.empty(count, np.int64)
    ranks[np.argsort(generality + rng.gumbel(0, 0.6, count), kind="stable")] = np.arange(count)
    volume = np.maximum(1, _TOP_VOLUME * (ranks + 5.0) ** -_ZIPF * 5**_ZIPF).astype(np.int64)
    return list(found), volume, make_requirements(wanted)
