"""Listings: what an item is, and the title its seller wrote."""

from __future__ import annotations

import dataclasses

import numpy as np

from distill.data.marketplace.catalogue import TYPE_INDEX, TYPES, ProductType
from distill.data.marketplace.relevance import ANYTHING, FACET_INDEX, FACETS, ItemFacets

OTHER_MODEL = np.uint64(1 << 63)  # stated as not being one of the named lines
_FILLERS = (
    "free shipping", "new 2024", "premium quality", "best seller", "hot sale", "great gift", "top rated", "gift idea",
    "fast delivery", "high quality", "limited edition", "must have", "open box", "bundle", "authentic", "brand new",
    "on sale", "durable", "stylish", "everyday use",
)  # fmt: skip
_STATED = 0.92  # of an item's attributes find their way into the title
_TYPO = 0.015  # of the longer words


@dataclasses.dataclass(frozen=True)
class Item:
    """One listing, as a row of the items table."""

    item_id: str
    title: str
    category: tuple[str, ...]
    attributes: dict[str, str]
    split: str


def _form(rng: np.random.Generator, forms: tuple[str, ...]) -> str:
    """One of the surface forms, the first one most of the time."""
    return forms[0] if len(forms) == 1 or rng.random() < 0.65 else forms[1 + rng.integers(len(forms) - 1)]


def _typo(rng: np.random.Generator, word: str) -> str:
    at = int(rng.integers(1, len(word) - 2))
    kind = rng.integers(3)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at] + word[at:]


def _title(rng: np.random.Generator, kind: ProductType, head: list[str], tail: list[str]) -> str:
    """Sellers differ in order, separators, case, stuffing and care."""
    name = _form(rng, kind.sellers)
    rng.shuffle(tail)
    if rng.random() < 0.5:
        cut = int(rng.integers(len(tail) + 1))
        parts = [*head, *tail[:cut], name, *tail[cut:]]
    else:
        parts = [*head, name, *tail] if rng.random() < 0.7 else [name, *tail, *head]
    if rng.random() < 0.06:
        parts.append(str(rng.choice(kind.buyers)))  # the rare seller who knows what buyers type
    if kind.complements and rng.random() < 0.08:
        other = TYPES[TYPE_INDEX[kind.complements[rng.integers(len(kind.complements))]]]
        parts.append(f"great with {_form(rng, other.sellers)}")
    fillers = [_FILLERS[i] for i in rng.choice(len(_FILLERS), int(rng.integers(0, 4)), replace=False)]
    for filler in fillers:
        parts.insert(int(rng.choice((0, len(parts)), p=(0.2, 0.8))), filler)
    separator = str(rng.choice((" ", ", ", " - ", " | "), p=(0.5, 0.2, 0.2, 0.1)))
    text = parts[0]
    for part in parts[1:]:
        text += separator if rng.random() < 0.3 else " "
        slips = part not in head  # sellers spell the brand and the model right
        text += " ".join(
            _typo(rng, w) if slips and len(w) > 5 and w.isalpha() and rng.random() < _TYPO else w for w in part.split()
        )
    style = rng.random()
    return text.title() if style < 0.7 else text if style < 0.85 else text.lower()


def make_listings(count: int, holdout_share: float, seed: int) -> tuple[list[Item], ItemFacets]:
    """`count` listings and what each of them states; a pure function of its arguments."""
    rng = np.random.default_rng([seed, 1])
    weights = rng.uniform(0.6, 1.4, len(TYPES))
    kinds = rng.choice(len(TYPES), count, p=weights / weights.sum())
    stated = np.full((count, len(FACETS)), ANYTHING, np.uint64)
    holdout = np.zeros(count, bool)
    holdout[rng.permutation(count)[: round(count * holdout_share)]] = True
    items = []
    for i in range(count):
        kind = TYPES[kinds[i]]
        brand = kind.brands[rng.integers(len(kind.brands))]
        attributes = {"brand": brand}
        stated[i, FACET_INDEX["brand"]] = kind.facets["brand"][0].mask((brand,))
        head = [brand]
        lines = [j for j, (_, owner) in enumerate(kind.models) if owner == brand]
        if kind.models:
            stated[i, FACET_INDEX["model"]] = OTHER_MODEL
            if lines and rng.random() < 0.6:
                stated[i, FACET_INDEX["model"]] = 1 << lines[0]
                model = kind.models[lines[0]][0]
                head = [model] if rng.random() < 0.35 else [brand, model]  # a known line may go without its brand
        tail = []
        for facet, (table, keys) in kind.facets.items():
            if facet == "brand" or rng.random() > _STATED:
                continue
            key = keys[rng.integers(len(keys))]
            stated[i, FACET_INDEX[facet]] = table.mask((key,))
            form = _form(rng, table.forms[key])
            if facet == "target":
                form = f"{rng.choice(('for', 'fits', 'compatible with'))} {form}"
            if facet == "colour":
                attributes["color"] = form
            tail.append(form)
        title = _title(rng, kind, head, tail)
        items.append(
            Item(f"L{seed % 1000:03d}{i:07d}", title, kind.path, attributes, "holdout" if holdout[i] else "train")
        )
    return items, ItemFacets(kinds.astype(np.int64), stated)
