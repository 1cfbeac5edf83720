"""Requests that TensorFlow Serving runs through a SavedModel before it serves, so that every shape is compiled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from distill.export.batches import SHORTEST, powers_of_two
from distill.export.tensorflow_door import load_tensorflow

FILE = "assets.extra/tf_serving_warmup_requests"  # where TensorFlow Serving looks
SIGNATURE = "serving_default"

Requests = Iterable[tuple[str, Mapping[str, Sequence[str]]]]  # signature, its inputs by name


def one_of_each_length(lengths: np.ndarray, longest: int) -> list[int]:
    """Rows of texts whose lengths, in tokens, fall into different sizes of padding; each as long as there is."""
    sizes = np.searchsorted(powers_of_two(SHORTEST, longest), lengths)
    order = np.lexsort((-lengths, sizes))
    return order[np.unique(sizes[order], return_index=True)[1]].tolist()


def warm_up_record(inputs: Mapping[str, Sequence[str]], signature: str = SIGNATURE) -> bytes:
    """A `tensorflow.serving.PredictionLog` that asks a signature about string vectors.

    Its messages are nested strings of bytes, so no generated code is needed (tensorflow_serving/apis: prediction_log,
    predict and model .proto).
    """
    tf = load_tensorflow()
    request = _field(1, _field(3, signature.encode()))  # PredictRequest.model_spec
    for name, values in inputs.items():
        tensor = tf.make_tensor_proto(list(values), dtype=tf.string, shape=[len(values)])
        request += _field(2, _field(1, name.encode()) + _field(2, tensor.SerializeToString()))  # .inputs
    return _field(6, _field(1, request))  # PredictionLog.predict_log, PredictLog.request


def write_warm_up(directory: Path, requests: Requests) -> None:
    """Writes the requests into a SavedModel's directory."""
    tf = load_tensorflow()
    path = directory / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            writer.write(warm_up_record(inputs, signature))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
