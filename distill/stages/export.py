"""export: the trained models as other software loads them, and a model card.

`huggingface/` holds what sentence-transformers loads; beside it stand the SavedModels of `config.export.saved_models`,
where TensorFlow is installed. Each SavedModel is written whole, so a killed run goes on behind the last one.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.artifacts import ArtifactError, hash_file, output_hash, read_json, read_manifest, write_atomic
from distill.config.checks import SAVED_MODELS
from distill.export import serving_facts
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context, Stage, files_below, load_model
from distill.stages.evaluate import METRICS
from distill.stages.index import INDEX

if TYPE_CHECKING:
    from distill.export.graph_tokenizer import GraphTokenizer

HUGGING_FACE, CARD = "huggingface", "README.md"
_WARM_UP_TEXTS = 10_000  # items, and keyphrases, among which texts of each length are looked for


def run(context: Context, folder: Path) -> dict[str, Any]:
    _hugging_face(context, folder / HUGGING_FACE)
    written = _saved_models(context, folder)
    facts = _facts(context)
    serving_facts.write_facts(folder, facts)
    write_atomic(folder / CARD, _card(context, written, facts))
    names = ", ".join([f"{HUGGING_FACE}/student", f"{HUGGING_FACE}/assistant", *written])
    context.reporter.line(f"export: {names} in {folder}")
    return {"files": len(_published(folder)), "saved_models": len(written)}


def _hugging_face(context: Context, target: Path) -> None:
    from distill.export.huggingface import export_assistant, export_student
    from distill.export.model_card import licence

    encoder = context.experiment.encoder
    terms = licence(context.experiment.data.embedded, encoder.init, _warm(context))
    shutil.rmtree(target, ignore_errors=True)
    spec, params = load_model(context.folder("student") / "model")
    widths = context.experiment.student.widths
    export_student(target / "student", spec, params, context.tokenizer, encoder.item_tokens, widths, terms)
    spec, params = load_model(context.folder("assistant") / "model")
    longest = encoder.item_tokens + encoder.keyphrase_tokens - 1
    export_assistant(target / "assistant", spec, params, context.tokenizer, longest, terms)


def _saved_models(context: Context, folder: Path) -> list[str]:
    """Writes those that are wanted and not there yet; returns which there are."""
    from distill.export.tensorflow_door import INSTALL, is_installed

    wanted = context.experiment.export.saved_models
    if wanted and not is_installed():
        context.reporter.line(
            f"export: no SavedModel ({', '.join(wanted)}), for TensorFlow and tensorflow-text are not installed; "
            f"`{INSTALL}` and run export again"
        )
        return []
    due = [name for name in wanted if not (folder / name).exists()]
    if due:
        from distill.export.characters import character_table
        from distill.export.graph_tokenizer import GraphTokenizer

        tokenizer = GraphTokenizer(context.tokenizer, character_table(context.tokenizer))
        with context.reporter.progress("SavedModels", len(wanted), len(wanted) - len(due)) as advance:
            for name in due:
                _save(context, name, folder / name, tokenizer)
                advance(1)
    return list(wanted)


def _save(context: Context, name: str, target: Path, tokenizer: GraphTokenizer) -> None:
    from distill.export.recommender import save_recommender
    from distill.export.saved_model import save_assistant, save_student

    encoder = context.experiment.encoder
    spec, params = load_model(context.folder("assistant" if name == "assistant" else "student") / "model")
    requests = _warm_up(context, name)
    if name == "student":
        save_student(target, tokenizer, spec, params, encoder.item_tokens, encoder.keyphrase_tokens, requests)
    elif name == "assistant":
        save_assistant(target, tokenizer, spec, params, encoder.keyphrase_tokens, encoder.item_tokens, requests)
    else:
        save_recommender(
            target,
            tokenizer,
            spec,
            params,
            encoder.item_tokens,
            context.folder("index") / INDEX,
            context.prepared.keyphrases,
            _candidates(context),
            name == "recommender_exact",
            requests,
        )


def _candidates(context: Context) -> int:
    experiment = context.experiment
    return experiment.export.candidates or experiment.recommend.candidates


def _warm_up(context: Context, name: str) -> list[tuple[str, dict[str, list[str]]]]:
    """Requests of every wanted size, with items of every length of padding; of the student, keyphrases too."""
    from distill.export.saved_model import KEYPHRASE
    from distill.export.warm_up import SIGNATURE, one_of_each_length

    prepared, encoder = context.prepared, context.experiment.encoder
    lengths = context.tokenizer.encode_texts(prepared.item_texts[:_WARM_UP_TEXTS], encoder.item_tokens).lengths
    longest = encoder.item_tokens
    keyphrase = prepared.keyphrases[0]
    if name == "assistant":
        lengths = lengths + len(context.tokenizer.encode_raw([keyphrase], encoder.keyphrase_tokens - 2).values) + 1
        longest += encoder.keyphrase_tokens - 1
    rows: list[tuple[str, dict[str, str]]] = []
    for row in one_of_each_length(lengths, longest):
        category = prepared.categories[row]
        one = {"category": category[-1] if category else "", "title": prepared.titles[row]}
        if name == "student":
            one = {"text": prepared.item_texts[row]}
        elif name == "assistant":
            one = {"keyphrase": keyphrase, **one}
        rows.append((SIGNATURE, one))
    if name == "student":
        texts, longest = prepared.keyphrases[:_WARM_UP_TEXTS], encoder.keyphrase_tokens
        lengths = context.tokenizer.encode_texts(texts, longest).lengths
        rows += [(KEYPHRASE, {"keyphrase": texts[row]}) for row in one_of_each_length(lengths, longest)]
    return [
        (signature, {key: [value] * size for key, value in one.items()})
        for signature, one in rows
        for size in context.experiment.export.warm_up_batches
    ]


def _facts(context: Context) -> serving_facts.ServingFacts:
    """Where the assistant's relevance is enough, and how often that is right."""
    threshold = read_json(context.folder("assistant") / CALIBRATION)["threshold"]
    return serving_facts.ServingFacts(1 / (1 + math.exp(-threshold["logit"])), threshold["precision"])


