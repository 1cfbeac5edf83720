"""Shallower encoders cut from a deeper one: most of the quality for a share of the cost."""

from __future__ import annotations

import dataclasses

from distill.models.encoder import EncoderSpec, Params


def first_layers(spec: EncoderSpec, encoder_params: Params, count: int) -> tuple[EncoderSpec, Params]:
    """The encoder's embeddings and its first `count` layers, to be trained further.

    Of the ways to choose layers, dropping the top ones loses least after fine-tuning (Sajjad et al., "On the effect of
    dropping layers of pre-trained transformer models", arXiv 2004.03844).

    Args:
      spec: of the deeper encoder.
      encoder_params: as of `distill.models.encoder.init_encoder`; not copied.
      count: layers that stay.

    Raises:
      ValueError: `count` is not within 1 … spec.layers.
    """
    if not 1 <= count <= spec.layers:
        raise ValueError(f"{count} layers cannot be kept of an encoder of {spec.layers}; give 1 to {spec.layers}")
    layers = {str(i): encoder_params["layers"][str(i)] for i in range(count)}
    return dataclasses.replace(spec, layers=count), encoder_params | {"layers": layers}
