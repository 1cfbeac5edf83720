"""Answers of SavedModels in a process that has TensorFlow, tensorflow-text and scann, and nothing of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_CODE = """
import json, sys
for name in ("jax", "jaxlib", "flax", "optax", "distill", "tokenizers", "transformers", "grain", "pyarrow"):
    sys.modules[name] = None
import numpy as np
import scann, tensorflow as tf, tensorflow_text
import scann.scann_ops.py.scann_ops
questions, out = json.load(open(sys.argv[1])), sys.argv[2]
answers = {}
for i, (directory, inputs, signature) in enumerate(questions):
    serve = tf.saved_model.load(directory).signatures[signature]
    given = {name: tf.constant(values, tf.string, shape=[len(values)]) for name, values in inputs.items()}
    for name, value in serve(**given).items():
        value = value.numpy()
        answers[f"{i}/{name}"] = np.vectorize(bytes.decode, otypes=[str])(value) if value.dtype == object else value
np.savez(out, **answers)
"""

Inputs = Mapping[str, Sequence[str]]
Question = tuple[Path, Inputs] | tuple[Path, Inputs, str]  # the last: a signature other than the default one


def ask(questions: Sequence[Question], folder: Path) -> list[dict[str, np.ndarray]]:
    """The outputs of each SavedModel for its inputs, by name; texts as numpy strings."""
    asked, out = folder / "questions.json", folder / "answers.npz"
    asked.write_text(json.dumps([(str(one[0]), one[1], *(one[2:] or ["serving_default"])) for one in questions]))
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CODE, str(asked), str(out)],
        cwd=folder,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, np.ndarray]] = [{} for _ in questions]
    with np.load(out) as stored:
        for key in stored.files:
            number, name = key.split("/")
            answers[int(number)][name] = stored[key]
    return answers
