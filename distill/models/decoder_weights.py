"""Checkpoints of decoders → specification and parameters: Hugging Face directories (safetensors) and GGUF files.

Only safetensors, GGUF and JSON are read: no pickle and no remote code. Tensors are read one by one and go straight to
where they belong on the mesh, so neither the host nor a device holds the whole model besides its own part.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from distill.models.decoder_config import DecoderError, spec_of_config, spec_of_gguf
from distill.models.decoder_layers import DecoderSpec, Params
from distill.models.hub import model_files, weight_files
from distill.parallel.mesh import place
from distill.parallel.partition import spec_for

if TYPE_CHECKING:
    from distill.data.gguf_file import GgufFile

# What a snapshot needs; weights in other formats stay on the hub.
_HUB_FILES = ("*.json", "*.jinja", "model*.safetensors")


def model_path(path_or_hub_name: str | Path) -> Path:
    """The `.gguf` file or Hugging Face directory of a language model, downloaded where a hub name is given.

    Raises FileNotFoundError: no such file, directory or hub name.
    """
    return model_files(path_or_hub_name, _HUB_FILES, file_suffix=".gguf")


def load_decoder(
    path_or_hub_name: str | Path, compute_dtype: str = "float32", mesh: Mesh | None = None
) -> tuple[DecoderSpec, Params]:
    """Reads a Llama, Qwen2 or Qwen3.

    Args:
      path_or_hub_name: a directory with `config.json` and `model.safetensors` (or its shards and index), a `.gguf`
        file, or a hub name.
      compute_dtype: `float32` or `bfloat16`, of the matrices too; norms and biases are float32 either way.
      mesh: where the parameters go, split by the rules of `distill.parallel.partition`; None is the default device.

    Raises:
      FileNotFoundError: no such directory, file or hub name.
      DecoderError: not a model that we can run, or tensors that are missing, unknown or of a wrong shape.
    """
    path = model_path(path_or_hub_name)
    if path.is_dir():
        spec = spec_of_config(path / "config.json", compute_dtype)
        source: _Source = _Directory(path)
    else:
        from distill.data.gguf_file import GgufFile

        file = GgufFile(path)
        spec = spec_of_gguf(file, compute_dtype)
        source = _Gguf(file, spec)
    _check(path, spec, source)
    return spec, _parameters(spec, source, mesh)


class _Source(Protocol):
    """Tensors under the names that Hugging Face gives them."""

    names: set[str]

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str) -> np.ndarray: ...


class _Directory:
    """Tensors of a Hugging Face directory."""

    def __init__(self, directory: Path):
        from safetensors import safe_open

        self._opened: dict[str, Any] = {}
        for file in weight_files(directory):
            opened = safe_open(file, framework="flax")  # not numpy, which has no bfloat16
            self._opened |= dict.fromkeys(opened.keys(), opened)
        self.names = set(self._opened)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._opened[name].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        return np.asarray(self._opened[name].get_tensor(name))


_GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class _Gguf:
    """Tensors of a GGUF file."""

    def __init__(self, file: GgufFile, spec: DecoderSpec):
        self._file, self._spec = file, spec
        self._theirs = {self._renamed(name): name for name in file.names if name != "rope_freqs.weight"}
        self.names = set(self._theirs)

    @staticmethod
    def _renamed(name: str) -> str:
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        if match is None or match[2] not in _GGUF_NAMES:
            return name
        layer = "" if match[1] is None else f"model.layers.{match[1]}."
        return f"{layer}{_GGUF_NAMES[match[2]]}.{match[3]}"

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(self._theirs[name])

    def read(self, name: str) -> np.ndarray:
        values = self._file.read(self._theirs[name])
        if self._spec.family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            # llama.cpp rotates neighbouring rows of a Llama's head, where the two halves of a head are pairs here.
            rows = values.reshape(-1, self._spec.head_width // 2, 2, values.shape[-1])
            values = rows.swapaxes(1, 2).reshape(values.shape)
        return values


def _expected(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint and its shape."""
    queries, keys = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (spec.width,),
        "post_attention_layernorm.weight": (spec.width,),
        "self_attn.q_proj.weight": (queries, spec.width),
        "self_attn.k_proj.weight": (keys, spec.width),
        "self_attn.v_proj.weight": (keys, spec.width),
        "self_attn.o_proj.weight": (spec.width, queries),
        "mlp.gate_proj.weight": (spec.mlp_width, spec.width),
        "mlp.up_proj.weight": (spec.mlp_width, spec.width),
        "mlp.down_proj.weight": (spec.width, spec.mlp_width),
    }
    if spec.family == "qwen2":
        layer |= {f"self_attn.{part}_proj.bias": (queries if part == "q" else keys,) for part in "qkv"}
    if spec.family == "qwen3":
        layer |= {f"self_attn.{part}_norm.weight": (spec.head_width,) for part in "qk"}
    table = spec.vocab_size, spec.width
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table, "model.norm.weight": (spec.width,)}
    if not spec.tied_embeddings:
        tensors["lm_head.weight"] = table
    return tensors | {f"model.layers.{i}.{name}": layer[name] for i in range(spec.layers) for name in layer}


