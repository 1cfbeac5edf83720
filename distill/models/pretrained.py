"""Hugging Face BERT directories ⇄ parameters, without loss in either direction.

Only safetensors and JSON are read: no pickle and no remote code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from distill.models.depth import first_layers
from distill.models.encoder import EncoderSpec, Params
from distill.models.hub import model_files, weight_files

# What a snapshot needs; weights in other formats stay on the hub.
_HUB_FILES = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
# Pre-training heads and a constant that old checkpoints carry beside the encoder.
_IGNORED_PREFIXES = ("cls.", "embeddings.position_ids")


class PretrainedError(ValueError):
    """A checkpoint that cannot be read as a BERT encoder; the message names the file and what is wrong in it."""


def load_pretrained(
    path_or_hub_name: str | Path, compute_dtype: str, layers: int | None = None
) -> tuple[EncoderSpec, Params]:
    """Reads a BERT encoder in Hugging Face format.

    Args:
      path_or_hub_name: a directory with `config.json` and `model.safetensors` (or its shards and index), or a hub name.
      compute_dtype: `float32` or `bfloat16`; parameters are float32 either way.
      layers: keep only the first so many layers; None keeps all.

    Returns:
      The specification (dropout 0) and `{'encoder': …}`, with `'pooler'` where the checkpoint has one and
      `'classifier'` where it has a classifier of one label; other classification and pre-training heads are left out.

    Raises:
      FileNotFoundError: no such directory, hub name or file.
      PretrainedError: not a BERT that we can run, or tensors that are missing, unknown or of a wrong shape.
    """
    directory = model_files(path_or_hub_name, _HUB_FILES)
    spec = _spec(directory / "config.json", compute_dtype)
    weights = _Weights(directory, _tensors(directory))
    params: Params = {"encoder": _encoder(spec, weights)}
    if "pooler.dense.weight" in weights.tensors:
        params["pooler"] = weights.dense("pooler.dense", spec.width, spec.width)
    head = weights.tensors.get("classifier.weight")
    if head is not None and head.shape[0] == 1:
        params["classifier"] = weights.dense("classifier", spec.width, 1)
    weights.close()
    if layers is not None:
        try:
            spec, params["encoder"] = first_layers(spec, params["encoder"], layers)
        except ValueError as error:
            raise PretrainedError(f"{directory}: layers is {layers}; {error}") from None
    return spec, params


def bert_config(spec: EncoderSpec) -> dict[str, Any]:
    """The sizes and numerics of an encoder as `BertConfig` names them."""
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.mlp_width,
        "max_position_embeddings": spec.max_positions,
        "type_vocab_size": spec.type_vocab_size,
        "layer_norm_eps": spec.layer_norm_eps,
        "hidden_act": spec.activation,
        "hidden_dropout_prob": spec.dropout,
        "attention_probs_dropout_prob": 0.0,
    }


def to_hugging_face(params: Params) -> dict[str, np.ndarray]:
    """Tensors under Hugging Face's names, float32; the inverse of `load_pretrained`.

    Names are those of `BertForSequenceClassification` where the parameters have a classifier, else of `BertModel`.
    """
    tensors: dict[str, np.ndarray] = {}

    def put(name: str, value: Any) -> None:
        tensors[name] = np.ascontiguousarray(value, dtype=np.float32)

    def dense(name: str, kernel: Any, bias: Any) -> None:
        put(f"{name}.weight", np.asarray(kernel).T)
        put(f"{name}.bias", bias)

    def norm(name: str, values: Params) -> None:
        put(f"{name}.weight", values["scale"])
        put(f"{name}.bias", values["bias"])

    encoder = params["encoder"]
    for ours, theirs in (("token", "word"), ("position", "position"), ("type", "token_type")):
        put(f"embeddings.{theirs}_embeddings.weight", encoder["embeddings"][ours]["embedding"])
    norm("embeddings.LayerNorm", encoder["embeddings"]["norm"])
    for i, layer in encoder["layers"].items():
        name = f"encoder.layer.{i}"
        qkv, output = layer["attention"]["qkv"], layer["attention"]["output"]
        width = qkv["kernel"].shape[0]
        for j, part in enumerate(("query", "key", "value")):
            kernel = np.asarray(qkv["kernel"])[:, j].reshape(width, width)
            dense(f"{name}.attention.self.{part}", kernel, np.asarray(qkv["bias"])[j].reshape(width))
        dense(f"{name}.attention.output.dense", np.asarray(output["kernel"]).reshape(width, width), output["bias"])
        norm(f"{name}.attention.output.LayerNorm", layer["attention_norm"])
        dense(f"{name}.intermediate.dense", **layer["mlp"]["up"])
        dense(f"{name}.output.dense", **layer["mlp"]["down"])
        norm(f"{name}.output.LayerNorm", layer["mlp_norm"])
    if "pooler" in params:
        dense("pooler.dense", **params["pooler"])
    if "classifier" not in params:
        return tensors
    tensors = {f"bert.{name}": value for name, value in tensors.items()}
    dense("classifier", **params["classifier"])
    return tensors


def _spec(path: Path, compute_dtype: str) -> EncoderSpec:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a Hugging Face directory has one")
    config = json.loads(path.read_text(encoding="utf-8"))
    supported = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for field, only in supported.items():
        value = config.get(field, only if field != "model_type" else None)
        if value != only:
            raise PretrainedError(f"{path}: {field} is {value!r}; only {only!r} is supported")
    try:
        return EncoderSpec(
            vocab_size=config["vocab_size"],
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            mlp_width=config["intermediate_size"],
            max_positions=config["max_position_embeddings"],
            type_vocab_size=config.get("type_vocab_size", 2),
            layer_norm_eps=config.get("layer_norm_eps", 1e-12),
            compute_dtype=compute_dtype,
        )
    except KeyError as error:
        raise PretrainedError(f"{path}: field {error} is missing") from error


def _tensors(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor as float32, under `BertModel` names in today's spelling."""
    from safetensors import safe_open  # training needs none

    tensors = {}
    for file in weight_files(directory):
        with safe_open(file, framework="flax") as opened:  # not numpy, which has no bfloat16
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                plain = name.removeprefix("bert.")
                plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
                tensors[plain] = np.asarray(opened.get_tensor(name).astype(jnp.float32))
    return tensors


