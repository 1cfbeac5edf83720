"""sentence-transformers on the accelerator, the peer of `tools/bench_gpu.py`; speaks `serving`'s JSON lines.

BERT from transformers, the library's pooling, normalisation and CoSENT loss, fused AdamW, bfloat16 autocast: what its
trainer runs with `bf16=True`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from sentence_transformers.sentence_transformer.losses import CoSENTLoss  # pyright: ignore[reportMissingImports]
from sentence_transformers.sentence_transformer.modules import (  # pyright: ignore[reportMissingImports]
    Normalize,
    Pooling,
)
from serving import serve
from torch_training import Loop
from transformers import BertConfig, BertModel  # pyright: ignore[reportMissingImports]

loops: list[Loop] = []


class Backbone(torch.nn.Module):
    """The library's `Transformer` module without a tokenizer: token ids are given."""

    def __init__(self, bert: BertModel):
        super().__init__()
        self.bert = bert

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden = self.bert(input_ids=features["input_ids"], attention_mask=features["attention_mask"])
        return features | {"token_embeddings": hidden.last_hidden_state}


def column(texts: list[list[int]], device: str) -> dict[str, torch.Tensor]:
    longest = max(map(len, texts))
    tokens = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask = torch.arange(longest) < torch.tensor([len(text) for text in texts])[:, None]
    return {"input_ids": tokens.to(device), "attention_mask": mask.long().to(device)}


def load(
    config: dict[str, Any],
    weights: str,
    batches: str,
    scale: float,
    rates: list[float],
    optimizer: dict[str, Any],
    autocast: bool,
) -> dict[str, Any]:
    """Weights are an `.npz` of `BertModel`'s tensors, batches a JSON file; step t takes batch t modulo their number."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bert = BertModel(BertConfig(**config), add_pooling_layer=False)
    with np.load(weights) as tensors:
        bert.load_state_dict({name: torch.from_numpy(tensors[name]) for name in tensors.files})
    model = torch.nn.Sequential(Backbone(bert), Pooling(config["hidden_size"], "mean"), Normalize()).to(device).train()
    loss = CoSENTLoss(model, scale=scale)
    steps = []
    for batch in json.loads(Path(batches).read_text(encoding="utf-8")):
        columns = [column(batch[side], device) for side in ("left", "right")]
        labels = torch.tensor(batch["labels"], device=device)
        steps.append((lambda columns=columns, labels=labels: loss(columns, labels), len(batch["labels"])))
    steps = [steps[step % len(steps)] for step in range(len(rates))]
    loops[:] = [Loop(model, steps, rates, optimizer, autocast)]
    return {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}


def versions() -> dict[str, Any]:
    return {"sentence-transformers": sentence_transformers.__version__, "torch": torch.__version__}


if __name__ == "__main__":
    serve({"versions": versions, "load": load, "run": lambda start, count: loops[0].run(start, count)})
