"""SavedModels that take strings and need neither this code nor JAX where they are loaded.

| SavedModel | inputs, string [N] | outputs |
|---|---|---|
| `student` | `text` | `embedding`, float32 [N, D], unit vectors |
| `assistant` | `keyphrase`, `category`, `title` | `relevance`, float32 [N], 0–1 |
| `recommender` | `category`, `title` | `keyphrase`, string [N, K], `score`, float32 [N, K]: cosines, best first |

All under `serving_default`. Whoever loads one imports tensorflow_text, and scann for the recommender that needs it, so
that TensorFlow knows their ops. `category` is the name of the leaf category; "" is none.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.export.batches import MOST_ROWS, in_chunks
from distill.export.graph_tokenizer import GraphTokenizer
from distill.export.lowering import lower_assistant, lower_student
from distill.export.tensorflow_door import load_tensorflow
from distill.export.warm_up import SIGNATURE, write_warm_up
from distill.models.encoder import EncoderSpec, Params

Requests = Iterable[Mapping[str, Sequence[str]]]


def save_student(
    directory: Path,
    tokenizer: GraphTokenizer,
    spec: EncoderSpec,
    params: Params,
    max_tokens: int,
    warm_up: Requests,
) -> None:
    """Writes the student.

    Args:
      directory: made, or replaced.
      tokenizer: of the one that it was trained with.
      spec, params: as of `distill.models.bi_encoder`.
      max_tokens: of a text, special tokens included.
      warm_up: requests for TensorFlow Serving to compile by.
    """
    tf = load_tensorflow()
    variables, embed = lower_student(spec, params)
    output = {"embedding": tf.TensorSpec([spec.width], tf.float32)}

    def serve(text: Any) -> dict[str, Any]:
        padded = tokenizer.texts(text, max_tokens)
        return in_chunks(lambda *chunk: {"embedding": embed(*chunk)}, padded, max_tokens, MOST_ROWS, output)

    save(directory, serve, ("text",), {"parameters": variables}, warm_up)


def save_assistant(
    directory: Path,
    tokenizer: GraphTokenizer,
    spec: EncoderSpec,
    params: Params,
    keyphrase_tokens: int,
    item_tokens: int,
    warm_up: Requests,
) -> None:
    """Writes the assistant; arguments as of `save_student`, the two sizes with two special tokens each."""
    tf = load_tensorflow()
    variables, relevance = lower_assistant(spec, params)
    output = {"relevance": tf.TensorSpec([], tf.float32)}

    def serve(keyphrase: Any, category: Any, title: Any) -> dict[str, Any]:
        padded = tokenizer.pairs(keyphrase, item_text(category, title), keyphrase_tokens, item_tokens)
        longest = keyphrase_tokens + item_tokens - 1
        return in_chunks(lambda *chunk: {"relevance": relevance(*chunk)}, padded, longest, MOST_ROWS, output)

    save(directory, serve, ("keyphrase", "category", "title"), {"parameters": variables}, warm_up)


def item_text(category: Any, title: Any) -> Any:
    """`distill.data.text.item_text` of string tensors."""
    tf = load_tensorflow()
    return tf.where(category == "", title, tf.strings.join([category, title], " "))


def save(
    directory: Path,
    serve: Callable[..., dict[str, Any]],
    inputs: Sequence[str],
    holds: Mapping[str, Any],
    warm_up: Requests,
) -> None:
    """Writes a SavedModel, whole or not at all.

    Args:
      directory: made, or replaced.
      serve: string vectors [N], named as `inputs`, to named tensors.
      inputs: names.
      holds: variables and modules that `serve` reads.
      warm_up: requests for TensorFlow Serving to run before it serves.
    """
    tf = load_tensorflow()
    module = tf.Module()
    for name, value in holds.items():
        setattr(module, name, value)
    signature = [tf.TensorSpec([None], tf.string, name=name) for name in inputs]
    module.serve = tf.function(serve, input_signature=signature, autograph=False)  # type: ignore[attr-defined]
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    tf.saved_model.save(module, str(temporary), signatures={SIGNATURE: module.serve})  # type: ignore[attr-defined]
    write_warm_up(temporary, warm_up)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.replace(directory)
