"""Writes the golden files that our decoder is tested against, from PyTorch and transformers.

    .venv-peers/bin/python tools/make_golden_decoder.py tests/golden/decoder

One directory a model as transformers saves it (tiny and random), each with `expected.npz`: token ids and the logits
after every one of them, computed in float32.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
# Of the eight frequencies at this base, two stay as they are, two are between, and four are divided.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 20.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 1.7,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.5}


def models() -> dict[str, PreTrainedModel]:
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**SIZES)),
        "llama3": LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**SIZES, rope_parameters=LINEAR)),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=24, rms_norm_eps=1e-5, tie_word_embeddings=True)),
    }


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Weights large enough for attention to matter, and no bias or scale left at its start value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.3 * noise if "norm" in name else 0.25 * noise)


def main(directory: Path) -> None:
    tokens = np.random.default_rng(5).integers(0, SIZES["vocab_size"], (2, 24))
    for seed, (name, model) in enumerate(models().items()):
        randomise(model, seed)
        if name == "llama3":  # one as large models come: bfloat16, in several files with an index
            model.to(torch.bfloat16).save_pretrained(directory / name, max_shard_size="60KB")
        else:
            model.save_pretrained(directory / name)
        # Read back, for the conversion has rounded the rotary frequencies too.
        model = type(model).from_pretrained(directory / name, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = model(torch.tensor(tokens)).logits.numpy()
        np.savez_compressed(directory / name / "expected.npz", tokens=tokens.astype(np.int32), logits=logits)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    main(parser.parse_args().directory)