def _check(path: Path, spec: DecoderSpec, source: _Source) -> None:
    expected = _expected(spec)
    problems = [f"{name} is missing" for name in sorted(set(expected) - source.names)]
    # Old checkpoints carry a constant of the rotation.
    unknown = {name for name in source.names - set(expected) if not name.endswith("rotary_emb.inv_freq")}
    if spec.tied_embeddings and "lm_head.weight" in unknown:
        unknown.remove("lm_head.weight")
        if not np.array_equal(source.read("lm_head.weight"), source.read("model.embed_tokens.weight")):
            problems.append("lm_head.weight differs from the tokens' table, though tie_word_embeddings says it is tied")
    problems += [f"{name} is unknown" for name in sorted(unknown)]
    for name in sorted(set(expected) & source.names):
        if source.shape(name) != expected[name]:
            problems.append(f"{name} has shape {source.shape(name)}, the configuration says {expected[name]}")
    if problems:
        raise DecoderError(f"{path}: tensors do not match a {spec.family} decoder: {'; '.join(problems)}")


def _parameters(spec: DecoderSpec, source: _Source, mesh: Mesh | None) -> Params:
    grouped = spec.kv_heads, -1, spec.head_width

    def put(path: str, values: np.ndarray, dtype: str = spec.compute_dtype) -> jax.Array:
        values = np.ascontiguousarray(values.astype(jnp.dtype(dtype)))
        if mesh is None:
            return jnp.asarray(values)
        return place(values, NamedSharding(mesh, spec_for(path, values.shape, mesh)))

    def table(path: str, name: str) -> Params:
        return {"embedding": put(f"{path}/embedding", source.read(name))}

    def norm(path: str, name: str) -> Params:
        return {"scale": put(f"{path}/scale", source.read(name), "float32")}

    def dense(path: str, name: str, change: Callable[[np.ndarray], np.ndarray] = lambda kernel: kernel) -> Params:
        return {"kernel": put(f"{path}/kernel", change(source.read(name).T))}

    def layer(path: str, name: str) -> Params:
        def stacked(kind: str, *tail: int) -> np.ndarray:
            parts = [source.read(f"{name}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            return np.concatenate([part.reshape(*grouped, *tail) for part in parts], axis=1)

        kernel = np.moveaxis(stacked("weight", spec.width), -1, 0)
        attention: Params = {
            "groups": {"kernel": put(f"{path}/attention/groups/kernel", kernel)},
            "output": dense(
                f"{path}/attention/output",
                f"{name}.self_attn.o_proj.weight",
                lambda kernel: kernel.reshape(spec.heads, spec.head_width, spec.width),
            ),
        }
        if spec.family == "qwen2":
            attention["groups"]["bias"] = put(f"{path}/attention/groups/bias", stacked("bias"), "float32")
        if spec.family == "qwen3":
            for ours, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
                attention[ours] = norm(f"{path}/attention/{ours}", f"{name}.self_attn.{theirs}.weight")
        return {
            "attention_norm": norm(f"{path}/attention_norm", f"{name}.input_layernorm.weight"),
            "attention": attention,
            "mlp_norm": norm(f"{path}/mlp_norm", f"{name}.post_attention_layernorm.weight"),
            "mlp": {
                part: dense(f"{path}/mlp/{part}", f"{name}.mlp.{part}_proj.weight") for part in ("gate", "up", "down")
            },
        }

    params: Params = {
        "tokens": table("tokens", "model.embed_tokens.weight"),
        "layers": {str(i): layer(f"layers/{i}", f"model.layers.{i}") for i in range(spec.layers)},
        "norm": norm("norm", "model.norm.weight"),
    }
    return params if spec.tied_embeddings else params | {"head": table("head", "lm_head.weight")}
