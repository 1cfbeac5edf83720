"""The model card of an export, in Markdown as the Hugging Face hub shows it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence

SAVED_MODELS = {
    "student": (
        "`text` (a listing's), or under the signature `keyphrase`: `keyphrase`",
        "`embedding`, float32 [N, {width}], unit vectors",
    ),
    "assistant": ("`keyphrase`, `category`, `title`", "`relevance`, float32 [N], 0–1"),
    "recommender": ("`category`, `title`", "`keyphrase`, string [N, {k}], `score`, float32 [N, {k}]"),
    "recommender_exact": ("`category`, `title`", "as `recommender`, without ScaNN: every keyphrase is compared"),
}
_SHOWN = ("human/", "holdout/", "truth/", "never_exposed/", "align/", "coverage")
_MODELS = ("bm25", "zero_shot", "assistant", "student")


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a card says; all of it read from the run."""

    name: str  # of the experiment
    width: int  # coordinates of an embedding
    widths: Sequence[int]  # Matryoshka prefixes
    item_tokens: int
    keyphrase_tokens: int
    candidates: int  # keyphrases that the recommender gives
    saved_models: Sequence[str]  # of SAVED_MODELS, those that were written
    threshold: float  # relevance from which a keyphrase was recommended
    precision: float  # there, of held-back judged pairs
    counts: Mapping[str, int]  # of listings, keyphrases and the rows of each training table
    simulated: bool  # whether the data are the embedded marketplace
    base: str  # what the encoder was trained on from; empty: from scratch
    judge: str  # the judge's backend
    metrics: Mapping[str, float]  # of `report/metrics.json`; empty before evaluation


def model_card(facts: CardFacts) -> str:
    """The Markdown text."""
    header = {
        "license": "apache-2.0",
        "pipeline_tag": "sentence-similarity",
        "tags": ["keyphrase-recommendation", "sentence-transformers", "tensorflow"],
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in header.items()), "---", ""]
    lines += [
        f"# Keyphrases for listings: {facts.name}",
        "",
        "A bi-encoder (the student) finds keyphrases, buyer searches, for marketplace listings; a cross-encoder (the "
        "assistant) says how relevant a keyphrase is to a listing. A judge's grades taught the assistant; the "
        "assistant, clicks and the search engine's relevance taught the student.",
        "",
        *_contents(facts),
        *_data(facts),
        *_measured(facts.metrics),
        *_limits(facts),
    ]
    return "\n".join(lines)


def _contents(facts: CardFacts) -> list[str]:
    lines = [
        "## What is here",
        "",
        "`huggingface/student` and `huggingface/assistant` are for `SentenceTransformer` and `CrossEncoder`.",
    ]
    if not facts.saved_models:
        return [*lines, "SavedModels were not written.", ""]
    lines += [
        "The SavedModels take strings, under `serving_default`:",
        "",
        "| SavedModel | inputs, string [N] | outputs |",
        "|---|---|---|",
    ]
    for name in facts.saved_models:
        inputs, outputs = SAVED_MODELS[name]
        lines.append(f"| `{name}` | {inputs} | {outputs.format(width=facts.width, k=facts.candidates)} |")
    return [
        *lines,
        "",
        '`category` is the name of the leaf category, "" for none. Scores are cosines, best first. What is called '
        '`keyphrase` is brought into the normal form of the training data (NFKC, case, spaces, units: 12" is 12 inch); '
        "`text` and the models in `huggingface` are read as they stand.",
        "",
        "```python",
        "import tensorflow as tf, tensorflow_text",
        "",
        'model = tf.saved_model.load("recommender_exact").signatures["serving_default"]',
        'model(category=tf.constant(["Garden Hoses"]), title=tf.constant(["50 ft expandable garden hose"]))',
        "```",
        "",
        "`recommender` also needs `import scann`.",
        "",
    ]


def _data(facts: CardFacts) -> list[str]:
    where = "A simulated marketplace, not real listings." if facts.simulated else "Logs of the marketplace's own."
    base = f"from `{facts.base}`, under whose licence it is too" if facts.base else "from scratch"
    return [
        "## Trained on",
        "",
        f"{where} The encoder was trained {base}. The judge was `{facts.judge}`. Matryoshka prefixes: "
        f"{', '.join(map(str, facts.widths))}.",
        "",
        "| | rows |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in facts.counts.items()),
        "",
    ]


def _measured(metrics: Mapping[str, float]) -> list[str]:
    title = ["## Measured", ""]
    models = [model for model in _MODELS if any(name.endswith(f"/{model}") for name in metrics)]
    names = sorted({name.rsplit("/", 1)[0] for name in metrics if name.startswith(_SHOWN)})
    rows = [(name, [metrics.get(f"{name}/{model}", math.nan) for model in models]) for name in names]
    rows = [(name, values) for name, values in rows if not all(map(math.isnan, values))]
    if not models or not rows:
        return [*title, "Not evaluated yet.", ""]

    def cell(name: str, model: str, value: float) -> str:
        low, high = (metrics.get(f"{name}/{model}/ci_{end}", math.nan) for end in ("low", "high"))
        interval = "" if math.isnan(low) or math.isnan(high) else f" [{low:.3f}, {high:.3f}]"
        return "–" if math.isnan(value) else f"{value:.3f}{interval}"

    return [
        *title,
        "With 95 % intervals; `human/` against people's labels, `holdout/` against the judge on listings that nothing "
        "was trained on. The report says how each is measured.",
        "",
        f"| metric | {' | '.join(models)} |",
        "|---|" + "---|" * len(models),
        *(
            f"| `{name}` | {' | '.join(cell(name, model, value) for model, value in zip(models, values))} |"
            for name, values in rows
        ),
        "",
    ]


def _limits(facts: CardFacts) -> list[str]:
    return [
        "## Limits",
        "",
        f"- Without a warning, a listing's text is cut at {facts.item_tokens} tokens, a keyphrase at "
        f"{facts.keyphrase_tokens}.",
        "- The recommender gives the nearest keyphrases of its index, whatever their relevance: it knows no block list "
        "and not what a seller has already. The pipeline drops those, repetitions, and what the assistant finds less "
        f"relevant than {facts.threshold:.3f}: of what it kept of judged pairs, {facts.precision:.0%} were right.",
        "- It finds no keyphrase that is not in its index; keyphrases that came up later need another export.",
        "- Relevance is the judge's opinion as the assistant learnt it, not a chance of a click or a sale.",
        "- Language, categories and buyers other than those of the training data were not measured.",
        "- A title that holds a token such as `[SEP]` is read as that token, here as in training.",
        "",
    ]
