"""The keyphrase index on ScaNN: built, tuned by measuring, saved and loaded. The only module that imports scann.

Source: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization" (arXiv 1908.10396).
ScaNN aborts the process on bad arguments, so everything is checked before a native call.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from distill.retrieval import exact

_FORMAT = 1
_RECALL_AT = 100
_MIN_TREE = 1024  # below, there is nothing to partition: a codebook alone wants hundreds of vectors
_REORDER = 4  # candidates re-scored exactly, as a multiple of the neighbours asked for
_UNIT_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """How the index was built and how it searches; stored in `index.json`."""

    method: str  # `brute_force` or `tree_ah`
    count: int
    width: int
    normalisation: str  # `unit`: inner products are cosines
    leaves: int  # 0 for brute force
    leaves_to_search: int  # chosen by measuring; 0 for brute force
    reorder: int  # candidates re-scored exactly at k = 100; 0 for brute force
    seed: int
    target_recall: float
    recall_at_100: float  # measured on the sample queries against exact search
    sample_queries: int
    note: str  # why this method, where it was not the plain choice
    embeddings_sha256: str  # of the little-endian float32 bytes


class KeyphraseIndex:
    """A searchable index of unit vectors; made by `build_index` or `KeyphraseIndex.load`."""

    def __init__(self, searcher: Any, settings: IndexSettings):
        self._searcher = searcher
        self._settings = settings

    @property
    def recall_at_100(self) -> float:
        """Share of the exact 100 best neighbours found, measured on the sample queries when the index was built."""
        return self._settings.recall_at_100

    def describe(self) -> dict[str, Any]:
        """The settings as a flat, JSON-ready dict."""
        return dataclasses.asdict(self._settings)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest keyphrases of each query by inner product, best first.

        Args:
          queries: [Q, D] float32, finite.
          k: at least 1.

        Returns:
          indices [Q, k] int32 and scores [Q, k] float32; -1 and -inf where fewer were found.

        Raises:
          ValueError: queries or k do not fit the index.
        """
        settings = self._settings
        queries = _check_vectors("queries", queries, width=settings.width, may_be_empty=True)
        if k < 1:
            raise ValueError(f"k: {k}; pass at least 1")
        return _search(self._searcher, settings, queries, k, settings.leaves_to_search)

    def save(self, directory: str | Path) -> None:
        """Writes `index.json` and ScaNN's files; the directory may be moved afterwards.

        Raises:
          FileExistsError: the directory holds something already.
        """
        directory = Path(directory)
        if directory.exists() and any(directory.iterdir()):
            raise FileExistsError(f"{directory}: not empty; pass a new directory for the index")
        assets = directory / "scann"
        assets.mkdir(parents=True, exist_ok=True)
        self._searcher.serialize(str(assets), relative_path=True)
        files = {path.name: _sha256_of_file(path) for path in sorted(assets.iterdir())}
        manifest = {"format": _FORMAT, **self.describe(), "files": files}
        (directory / "index.json").write_text(json.dumps(manifest, indent=1) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> KeyphraseIndex:
        """Reads an index written by `save`, after checking that every file is the one that was written.

        Raises:
          FileNotFoundError: there is no index.
          ValueError: the manifest or a file is damaged, or of another format.
          ImportError: scann is not installed.
        """
        directory = Path(directory)
        path = directory / "index.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; pass a directory written by the index stage")
        try:
            manifest = json.loads(path.read_text())
            stored = manifest.pop("format")
            if stored != _FORMAT:
                raise ValueError(f"format {stored}, this code reads {_FORMAT}")
            files = dict(manifest.pop("files"))
            settings = IndexSettings(**manifest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); build the index again") from error
        assets = directory / "scann"
        present = {path.name for path in assets.iterdir()} if assets.is_dir() else set()
        # A stray file is refused too: scann would unpickle a `scann_docids.pkl`.
        if present != set(files):
            raise ValueError(f"{assets}: files {sorted(present ^ set(files))} are missing or not of this index")
        for name, digest in files.items():
            if _sha256_of_file(assets / name) != digest:
                raise ValueError(f"{assets / name}: not the file that was written; build the index again")
        return cls(_scann().load_searcher(str(assets)), settings)


