import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from distill.data.tokenizing import Tokenizer, pair_tokens
from distill.export.huggingface import export_assistant, export_student
from distill.models.bi_encoder import init_bi_encoder
from distill.models.cross_encoder import init_cross_encoder
from distill.models.encoder import EncoderSpec
from distill.models.pretrained import load_pretrained
from tests.models.helpers import embed, pack_rows, scaled, score

PEERS = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
TEXTS = [
    "Garden Hoses 50 ft expandable garden hose with brass fittings",
    "expandable hose",
    "Headphones wireless noise cancelling over ear headphones",
    "noise cancelling headphones",
]
MAX_TOKENS = 40

READ = """
import json, sys
import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer
student, assistant, texts, out = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
pairs = [(texts[1], texts[0]), (texts[3], texts[0]), (texts[3], texts[2])]
model = SentenceTransformer(student, device="cpu")
cross = CrossEncoder(assistant, device="cpu")
np.savez(
    out,
    embeddings=model.encode(texts),
    prefix=SentenceTransformer(student, device="cpu", truncate_dim=16).encode(texts, normalize_embeddings=True),
    relevance=cross.predict(pairs),
    logits=cross.predict(pairs, activation_fn=__import__("torch").nn.Identity()),
    limits=[model.max_seq_length, cross.max_length],
)
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, 120)


@pytest.fixture(scope="module")
def spec(tokenizer) -> EncoderSpec:
    return EncoderSpec(
        vocab_size=tokenizer.vocab_size, layers=2, width=32, heads=4, mlp_width=48, max_positions=MAX_TOKENS
    )


@pytest.fixture(scope="module")
def exported(tokenizer, spec, tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    student, assistant = scaled(init_bi_encoder(spec, 0)), scaled(init_cross_encoder(spec, 1))
    export_student(root / "student", spec, student, tokenizer, MAX_TOKENS, (16, 32), "apache-2.0")
    export_assistant(root / "assistant", spec, assistant, tokenizer, MAX_TOKENS)
    return root, student, assistant


def embeddings(spec, params, tokenizer, width=None):
    ragged = tokenizer.encode_texts(TEXTS, MAX_TOKENS)
    texts = np.split(ragged.values, ragged.offsets[1:-1])
    fields, slots, per_row = pack_rows([texts[:2], texts[2:]], 2 * MAX_TOKENS)
    return np.asarray(embed(spec, params, fields, slots, per_row, width))


def logits(spec, params, tokenizer):
    raw = tokenizer.encode_raw(TEXTS, MAX_TOKENS)
    tokens, types = pair_tokens(raw, raw, np.array([1, 3, 3]), np.array([0, 0, 2]), tokenizer.cls_id, tokenizer.sep_id)
    rows, row_types = (np.split(values, tokens.offsets[1:-1]) for values in (tokens.values, types))
    fields, slots, per_row = pack_rows([rows], 3 * MAX_TOKENS, [row_types])
    return np.asarray(score(spec, params, fields, slots, per_row))


def test_round_trip_gives_equal_outputs(exported, spec, tokenizer):
    root, student, assistant = exported
    for name, params, run in (("student", student, embeddings), ("assistant", assistant, logits)):
        loaded_spec, loaded = load_pretrained(root / name, "float32")
        assert loaded_spec == spec
        assert set(loaded) == set(params)
        loaded_tokenizer = Tokenizer.load(root / name)
        assert loaded_tokenizer.content_hash == tokenizer.content_hash
        assert np.array_equal(run(loaded_spec, loaded, loaded_tokenizer), run(spec, params, tokenizer))


def test_files(exported):
    root, _, _ = exported
    modules = json.loads((root / "student" / "modules.json").read_text())
    assert [module["type"].rsplit(".")[-1] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    card = (root / "student" / "README.md").read_text()
    assert "license: apache-2.0" in card and "prefixes of 16, 32 coordinates" in card and "truncate_dim=16" in card
    card = (root / "assistant" / "README.md").read_text()
    assert "between 0 and 1" in card and "license: other" in card
    assert all(value.dtype == np.float32 for value in load_file(root / "assistant" / "model.safetensors").values())


def test_a_student_export_leaves_heads_out(spec, tokenizer, exported, tmp_path):
    export_student(tmp_path, spec, exported[2], tokenizer, MAX_TOKENS, (32,))
    assert set(load_pretrained(tmp_path, "float32")[1]) == {"encoder"}


def test_sizes_that_do_not_fit_are_named(spec, tokenizer, exported, tmp_path):
    with pytest.raises(ValueError, match="max_tokens is 41"):
        export_assistant(tmp_path, spec, exported[2], tokenizer, 41)
    small = dataclasses.replace(spec, vocab_size=spec.vocab_size - 1)
    with pytest.raises(ValueError, match=f"vocab_size is {small.vocab_size}"):
        export_assistant(tmp_path, small, exported[2], tokenizer, MAX_TOKENS)


@pytest.mark.peers
@pytest.mark.skipif(not PEERS.exists(), reason="run `make peers`")
def test_sentence_transformers_gives_equal_outputs(exported, spec, tokenizer, tmp_path):
    root, student, assistant = exported
    out = tmp_path / "out.npz"
    arguments = [str(root / "student"), str(root / "assistant"), json.dumps(TEXTS), str(out)]
    done = subprocess.run([str(PEERS), "-c", READ, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(out) as theirs:
        np.testing.assert_allclose(theirs["embeddings"], embeddings(spec, student, tokenizer), atol=1e-4)
        np.testing.assert_allclose(theirs["prefix"], embeddings(spec, student, tokenizer, 16), atol=1e-4)
        ours = logits(spec, assistant, tokenizer)
        np.testing.assert_allclose(theirs["logits"], ours, atol=1e-4)
        np.testing.assert_allclose(theirs["relevance"], 1 / (1 + np.exp(-ours)), atol=1e-4)
        assert list(theirs["limits"]) == [MAX_TOKENS, MAX_TOKENS]
