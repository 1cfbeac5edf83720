"""sentence-transformers on CPU PyTorch, the peer of `tools/compare_sentence_transformers.py`; speaks `serving`'s lines.

The model, the losses and their Matryoshka wrapper are the library's own. Each distinct text of a step goes through the
encoder once, and the losses read its embedding as often as it stands in their pairs: without dropout their values and
gradients are those of encoding every pair's texts again, in a fraction of the time.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
from sentence_transformers.sentence_transformer import losses  # pyright: ignore[reportMissingImports]
from serving import serve
from torch_training import Loop
from transformers.utils import logging  # pyright: ignore[reportMissingImports]

SIDES = ("item", "keyphrase")


class Rows(torch.nn.Module):
    """Stands for the model in a loss: its features are rows of embeddings that were made before."""

    def __init__(self, width: int):
        super().__init__()
        self._width = width

    def get_embedding_dimension(self) -> int:
        return self._width

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": features["embeddings"][features["rows"]]}


def make_loss(kind: str, rows: Rows, options: dict[str, Any]) -> torch.nn.Module:
    """The library's loss for one kind of examples, at all widths."""
    if kind == "clicks":
        inner = losses.MultipleNegativesRankingLoss(
            rows,
            scale=options["clicks_scale"],
            directions=("query_to_doc", "doc_to_query") if options["symmetric"] else ("query_to_doc",),
            partition_mode="per_direction" if options["symmetric"] else "joint",
        )
    else:
        inner = {
            "contrastive": losses.ContrastiveLoss,
            "online_contrastive": losses.OnlineContrastiveLoss,
            "cosine_similarity": losses.CosineSimilarityLoss,
            "cosent": lambda model: losses.CoSENTLoss(model, scale=options["cosent_scale"]),
        }[options[kind]](rows)
    return losses.MatryoshkaLoss(rows, inner, options["widths"], options["width_weights"])


class Training:
    """A model, and what its steps train on: `batches` are the fields of `seen_examples.Batches`."""

    def __init__(
        self,
        model: str,
        texts: dict[str, list[str]],
        limits: dict[str, int],
        batches: dict[str, np.ndarray],
        kinds: list[str],
        weights: dict[str, float],
        options: dict[str, Any],
        rates: list[float],
        optimizer: dict[str, Any],
        seed: int,
    ):
        torch.use_deterministic_algorithms(True)  # or sums of gradients would depend on the threads' order
        torch.manual_seed(seed)  # of dropout
        self.model = SentenceTransformer(model, device="cpu").train()
        self._texts, self._limits, self._batches, self._kinds, self._weights = texts, limits, batches, kinds, weights
        rows = Rows(self.model.get_embedding_dimension())
        self._losses = {kind: make_loss(kind, rows, options) for kind in weights}
        counts = np.diff(batches["offsets"]).reshape(-1, len(kinds)).sum(axis=1)
        steps = [(self._step(step), int(count)) for step, count in enumerate(counts)]
        self.loop = Loop(self.model, steps, rates, optimizer)

    def loss(self, step: int) -> torch.Tensor:
        """The weighted sum of the losses of the kinds that the step holds."""
        offsets, first = self._batches["offsets"], step * len(self._kinds)
        span = slice(offsets[first], offsets[first + len(self._kinds)])
        features = []
        for side in SIDES:
            distinct, at = np.unique(self._batches[side][span], return_inverse=True)
            texts = [self._texts[side][text] for text in distinct]
            inputs = self.model.preprocess(texts, max_length=self._limits[side])
            features.append((self.model(inputs)["sentence_embedding"], torch.from_numpy(at)))
        labels = torch.from_numpy(self._batches["label"][span])
        total = torch.zeros(())
        for place, kind in enumerate(self._kinds):
            own = slice(*(offsets[first + place : first + place + 2] - span.start))
            if own.stop > own.start:
                columns = [{"embeddings": embeddings, "rows": at[own]} for embeddings, at in features]
                total = total + self._weights[kind] * self._losses[kind](columns, labels[own])
        return total

    def embed(self, side: str, texts: list[int]) -> np.ndarray:
        """Unit embeddings, float32 [N, D], of the numbered texts as the library's users make them."""
        self.model.max_seq_length = self._limits[side]
        return self.model.encode([self._texts[side][text] for text in texts], batch_size=64, show_progress_bar=False)

    def _step(self, step: int) -> Callable[[], torch.Tensor]:
        return lambda: self.loss(step)


trainings: list[Training] = []  # the one that is loaded


def load(work: str, **settings: Any) -> dict[str, Any]:
    """Reads `texts.json` (side → texts) and `batches.npz` of the folder `work`."""
    folder = Path(work)
    with np.load(folder / "batches.npz") as arrays:
        batches = {name: arrays[name] for name in arrays.files}
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    trainings[:] = [Training(texts=texts, batches=batches, **settings)]
    return {}


def run(start: int, count: int) -> dict[str, Any]:
    trainings[0].model.train()
    return trainings[0].loop.run(start, count)


def embed(side: str, texts: list[int], path: str) -> dict[str, Any]:
    """Writes the embeddings to `path`."""
    np.save(path, trainings[0].embed(side, texts))
    return {}


def save(directory: str) -> dict[str, Any]:
    trainings[0].model.save_pretrained(directory, create_model_card=False)
    return {}


def versions() -> dict[str, Any]:
    return {"sentence-transformers": sentence_transformers.__version__, "torch": torch.__version__}


if __name__ == "__main__":
    logging.disable_progress_bar()
    torch.set_num_threads(os.cpu_count() or 1)  # PyTorch takes fewer where cores are hyper-threads; ours takes all
    serve({"versions": versions, "load": load, "run": run, "embed": embed, "save": save})
