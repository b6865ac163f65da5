"""The protocol of policies, and all of them by name.

Role: a policy decides what an idle device runs next; the core carries it out. What the core does for it besides is
said by two flags, so that published rules run on the same core as they were published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from .clock import ClockEdf, ClockOptions
from .clockwork import Clockwork, ClockworkOptions
from .edgeserving import EdgeServing, EdgeServingOptions
from .fixed_exit import FixedExit, FixedExitOptions
from .latency_first import LatencyFirst, LatencyOptions
from .pools import View
from .rival_conditions import ConditionsOptions, DelenConditions
from .rival_runs import FixedDepth
from .slackfit import SlackFit, SlackFitOptions
from .stage_edf import StageEdf, StageOptions
from .view import Choice


class Policy(Protocol):
    """Decides the next run. Depends on nothing but its arguments and its own options.

    `admits`: requests whose mandatory work cannot be done in time are refused at once, with an offer.
    `demotes`: a request that became late waits until nobody else becomes late by it; else it keeps its place.
    `preempts`: runs are asked to give way to a deadline that could not wait for them.
    `by_arrival`: requests are queued in the order they came, not by deadline.
    `reactive`: bounds are conditions tested at every exit, as `exits.as_conditions` has it, and nothing is predicted.
    """

    name: str
    admits: bool
    demotes: bool
    preempts: bool
    by_arrival: bool
    reactive: bool

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        """Pick the next run, or None when nothing waits that should run.

        Args:
            view: the queue as it stands; never changed.
            now_us: monotonic microseconds, the same for the whole turn; when the device is free.
            run_id: what the run will be called.
        """
        ...


# What the core is built around.
FLAGS = ("admits", "demotes", "preempts", "by_arrival", "reactive")


class PolicyError(ValueError):
    """No such policy, or not with these options."""


def make_policy(name: str, options: Mapping[str, object] | None = None) -> Policy:
    """A policy by its name, with options as a configuration file has them. Raises PolicyError: what would be known."""
    known = _known()
    if name not in known:
        raise PolicyError(f"policy {name!r}; expected one of {', '.join(sorted(known))}")
    make, kind = known[name]
    try:
        return make(msgspec.convert(dict(options or {}), kind))
    except msgspec.ValidationError as error:
        wanted = ", ".join(kind.__struct_fields__) or "none"
        raise PolicyError(f"policy {name}: {error}; its options are: {wanted}") from None


def adopt_options(policy: Policy, options: Mapping[str, object]) -> bool:
    """Give a policy in use other options, as configured; what it remembered is forgotten with the old ones.

    Returns:
        False, with nothing changed, if the core was built around something that would change with them.
    Raises:
        PolicyError: it has no such options.
    """
    fresh = make_policy(policy.name, options)
    if any(getattr(fresh, flag) != getattr(policy, flag) for flag in FLAGS):
        return False
    vars(policy).update(vars(fresh))
    return True


def depth_fault(policy: Policy, exits: Mapping[str, int]) -> str | None:
    """An exit that the policy is told to serve at and that is not there, in words. `exits`: how many, by network."""
    options = getattr(policy, "options", None)
    if not isinstance(options, FixedDepth) or not exits:
        return None
    deepest = max(exits.values()) - 1
    if options.exit is not None and options.exit > deepest:
        return f"policy {policy.name}: exit is {options.exit}; expected 0 to {deepest}"
    for network, exit_index in options.exits.items():
        if network not in exits:
            return f"policy {policy.name}: exits.{network} is of no network here; there are {', '.join(exits)}"
        if exit_index >= exits[network]:
            return f"policy {policy.name}: exits.{network} is {exit_index}; expected 0 to {exits[network] - 1}"
    return None


def policy_names() -> list[str]:
    """All there are, the default first."""
    return list(_known())


def _known() -> dict[str, tuple[Callable[[Any], Policy], type[msgspec.Struct]]]:
    return {
        "stage-edf": (StageEdf, StageOptions),
        "latency-first": (LatencyFirst, LatencyOptions),
        "clock": (ClockEdf, ClockOptions),
        "delen-conditions": (DelenConditions, ConditionsOptions),
        "edgeserving": (EdgeServing, EdgeServingOptions),
        "slackfit": (SlackFit, SlackFitOptions),
        "clockwork": (Clockwork, ClockworkOptions),
        "fixed-exit": (FixedExit, FixedExitOptions),
    }
