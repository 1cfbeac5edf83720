"""sentence-transformers, trained in its own interpreter on a student's examples, as a stage of an ablation grid."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import Peer
from seen_examples import KINDS, Batches, StudentPlan, joint, proportional, require_trainable, seen, student_plan

from distill.config import StudentConfig
from distill.evaluate.validation import ranking_quality
from distill.export.huggingface import export_student
from distill.models.pretrained import load_pretrained
from distill.retrieval.encoding import embed_texts
from distill.stages.base import Context, Stage, files_below, save_model
from distill.stages.judge import judged
from distill.stages.warm_start import starting_point
from distill.train.optimizer import make_schedule
from distill.train.selection import Validated, preference

NAME = "sentence_transformers"
SCRIPT = Path(__file__).parent / "peers" / "signals_peer.py"
MIXES = ("proportional", "joint")  # the first of each is the default
DISTILL_LOSSES = ("cosent", "cosine_similarity")
SEARCH_LOSSES = ("online_contrastive", "contrastive", "cosine_similarity")
CHUNK = 5  # steps between two lines of progress
TOLERANCE = 1e-3  # of a coordinate of an embedding, between the library's and ours of the same weights


class Unequal(RuntimeError):
    """Something that had to be equal on both sides was not, so the comparison would mean nothing."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the data sets share the steps, and which losses learn from the teacher and from the search engine."""

    mix: str = MIXES[0]
    distill: str = DISTILL_LOSSES[0]
    search: str = SEARCH_LOSSES[0]

    @property
    def name(self) -> str:
        """`sentence_transformers`, then what differs from the default."""
        default = Variant()
        parts = [self.mix] * (self.mix != default.mix) + [self.distill] * (self.distill != default.distill)
        parts += [f"search_{self.search}"] * (self.search != default.search)
        return "_".join([NAME, *parts])


def make_stage(student: Stage, variant: Variant, python: Path) -> Stage:
    """Trains `variant` on what the finished stage `student` of the same context saw, by the interpreter `python`."""

    def run(context: Context, folder: Path) -> dict[str, Any]:
        plan = student_plan(context)
        examples = seen(plan)
        require_trainable(context, plan, examples)
        left_out = 0
        if variant.mix == "joint":
            batches, left_out = joint(examples, plan.steps)
        else:
            batches = proportional(examples, plan.steps, context.experiment.seed)
        weights = {kind: getattr(plan.settings.tasks, kind) if variant.mix == "joint" else 1.0 for kind in examples}
        taught = ", ".join(f"{len(some.item):,} of {kind}" for kind, some in examples.items())
        context.reporter.line(f"{variant.name}: {taught}; {plan.steps:,} steps")
        if left_out:
            context.reporter.line(
                f"{variant.name}: {left_out} clicks stand in no batch, as each held one of their texts"
            )
        peer = Peer(python, SCRIPT, CUDA_VISIBLE_DEVICES="")
        try:
            with tempfile.TemporaryDirectory() as work:
                best = _train(context, plan, batches, weights, variant, peer, Path(work), folder)
        finally:
            peer.close()
        counts = {kind: len(some.item) for kind, some in examples.items()}
        return {
            "steps": plan.steps,
            "examples": counts,
            "steps_of": {kind: batches.steps_of(kind) for kind in examples},
            "left_out": left_out,
            **best,
            "peer": peer.versions,
        }

    return Stage(
        name=NAME,
        config=lambda e: student.config(e) | {"variant": dataclasses.asdict(variant)},
        inputs=(*student.inputs, "student"),
        run=run,
        published=files_below("model"),
    )


