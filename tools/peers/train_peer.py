"""sentence-transformers on CPU PyTorch, the peer of `tools/bench_train.py`; speaks `serving`'s JSON lines.

Each task is the library's own model and loss in `torch_training.Loop`. `deduplicate` is the other peer: the same model
and loss function, but each distinct text of a step goes through the encoder once.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentence_transformers  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from sentence_transformers import CrossEncoder, SentenceTransformer  # pyright: ignore[reportMissingImports]
from sentence_transformers.cross_encoder.losses import (  # pyright: ignore[reportMissingImports]
    BinaryCrossEntropyLoss,
)
from sentence_transformers.sentence_transformer.losses import (  # pyright: ignore[reportMissingImports]
    CoSENTLoss,
    MultipleNegativesRankingLoss,
)
from serving import serve
from torch_training import Loop
from transformers.utils import logging  # pyright: ignore[reportMissingImports]

Batch = dict[str, list]  # left texts, right texts, labels: one pair an entry
LossOf = Callable[[], torch.Tensor]

loops: dict[str, Loop] = {}
encoder: list[SentenceTransformer] = []


def bi_encoder_step(model: Any, loss: Any, batch: Batch, deduplicate: bool) -> LossOf:
    labels = torch.tensor(batch["labels"])
    if not deduplicate:
        columns = [model.preprocess(batch[side]) for side in ("left", "right")]
        return lambda: loss([dict(column) for column in columns], labels)
    distinct = [list(dict.fromkeys(batch[side])) for side in ("left", "right")]
    columns = [model.preprocess(texts) for texts in distinct]
    index = [
        torch.tensor([texts.index(text) for text in batch[side]]) for texts, side in zip(distinct, ("left", "right"))
    ]

    def step() -> torch.Tensor:
        embeddings = [model(dict(column))["sentence_embedding"][at] for column, at in zip(columns, index)]
        return loss.compute_loss_from_embeddings(embeddings, labels)

    return step


def load(
    name: str,
    model: str,
    loss: str,
    scale: float,
    batches: str,
    rates: list[float],
    optimizer: dict[str, Any],
    deduplicate: bool = False,
) -> dict[str, Any]:
    """Makes the loop `name` over the batches in a JSON file."""
    content: list[Batch] = json.loads(Path(batches).read_text(encoding="utf-8"))
    if loss == "binary_cross_entropy":
        cross = CrossEncoder(model, device="cpu").train()
        entropy = BinaryCrossEntropyLoss(cross)  # tokenizes in its forward pass

        def pair_step(batch: Batch) -> LossOf:
            labels = torch.tensor(batch["labels"])
            return lambda: entropy([batch["left"], batch["right"]], labels)

        losses, trained = [pair_step(batch) for batch in content], cross
    else:
        trained = SentenceTransformer(model, device="cpu").train()
        kind = {"cosent": CoSENTLoss, "multiple_negatives_ranking": MultipleNegativesRankingLoss}[loss]
        criterion = kind(trained, scale=scale)
        losses = [bi_encoder_step(trained, criterion, batch, deduplicate) for batch in content]
    counts = [len(batch["left"]) for batch in content]
    loops[name] = Loop(trained, list(zip(losses, counts)), rates, optimizer)
    return {}


def unload(name: str) -> dict[str, Any]:
    del loops[name]
    return {}


def load_encoder(model: str) -> dict[str, Any]:
    encoder[:] = [SentenceTransformer(model, device="cpu")]
    return {}


def encode(texts: list[str], batch_size: int) -> dict[str, Any]:
    """Embeds the texts, which are in the JSON files named, and gives the first and last vector of each file."""
    lists = [json.loads(Path(path).read_text(encoding="utf-8")) for path in texts]
    begun = time.perf_counter()
    vectors = [encoder[0].encode(chunk, batch_size=batch_size, show_progress_bar=False) for chunk in lists]
    seconds = time.perf_counter() - begun
    ends = [vector.tolist() for chunk in vectors for vector in (chunk[0], chunk[-1])]
    return {"seconds": seconds, "count": sum(map(len, lists)), "ends": ends}


def versions() -> dict[str, Any]:
    return {
        "sentence-transformers": sentence_transformers.__version__,
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }


if __name__ == "__main__":
    logging.disable_progress_bar()
    torch.set_num_threads(os.cpu_count() or 1)  # PyTorch takes fewer where cores are hyper-threads; ours takes all
    serve(
        {
            "versions": versions,
            "load": load,
            "run": lambda name, start, count: loops[name].run(start, count),
            "unload": unload,
            "load_encoder": load_encoder,
            "encode": encode,
        }
    )
