"""What an index is built with and how it searches; what each choice costs in memory."""

from __future__ import annotations

import dataclasses
import math

DTYPES = {"float32": 4, "bfloat16": 2, "int8": 1}  # bytes a coordinate of what ScaNN keeps for exact scores
SMALLEST_TREE = 1024  # vectors; below, there is nothing to partition: a codebook alone wants hundreds of vectors
MOST_VECTORS = 2**31 - 1  # row numbers are int32
_TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
CODEBOOK_ROWS, ROWS_PER_LEAF = 100_000, 256  # that the codebook and the tree are trained on, where there are so many
_MOST_CODES = 256  # of a vector
ANISOTROPIC = 0.2  # the threshold that the ScaNN paper uses


@dataclasses.dataclass(frozen=True)
class TreeSettings:
    """A partition of the vectors and a codebook over what is left of them; `leaves` 0 is brute force.

    Attributes:
      leaves: k-means cells.
      dims_per_block: coordinates that share one 4-bit code. 1 is nearly exact and needs little re-ordering, 2 halves
        the codes, 4 quarters them.
      soar_lambda: where above 0, every vector stands in two cells (Sun et al., "SOAR", arXiv 2404.00774).
    """

    leaves: int = 0
    dims_per_block: int = 0
    soar_lambda: float = 0.0

    def neighbours(self, count: int, width: int) -> list[TreeSettings]:
        """Trees over `count` vectors of `width` that are one step away, the likeliest gains first."""
        steps = [
            dataclasses.replace(self, leaves=self.leaves * 2),
            dataclasses.replace(self, leaves=self.leaves // 2),
            dataclasses.replace(self, dims_per_block=self.dims_per_block * 2),
            dataclasses.replace(self, dims_per_block=self.dims_per_block // 2),
            dataclasses.replace(self, soar_lambda=0.0 if self.soar_lambda else 1.5),
        ]
        return [t for t in steps if 16 <= t.leaves <= count // 16 and 1 <= t.dims_per_block <= min(8, width)]


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """All that `index.json` says of an index, beside the hashes of its files."""

    method: str  # `brute_force` or `tree_ah`
    count: int
    width: int  # coordinates that ScaNN searches
    full_width: int  # of the embeddings and of queries
    normalisation: str  # `unit`: inner products are cosines
    dtype: str  # what ScaNN keeps of the vectors to score candidates: one of DTYPES
    leaves: int  # 0 for brute force, as the next four
    dims_per_block: int
    soar_lambda: float
    leaves_to_search: int
    reorder: int  # ScaNN's candidates that are scored by the vectors it keeps, at k = recall_at
    rescore: int  # of those, how many the full width scores again, at k = recall_at; 0 where `width` is the full one
    seed: int
    recall_at: int  # the K at which the index was tuned
    target_recall: float
    recall: float  # @recall_at against exact search over the full width, on the sample that the search was tuned on
    recall_at_100: float
    sample_queries: int  # that recall was measured on
    tuned: bool  # whether the tree and its parameters were chosen by timing, or follow from the size
    note: str  # why this method, where it was not the plain choice
    model: str  # hash or name of what embedded the keyphrases; may be empty
    keyphrases_sha256: str  # of the keyphrases' texts; may be empty
    embeddings_sha256: str  # of the little-endian float32 bytes

    @property
    def tree(self) -> TreeSettings:
        return TreeSettings(self.leaves, self.dims_per_block, self.soar_lambda)

    def with_tree(self, tree: TreeSettings) -> IndexSettings:
        return dataclasses.replace(self, method="tree_ah", **dataclasses.asdict(tree))

    def candidates(self, tuned: int, k: int) -> int:
        """A number of candidates that was tuned at `recall_at`, for another k: more for more, never fewer."""
        return min(self.count, max(k, tuned, math.ceil(tuned * k / self.recall_at)))

    def leaves_for(self, k: int) -> int:
        """`leaves_to_search` for another k, likewise."""
        return min(self.leaves, max(self.leaves_to_search, math.ceil(self.leaves_to_search * k / self.recall_at)))


def check_settings(settings: IndexSettings) -> None:
    """Raises ValueError, naming the field, where ScaNN could not search by the settings: it ends the process then."""
    for field in dataclasses.fields(settings):
        value, wanted = getattr(settings, field.name), _TYPES[str(field.type)]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ValueError(f"{field.name} is {value!r}, no {field.type}")
    tree, count = settings.leaves > 0, settings.count
    for name, right in (
        ("method", settings.method == ("tree_ah" if tree else "brute_force")),
        ("count", 1 <= count <= MOST_VECTORS),
        ("width", 1 <= settings.width <= settings.full_width),
        ("dtype", settings.dtype in DTYPES),
        ("recall_at", settings.recall_at >= 1),
        ("leaves_to_search", settings.leaves_to_search in range(int(tree), settings.leaves + 1)),
        ("reorder", settings.reorder in range(int(tree), count + 1)),
        ("rescore", settings.rescore in range(int(settings.width < settings.full_width), count + 1)),
    ):
        if not right:
            raise ValueError(f"{name} is {getattr(settings, name)!r}, which fits no index of these settings")


def default_tree(count: int, width: int) -> TreeSettings:
    """About 2·√N cells, and a 4-bit code for each coordinate or as few as let a vector have no more than 256 codes.

    Of longer codes ScaNN keeps the best of each cell and not of all cells together, which takes longer. docs/index.md
    has the measurements.
    """
    return TreeSettings(leaves=max(16, round(2 * math.sqrt(count))), dims_per_block=math.ceil(width / _MOST_CODES))


def bytes_per_keyphrase(
    tree: TreeSettings, *, count: int, width: int, full_width: int = 0, dtype: str = "float32"
) -> dict[str, float]:
    """What one keyphrase costs, without its text, by formula; docs/index.md compares it with measurements.

    Args:
      tree: `TreeSettings()` for brute force.
      count: keyphrases in all.
      width: coordinates that ScaNN searches.
      full_width: of the vectors that re-score what is found; 0: as `width`.
      dtype: one of DTYPES.

    Returns:
      `memory`: bytes that the process holds; the kept vector and, for a tree, packed 4-bit codes, a row number for each
      cell that the vector stands in, its cells' numbers and a share of the centroids. `disk`: bytes of the saved
      index, where a code takes a whole byte, with the full-width float32 vectors unless ScaNN keeps just those. These
      are memory-mapped: search reads those of candidates alone.
    """
    kept = width * DTYPES[dtype]
    mapped = 0 if dtype == "float32" and full_width in (0, width) else 4 * (full_width or width)
    if not tree.leaves:
        return {"memory": kept, "disk": kept + mapped}
    cells = 2 if tree.soar_lambda else 1
    codes = math.ceil(width / tree.dims_per_block)
    centroids = tree.leaves * width * 4 / count
    return {
        "memory": kept + cells * (codes / 2 + 8) + centroids,
        "disk": kept + cells * (codes + 4) + centroids + mapped,
    }
