"""How requests end under conditions in Dělen's form: on computation, from the bundle's manifest to the answer."""

from __future__ import annotations

import dataclasses

import pytest

from delen.clients.bounds import Bounds, Condition, ConditionSet, Operator
from delen.clients.wire import Answer
from delen.daemon.hosting import info
from delen.daemon.hosting import served as hosted
from delen.exits.bundle import Bundle, load_bundle, shipped_directory
from delen.exits.manifest import ExitEntry
from delen.policies.view import Served
from delen.tests.sample_profile import sample_profile
from delen.tests.simulation import Simulation, served


def stop_when(operator: Operator, gmac: float, exits: int = 3) -> Bounds:
    """The same condition on computation at every exit."""
    return Bounds(conditions=(ConditionSet(all_of=(Condition("computation", operator, gmac),)),) * exits)


def answered(network: Served, bounds: Bounds) -> tuple[int, str]:
    """Exit and reason of the one answer on an idle device."""
    simulation = Simulation([network])
    simulation.ask(0, "a", bounds, network.name)
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Answer), outcome.reply
    return outcome.reply.exit, outcome.reply.stop


@pytest.mark.parametrize(
    ("bounds", "exit_index", "stop"),
    [
        (stop_when("greater_eq", 0.5), 1, "condition"),
        (stop_when("greater", 0.5), 2, "condition"),
        (stop_when("less", 1.0), 0, "condition"),
        (stop_when("equal", 2.0), 2, "condition"),
        (stop_when("greater", 2.0), 2, "last_exit"),
    ],
)
def test_a_condition_on_computation_tests_the_gmac_of_the_exit_reached(
    bounds: Bounds, exit_index: int, stop: str
) -> None:
    network = dataclasses.replace(served(gates=False), gmac=(0.1, 0.5, 2.0))
    assert answered(network, bounds) == (exit_index, stop)


def test_a_condition_on_unknown_computation_never_stops_a_request() -> None:
    assert answered(served(gates=False), stop_when("greater_eq", 0.0)) == (2, "last_exit")


def test_the_gmac_of_a_bundle_reach_its_tenants_and_their_conditions() -> None:
    bundle, profile = load_bundle(shipped_directory() / "digits"), sample_profile()
    view = hosted(bundle, profile, 8)
    told = [entry.gmac for entry in info(bundle, profile, view).exits]
    assert told == [entry.gmac for entry in bundle.manifest.exits]
    first, second, _ = told
    assert first is not None
    assert second is not None
    assert answered(view, stop_when("greater", first)) == (1, "condition")
    assert answered(view, stop_when("greater", second)) == (2, "condition")


def test_where_one_exit_is_uncounted_tenants_see_the_others_and_conditions_see_none() -> None:
    shipped, profile = load_bundle(shipped_directory() / "digits"), sample_profile()
    exits = (ExitEntry(accuracy=0.8, temperature=1.0), *shipped.manifest.exits[1:])
    fields = {name: getattr(shipped.manifest, name) for name in shipped.manifest.__struct_fields__}
    bundle = Bundle(shipped.directory, type(shipped.manifest)(**{**fields, "exits": exits}), shipped.digest)
    view = hosted(bundle, profile, 8)
    assert view.gmac is None
    assert [entry.gmac is None for entry in info(bundle, profile, view).exits] == [True, False, False]
