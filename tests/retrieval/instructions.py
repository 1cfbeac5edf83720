"""Which instructions ScaNN searches by, for tests that compare them or that compare with ScaNN's TensorFlow ops."""

import contextlib
from collections.abc import Iterator

from distill.retrieval import scann_native
from distill.retrieval.scann_avx2 import avx2_switch


@contextlib.contextmanager
def searching_by(*, avx2: bool) -> Iterator[None]:
    """Sets the variable that `distill.retrieval.scann_avx2` sets, and restores it."""
    switch = avx2_switch(scann_native._scann().scann_pybind.__file__)
    assert switch is not None
    before, switch.value = switch.value, avx2
    try:
        yield
    finally:
        switch.value = before
