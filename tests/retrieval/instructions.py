"""Which instructions ScaNN searches by, for tests that compare them or that compare with ScaNN's TensorFlow ops."""

import contextlib
import ctypes
from collections.abc import Iterator

from distill.retrieval import scann_avx2, scann_native


@contextlib.contextmanager
def searching_by(*, avx2: bool) -> Iterator[None]:
    """Sets the variable that `distill.retrieval.scann_avx2` sets, and restores it."""
    library = scann_native._scann().scann_pybind.__file__
    switch = ctypes.c_bool.in_dll(ctypes.CDLL(library), scann_avx2._SYMBOL)
    before, switch.value = switch.value, avx2
    try:
        yield
    finally:
        switch.value = before
