import hashlib

import numpy as np
import pytest

from distill.retrieval import vectors as module
from distill.retrieval.vectors import blocks, check_vectors, hash_vectors, prefix, save_vectors


@pytest.fixture(autouse=True, params=[64, 64 << 20], ids=["two rows a block", "one block"])
def _block(request, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", request.param)


@pytest.fixture
def unit():
    vectors = np.random.default_rng(0).normal(size=(7, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_blocks_hold_every_row_once(unit):
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks(unit)]), unit)
    assert [start for start, _ in blocks(unit)] == ([0, 2, 4, 6] if module.BLOCK_BYTES == 64 else [0])


def test_good_vectors_come_back_uncopied_also_from_a_file(unit, tmp_path):
    assert check_vectors("x", unit, unit=True) is unit
    save_vectors(tmp_path / "x.npy", unit)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.shares_memory(check_vectors("x", mapped, width=8, unit=True), mapped)
    np.testing.assert_array_equal(mapped, unit)
    turned = check_vectors("x", np.asfortranarray(unit))
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, unit)


def test_the_row_at_fault_is_named(unit):
    for value, words in ((np.nan, "row 5 holds NaN"), (np.inf, "row 5 holds NaN"), (9.0, "row 5 has length 9")):
        bad = unit.copy()
        bad[5, 3] = value
        with pytest.raises(ValueError, match=f"x: {words}"):
            check_vectors("x", bad, unit=True)
    with pytest.raises(ValueError, match="x: row 6 has length 0"):
        check_vectors("x", np.concatenate([unit[:6], np.zeros((1, 8), np.float32)]), unit=True)


def test_a_prefix_is_cut_and_made_unit_again(unit):
    cut = prefix(unit, 3)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(cut * np.linalg.norm(unit[:, :3], axis=1, keepdims=True), unit[:, :3], atol=1e-6)
    assert cut.dtype == np.float32 and cut.flags.c_contiguous
    np.testing.assert_array_equal(prefix(np.eye(4, dtype=np.float32)[3:], 2), np.zeros((1, 2)))  # no direction left
    with pytest.raises(ValueError, match="width: 9"):
        prefix(unit, 9)


def test_the_hash_is_that_of_the_bytes(unit):
    assert hash_vectors(unit) == hashlib.sha256(unit.astype("<f4").tobytes()).hexdigest()