def _card(context: Context, written: list[str], facts: serving_facts.ServingFacts) -> str:
    from distill.data.validation.validate import read_validation
    from distill.export.model_card import CardFacts, model_card

    experiment, prepared = context.experiment, context.prepared
    tables = read_json(context.folder("prepare") / "summary.json")["tables"]
    counts = {"listings": len(prepared.item_ids), "keyphrases": len(prepared.keyphrases)}
    counts |= {f"{name}, training rows": table["training"] for name, table in tables.items() if table["training"]}
    if judged := read_manifest(context.folder("judge")):
        counts["graded pairs, training rows"] = judged["counts"]["judged_training_pairs"]
    report = _report(context)
    if report is None and (context.folder("evaluate") / METRICS).exists():
        context.reporter.line("export: the report is not of these models, so the model card holds none of its figures")
    return model_card(
        CardFacts(
            name=experiment.name,
            width=max(experiment.student.widths),
            widths=experiment.student.widths,
            item_tokens=experiment.encoder.item_tokens,
            keyphrase_tokens=experiment.encoder.keyphrase_tokens,
            candidates=min(_candidates(context), len(prepared.keyphrases)),
            saved_models=written,
            threshold=facts.threshold,
            precision=facts.precision,
            wanted=experiment.recommend.precision,
            reached=read_json(context.folder("assistant") / CALIBRATION)["threshold"]["reached"],
            counts=counts,
            about=read_validation(context.folder("prepare")).about,
            embedded=experiment.data.embedded,
            base=_base(experiment.encoder.init),
            warm=_warm(context),
            judge=experiment.judge.backend,
            metrics=read_json(report) if report else {},
        )
    )


def _base(init: str) -> str:
    """What the encoder began from: a hub name as it is, of a directory its name."""
    return Path(init).resolve().name if init and Path(init).is_dir() else init


def _warm(context: Context) -> list[str]:
    """Models that began as those of an earlier run."""
    experiment = context.experiment
    starts = {"student": experiment.student.warm_start, "assistant": experiment.assistant.warm_start}
    return [name for name, start in starts.items() if start]


def _report(context: Context) -> Path | None:
    """The report's metrics; None where there is no finished report of the models that stand here now."""
    manifest = read_manifest(context.folder("evaluate"))
    try:
        measured = manifest is not None and all(
            output_hash(context.folder(name), "") == digest
            for name, digest in manifest["inputs"].items()
            if name in STAGE.inputs
        )
    except ArtifactError:
        measured = False
    path = context.folder("evaluate") / METRICS
    return path if measured and path.exists() else None


def _external(context: Context) -> dict[str, str]:
    """The report, where there is one yet, and whether SavedModels can be written; those of another host stay."""
    from distill.export.tensorflow_door import is_installed

    report = _report(context)
    hashes = {"metrics": hash_file(report)} if report else {}
    manifest = read_manifest(context.folder("export"))
    there = manifest is not None and manifest["counts"].get("saved_models", 0) > 0
    return hashes | {"tensorflow": "installed" if there or is_installed() else "missing"}


def _published(folder: Path) -> list[Path]:
    """TensorFlow gives each SavedModel's fingerprint.pb a random number, which is no part of what was made."""
    files = files_below(HUGGING_FACE, CARD, serving_facts.FILE, *SAVED_MODELS)(folder)
    return [path for path in files if path.name != "fingerprint.pb"]


STAGE = Stage(
    name="export",
    config=lambda e: {
        "tokens": [e.encoder.item_tokens, e.encoder.keyphrase_tokens],
        "widths": e.student.widths,
        "export": e.export,
        "candidates": e.export.candidates or e.recommend.candidates,
    },
    inputs=("prepare", "assistant", "student", "index"),
    run=run,
    published=_published,
    external=_external,
)
