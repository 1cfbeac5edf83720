"""Writes the golden files that our encoders are tested against, from PyTorch and transformers.

    .venv-peers/bin/python tools/make_golden.py tests/golden [--minilm DIR]

`bert/` and `classifier/` are tiny random models as transformers saves them, `expected.npz` their inputs and outputs.
With `--minilm`, a directory of sentence-transformers/all-MiniLM-L6-v2, `minilm.npz` is written too.
"""

import argparse
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import BertConfig, BertForSequenceClassification, BertModel

SENTENCES = (
    "Garden Hoses 50 ft expandable garden hose with brass fittings",
    "expandable hose",
    "wireless noise cancelling headphones",
    "Crème brûlée torch, 3/4 inch nozzle (pack of 2)",
)


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough for attention to matter, and no bias or scale left at its start value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.3 * noise if name.endswith("LayerNorm.weight") else 0.3 * noise)


def tiny_models(directory: Path) -> None:
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
    )
    config.num_labels = 1
    bert, classifier = BertModel(config).eval(), BertForSequenceClassification(config).eval()
    randomise(bert, 1)
    randomise(classifier, 2)
    bert.save_pretrained(directory / "bert")
    classifier.save_pretrained(directory / "classifier")

    random = np.random.default_rng(3)
    lengths = np.array([3, 24, 9, 14, 4])
    mask = np.arange(24) < lengths[:, None]
    tokens = np.where(mask, random.integers(5, 50, mask.shape), 0)
    types = np.where(mask & (np.arange(24) >= lengths[:, None] // 2), 1, 0)
    inputs = {
        "input_ids": torch.tensor(tokens),
        "token_type_ids": torch.tensor(types),
        "attention_mask": torch.tensor(mask.astype(np.int64)),
    }
    with torch.no_grad():
        hidden = bert(**inputs).last_hidden_state.numpy()
        logits = classifier(**inputs).logits[:, 0].numpy()
    mean = (hidden * mask[:, :, None]).sum(1) / lengths[:, None]
    np.savez_compressed(
        directory / "expected.npz",
        tokens=tokens.astype(np.int32),
        types=types.astype(np.int32),
        lengths=lengths.astype(np.int32),
        hidden=(hidden * mask[:, :, None]).astype(np.float32),
        embeddings=(mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32),
        logits=logits.astype(np.float32),
    )


def minilm(directory: Path, model: str) -> None:
    from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]

    embeddings = SentenceTransformer(model, device="cpu").encode(list(SENTENCES), normalize_embeddings=True)
    np.savez_compressed(
        directory / "minilm.npz", sentences=np.array(SENTENCES), embeddings=embeddings.astype(np.float32)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--minilm", default="")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    tiny_models(arguments.directory)
    if arguments.minilm:
        minilm(arguments.directory, arguments.minilm)
