"""What engines refuse at their edges, without an engine."""

from __future__ import annotations

import numpy as np
import pytest

from delen.exits.engine_checks import check_batch
from delen.exits.manifest import TensorShape
from delen.exits.runner import EngineFault

TAKEN = TensorShape(dtype="float32", shape=(3, 4))


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_the_row_that_is_not_finite_is_named(bad: float) -> None:
    images = np.ones((5, 3, 4), np.float32)
    images[2, 1, 3] = bad
    with pytest.raises(EngineFault, match="row 2 ") as caught:
        check_batch(images, TAKEN, 8)
    assert caught.value.kind == "input"


def test_values_whose_sum_overflows_are_finite() -> None:
    check_batch(np.full((2, 3, 4), 3e38, np.float32), TAKEN, 8)
    check_batch(np.full((2, 3, 4), -3e38, np.float32), TAKEN, 8)


def test_whole_numbers_need_no_look() -> None:
    check_batch(np.ones((1, 3, 4), np.uint8), TensorShape(dtype="uint8", shape=(3, 4)), 8)
