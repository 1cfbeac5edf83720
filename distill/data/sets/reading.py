"""Rows of a built data set through Grain: element i is a function of (seed, i) alone."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from distill.data.schema import TABLES
from distill.data.sets.features import Row, decode

if TYPE_CHECKING:
    import grain
    import tensorflow_datasets as tfds


def records(builder: tfds.core.DatasetBuilder, split: str) -> Any:
    """The built split's examples by number, as TFDS reads them: a sequence that also has `__getitems__`."""
    undecorated: Any = builder  # TFDS's decorator hides the method's signature
    return undecorated.as_data_source(split)


def rows(
    source: tfds.core.DatasetBuilder | str | os.PathLike[str],
    split: str,
    seed: int | None = None,
    *,
    epochs: int | None = 1,
    shard: int = 0,
    shards: int = 1,
) -> grain.MapDataset[Row]:
    """The rows of a table, with random access; needs no TensorFlow.

    Args:
      source: a builder of `builders` whose data set is built (ArrayRecord), or that data set's directory.
      split: of TFDS: `train`, `holdout`, `valid`, `test`, also `train[:10%]`, `valid+test`.
      seed: of the order, another one each epoch; None keeps the order of the files.
      epochs: how often all rows come; None is without end.
      shard, shards: this process takes elements shard, shard + shards, … of the one global order, so a run that goes
        on with another number of processes sees the same global order.

    Returns:
      `dataset[i]` is a row as `features.decode` gives it. `iter(dataset.to_iter_dataset())` reads ahead in threads and
      has `get_state` and `set_state`.

    Raises:
      ValueError: shard is not in 0 … shards − 1, or the data set has no such split.
    """
    import grain
    import tensorflow_datasets as tfds

    if not 0 <= shard < shards:
        raise ValueError(f"shard={shard}, shards={shards}: a shard is one of 0 … shards − 1")
    builder = source if isinstance(source, tfds.core.DatasetBuilder) else tfds.builder_from_directory(source)
    table = TABLES[dict(builder.info.metadata or {})["table"]]
    dataset = grain.MapDataset.source(records(builder, split))
    if seed is not None:
        dataset = dataset.seed(seed).shuffle()
    dataset = dataset.repeat(epochs)
    if shards > 1:
        dataset = dataset[shard::shards]
    return dataset.map(functools.partial(decode, table))