def _train(
    context: Context,
    plan: StudentPlan,
    batches: Batches,
    weights: dict[str, float],
    variant: Variant,
    peer: Peer,
    work: Path,
    folder: Path,
) -> dict[str, Any]:
    """Trains, keeps the step that the student's stage would, and saves it to `folder`."""
    experiment, settings = context.experiment, plan.settings
    spec, params = starting_point(context, "student")
    limits = {"item": experiment.encoder.item_tokens, "keyphrase": experiment.encoder.keyphrase_tokens}
    start = work / "start"
    export_student(
        start,
        dataclasses.replace(spec, dropout=settings.dropout),
        params,
        context.tokenizer,
        max(limits.values()),
        settings.widths,
    )
    np.savez(work / "batches.npz", **batches._asdict())
    texts = {"item": context.prepared.item_texts, "keyphrase": context.prepared.keyphrases}
    (work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    schedule = make_schedule(settings.optimizer, plan.steps)
    peer.ask(
        do="load",
        work=str(work),
        model=str(start),
        limits=limits,
        kinds=KINDS,
        weights=weights,
        options=_options(settings, variant),
        rates=np.asarray([schedule(step) for step in range(plan.steps)]).tolist(),
        optimizer=dataclasses.asdict(settings.optimizer),
        seed=experiment.seed,
    )
    valid = _Validation(context, plan.held_back, peer, work)
    _require_equal(context, spec, params, valid)
    stops = sorted({round(plan.steps * (i + 1) / settings.validations) for i in range(settings.validations)} - {0})
    done, validations, vectors = 0, {}, {}
    with context.reporter.progress(variant.name, plan.steps) as advance:
        for stop in stops:
            while done < stop:
                count = min(CHUNK, stop - done)
                losses = peer.ask(do="run", start=done, count=count)["losses"]
                done += count
                if not np.isfinite(losses).all():
                    raise RuntimeError(
                        f"{variant.name}: the loss is not finite by step {done}; lower the learning rate"
                    )
                advance(count, loss=losses[-1])
            validations[done], vectors[done] = valid.quality(), valid.vectors
            peer.ask(do="save", directory=str(work / f"step_{done}"))
    kept = preference(validations)[0]
    _, found = load_pretrained(work / f"step_{kept}", spec.compute_dtype)
    valid.vectors = vectors[kept]
    _require_equal(context, spec, found, valid)
    save_model(folder / "model", spec, {"encoder": found["encoder"]})
    return {"kept_step": kept, "valid_quality": validations[kept].value}


def _options(settings: StudentConfig, variant: Variant) -> dict[str, Any]:
    """What the losses are made with: the student's own temperature, scale and widths."""
    return {
        "clicks_scale": 1 / settings.temperature,
        "symmetric": settings.symmetric,
        "cosent_scale": settings.distill.scale,
        "search_relevance": variant.search,
        "distill": variant.distill,
        "widths": settings.widths,
        "width_weights": [weight / sum(settings.width_weights) for weight in settings.width_weights],
    }


class _Validation:
    """The judged pairs of the items held back, by the vectors that the library makes of their texts."""

    def __init__(self, context: Context, held_back: np.ndarray, peer: Peer, work: Path):
        pairs = judged(context)
        chosen = np.isin(pairs["item"], held_back)
        self._item, self._grade, keyphrase = (pairs[name][chosen] for name in ("item", "grade", "keyphrase"))
        self.texts, self._at = {}, {}
        for side, ids in (("item", self._item), ("keyphrase", keyphrase)):
            self.texts[side], self._at[side] = np.unique(ids, return_inverse=True)
        self._peer, self._work = peer, work
        self.vectors: dict[str, np.ndarray] = {}

    def embed(self) -> None:
        for side, ids in self.texts.items():
            path = self._work / f"{side}.npy"
            self._peer.ask(do="embed", side=side, texts=ids.tolist(), path=str(path))
            self.vectors = self.vectors | {side: np.load(path)}

    def quality(self) -> Validated:
        """What picks the step, as `distill.stages.student` computes it."""
        self.embed()
        items, keyphrases = (self.vectors[side][self._at[side]] for side in ("item", "keyphrase"))
        figures = ranking_quality(self._item, self._grade, np.sum(items * keyphrases, axis=1))
        return Validated(figures["quality"], figures["quality_error"])


def _require_equal(context: Context, spec: Any, params: Any, valid: _Validation) -> None:
    """Raises Unequal when the library embeds a validation text otherwise than we do with the same weights."""
    if not valid.vectors:
        valid.embed()
    exact = dataclasses.replace(spec, compute_dtype="float32")
    for side, tokens in (("item", context.item_tokens), ("keyphrase", context.keyphrase_tokens)):
        ours = embed_texts(
            exact,
            {"encoder": params["encoder"]},
            tokens.take(valid.texts[side]),
            row_tokens=context.experiment.encoder.row_tokens,
            mesh=context.mesh,
        )
        worst = float(np.abs(ours - valid.vectors[side]).max(initial=0.0))
        if not worst <= TOLERANCE:
            raise Unequal(
                f"{NAME}: of the same weights, a coordinate of an {side} text's embedding differs by {worst:.1e}"
            )
