"""Of noisy validations the last step is kept, unless another is clearly better."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.train.selection import Validated, preference


@pytest.mark.parametrize(
    ("validations", "order"),
    [
        ({}, []),
        ({4: (0.5, 0.0)}, [4]),
        ({1: (0.74, 0.02), 2: (0.70, 0.02), 3: (0.73, 0.02)}, [3, 1, 2]),  # .01 is within the best one's error
        ({1: (0.74, 0.005), 2: (0.70, 0.005), 3: (0.73, 0.005)}, [1, 3, 2]),
        ({1: (0.74, 0.005), 2: (0.70, 0.9), 3: (0.73, 0.9)}, [1, 3, 2]),  # the best one's error decides
        ({2: (0.75, 0.25), 3: (0.5, 0.0)}, [3, 2]),  # exactly one error below
        ({1: (0.9, 0.0), 2: (0.9, 0.0), 3: (0.1, 0.0)}, [2, 1, 3]),  # of equal ones the later
        ({3: (0.1, 0.5), 1: (0.9, 0.0)}, [1, 3]),  # steps need no order
    ],
)
def test_by_hand(validations, order):
    assert preference({step: Validated(*figures) for step, figures in validations.items()}) == order


figures = st.builds(Validated, st.floats(0, 1), st.floats(0, 0.5))


@given(st.dictionaries(st.integers(1, 50), figures, min_size=1))
def test_every_step_stands_once_and_the_first_is_the_last_or_the_best(validations):
    order = preference(validations)
    assert sorted(order) == sorted(validations)
    best = max(v.value for v in validations.values())
    first = validations[order[0]]
    assert order[0] == max(validations) or first.value == best
    others = [validations[step].value for step in order[1:]]
    assert others == sorted(others, reverse=True)
