"""SavedModels that take strings and need neither this code nor JAX where they are loaded.

| SavedModel | inputs, string [N] | outputs |
|---|---|---|
| `student` | `text`: of a listing | `embedding`, float32 [N, D], unit vectors |
| its signature `keyphrase` | `keyphrase` | the same |
| `assistant` | `keyphrase`, `category`, `title` | `relevance`, float32 [N], 0–1 |
| `recommender` | `category`, `title` | `keyphrase`, string [N, K], `score`, float32 [N, K]: cosines, best first |

All but that one under `serving_default`. Whoever loads one imports tensorflow_text, and scann for the recommender that
needs it, so that TensorFlow knows their ops. `category` is the name of the leaf category; "" is none. What is called
`keyphrase` is brought into its normal form first, as `prepare` does (`distill.export.graph_text`). A listing's text is
read as it stands, since that is what the encoder was trained on: in it, 12" and 12 inch stay apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.export.batches import MOST_ROWS, in_chunks
from distill.export.graph_text import normalise_keyphrases
from distill.export.graph_tokenizer import GraphTokenizer
from distill.export.lowering import lower_assistant, lower_student
from distill.export.tensorflow_door import load_tensorflow
from distill.export.warm_up import SIGNATURE, Requests, write_warm_up
from distill.models.encoder import EncoderSpec, Params

KEYPHRASE = "keyphrase"  # the student's other signature

Serve = Callable[..., dict[str, Any]]  # string vectors [N], by name, to named tensors


def save_student(
    directory: Path,
    tokenizer: GraphTokenizer,
    spec: EncoderSpec,
    params: Params,
    item_tokens: int,
    keyphrase_tokens: int,
    warm_up: Requests,
) -> None:
    """Writes the student, with a signature for texts as they stand and one for keyphrases.

    Args:
      directory: made, or replaced.
      tokenizer: of the one that it was trained with.
      spec, params: as of `distill.models.bi_encoder`.
      item_tokens, keyphrase_tokens: of a text and of a keyphrase, special tokens included.
      warm_up: requests for TensorFlow Serving to compile by.
    """
    tf = load_tensorflow()
    variables, embed = lower_student(spec, params)
    output = {"embedding": tf.TensorSpec([spec.width], tf.float32)}

    def embedded(texts: Any, most: int) -> dict[str, Any]:
        padded = tokenizer.texts(texts, most)
        return in_chunks(lambda *chunk: {"embedding": embed(*chunk)}, padded, most, MOST_ROWS, output)

    def serve(text: Any) -> dict[str, Any]:
        return embedded(text, item_tokens)

    def serve_keyphrase(keyphrase: Any) -> dict[str, Any]:
        return embedded(normalise_keyphrases(keyphrase), keyphrase_tokens)

    signatures = {SIGNATURE: (serve, ("text",)), KEYPHRASE: (serve_keyphrase, ("keyphrase",))}
    save(directory, signatures, {"parameters": variables}, warm_up)


def save_assistant(
    directory: Path,
    tokenizer: GraphTokenizer,
    spec: EncoderSpec,
    params: Params,
    keyphrase_tokens: int,
    item_tokens: int,
    warm_up: Requests,
) -> None:
    """Writes the assistant; arguments as of `save_student`."""
    tf = load_tensorflow()
    variables, relevance = lower_assistant(spec, params)
    output = {"relevance": tf.TensorSpec([], tf.float32)}

    def serve(keyphrase: Any, category: Any, title: Any) -> dict[str, Any]:
        normal, items = normalise_keyphrases(keyphrase), item_text(category, title)
        padded = tokenizer.pairs(normal, items, keyphrase_tokens, item_tokens)
        longest = keyphrase_tokens + item_tokens - 1
        return in_chunks(lambda *chunk: {"relevance": relevance(*chunk)}, padded, longest, MOST_ROWS, output)

    signatures = {SIGNATURE: (serve, ("keyphrase", "category", "title"))}
    save(directory, signatures, {"parameters": variables}, warm_up)


def item_text(category: Any, title: Any) -> Any:
    """`distill.data.text.item_text` of string tensors."""
    tf = load_tensorflow()
    return tf.where(category == "", title, tf.strings.join([category, title], " "))


def save(
    directory: Path,
    signatures: Mapping[str, tuple[Serve, Sequence[str]]],
    holds: Mapping[str, Any],
    warm_up: Requests,
) -> None:
    """Writes a SavedModel, whole or not at all.

    Args:
      directory: made, or replaced.
      signatures: name → function and names of its inputs.
      holds: variables and modules that these functions read.
      warm_up: requests for TensorFlow Serving to run before it serves.
    """
    tf = load_tensorflow()
    module = tf.Module()
    for name, value in holds.items():
        setattr(module, name, value)
    functions = {}
    for name, (serve, inputs) in signatures.items():
        specs = [tf.TensorSpec([None], tf.string, name=each) for each in inputs]
        functions[name] = tf.function(serve, input_signature=specs, autograph=False)
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    tf.saved_model.save(module, str(temporary), signatures=functions)
    write_warm_up(temporary, warm_up)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.replace(directory)
