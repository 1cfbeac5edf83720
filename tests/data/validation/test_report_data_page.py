"""What the data page says of texts that the encoder cannot read whole."""

from __future__ import annotations

import numpy as np

from distill.data.ragged import Ragged
from distill.stages.report_data_page import _cut, _tokens


def _ragged(lengths: list[int], truncated: int) -> Ragged:
    return Ragged(np.zeros(sum(lengths), np.int32), np.cumsum([0, *lengths]), truncated)


def test_no_more_examples_than_texts_were_cut():
    texts = ["just fits", "is much longer than what fits", "fits well", "fits too"]
    cut = _cut("item texts", _ragged([4, 4, 2, 4], truncated=1), 4, texts)
    assert (cut.count, cut.of, cut.examples) == (1, 4, ["is much longer than what fits"])
    assert _cut("item texts", _ragged([4, 4, 2, 4], truncated=0), 4, texts).examples == []


def test_token_lengths_by_classes_of_an_eighth_of_the_limit():
    assert _tokens(_ragged([1, 2, 3, 16, 16], 2), 16) == {
        **{"1–2": 2, "3–4": 1, "5–6": 0, "7–8": 0, "9–10": 0, "11–12": 0, "13–14": 0, "15": 0},
        "16+": 2,
    }
    assert _tokens(_ragged([1, 1], 0), 1) == {"1+": 2}