class _Weights:
    """Hands out tensors by name; what was missing, left over or of a wrong shape is told at the end, all at once."""

    def __init__(self, directory: Path, tensors: dict[str, np.ndarray]):
        self.directory = directory
        self.tensors = tensors
        self.taken: set[str] = set()
        self.problems: list[str] = []

    def take(self, name: str, *shape: int) -> np.ndarray:
        self.taken.add(name)
        value = self.tensors.get(name)
        if value is None:
            self.problems.append(f"{name} is missing")
        elif value.shape != shape:
            self.problems.append(f"{name} has shape {value.shape}, config.json says {shape}")
        else:
            return value
        return np.zeros(shape, np.float32)

    def dense(self, name: str, inputs: int, outputs: int) -> Params:
        kernel = self.take(f"{name}.weight", outputs, inputs).T
        return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(self.take(f"{name}.bias", outputs))}

    def norm(self, name: str, width: int) -> Params:
        return {
            "scale": jnp.asarray(self.take(f"{name}.weight", width)),
            "bias": jnp.asarray(self.take(f"{name}.bias", width)),
        }

    def close(self) -> None:
        for name in sorted(set(self.tensors) - self.taken):
            if not name.startswith((*_IGNORED_PREFIXES, "classifier.")):
                self.problems.append(f"{name} is unknown")
        if self.problems:
            raise PretrainedError(f"{self.directory}: tensors do not match a BERT encoder: {'; '.join(self.problems)}")


def _encoder(spec: EncoderSpec, weights: _Weights) -> Params:
    width, heads = spec.width, (spec.heads, spec.width // spec.heads)

    def layer(name: str) -> Params:
        parts = [weights.dense(f"{name}.attention.self.{part}", width, width) for part in ("query", "key", "value")]
        output = weights.dense(f"{name}.attention.output.dense", width, width)
        return {
            "attention": {
                "qkv": {
                    "kernel": jnp.stack([part["kernel"].reshape(width, *heads) for part in parts], axis=1),
                    "bias": jnp.stack([part["bias"].reshape(heads) for part in parts]),
                },
                "output": {"kernel": output["kernel"].reshape(*heads, width), "bias": output["bias"]},
            },
            "attention_norm": weights.norm(f"{name}.attention.output.LayerNorm", width),
            "mlp": {
                "up": weights.dense(f"{name}.intermediate.dense", width, spec.mlp_width),
                "down": weights.dense(f"{name}.output.dense", spec.mlp_width, width),
            },
            "mlp_norm": weights.norm(f"{name}.output.LayerNorm", width),
        }

    rows = {"token": spec.vocab_size, "position": spec.max_positions, "type": spec.type_vocab_size}
    names = {"token": "word", "position": "position", "type": "token_type"}
    embeddings: Params = {
        kind: {"embedding": jnp.asarray(weights.take(f"embeddings.{names[kind]}_embeddings.weight", rows[kind], width))}
        for kind in rows
    }
    embeddings["norm"] = weights.norm("embeddings.LayerNorm", width)
    return {"embeddings": embeddings, "layers": {str(i): layer(f"encoder.layer.{i}") for i in range(spec.layers)}}