def build_index(
    embeddings: np.ndarray,
    *,
    brute_force_below: int,
    target_recall: float,
    sample_queries: np.ndarray,
    seed: int,
) -> KeyphraseIndex:
    """Builds the index and chooses how many leaves to search by measuring recall@100 on the sample queries.

    Below `brute_force_below` vectors every search is exact. Above, a tree of about √N leaves and asymmetric hashing
    (two dimensions a block) with exact re-scoring; the leaves to search are doubled until the target is reached. Where
    even all leaves miss it the index falls back to brute force, with a note in `describe()`. Brute force is the same
    to the bit each time; ScaNN's training of a tree is seeded but rounds differently from build to build.

    Args:
      embeddings: [N, D] float32 unit vectors.
      brute_force_below: number of vectors.
      target_recall: wanted share of the exact 100 best, in (0, 1].
      sample_queries: [Q, D] float32, like those to come.
      seed: of the clustering.

    Raises:
      ValueError: an argument does not fit.
      ImportError: scann is not installed.
    """
    embeddings = _check_vectors("embeddings", embeddings)
    lengths = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))
    worst = int(np.argmax(np.abs(lengths - 1)))
    if abs(lengths[worst] - 1) > _UNIT_TOLERANCE:
        raise ValueError(f"embeddings: row {worst} has length {lengths[worst]:.4g}; pass unit vectors")
    count, width = embeddings.shape
    sample_queries = _check_vectors("sample_queries", sample_queries, width=width)
    if not 0 < target_recall <= 1:
        raise ValueError(f"target_recall: {target_recall}; pass a share above 0 and at most 1")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed: {seed}; pass 0 to 2**31 - 1")

    settings = IndexSettings(
        method="brute_force",
        count=count,
        width=width,
        normalisation="unit",
        leaves=0,
        leaves_to_search=0,
        reorder=0,
        seed=seed,
        target_recall=float(target_recall),
        recall_at_100=0.0,
        sample_queries=len(sample_queries),
        note="",
        embeddings_sha256=hashlib.sha256(embeddings.astype("<f4", copy=False).data).hexdigest(),
    )
    exact_scores = exact.top_k(sample_queries, embeddings, min(_RECALL_AT, count))[1]
    if count >= max(brute_force_below, _MIN_TREE):
        tree = dataclasses.replace(
            settings,
            method="tree_ah",
            leaves=round(math.sqrt(count)),
            reorder=min(_REORDER * _RECALL_AT, count),
        )
        searcher = _build(embeddings, tree)
        leaves_to_search, recall = 1, 0.0
        while True:
            found = _search(searcher, tree, sample_queries, min(_RECALL_AT, count), leaves_to_search)[1]
            recall = _recall(found, exact_scores)
            if recall >= target_recall:
                chosen = dataclasses.replace(tree, leaves_to_search=leaves_to_search, recall_at_100=recall)
                return KeyphraseIndex(searcher, chosen)
            if leaves_to_search == tree.leaves:
                break
            leaves_to_search = min(2 * leaves_to_search, tree.leaves)
        settings = dataclasses.replace(
            settings,
            note=f"all {tree.leaves} leaves gave recall@100 {recall:.4f} of {target_recall}: brute force",
        )
    elif count >= brute_force_below:
        settings = dataclasses.replace(settings, note=f"{count} vectors are too few for a tree: brute force")
    searcher = _build(embeddings, settings)
    found = _search(searcher, settings, sample_queries, min(_RECALL_AT, count), 0)[1]
    return KeyphraseIndex(searcher, dataclasses.replace(settings, recall_at_100=_recall(found, exact_scores)))


def _scann() -> Any:
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise ImportError(
            "the keyphrase index needs scann, which exists for Linux only: `pip install scann`, or search with "
            f"distill.retrieval.exact ({error})"
        ) from error
    return scann_ops_pybind


def _build(embeddings: np.ndarray, settings: IndexSettings) -> Any:
    scann = _scann()
    builder = scann.builder(embeddings, min(_RECALL_AT, settings.count), "dot_product")
    if settings.method == "brute_force":
        return builder.score_brute_force().build()
    sample = min(settings.count, 250_000)
    builder = builder.tree(
        num_leaves=settings.leaves, num_leaves_to_search=settings.leaves, training_sample_size=sample
    )
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2, training_sample_size=sample)
    config = builder.reorder(settings.reorder).create_config()
    # The builder has no argument for the seed, the configuration has.
    config = config.replace("partitioning {", f"partitioning {{ clustering_seed: {settings.seed}", 1)
    return scann.create_searcher(embeddings, config)


def _search(
    searcher: Any, settings: IndexSettings, queries: np.ndarray, k: int, leaves_to_search: int
) -> tuple[np.ndarray, np.ndarray]:
    indices = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    if not len(queries):
        return indices, scores
    found = min(k, settings.count)
    options: dict[str, int] = {"final_num_neighbors": found}
    if settings.method == "tree_ah":
        reorder = min(max(_REORDER * found, settings.reorder), settings.count)
        options |= {"leaves_to_search": leaves_to_search, "pre_reorder_num_neighbors": reorder}
    batched = searcher.search_batched_parallel if len(queries) > 256 else searcher.search_batched
    raw_indices, raw_scores = batched(queries, **options)
    # Where the searched leaves hold too few vectors, ScaNN fills up with index 0 and NaN.
    valid = ~np.isnan(raw_scores)
    indices[:, :found] = np.where(valid, raw_indices.astype(np.int32), -1)
    scores[:, :found] = np.where(valid, raw_scores, -np.inf)
    return indices, scores


def _recall(found_scores: np.ndarray, exact_scores: np.ndarray) -> float:
    """Share found of the exact best, by score: which of several equal vectors is returned does not matter."""
    return float(np.mean(found_scores >= exact_scores[:, -1:] - 1e-5))


def _check_vectors(
    name: str, vectors: np.ndarray, *, width: int | None = None, may_be_empty: bool = False
) -> np.ndarray:
    """The array, C-contiguous; ValueError for anything that would abort the process inside ScaNN."""
    vectors = np.asarray(vectors)
    if vectors.dtype != np.float32:
        raise ValueError(f"{name}: dtype {vectors.dtype}; pass float32")
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(f"{name}: shape {vectors.shape}; pass [N, D]")
    if width is not None and vectors.shape[1] != width:
        raise ValueError(f"{name}: width {vectors.shape[1]}; the embeddings have width {width}")
    if not may_be_empty and not len(vectors):
        raise ValueError(f"{name}: empty; pass at least one vector")
    squares = np.einsum("nd,nd->n", vectors, vectors)
    if not np.isfinite(squares).all():
        raise ValueError(f"{name}: row {int(np.argmin(np.isfinite(squares)))} holds NaN or an infinite value")
    return np.ascontiguousarray(vectors)


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
