"""prepare: a data directory (or the embedded marketplace) in; checked tables, tokenizer and initial encoder out."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from distill.artifacts import hash_file, hash_json, hash_tree, write_atomic
from distill.config import ConfigError, check_width
from distill.stages.base import Context, Stage, files_below, save_model


def run(context: Context, folder: Path) -> dict[str, Any]:
    from distill.data.preparation.prepare import prepare
    from distill.data.validation import findings
    from distill.data.validation.validate import read_validation

    data = context.experiment.data
    source = Path(data.dir) if data.dir else None
    if data.embedded:
        from distill.data.marketplace import write_marketplace

        source = folder / "marketplace"
        shutil.rmtree(source, ignore_errors=True)
        write_marketplace(source, data.marketplace, context.experiment.seed)
    if data.beam:
        from distill.data.preparation.beam_prepare import prepare_with_beam

        summary = prepare_with_beam(source, folder, data, data.beam)
    else:
        summary = prepare(source, folder, data)
    context.reporter.line("\n".join([*summary.lines(), *findings.lines(read_validation(folder).findings)]))
    encoder = _encoder(context, folder)
    truncated = {
        "items": context.item_tokens.truncated,
        "keyphrases": context.keyphrase_tokens.truncated,
    }
    if any(truncated.values()):
        settings = context.experiment.encoder
        context.reporter.line(
            f"encoder: {truncated['items']:,} item texts were cut at item_tokens={settings.item_tokens}, "
            f"{truncated['keyphrases']:,} keyphrases at keyphrase_tokens={settings.keyphrase_tokens}"
        )
    return {"truncated_items": truncated["items"], "truncated_keyphrases": truncated["keyphrases"], **encoder}


def _encoder(context: Context, folder: Path) -> dict[str, Any]:
    """Writes `tokenizer/` and `encoder/`: loaded from `encoder.init`, or learnt from the training texts and random."""
    from distill.data.tokenizing import Tokenizer
    from distill.models.encoder import EncoderSpec, init_encoder

    settings, prepared = context.experiment.encoder, context.prepared
    if settings.init:
        from distill.models.pretrained import load_pretrained

        tokenizer = Tokenizer.load(settings.init)
        spec, params = load_pretrained(settings.init, settings.compute_dtype, settings.depth or None)
        spec = dataclasses.replace(spec, attention=settings.attention)
        check_width(context.experiment.student, spec.width)
        if max(settings.item_tokens, settings.row_tokens) > spec.max_positions:
            longest = settings.item_tokens + settings.keyphrase_tokens
            if longest > spec.max_positions:
                raise ConfigError(
                    f"config.encoder.item_tokens + keyphrase_tokens = {longest}: the encoder at {settings.init} has "
                    f"{spec.max_positions} positions; lower one of them"
                )
    else:
        texts = [t for t, held in zip(prepared.item_texts, prepared.item_is_holdout) if not held]
        texts += [k for k, trainable in zip(prepared.keyphrases, prepared.trainable) if trainable]
        tokenizer = Tokenizer.train(texts, settings.vocab_size)
        spec = EncoderSpec(
            vocab_size=tokenizer.vocab_size,
            layers=settings.layers,
            width=settings.width,
            heads=settings.heads,
            mlp_width=settings.mlp_width,
            max_positions=settings.item_tokens + settings.keyphrase_tokens,
            compute_dtype=settings.compute_dtype,
            attention=settings.attention,
        )
        params = {"encoder": init_encoder(spec, context.experiment.seed)}
    tokenizer.save(folder / "tokenizer", settings.item_tokens)
    save_model(folder / "encoder", spec, params)
    write_atomic(folder / "tokenizer.sha256", tokenizer.content_hash + "\n")
    return {"vocab_size": tokenizer.vocab_size, "encoder_layers": spec.layers, "encoder_width": spec.width}


def _external(context: Context) -> dict[str, str]:
    from distill.data.preparation.sources import find_sources
    from distill.data.preparation.splits import find_earlier

    experiment = context.experiment
    data, hashes = experiment.data, {}
    if data.dir:
        source = Path(data.dir)
        if not source.is_dir():
            raise ConfigError(f"config.data.dir={data.dir!r}: there is no such directory")
        # Of the folder itself alone: a working directory below it must not make itself stale.
        files = sorted(path for path in source.iterdir() if path.is_file())
        hashes["data"] = hash_json([[path.name, hash_file(path)] for path in files])
    if any(source.files for source in vars(data.sources).values()):
        hashes["sources"] = find_sources(Path(data.dir) if data.dir else None, data.sources).content_hash()
    if (previous := find_earlier(data.previous)) is not None:
        hashes["previous"] = hash_json([hash_file(path) for path in sorted(previous.rglob("*.parquet"))])
    if experiment.encoder.init and Path(experiment.encoder.init).is_dir():
        hashes["encoder"] = hash_tree(Path(experiment.encoder.init))
    return hashes


STAGE = Stage(
    name="prepare",
    # The seed makes the embedded marketplace and the encoder from scratch.
    config=lambda e: {"data": _without_places(e), "encoder": e.encoder, "seed": e.seed, "widths": e.student.widths},
    inputs=(),
    run=run,
    published=lambda folder: [p for p in files_below(".")(folder) if _is_output(p.relative_to(folder))],
    external=_external,
)


def _is_output(path: Path) -> bool:
    made_on_the_way = path.parts[0] == "marketplace" or path.parts[0].startswith(".")
    return not made_on_the_way and path.name not in ("manifest.json", "started.json")


def _without_places(experiment: Any) -> dict[str, Any]:
    """The data settings; where files lie and what runs over them does not matter, their content is hashed."""
    settings = dataclasses.asdict(experiment.data)
    for source in settings["sources"].values():
        source["files"] = bool(source["files"])
    del settings["beam"]
    return settings | {"dir": bool(settings["dir"]), "previous": bool(settings["previous"])}
