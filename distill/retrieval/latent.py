"""A dense source of candidates that needs no trained encoder: latent semantic analysis of texts and clicks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer


@dataclasses.dataclass(frozen=True)
class LatentSemantic:
    """Items and keyphrases in one latent space, for `exact.top_k`.

    Source: latent semantic analysis, Deerwester et al. (1990).

    Attributes:
      items: [I, W] float32 unit vectors.
      keyphrases: [K, W] float32 unit vectors.
    A text without any known token is a zero vector.
    """

    items: np.ndarray
    keyphrases: np.ndarray

    @classmethod
    def fit(
        cls,
        item_texts: Sequence[str],
        keyphrases: Sequence[str],
        clicked_item: np.ndarray,
        clicked_keyphrase: np.ndarray,
        *,
        width: int = 128,
        seed: int = 0,
    ) -> LatentSemantic:
        """TF-IDF (sublinear) and a truncated SVD over item texts, each extended with its clicked keyphrases.

        The clicks move synonyms together: two words that never share a title share the items they were clicked for.

        Args:
          item_texts: I texts.
          keyphrases: K texts.
          clicked_item, clicked_keyphrase: [C] integers into the two; pairs with at least one click.
          width: W, less where the texts hold fewer items or words.
          seed: of the randomised SVD.

        Raises:
          ValueError: an index points outside, or no item text holds a word.
        """
        clicked_item, clicked_keyphrase = np.asarray(clicked_item, np.int64), np.asarray(clicked_keyphrase, np.int64)
        if clicked_item.shape != clicked_keyphrase.shape or clicked_item.ndim != 1:
            shapes = f"clicked_item {clicked_item.shape}, clicked_keyphrase {clicked_keyphrase.shape}"
            raise ValueError(f"{shapes}: pass [C] both")
        for name, index, count in (
            ("clicked_item", clicked_item, len(item_texts)),
            ("clicked_keyphrase", clicked_keyphrase, len(keyphrases)),
        ):
            if index.size and (index.min() < 0 or index.max() >= count):
                raise ValueError(f"{name}: holds {index.min()} to {index.max()}; there are {count}")
        if width < 1:
            raise ValueError(f"width: {width}; pass at least 1")

        extended = [[text] for text in item_texts]
        for item, keyphrase in zip(clicked_item.tolist(), clicked_keyphrase.tolist()):
            extended[item].append(keyphrases[keyphrase])
        vectorizer = TfidfVectorizer(sublinear_tf=True, strip_accents="unicode", token_pattern=r"(?u)\b\w+\b")
        try:
            item_words = vectorizer.fit_transform([" ".join(texts) for texts in extended])
        except ValueError as error:  # sklearn's word for an empty vocabulary
            raise ValueError(f"item_texts: none of the {len(item_texts)} texts holds a word; pass titles") from error
        svd = TruncatedSVD(n_components=min(width, *item_words.shape), random_state=seed)
        items = _unit(svd.fit_transform(item_words))
        if not len(keyphrases):
            return cls(items, np.zeros((0, items.shape[1]), np.float32))
        return cls(items, _unit(svd.transform(vectorizer.transform(keyphrases))))


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # What rounding leaves of a text that the kept components do not express must not become a direction.
    return np.where(lengths > 1e-9, vectors / np.maximum(lengths, 1e-9), 0.0).astype(np.float32)
