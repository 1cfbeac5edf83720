"""SavedModels of an export directory, loaded: bytes in, numpy out. All that a server needs of TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.artifacts import MANIFEST, STARTED, hash_file, read_manifest
from distill.config.checks import SAVED_MODELS
from distill.export import serving_facts
from distill.export.tensorflow_door import load_tensorflow
from distill.export.warm_up import SIGNATURE
from distill.retrieval import scann_graph

NEEDS_SCANN = "recommender"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What a signature says of an input or output: TensorFlow's name of the type; None is a free size."""

    dtype: str
    shape: tuple[int | None, ...]


class Signature:
    """A signature of a SavedModel.

    Attributes:
      inputs: names of its inputs, sorted; each a string vector [N].
      outputs: its outputs by name; the first size is N.
    """

    def __init__(self, directory: Path, module: Any, key: str):
        """`module` is what TensorFlow loaded of `directory`.

        Raises:
          ValueError: an input is not a string vector.
        """
        # The module is held, because its variables live as long as it does.
        tf = self._tf = load_tensorflow()
        self._module, self._serve = module, module.signatures[key]
        specs = self._serve.structured_input_signature[1]
        for name, spec in specs.items():
            if spec.dtype != tf.string or spec.shape.rank != 1:
                raise ValueError(f"{directory}: input `{name}` is {spec.dtype.name} {spec.shape}, not a string vector")
        self.inputs = tuple(sorted(specs))
        self.outputs = {name: _tensor(spec) for name, spec in sorted(self._serve.structured_outputs.items())}

    def __call__(self, inputs: Mapping[str, Sequence[bytes]]) -> dict[str, np.ndarray]:
        """The outputs for N rows, [N, …] each; strings as arrays of bytes objects.

        Args:
          inputs: UTF-8 texts, as many of each input.
        """
        tensors = {name: self._tf.constant(list(inputs[name]), self._tf.string, [len(inputs[name])]) for name in inputs}
        return {name: value.numpy() for name, value in self._serve(**tensors).items()}


class LoadedModel(Signature):
    """A SavedModel's default signature.

    Attributes:
      name: of its directory.
      further: its other signatures by name.
    """

    def __init__(self, directory: Path):
        """Raises:
        ValueError: there is no SavedModel, or a signature is not of string vectors.
        """
        tf = load_tensorflow()
        try:
            module = tf.saved_model.load(str(directory))
            super().__init__(directory, module, SIGNATURE)
        except (OSError, LookupError, AttributeError, TypeError, tf.errors.OpError) as error:
            raise ValueError(f"{directory}: not a SavedModel with `{SIGNATURE}` ({error}); run export again") from error
        self.name = directory.name
        self.further = {key: Signature(directory, module, key) for key in module.signatures if key != SIGNATURE}


def load_models(directory: Path, threads: int = 0) -> tuple[dict[str, LoadedModel], dict[str, str]]:
    """The SavedModels of an export directory.

    Args:
      directory: of the export stage.
      threads: of TensorFlow; 0 lets it choose. To be set before TensorFlow has run anything.

    Returns:
      Name → model, and for each that is there and cannot be loaded, name → why.

    Raises:
      ImportError: TensorFlow is missing.
      ValueError: the directory holds no SavedModel, a damaged one, or not all that its export wrote.
    """
    check_files(directory)
    there = [name for name in SAVED_MODELS if (directory / name / "saved_model.pb").exists()]
    if not there:
        raise ValueError(f"{directory}: holds no SavedModel ({', '.join(SAVED_MODELS)}); name an export directory")
    tf = load_tensorflow()
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    models, left_out = {}, {}
    for name in there:
        try:
            if name == NEEDS_SCANN:
                scann_graph.scann_ops_module()  # importing them registers them
        except (ImportError, tf.errors.OpError) as error:
            left_out[name] = f"ScaNN's ops cannot be loaded ({error})"
        else:
            models[name] = LoadedModel(directory / name)
    if not models:
        raise ValueError(f"{directory}: nothing can be loaded: {left_out}; export `recommender_exact` too")
    return models, left_out


def check_files(directory: Path) -> None:
    """Compares SavedModels and facts with the export's manifest; where there is none, nothing is known of them.

    TensorFlow notices damaged weights, but neither a damaged graph nor a model that is gone.

    Raises:
      ValueError: a file is missing or damaged, or the export is not finished.
    """
    try:
        manifest = read_manifest(directory)
        outputs = {} if manifest is None else dict(manifest["outputs"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{directory / MANIFEST}: damaged ({error}); run export again") from error
    if manifest is None and (directory / STARTED).exists():
        raise ValueError(f"{directory}: has no {MANIFEST}, so this export is not finished; run export again")
    for name, digest in outputs.items():
        if name.partition("/")[0] in (*SAVED_MODELS, serving_facts.FILE):
            path = directory / name
            if not path.is_file():
                raise ValueError(f"{path}: missing, though the export wrote it; run export again")
            if hash_file(path) != digest:
                raise ValueError(f"{path}: not what the export wrote; run export again")


def _tensor(spec: Any) -> Tensor:
    return Tensor(spec.dtype.name, tuple(spec.shape.as_list()))
