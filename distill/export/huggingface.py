"""Trained models as directories that sentence-transformers and transformers load; written without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from distill.data.tokenizing import Tokenizer
from distill.models.encoder import EncoderSpec, Params
from distill.models.pretrained import bert_config, to_hugging_face

_STUDENT_CARD = """\
---
license: {licence}
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, keyphrase-recommendation]
---

# Listing and keyphrase encoder

Maps listings and advertiser keyphrases (buyer searches) to unit vectors of {width} coordinates whose dot product is
their relevance. A listing's text is its leaf category, a space, its title, as the seller wrote them. A keyphrase is to
be in the normal form that the training data was in: NFKC, case-folded, single spaces, one spelling of units ("12 inch"
for 12", 12in and 12-inch); `distill.data.text.normalise_keyphrase` makes it. Texts are cut at {max_tokens} tokens.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/directory")
vectors = model.encode(["Garden Hoses 50 ft expandable garden hose with brass fittings", "expandable hose"])
```

Trained for Matryoshka prefixes of {widths} coordinates; normalise again after cutting:

```python
model = SentenceTransformer("path/to/this/directory", truncate_dim={shortest})
vectors = model.encode(texts, normalize_embeddings=True)
```

Data that it was trained on and weights that it began from may bind it: the export's own card names them.
"""

_ASSISTANT_CARD = """\
---
license: {licence}
library_name: sentence-transformers
pipeline_tag: text-ranking
tags: [sentence-transformers, cross-encoder, keyphrase-recommendation]
---

# Relevance of a keyphrase to a listing

A cross-encoder that reads (keyphrase, listing text), in that order; the text is the listing's leaf category, a space,
its title, as the seller wrote them. The keyphrase is to be in the normal form that the training data was in: NFKC,
case-folded, single spaces, one spelling of units ("12 inch" for 12", 12in and 12-inch);
`distill.data.text.normalise_keyphrase` makes it. `predict` gives a relevance between 0 and 1, the sigmoid of the
model's one logit. Pairs are cut at {max_tokens} tokens.

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("path/to/this/directory")
relevance = model.predict([("expandable hose", "Garden Hoses 50 ft expandable garden hose with brass fittings")])
```

Data that it was trained on and weights that it began from may bind it: the export's own card names them.
"""


def export_student(
    directory: str | Path,
    spec: EncoderSpec,
    params: Params,
    tokenizer: Tokenizer,
    max_tokens: int,
    widths: Sequence[int],
    licence: str = "other",
) -> None:
    """Writes a sentence-transformers directory: BERT, mean pooling, normalisation.

    Args:
      directory: made where absent.
      spec, params: as of `distill.models.bi_encoder`; heads beside the encoder are left out.
      tokenizer: the one that the student was trained with.
      max_tokens: of a text, special tokens included.
      widths: Matryoshka prefixes, for the model card.
      licence: the hub's name of it, for the model card.

    Raises:
      ValueError: tokenizer or `max_tokens` does not fit the encoder.
    """
    directory = Path(directory)
    _write_bert(directory, spec, {"encoder": params["encoder"]}, tokenizer, max_tokens, "BertModel", {})
    module = "sentence_transformers.models"
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{module}.{kind}"}
        for i, (kind, path) in enumerate(paths.items())
    ]
    _write_json(directory / "modules.json", modules)
    _write_json(directory / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    (directory / "1_Pooling").mkdir(exist_ok=True)
    _write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": spec.width, **pooling})
    _write_json(
        directory / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    card = _STUDENT_CARD.format(
        licence=licence,
        width=spec.width,
        max_tokens=max_tokens,
        widths=", ".join(map(str, sorted(widths))),
        shortest=min(widths),
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def export_assistant(
    directory: str | Path,
    spec: EncoderSpec,
    params: Params,
    tokenizer: Tokenizer,
    max_tokens: int,
    licence: str = "other",
) -> None:
    """Writes a `BertForSequenceClassification` directory of one label that `CrossEncoder` loads.

    Args:
      directory: made where absent.
      spec, params: as of `distill.models.cross_encoder`.
      tokenizer: the one that the assistant was trained with.
      max_tokens: of a pair, special tokens included.
      licence: as of `export_student`.

    Raises:
      ValueError: tokenizer or `max_tokens` does not fit the encoder.
    """
    directory = Path(directory)
    extra = {
        "id2label": {"0": "relevance"},
        "label2id": {"relevance": 0},
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    }
    _write_bert(directory, spec, params, tokenizer, max_tokens, "BertForSequenceClassification", extra)
    card = _ASSISTANT_CARD.format(licence=licence, max_tokens=max_tokens)
    (directory / "README.md").write_text(card, encoding="utf-8")


def _write_bert(
    directory: Path,
    spec: EncoderSpec,
    params: Params,
    tokenizer: Tokenizer,
    max_tokens: int,
    architecture: str,
    extra: dict[str, Any],
) -> None:
    if tokenizer.vocab_size > spec.vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} ids, the encoder's vocab_size is {spec.vocab_size}")
    if max_tokens > spec.max_positions:
        raise ValueError(f"max_tokens is {max_tokens}, the encoder's max_positions is {spec.max_positions}")
    config = {
        "architectures": [architecture],
        "model_type": "bert",
        **bert_config(spec),
        "pad_token_id": tokenizer.pad_id,
        "position_embedding_type": "absolute",
        "dtype": "float32",
        **extra,
    }
    tokenizer.save(directory, max_tokens)
    _write_json(directory / "config.json", config)
    # transformers refuses a file without the format's mark.
    save_file(to_hugging_face(params), directory / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
