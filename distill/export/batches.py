"""Batches of any size in a graph, in few shapes: XLA compiles each shape that it meets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distill.export.graph_tokenizer import PaddedTokens
from distill.export.tensorflow_door import load_tensorflow

SHORTEST = 8  # tokens
MOST_ROWS = 256  # at a time


def powers_of_two(first: int, last: int) -> list[int]:
    """first, 2 · first, … below `last`, and `last`."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]


def in_chunks(function: Callable[..., Any], padded: PaddedTokens, longest: int, most_rows: int, output: Any) -> Any:
    """`function(tokens [r, l], lengths [r], first [r])` over all N texts; r and l are among few powers of two.

    Args:
      function: gives a structure of [r, …] tensors; a row without tokens (length 0) is padding.
      padded: N texts, N may be 0.
      longest: tokens a text may have; the largest l.
      most_rows: the largest r, a power of two; more texts take several calls, whose memory is that of one.
      output: structure of `tf.TensorSpec` of one text's result.

    Returns:
      `function`'s results for the N texts.
    """
    tf = load_tensorflow()

    def size_for(value: Any, sizes: list[int]) -> Any:
        at = tf.minimum(tf.searchsorted(sizes, [value])[0], len(sizes) - 1)
        return tf.gather(sizes, at)

    count, length = tf.unstack(tf.shape(padded.tokens))
    rows, columns = size_for(count, powers_of_two(1, most_rows)), size_for(length, powers_of_two(SHORTEST, longest))
    chunks = tf.maximum(1, -(-count // rows))
    missing = chunks * rows - count

    def chunked(values: Any) -> Any:
        filled = tf.pad(values, [[0, missing]] + [[0, 0]] * (values.shape.rank - 1))
        return tf.reshape(filled, tf.concat([[chunks, rows], tf.shape(filled)[1:]], 0))

    tokens = tf.pad(padded.tokens, [[0, 0], [0, columns - length]])
    results = tf.map_fn(
        lambda chunk: function(*chunk),
        tuple(map(chunked, (tokens, padded.lengths, padded.first))),
        parallel_iterations=1,
        fn_output_signature=tf.nest.map_structure(lambda spec: tf.TensorSpec([None, *spec.shape], spec.dtype), output),
    )

    def flat(values: Any) -> Any:
        return tf.reshape(values, tf.concat([[chunks * rows], tf.shape(values)[2:]], 0))[:count]

    return tf.nest.map_structure(
        lambda values, spec: tf.ensure_shape(flat(values), [None, *spec.shape]), results, output
    )
