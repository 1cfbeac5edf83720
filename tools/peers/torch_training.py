"""The training loop that a PyTorch peer is timed in.

It does what the Hugging Face trainer does in a step (loss, backward, clipping, fused AdamW, schedule) without the
trainer's own logging and bookkeeping, so it is the faster of the two ways to use the library. Batches are tokenized,
padded and on the device before the clock starts.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]


class Loop:
    """Trains `model` on `losses[step]()`, one optimiser step each."""

    def __init__(
        self,
        model: torch.nn.Module,
        steps: Sequence[tuple[Callable[[], torch.Tensor], int]],
        rates: Sequence[float],
        optimizer: dict[str, Any],
        autocast: bool = False,
    ):
        """`steps` are (loss function, number of pairs), `rates` the learning rates of the steps."""
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        decay = [parameter for name, parameter in named if not _exempt(name)]
        plain = [parameter for name, parameter in named if _exempt(name)]
        self._parameters, self._steps, self._rates = decay + plain, steps, rates
        self._clip, self._autocast, self._cuda = optimizer["clip_norm"], autocast, decay[0].is_cuda
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": optimizer["weight_decay"]},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=0.0,
            betas=(optimizer["b1"], optimizer["b2"]),
            fused=True,
        )

    def run(self, start: int, count: int) -> dict[str, Any]:
        """Takes `count` steps from step `start` on: seconds, pairs and the loss of each step."""
        losses = []
        self._synchronise()
        begun = time.perf_counter()
        for step in range(start, start + count):
            for group in self._optimizer.param_groups:
                group["lr"] = self._rates[step]
            with torch.autocast("cuda", torch.bfloat16) if self._autocast else contextlib.nullcontext():
                loss = self._steps[step][0]()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        self._synchronise()
        seconds = time.perf_counter() - begun
        pairs = sum(pairs for _, pairs in self._steps[start : start + count])
        return {"seconds": seconds, "count": pairs, "losses": [float(loss) for loss in losses]}

    def _synchronise(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def _exempt(name: str) -> bool:
    """Biases and layer norms do not decay."""
    return name.endswith("bias") or "LayerNorm" in name
