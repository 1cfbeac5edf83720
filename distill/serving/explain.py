"""Why a listing gets a keyphrase and not another: the student's candidates, the assistant's opinion, the filters."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.export.serving_facts import ServingFacts
from distill.retrieval.dedupe import meanings
from distill.retrieval.selection import FATES, Exclusions, Rules, decide
from distill.serving.batching import Batcher
from distill.serving.limits import Limits, RequestError, quoted
from distill.serving.predict import parse_json, plain, utf8

RECOMMENDERS = ("recommender", "recommender_exact")  # the first that there is finds the candidates
ASSISTANT = "assistant"


def parse_explain(body: bytes, limits: Limits) -> tuple[bytes, bytes]:
    """The title and the leaf category ("" is none) of `{"title": …, "category": …}`.

    Raises:
      RequestError: 400 with the field's name.
    """
    value = parse_json(body)
    unknown = sorted(set(value) - {"title", "category"})
    if unknown:
        raise RequestError(400, f"{quoted(unknown[0])} is unknown; there are title and category")
    if "title" not in value:
        raise RequestError(400, "title is missing; give the listing's title")
    title, category = (utf8(value.get(name, ""), name) for name in ("title", "category"))
    if not title.strip():
        raise RequestError(400, "title is empty; give the listing's title")
    for name, text in (("title", title), ("category", category)):
        length = len(text.decode())
        if length > limits.title:
            raise RequestError(400, f"{name} has {length:,} characters; at most {limits.title:,} are explained")
    return title, category


async def explain(
    batcher: Batcher,
    names: Sequence[str],
    facts: ServingFacts | None,
    limits: Limits,
    title: bytes,
    category: bytes,
    deadline: float,
) -> dict[str, Any]:
    """All candidates of a listing and what becomes of each by the rules of `recommend`.

    Those of its rules that need more than the export (block list, other sources, how many are kept) are not applied.

    Args:
      batcher: with the models `names`; there is a recommender among them.
      facts: with the threshold; None: nothing is dropped by it.
      title, category: UTF-8.
      deadline: of `time.monotonic`.

    Returns:
      threshold (None where unknown), recommender (its name), counts (fate → number), keyphrases: those kept by rank,
      then the others, best first, each with keyphrase, cosine, relevance (None without an assistant), fate (one of
      `FATES`), rank (None unless kept) and same_as (the keyphrase that it repeats, or None).
    """
    recommender = next(name for name in RECOMMENDERS if name in names)
    found = await batcher.predict(recommender, {"category": [category], "title": [title]}, deadline)
    there = np.isfinite(found["score"][0])
    keyphrases, cosine = found["keyphrase"][0][there].tolist(), found["score"][0][there]
    relevance = None
    if ASSISTANT in names:
        relevance = await _relevance(batcher, keyphrases, title, category, limits.batch, deadline)
    texts: list[str] = plain(np.array(keyphrases, object))
    order, fate, rank, same_as = _decide(texts, cosine, relevance, facts)

    def row(at: int, place: int) -> dict[str, Any]:
        return {
            "keyphrase": texts[at],
            "cosine": float(cosine[at]),
            "relevance": None if relevance is None else float(relevance[at]),
            "fate": FATES[fate[place]],
            "rank": int(rank[place]) or None,
            "same_as": texts[same_as[place]] if same_as[place] >= 0 else None,
        }

    rows = [row(at, place) for place, at in enumerate(order.tolist())]
    return {
        "threshold": facts.threshold if facts and relevance is not None else None,
        "recommender": recommender,
        "counts": _counts(rows),
        "keyphrases": rows,
    }


async def _relevance(
    batcher: Batcher, keyphrases: Sequence[bytes], title: bytes, category: bytes, most: int, deadline: float
) -> np.ndarray:
    """The assistant's relevance, float32 [K]."""
    chunks = [keyphrases[start : start + most] for start in range(0, len(keyphrases), most)]
    answers = await asyncio.gather(
        *(
            batcher.predict(
                ASSISTANT,
                {"keyphrase": chunk, "category": [category] * len(chunk), "title": [title] * len(chunk)},
                deadline,
            )
            for chunk in chunks
        )
    )
    return np.concatenate([np.zeros(0, np.float32), *(answer["relevance"] for answer in answers)])


def _decide(
    texts: Sequence[str], cosine: np.ndarray, relevance: np.ndarray | None, facts: ServingFacts | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `decide` for one item: order, and by place in it fate, rank and same_as."""
    count = len(texts)
    nowhere = np.zeros(count, np.int64)
    logit = np.zeros(count) if relevance is None else _logit(relevance)
    threshold = -math.inf
    if facts and relevance is not None:
        # The same rounding on both sides, so that a relevance equal to the threshold is not below it.
        threshold = float(_logit(np.array(facts.threshold, np.float32)))
    rules = Rules(keep=max(1, count), threshold=threshold, exclusions=Exclusions(meanings(texts)))
    decided = decide(nowhere, nowhere, np.arange(count), cosine, logit, rules)
    return decided.order, decided.fate, decided.rank, decided.same_as


def _logit(probability: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(probability, np.float64), 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts = {fate: sum(row["fate"] == fate for row in rows) for fate in FATES}
    return {fate: count for fate, count in counts.items() if count or fate == "kept"}
