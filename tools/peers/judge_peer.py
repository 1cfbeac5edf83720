"""transformers on CPU PyTorch, the peer of `tools/bench_judge.py`; speaks `serving`'s JSON lines.

Prompts come as token ids, all equally long, so nothing is padded; of each forward pass only the last token's logits are
computed. `whole` scores full prompts in batches. `shared` runs the rubric once, each listing once after it, and their
keys and values, repeated for the keyphrases, as `past_key_values`.
"""

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import transformers
from serving import serve
from transformers import AutoModelForCausalLM, DynamicCache  # pyright: ignore[reportMissingImports]
from transformers.utils import logging  # pyright: ignore[reportMissingImports]

State = dict[str, Any]
state: State = {}


@torch.inference_mode()
def load(model: str, work: str) -> dict[str, Any]:
    """A Hugging Face directory, and a JSON file: rubric [P], listings [I, L], keyphrases [I, 16, K], answers [A]."""
    content = json.loads(Path(work).read_text(encoding="utf-8"))
    state.update({name: torch.tensor(value) for name, value in content.items()})
    state["model"] = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    state["rubric_cache"] = state["model"](state["rubric"][None], use_cache=True, logits_to_keep=1).past_key_values
    return {}


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits[:, -1], -1)[:, state["answers"]]


def whole(items: slice, batch: int) -> list[torch.Tensor]:
    listings, keyphrases = state["listings"][items], state["keyphrases"][items]
    shared = torch.cat([state["rubric"].expand(len(listings), -1), listings], 1)
    prompts = torch.cat([shared[:, None].expand(-1, keyphrases.shape[1], -1), keyphrases], 2).flatten(0, 1)
    return [
        log_probabilities(state["model"](rows, use_cache=False, logits_to_keep=1).logits)
        for rows in prompts.split(batch)
    ]


def shared(items: slice, batch: int) -> list[torch.Tensor]:
    listings, keyphrases = state["listings"][items], state["keyphrases"][items]
    per_item, scores = keyphrases.shape[1], []
    for rows, branches in zip(*(part.split(max(1, batch // per_item)) for part in (listings, keyphrases))):
        cache: DynamicCache = copy.deepcopy(state["rubric_cache"])
        cache.batch_repeat_interleave(len(rows))
        state["model"](rows, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(per_item)
        answer = state["model"](branches.flatten(0, 1), past_key_values=cache, use_cache=True, logits_to_keep=1)
        scores.append(log_probabilities(answer.logits))
    return scores


@torch.inference_mode()
def run(way: str, items: int, batch: int) -> dict[str, Any]:
    """Scores the first `items` listings' pairs, about `batch` at a time."""
    begun = time.perf_counter()
    scores = torch.cat({"whole": whole, "shared": shared}[way](slice(items), batch))
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "count": len(scores), "scores": scores.tolist()}


def versions() -> dict[str, Any]:
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }


if __name__ == "__main__":
    logging.disable_progress_bar()
    torch.set_num_threads(os.cpu_count() or 1)  # PyTorch takes fewer where cores are hyper-threads; ours takes all
    serve({"versions": versions, "load": load, "run": run})
