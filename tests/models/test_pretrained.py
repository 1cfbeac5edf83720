"""Against PyTorch and transformers, through the files of tools/make_golden.py."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from distill.data.tokenizing import Tokenizer
from distill.models.pretrained import PretrainedError, load_pretrained, to_hugging_face
from tests.models.helpers import embed, encode, pack_rows, score

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def packed(expected):
    """The golden texts, two in a row."""
    cut = [[row[:n] for row, n in zip(expected[name], expected["lengths"])] for name in ("tokens", "types")]
    rows = [[texts[0:2], texts[2:4], texts[4:5]] for texts in cut]
    return pack_rows(rows[0], 30, rows[1])


def test_bert_hidden_states_and_embeddings(expected, packed):
    fields, slots, per_row = packed
    spec, params = load_pretrained(GOLDEN / "bert", "float32")
    hidden = np.asarray(encode(spec, params["encoder"], fields))
    order = [(r, s) for r in range(3) for s in range(1, fields.segments[r].max() + 1)]
    for (row, segment), length, want in zip(order, expected["lengths"], expected["hidden"]):
        np.testing.assert_allclose(hidden[row][fields.segments[row] == segment], want[:length], atol=1e-4)
    out = embed(spec, params, fields, slots, per_row)
    np.testing.assert_allclose(out, expected["embeddings"], atol=1e-4)


def test_classifier_logits(expected, packed):
    fields, slots, per_row = packed
    spec, params = load_pretrained(GOLDEN / "classifier", "float32")
    np.testing.assert_allclose(score(spec, params, fields, slots, per_row), expected["logits"], atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "classifier"])
def test_tensors_come_back_bit_for_bit(name):
    _, params = load_pretrained(GOLDEN / name, "float32")
    ours, theirs = to_hugging_face(params), load_file(GOLDEN / name / "model.safetensors")
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def rewrite(directory: Path, change_tensors=lambda t: t, **config) -> Path:
    """A copy of the golden BERT with other tensors or another config."""
    shutil.copytree(GOLDEN / "bert", directory, dirs_exist_ok=True)
    save_file(change_tensors(load_file(directory / "model.safetensors")), directory / "model.safetensors")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return directory


def test_prefixes_old_names_and_pretraining_heads(tmp_path):
    def old(tensors):
        tensors = {
            "bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for k, v in tensors.items()
        }
        return {
            **tensors,
            "cls.predictions.bias": np.zeros(50, np.float32),
            "bert.embeddings.position_ids": np.zeros((1, 24), np.int64),
            "classifier.weight": np.zeros((3, 32), np.float32),
            "classifier.bias": np.zeros(3, np.float32),
        }

    _, params = load_pretrained(rewrite(tmp_path, old), "float32")
    _, plain = load_pretrained(GOLDEN / "bert", "float32")
    assert jax.tree.all(jax.tree.map(np.array_equal, params, plain))


def test_shards_and_half_precision(tmp_path):
    directory = rewrite(tmp_path)
    tensors = {
        k: np.asarray(jnp.asarray(v, jnp.bfloat16)) for k, v in load_file(directory / "model.safetensors").items()
    }
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    _, params = load_pretrained(directory, "float32")
    _, plain = load_pretrained(GOLDEN / "bert", "float32")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), params, plain)
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002"):
        load_pretrained(directory, "float32")


def test_first_layers_only():
    spec, params = load_pretrained(GOLDEN / "bert", "bfloat16", layers=1)
    assert spec.layers == 1 and list(params["encoder"]["layers"]) == ["0"] and spec.compute_dtype == "bfloat16"
    with pytest.raises(PretrainedError, match="layers is 3"):
        load_pretrained(GOLDEN / "bert", "float32", layers=3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"vocab_size": 51}, r"word_embeddings.weight has shape \(50, 32\)"),
        ({"num_hidden_layers": 3}, "encoder.layer.2.attention.self.query.weight is missing"),
        ({"num_hidden_layers": 1}, "encoder.layer.1.attention.output.LayerNorm.bias is unknown"),
    ],
)
def test_unsupported_configs_are_named(tmp_path, config, message):
    with pytest.raises(PretrainedError, match=message):
        load_pretrained(rewrite(tmp_path, **config), "float32")


def test_missing_pooler_is_left_out(tmp_path):
    without = rewrite(tmp_path, lambda t: {k: v for k, v in t.items() if not k.startswith("pooler")})
    assert set(load_pretrained(without, "float32")[1]) == {"encoder"}


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        load_pretrained(tmp_path / "absent", "float32")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_pretrained(tmp_path, "float32")
    shutil.copy(GOLDEN / "bert" / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="pickle"):
        load_pretrained(tmp_path, "float32")


@pytest.mark.skipif("MINILM" not in os.environ, reason="set MINILM to a directory of all-MiniLM-L6-v2")
def test_all_minilm_l6_v2():
    directory = os.environ["MINILM"]
    with np.load(GOLDEN / "minilm.npz") as file:
        sentences, want = [str(s) for s in file["sentences"]], file["embeddings"]
    spec, params = load_pretrained(directory, "float32")
    ragged = Tokenizer.load(directory).encode_texts(sentences, 64)
    texts = np.split(ragged.values, ragged.offsets[1:-1])
    fields, slots, per_row = pack_rows([texts[:3], texts[3:]], 64)
    np.testing.assert_allclose(embed(spec, params, fields, slots, per_row), want, atol=1e-4)
