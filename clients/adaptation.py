"""How a tenant's requests adapt, beyond the bounds each of them has: a policy by name, and energy to make last.

Role: the record behind `adapt` on the wire and `adaptation` in a tenant's configuration. Pure, and importable by every
room, like `wire.py`. Does not: know networks or whether it can be held; that is the core's.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta, field

from .bounds import Conditions, Record, conditions_fault

Adapts: TypeAlias = Literal["none", "fixed", "conditions", "alert", "battery", "load"]
# Ten years: longer than any battery.
FOR_S_MAX = 10 * 366 * 86_400.0
# As many networks as conditions are told of at once; more is not even decoded.
NETWORK_COUNT_MAX = 64


class Adaptation(Record, frozen=True):
    """What holds for all requests of a tenant from now on, as far as their own bounds leave a choice.

    `policy`: `none`: bounds alone decide. `fixed`: to `exit`, no deeper and no shallower. `conditions`: stop by those
    of the network, where a request brings none. `alert`: the exit that is best by predicted time, accuracy and energy
    (ALERT, ATC'20). `battery`: as deep as the energy allows that is to last. `load`: shallower as more is asked.

    `energy_j`, `for_s`: so much energy for so long from now on, never more; `power_w`: on average so much. With
    `battery` they are spread over that time; without `energy_j` it is the device's own battery that is to last.
    """

    policy: Adapts = "none"
    exit: int | None = None
    conditions: Annotated[dict[str, Conditions], Meta(max_length=NETWORK_COUNT_MAX)] = field(default_factory=dict)
    energy_j: float | None = None
    for_s: float | None = None
    power_w: float | None = None


def adaptation_fault(adaptation: Adaptation) -> str | None:
    """What is wrong with it, in words for the tenant; None when nothing is."""
    for name, upper in (("energy_j", 1e12), ("power_w", 1e6), ("for_s", FOR_S_MAX)):
        value = getattr(adaptation, name)
        if value is not None and not (math.isfinite(value) and 0 < value <= upper):
            past = "; that time has passed already" if name == "for_s" and value <= 0 else ""
            return f"{name} is {value:g}; expected a finite number above 0 and at most {upper:g}{past}"
    if (adaptation.energy_j is None) != (adaptation.for_s is None):
        given, other = ("energy_j", "for_s") if adaptation.for_s is None else ("for_s", "energy_j")
        return f"{given} needs {other} beside it: so much energy for so long"
    if adaptation.policy == "fixed" and (adaptation.exit is None or adaptation.exit < 0):
        return f"fixed needs exit, from 0{'' if adaptation.exit is None else f'; it is {adaptation.exit}'}"
    if adaptation.policy != "fixed" and adaptation.exit is not None:
        return f"exit is for fixed, not for {adaptation.policy}"
    if adaptation.policy == "conditions" and not adaptation.conditions:
        return "conditions needs the conditions of at least one network"
    if adaptation.policy != "conditions" and adaptation.conditions:
        return f"conditions are for the policy of that name, not for {adaptation.policy}"
    if len(adaptation.conditions) > NETWORK_COUNT_MAX:
        return f"conditions for {len(adaptation.conditions)} networks; at most {NETWORK_COUNT_MAX} are allowed"
    for network, said in adaptation.conditions.items():
        if fault := conditions_fault(said):
            return f"{network!r:.80}: {fault}"
    return None


def adapts_names() -> tuple[str, ...]:
    """All policies there are."""
    return get_args(Adapts)


class Adapting(Record, frozen=True):
    """How a tenant's adaptation stands. `left_j`, `left_s`: of its energy and of the time that is to last; None: none.

    `allowed_w`: what may be drawn to the end; `drawn_j`: what was, since it was set. `exit`: where the last request was
    sent. `device`: it is the device's battery that is to last.
    """

    policy: Adapts = "none"
    left_j: float | None = None
    left_s: float | None = None
    allowed_w: float | None = None
    drawn_j: float = 0.0
    exit: int | None = None
    device: bool = False
