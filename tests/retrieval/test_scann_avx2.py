"""ScaNN by AVX2: it is used where the processor has it, and finds what ScaNN finds without it."""

import ctypes.util

import numpy as np
import pytest

from distill.retrieval import scann_avx2, scann_native
from distill.retrieval.keyphrase_index import KeyphraseIndex
from distill.retrieval.scann_index import build_index
from tests.retrieval.instructions import searching_by

needs_avx2 = pytest.mark.skipif(not scann_avx2.processor_has_avx2(), reason="this processor has no AVX2")


def unit(count, seed, width=48):
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@needs_avx2
def test_it_is_on_where_the_processor_has_it():
    switch = scann_avx2.avx2_switch(scann_native._scann().scann_pybind.__file__)
    assert switch is not None and switch.value


@needs_avx2
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("tree", [False, True])
def test_both_find_the_same(tree, dtype, tmp_path):
    vectors, queries = unit(4000, 0), unit(700, 1)
    options = {"brute_force_below": 0 if tree else 10_000, "target_recall": 0.8, "dtype": dtype, "seed": 0}
    for number, (built_by, searched_by) in enumerate([(False, True), (True, False)]):
        with searching_by(avx2=built_by):
            index = build_index(vectors, sample_queries=queries[:100], recall_at=10, **options)
            wanted, scores = index.search(queries, 10)
            index.save(tmp_path / str(number))
        with searching_by(avx2=searched_by):
            found, again = KeyphraseIndex.load(tmp_path / str(number)).search(queries, 10)
        assert index.settings.method == ("tree_ah" if tree else "brute_force")
        if tree:  # candidates of one coarse score are told apart by the order in which they come, as in other batches
            kept = [len(np.intersect1d(one, other)) for one, other in zip(found, wanted)]
            assert np.mean(kept) > 9.9 and np.mean(again) == pytest.approx(np.mean(scores), abs=1e-3)
        else:
            np.testing.assert_allclose(again, scores, atol=1e-6)
            assert np.mean(found == wanted) > 0.999  # but for scores that are equal to the last digits


def test_without_the_variable_nothing_happens():
    assert not scann_avx2.use_avx2(ctypes.util.find_library("c"))
    assert not scann_avx2.use_avx2("/nowhere/library.so")


def test_flags_of_a_processor(tmp_path):
    (tmp_path / "x86").write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx2 fma\n\nflags\t\t: fpu\n")
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert scann_avx2.processor_flags(tmp_path / "x86") == {"fpu", "sse4_2", "avx2", "fma"}
    assert scann_avx2.processor_flags(tmp_path / "arm") == scann_avx2.processor_flags(tmp_path / "no") == set()
