"""The model card of an export, in Markdown as the Hugging Face hub shows it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence

from distill.data.validation.about import About

SAVED_MODELS = {
    "student": (
        "`text` (a listing's), or under the signature `keyphrase`: `keyphrase`",
        "`embedding`, float32 [N, {width}], unit vectors",
    ),
    "assistant": ("`keyphrase`, `category`, `title`", "`relevance`, float32 [N], 0–1"),
    "recommender": ("`category`, `title`", "`keyphrase`, string [N, {k}], `score`, float32 [N, {k}]"),
    "recommender_exact": ("`category`, `title`", "as `recommender`, without ScaNN: every keyphrase is compared"),
}
_MODELS = ("bm25", "zero_shot", "assistant", "student")
_REFEREES = {  # first part of a metric's name → who judged
    "human": "people's labels, which nothing was trained on",
    "holdout": "the judge's grades, on listings that nothing was trained on",
    "truth": "what is true in the simulation",
    "never_exposed": "the same, over pairs that no buyer was shown",
    "align": "the search engine (`search_pass`), and the assistant (`judge_pass`), the student's own teacher",
    "coverage": "the assistant too",
}
OPEN = "apache-2.0"  # this code's own licence


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
    precision: float  # there, of held-back judged pairs; NaN where it is not known
    wanted: float  # the precision that the threshold was chosen for
    reached: bool  # whether there was such a threshold
    counts: Mapping[str, int]  # of listings, keyphrases and the rows of each training table
    about: About  # where the data come from
    embedded: bool  # whether they are the embedded marketplace
    base: str  # what the encoder was trained on from; empty: from scratch
    warm: Sequence[str]  # `student`, `assistant`: which began as those of an earlier run
    judge: str  # the judge's backend
    metrics: Mapping[str, float]  # of `report/metrics.json`; empty before evaluation


def licence(embedded: bool, base: str, warm: Sequence[str]) -> str:
    """The hub's name of the models' licence: this code's, where they were made of nothing else, or `other`."""
    return OPEN if embedded and not base and not warm else "other"


def model_card(facts: CardFacts) -> str:
    """The Markdown text."""
    header = {
        "license": licence(facts.embedded, facts.base, facts.warm),
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
        *_licence(facts),
        *_measured(facts),
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
        *_example(facts.saved_models),
    ]


def _example(saved_models: Sequence[str]) -> list[str]:
    inputs = {"category": "Garden Hoses", "title": "50 ft expandable garden hose"}
    name = next(one for one in ("recommender_exact", "recommender", "assistant", "student") if one in saved_models)
    if name == "assistant":
        inputs = {"keyphrase": "expandable hose", **inputs}
    elif name == "student":
        inputs = {"text": " ".join(inputs.values())}
    given = ", ".join(f'{key}=tf.constant(["{value}"])' for key, value in inputs.items())
    return [
        "```python",
        f"import tensorflow as tf, tensorflow_text{', scann' if name == 'recommender' else ''}",
        "",
        f'model = tf.saved_model.load("{name}").signatures["serving_default"]',
        f"model({given})",
        "```",
        "",
        *(["`recommender` also needs `import scann`.", ""] if "recommender" in saved_models else []),
    ]


def _data(facts: CardFacts) -> list[str]:
    about = facts.about
    if facts.embedded:
        where = "A simulated marketplace, not real listings."
    else:
        source = about.source.rstrip(".") or "not stated"
        where = f"Data: {source}. Simulated in it: {_listed(about.simulated) or 'nothing is said to be'}."
    note = f" {about.note}" if about.note else ""
    base = f"from `{facts.base}`" if facts.base else "from scratch"
    warm = f" Continued from an earlier run: {_listed(facts.warm)}." if facts.warm else ""
    return [
        "## Trained on",
        "",
        f"{where}{note} The encoder was trained {base}.{warm} The judge was `{facts.judge}`. Matryoshka prefixes: "
        f"{', '.join(map(str, facts.widths))}.",
        "",
        "| | rows |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in facts.counts.items()),
        "",
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _licence(facts: CardFacts) -> list[str]:
    if licence(facts.embedded, facts.base, facts.warm) == OPEN:
        text = "Apache-2.0, as the code that made it: it was trained on nothing else than what that code simulates."
    else:
        data = f"The data: {facts.about.licence}" if facts.about.licence else "The data: not stated"
        base = f" The encoder: that of `{facts.base}`." if facts.base else ""
        warm = " What the earlier run was trained on binds it too." if facts.warm else ""
        text = f"Whose it is, the data and the weights that it began from decide. {data}.{base}{warm}"
    return ["## Licence", "", text, ""]


def _measured(facts: CardFacts) -> list[str]:
    title, metrics = ["## Measured", ""], facts.metrics
    models = [model for model in _MODELS if any(name.endswith(f"/{model}") for name in metrics)]
    names = sorted({name.rsplit("/", 1)[0] for name in metrics if name.partition("/")[0] in _REFEREES})
    rows = [(name, [metrics.get(f"{name}/{model}", math.nan) for model in models]) for name in names]
    rows = [(name, values) for name, values in rows if not all(map(math.isnan, values))]
    if not models or not rows:
        return [*title, "Not evaluated yet.", ""]

    def cell(name: str, model: str, value: float) -> str:
        low, high = (metrics.get(f"{name}/{model}/ci_{end}", math.nan) for end in ("low", "high"))
        interval = "" if math.isnan(low) or math.isnan(high) else f" [{low:.3f}, {high:.3f}]"
        return "–" if math.isnan(value) else f"{value:.3f}{interval}"

    families = {name.partition("/")[0] for name, _ in rows}
    simulated = " (simulated)" if facts.about.is_simulated("human") or facts.embedded else ""
    referees = [
        f"- `{family}`: {referee}{simulated if family == 'human' else ''}"
        for family, referee in _REFEREES.items()
        if family in families
    ]
    return [
        *title,
        "With 95 % intervals; the report says how each is measured. The referees:",
        "",
        *referees,
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
        f"relevant than {facts.threshold:.3f}{_precision(facts)}.",
        "- It finds no keyphrase that is not in its index; keyphrases that came up later need another export.",
        "- Relevance is the judge's opinion as the assistant learnt it, not a chance of a click or a sale.",
        "- Language, categories and buyers other than those of the training data were not measured.",
        "- A title that holds a token such as `[SEP]` is read as that token, here as in training.",
        "",
    ]


def _precision(facts: CardFacts) -> str:
    if math.isnan(facts.precision):
        return ""
    wanted = "" if facts.reached else f"; no threshold reached the {facts.wanted:.0%} that were wanted"
    return f": of what it kept of held-back judged pairs, {facts.precision:.0%} were right{wanted}"
