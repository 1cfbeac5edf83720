"""The truth: rubric `graded-v1` as attribute logic over bit masks.

An item states values, a keyphrase allows values; a requirement fails where the two masks share no bit. What an item
does not state and what a keyphrase does not ask for are masks of all ones, so both pass without a special case.
"""

from __future__ import annotations

import dataclasses

import numpy as np

FACETS = ("brand", "colour", "material", "audience", "model", "size", "feature", "trim", "target")
FACET_INDEX = {facet: i for i, facet in enumerate(FACETS)}
ANYTHING = np.uint64(2**64 - 1)

# Facets whose bits mean the same in every product type; the others' vocabularies belong to a type.
_SHARED = 4
_BRAND, _TARGET = FACET_INDEX["brand"], FACET_INDEX["target"]
_CHUNK = 1 << 16  # pairs; keeps the gathered masks in cache


@dataclasses.dataclass(frozen=True)
class ItemFacets:
    """What N items state: `kind` [N] int64 (index of the product type), `stated` [N, facets] uint64 masks."""

    kind: np.ndarray
    stated: np.ndarray


@dataclasses.dataclass(frozen=True)
class Requirements:
    """What M keyphrases ask for.

    `same`, `near`, `complement` [M] uint64 (bit i is product type i), `allowed` [M, facets] uint64 masks.
    """

    same: np.ndarray
    near: np.ndarray
    complement: np.ndarray
    allowed: np.ndarray


def _grade(items: ItemFacets, wanted: Requirements, item: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
    kind = np.uint64(1) << items.kind[item].astype(np.uint64)
    grades = np.zeros(len(item), np.int64)

    complement = np.flatnonzero(wanted.complement[keyphrase] & kind)
    if len(complement):
        stated, allowed = items.stated[item[complement]], wanted.allowed[keyphrase[complement]]
        # A case for another brand's phone is no complement of this phone, nor is that phone one of this case.
        fits = ((stated[:, _TARGET] & allowed[:, _BRAND]) != 0) & ((stated[:, _BRAND] & allowed[:, _TARGET]) != 0)
        grades[complement] = fits

    near = np.flatnonzero(wanted.near[keyphrase] & kind)
    if len(near):
        stated, allowed = items.stated[item[near], :_SHARED], wanted.allowed[keyphrase[near], :_SHARED]
        grades[near] = np.where(((stated & allowed) != 0).all(axis=1), 2, 0)

    same = np.flatnonzero(wanted.same[keyphrase] & kind)
    if len(same):
        stated, allowed = items.stated[item[same]], wanted.allowed[keyphrase[same]]
        grades[same] = np.where(((stated & allowed) != 0).all(axis=1), 3, 2)
    return grades


def grade(items: ItemFacets, wanted: Requirements, item: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
    """True grades of pairs.

    3: the product type asked for, every requirement met. 2: that type, a requirement failed; or a near type that meets
    brand, colour, material and audience. 1: used together with the product asked for, unless made for another brand's.
    0: anything else.

    Args:
        item: indices [N].
        keyphrase: indices [N].

    Returns:
        [N] int64.
    """
    item, keyphrase = np.asarray(item), np.asarray(keyphrase)
    if item.shape != keyphrase.shape:
        raise ValueError(f"grade: {item.shape} items against {keyphrase.shape} keyphrases: pass one of each per pair")
    grades = np.empty(len(item), np.int64)
    for start in range(0, len(item), _CHUNK):
        part = slice(start, start + _CHUNK)
        grades[part] = _grade(items, wanted, item[part], keyphrase[part])
    return grades
