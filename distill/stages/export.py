"""export: the student and the assistant as directories that other libraries load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from distill.stages.base import Context, Stage, files_below, load_model


def run(context: Context, folder: Path) -> dict[str, Any]:
    from distill.export.huggingface import export_assistant, export_student

    encoder = context.experiment.encoder
    target = folder / "huggingface"
    shutil.rmtree(target, ignore_errors=True)
    spec, params = load_model(context.folder("student") / "model")
    export_student(
        target / "student", spec, params, context.tokenizer, encoder.item_tokens, context.experiment.student.widths
    )
    spec, params = load_model(context.folder("assistant") / "model")
    export_assistant(
        target / "assistant", spec, params, context.tokenizer, encoder.item_tokens + encoder.keyphrase_tokens - 1
    )
    context.reporter.line(f"export: {target}/student and {target}/assistant")
    return {"files": len(files_below("huggingface")(folder))}


STAGE = Stage(
    name="export",
    config=lambda e: {
        "tokens": [e.encoder.item_tokens, e.encoder.keyphrase_tokens],
        "widths": e.student.widths,
    },
    inputs=("prepare", "assistant", "student"),
    run=run,
    published=files_below("huggingface"),
)
