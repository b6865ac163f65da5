"""What a caller hands in, made fit for the wire: bounds from keyword arguments, one input tensor from an array.

Role: strict but helpful. A mistake is found here, before anything is sent, and the text says how to mend it.
Does not: read files (pictures.py, conditions.py) or know whether bounds can be met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import msgspec
import numpy as np

from .adaptation import Adaptation, Adapts, adaptation_fault, adapts_names
from .bounds import Bounds, Certifies, ConditionSet, Objective, OnMiss, bounds_fault
from .errors import BadRequest
from .info import NetworkInfo
from .wire import Array

NO_BOUNDS = Bounds()
Conditions: TypeAlias = Sequence["ConditionSet | None"]
# Input as callers have it: an array, or nested lists of numbers.
InputLike: TypeAlias = "Array | Sequence[Any] | float"


class BoundArguments(TypedDict, total=False):
    """The keyword arguments that set bounds: see `bounds.Bounds` for their meaning and units."""

    latency_ms: float | None
    accuracy: float | None
    energy_mj: float | None
    certainty: float
    certificate: Certifies
    objective: Objective | None
    on_miss: OnMiss
    conditions: Conditions | None


class InferArguments(BoundArguments, total=False):
    """What may be said with one request: bounds, and the caller's place in a W3C trace."""

    traceparent: str


class AdaptArguments(TypedDict, total=False):
    """The keyword arguments of an adaptation: see `adaptation.Adaptation` for their meaning and units."""

    exit: int
    conditions: Mapping[str, Conditions]
    energy_j: float
    for_s: float
    power_w: float


def adaptation_of(policy: Adapts | None, arguments: AdaptArguments) -> Adaptation | None:
    """An adaptation from keyword arguments; None where no policy is named. Raises BadRequest: `adaptation`."""
    if policy is None:
        if arguments:
            raise BadRequest(f"{', '.join(arguments)} without a policy; name one", code="adaptation")
        return None
    said: dict[str, Any] = {"policy": policy, **arguments}
    if "conditions" in said:
        said["conditions"] = {network: tuple(sets) for network, sets in said["conditions"].items()}
    try:
        adaptation = msgspec.convert(said, Adaptation)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{error}; policies are {', '.join(adapts_names())}", code="adaptation") from None
    fault = adaptation_fault(adaptation)
    if fault:
        raise BadRequest(fault, code="adaptation")
    return adaptation


def bounds_of(arguments: BoundArguments) -> Bounds:
    """Bounds from keyword arguments.

    Raises:
        BadRequest: `bounds`, for an unknown name, a wrong type or a wrong value.
    """
    if not arguments:
        return NO_BOUNDS
    values = {name: v.item() if isinstance(v, np.generic) else v for name, v in arguments.items()}
    if isinstance(values.get("conditions"), list):
        values["conditions"] = tuple(arguments["conditions"] or ())
    try:
        bounds = msgspec.convert(values, Bounds)
    except msgspec.ValidationError as error:
        known = ", ".join(Bounds.__struct_fields__)
        raise BadRequest(f"{error}; bounds are {known}", code="bounds") from None
    fault = bounds_fault(bounds)
    if fault:
        raise BadRequest(fault, code="bounds")
    return bounds


def input_tensor(info: NetworkInfo, x: InputLike) -> Array:
    """`x` as the network wants it: its exact shape without batch, its dtype, little-endian, contiguous.

    Converted silently only where nothing can be lost but digits: numbers in lists, and floats of another width.
    An array of integers for a network of floats is refused, since it most likely is a picture not yet scaled.

    Raises:
        BadRequest: `shape` or `dtype`, saying what the network expects.
    """
    want = np.dtype(info.dtype).newbyteorder("<")
    tensor = x if isinstance(x, np.ndarray) else _from_numbers(info, x)
    if tensor.shape != info.shape:
        raise BadRequest(_shape_fault(info, tensor.shape), code="shape")
    if tensor.dtype != want:
        if not ((tensor.dtype.kind == "f" and want.kind == "f") or tensor.dtype.newbyteorder("<") == want):
            raise BadRequest(_dtype_fault(info, tensor.dtype), code="dtype")
        tensor = tensor.astype(want)
    return tensor if tensor.flags.c_contiguous else np.ascontiguousarray(tensor)


def _from_numbers(info: NetworkInfo, x: InputLike) -> Array:
    try:
        numbers = np.asarray(x)
        tensor = numbers.astype(info.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        fault = f"{type(x).__name__} is no input for {info.name}: {error}; expected an array or nested lists of numbers"
        raise BadRequest(fault, code="dtype") from None
    if tensor.dtype.kind in "iu" and not np.array_equal(tensor, numbers):
        raise BadRequest(f"numbers that {info.dtype} cannot hold; {info.name} expects {info.dtype}", code="dtype")
    return tensor


def _shape_fault(info: NetworkInfo, shape: tuple[int, ...]) -> str:
    text = f"an input of shape {shape}; {info.name} expects {info.shape}"
    if shape[1:] == info.shape:
        return text + (", without a batch axis: pass x[0]" if shape[0] == 1 else ": send one input per request")
    if shape == info.shape[1:] and info.shape[0] == 1:
        return text + ": pass x[None]"
    return text


def _dtype_fault(info: NetworkInfo, dtype: np.dtype[Any]) -> str:
    text = f"an input of {dtype}; {info.name} expects {info.dtype}"
    if dtype.kind in "iu" and np.dtype(info.dtype).kind == "f":
        steps = info.preprocessing
        return (
            f"{text}: (value * {steps.scale:g} - {list(steps.mean)}) / {list(steps.std)}; "
            "use delen.clients.pictures, or x.astype if that is done already"
        )
    return f"{text}: convert it with x.astype({info.dtype!r})"
