"""What callers hand in: bounds by keyword, and arrays that fit or are refused with how to mend them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.errors import BadRequest
from delen.clients.inputs import bounds_of, input_tensor
from delen.tests.fake_daemon import PHOTO, TOY

SETS = [ConditionSet(all_of=(Condition("exit", "equal", 1.0),)), None]
INTEGERS = msgspec.structs.replace(TOY, name="integers", dtype="uint8")


def test_bounds_are_taken_by_name_and_numbers_of_numpy_too() -> None:
    assert bounds_of({}) == Bounds()
    assert bounds_of({"latency_ms": 20}) == Bounds(latency_ms=20.0)
    assert bounds_of({"latency_ms": float(2), "accuracy": None}) == Bounds(latency_ms=2.0, accuracy=None)
    of_numpy: Any = {"latency_ms": np.float32(0.5), "accuracy": np.float64(0.25)}
    assert bounds_of(of_numpy) == Bounds(latency_ms=0.5, accuracy=0.25)
    assert bounds_of({"conditions": SETS}) == Bounds(conditions=tuple(SETS))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"latncy_ms": 20}, "latncy_ms"),
        ({"latency_ms": "20"}, "latency_ms"),
        ({"latency_ms": -1}, "latency_ms is -1"),
        ({"accuracy": float("nan")}, "accuracy is nan"),
        ({"objective": "speed"}, "speed"),
        ({"accuracy": 0.9, "conditions": SETS}, "conditions replace accuracy"),
        ({"conditions": []}, "no test"),
    ],
)
def test_bounds_that_cannot_be_are_refused_before_anything_is_sent(arguments: Any, word: str) -> None:
    with pytest.raises(BadRequest, match=word) as caught:
        bounds_of(arguments)
    assert caught.value.code == "bounds"


@pytest.mark.parametrize(
    "x",
    [
        np.ones((1, 2, 2), np.float32),
        np.ones((1, 2, 2), np.float64),
        np.ones((1, 2, 2), np.float16),
        np.ones((1, 2, 2), ">f4"),
        np.ones((2, 2, 1), np.float32).T,
        [[[1, 1], [1, 1]]],
        [[[1.0, 1], [1, 1]]],
    ],
    ids=["exact", "wider", "narrower", "big-endian", "not contiguous", "integers in lists", "floats in lists"],
)
def test_what_loses_nothing_but_digits_is_converted(x: Any) -> None:
    tensor = input_tensor(TOY, x)
    assert tensor.dtype == np.dtype("<f4")
    assert tensor.flags.c_contiguous
    assert tensor.tolist() == [[[1.0, 1.0], [1.0, 1.0]]]


def test_an_array_that_fits_is_not_copied() -> None:
    x = np.ones((1, 2, 2), np.float32)
    assert input_tensor(TOY, x) is x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ones((1, 1, 2, 2), np.float32), r"pass x\[0\]"),
        (np.ones((5, 1, 2, 2), np.float32), "one input per request"),
        (np.ones((2, 2), np.float32), r"pass x\[None\]"),
        (np.ones((4,), np.float32), r"expects \(1, 2, 2\)"),
        (3.0, r"expects \(1, 2, 2\)"),
    ],
)
def test_a_wrong_shape_is_refused_with_what_to_do(x: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        input_tensor(TOY, x)
    assert caught.value.code == "shape"


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ones((1, 2, 2), np.uint8), "scaled|pictures"),
        (np.ones((1, 2, 2), np.int64), "float32"),
        (np.ones((1, 2, 2), np.complex64), "astype"),
        (np.array([[[None, 1], [2, 3]]]), "object"),
        ([[["a", 1], [2, 3]]], "list is no input"),
        ([[[1], [2, 3]]], "list is no input"),
    ],
)
def test_a_wrong_dtype_is_refused_with_what_to_do(x: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        input_tensor(TOY, x)
    assert caught.value.code == "dtype"


@pytest.mark.parametrize("x", [[[[256, 0], [0, 0]]], [[[-1, 0], [0, 0]]], [[[0.5, 0], [0, 0]]]])
def test_numbers_an_integer_network_cannot_hold_are_refused(x: Any) -> None:
    with pytest.raises(BadRequest):
        input_tensor(INTEGERS, x)


def test_numbers_an_integer_network_can_hold_are_taken() -> None:
    assert input_tensor(INTEGERS, [[[255, 0], [1, 2]]]).dtype == np.uint8


def test_a_picture_of_bytes_is_told_the_preprocessing_it_needs() -> None:
    with pytest.raises(BadRequest, match="value \\* 1"):
        input_tensor(PHOTO, np.zeros((3, 224, 224), np.uint8))
