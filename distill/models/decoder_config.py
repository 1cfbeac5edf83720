"""What a checkpoint says of a decoder's sizes and numerics → `DecoderSpec`.

Strict: a field that might change what the model computes, and that we do not know, is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.models.decoder_layers import FAMILIES, DecoderSpec

if TYPE_CHECKING:
    from distill.data.gguf_file import GgufFile


class DecoderError(ValueError):
    """A checkpoint that cannot be run as a decoder; the message names the file and what is wrong in it."""


# Fields of config.json that only this value, or none at all, is supported of.
_ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
}
_READ = {
    *("model_type", "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "intermediate_size", "max_position_embeddings", "rope_theta", "rope_scaling", "rope_parameters"),
    *("rms_norm_eps", "tie_word_embeddings", "layer_types"),
}
# Describe the file or its training, not what is computed. The window's size matters only where it is in use.
_NEUTRAL = {
    *("architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "initializer_range"),
    *("use_cache", "pretraining_tp", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("chunk_size_feed_forward", "id2label", "label2id", "return_dict", "problem_type", "_attn_implementation"),
    "_attn_implementation_autoset",
    *("is_llama_config", "transformers.js_config", "unsloth_fixed", "unsloth_version"),
}
_WINDOW = {"sliding_window", "max_window_layers"}
_ROPE = {"rope_type", "type", "rope_theta", "factor", "partial_rotary_factor"}
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# Fields of a GGUF file's architecture that are read or describe; others might change what is computed.
_GGUF_READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.finetuned", "rope.scaling.original_context_length"),
}


def spec_of_config(path: Path, compute_dtype: str) -> DecoderSpec:
    """The specification in a Hugging Face `config.json`.

    Raises:
      FileNotFoundError: no such file.
      DecoderError: another family, a missing field, or a feature that we do not have.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a Hugging Face directory has one")
    config = json.loads(path.read_text(encoding="utf-8"))
    family = config.get("model_type")
    if family not in FAMILIES:
        raise DecoderError(f"{path}: model_type is {family!r}; only {', '.join(FAMILIES)} are supported")
    for field, only in _ONLY.items():
        if config.get(field) not in (only, None):
            raise DecoderError(f"{path}: {field} is {config[field]!r}; only {only!r} is supported")
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        raise DecoderError(f"{path}: layer_types is {config['layer_types']!r}; only 'full_attention' is supported")
    known = _READ | _NEUTRAL | set(_ONLY) | (set() if family == "llama" else _WINDOW)
    _refuse_unknown(path, "", config, known)
    try:
        heads, width = config["num_attention_heads"], config["hidden_size"]
        head_width = config.get("head_dim") or (128 if family == "qwen3" else width // heads)
        theta, scaling = _rotary(path, config, head_width)
        return DecoderSpec(
            family=family,
            vocab_size=config["vocab_size"],
            layers=config["num_hidden_layers"],
            width=width,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads if family == "llama" else config["num_key_value_heads"],
            head_width=head_width,
            mlp_width=config["intermediate_size"],
            max_positions=config["max_position_embeddings"],
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=config.get("rms_norm_eps", 1e-6),
            tied_embeddings=config.get("tie_word_embeddings", False),
            compute_dtype=compute_dtype,
        )
    except KeyError as error:
        raise DecoderError(f"{path}: field {error} is missing") from error


def _refuse_unknown(path: Path, prefix: str, fields: Mapping[str, Any], known: set[str]) -> None:
    for field in sorted(set(fields) - known):
        if fields[field]:  # else it is off
            raise DecoderError(f"{path}: {prefix}{field} is {fields[field]!r}, a feature that is not supported")


def _rotary(path: Path, config: Mapping[str, Any], head_width: int) -> tuple[float, tuple[float, ...] | None]:
    """The base, and the divisors of the frequencies; old files keep the base beside `rope_scaling`."""
    name = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    rope = config.get(name) or {}
    theta = float(rope.get("rope_theta", config.get("rope_theta") or 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise DecoderError(f"{path}: {name}.rope_type is {kind!r}; only 'default', 'linear' and 'llama3' are supported")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise DecoderError(f"{path}: {name}.partial_rotary_factor is {rope['partial_rotary_factor']}; it must be 1.0")
    _refuse_unknown(path, f"{name}.", rope, _ROPE | (set(_LLAMA3) if kind == "llama3" else set()))
    if kind == "default":
        return theta, None
    try:
        if kind == "linear":
            return theta, (float(rope["factor"]),) * (head_width // 2)
        return theta, llama3_divisors(theta, head_width, *(float(rope[field]) for field in _LLAMA3))
    except KeyError as error:
        raise DecoderError(f"{path}: {name}.{error.args[0]} is missing") from error


def llama3_divisors(
    theta: float, head_width: int, factor: float, low: float, high: float, original_positions: float
) -> tuple[float, ...]:
    """The divisors of Llama 3.1: none for waves shorter than original / high, `factor` for those longer than original /
    low, and in between 1 / ((1 - s) / factor + s) with s the share of the way (in waves per context) from low to high.
    """
    waves = original_positions * theta ** -(np.arange(0, head_width, 2) / head_width) / (2 * math.pi)
    share = np.clip((waves - low) / (high - low), 0, 1)
    return tuple(float(divisor) for divisor in 1 / ((1 - share) / factor + share))


def spec_of_gguf(file: GgufFile, compute_dtype: str) -> DecoderSpec:
    """The specification in a GGUF file's metadata (and its `rope_freqs.weight`, where Llama 3.1's divisors are).

    Raises DecoderError: another architecture, a missing field, or a feature that we do not have.
    """
    family = file.require("general.architecture")
    if family not in FAMILIES:
        raise DecoderError(f"{file.path}: general.architecture is {family!r}; only {', '.join(FAMILIES)} are supported")
    fields = {key.removeprefix(f"{family}."): file.get(key) for key in file.keys if key.startswith(f"{family}.")}
    _refuse_unknown(file.path, f"{family}.", fields, _GGUF_READ)

    def number(field: str, default: Any = None) -> Any:
        value = fields.get(field, default)
        if value is None:
            raise DecoderError(f"{file.path}: metadata field {family}.{field} is missing")
        if isinstance(value, list):
            raise DecoderError(f"{file.path}: {family}.{field} differs by layer, which is not supported")
        return value

    width, heads = number("embedding_length"), number("attention.head_count")
    head_width = number("attention.key_length", width // heads)
    for field in ("attention.value_length", "rope.dimension_count"):
        if number(field, head_width) != head_width:
            raise DecoderError(f"{file.path}: {family}.{field} is {fields[field]}; only {head_width} is supported")
    kind = fields.get("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise DecoderError(
            f"{file.path}: {family}.rope.scaling.type is {kind!r}; only 'none' and 'linear' are supported"
        )
    scaling = None
    if kind == "linear":
        scaling = (float(number("rope.scaling.factor")),) * (head_width // 2)
    if "rope_freqs.weight" in file.names:
        divisors = tuple(float(divisor) for divisor in file.read("rope_freqs.weight"))
        scaling = divisors if scaling is None else tuple(a * b for a, b in zip(scaling, divisors, strict=True))
    if "token_embd.weight" not in file.names:
        raise DecoderError(f"{file.path}: tensor token_embd.weight is missing")
    return DecoderSpec(
        family=family,
        vocab_size=file.shape("token_embd.weight")[0],
        layers=number("block_count"),
        width=width,
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head_width=head_width,
        mlp_width=number("feed_forward_length"),
        max_positions=number("context_length"),
        rope_theta=float(number("rope.freq_base", 10_000.0)),
        rope_scaling=scaling,
        norm_eps=number("attention.layer_norm_rms_epsilon"),
        tied_embeddings="output.weight" not in file.names,
        compute_dtype=compute_dtype,
    )
