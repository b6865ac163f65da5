"""Scenarios: what is simulated, from a TOML file: networks with costs, streams of requests, noise, cases, policies.

Role: `load_scenario` reads and checks one file; `prepare` makes one run of it, ready to go: the real core under one
policy, with every request of every stream (`scenario_requests.py`) on the heap. Flow: TOML -> `Scenario` ->
`prepare(case, policy, seed)` -> `Simulation.run` -> `outcomes.py`. The same seed gives every policy the same arrivals,
bounds, inputs and weather.

Does not: run anything, or add up results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..clients.bounds import Bounds
from ..clients.toml_text import TomlFault, parse_toml_text
from ..policies.clock import device_clock
from ..policies.correction_rivals import correction
from ..policies.policy import PolicyError, depth_fault, make_policy
from ..policies.policy_options import expect, expect_within
from ..policies.rates import Terms, terms_fault
from .config import Limits
from .noise import NoiseSpec
from .scenario_networks import Network, Plan, check_network, networks_of
from .scenario_requests import Arrivals, Section, Stream, stream_requests
from .simulate import Simulation

DIRECTORY = Path(__file__).parent.parent / "policies" / "scenarios"
REQUESTS_MAX = 5_000_000


class ScenarioError(ValueError):
    """The scenario cannot be used: which file and key, what was expected."""


class ScenarioMissing(ScenarioError):
    """There is none."""


class Case(Section, frozen=True, kw_only=True):
    """One point of a scenario: its load, and what else differs from the scenario.

    `loads`: not one point but a curve over them, each a case called `name` with its load. `slower`: all networks take
    so many times as long, and their profiles say so. `networks`: fields of networks by name. `arrivals`: of all
    streams, or only of `tenants`. `rates`: of tenants, times those of their streams. `noise`, `hop_us`: instead of the
    scenario's. `curve`: the curve it is a point of, set for points of `loads`.
    """

    name: str
    load: float = 1.0
    loads: tuple[float, ...] = ()
    curve: str = ""
    slower: float = 1.0
    noise: NoiseSpec | None = None
    hop_us: int | None = None
    networks: Mapping[str, Mapping[str, Any]] = {}
    arrivals: Arrivals | None = None
    tenants: tuple[str, ...] = ()
    rates: Mapping[str, float] = {}


class PolicySpec(Section, frozen=True, kw_only=True):
    """A policy as this scenario runs it. `correction`: how it follows the device's slowdown."""

    name: str
    label: str = ""
    options: Mapping[str, Any] = {}
    correction: str = "conformal"

    @property
    def title(self) -> str:
        return self.label or self.name


class Tenant(Terms, frozen=True, kw_only=True):
    """What a tenant is promised. If no tenant is named, all share one part of the device, promised nothing."""

    name: str


class Scenario(Section, frozen=True, kw_only=True):
    """One committed experiment; `reason` says what it is there to show.

    `hop_us`: what a run costs beside the engine's time when the device was idle; `ahead_us`: how long before a run's
    end the next may be posted. `guard_us`, `guard_share`: taken off latency bounds by admission, 0 on a device without
    a way back; `hold_share`: how much of a request's time an answer at hand may wait. `clock_switch_us`: for how long a
    change of the GPU's clock keeps it from work, `clock_dwell_ms`: how long one is kept before a lower one.
    `warmup_s`: requests sent before it are not counted. `groups`: tenants whose figures together are reported under a
    name of their own.
    """

    name: str
    title: str
    reason: str
    duration_s: float
    warmup_s: float = 0.0
    seeds: int = 20
    hop_us: int = 0
    ahead_us: int = 0
    guard_us: int = 0
    guard_share: float = 0.0
    hold_share: float = 1.0
    queued_max: int = 100_000
    clock_switch_us: int = 0
    clock_dwell_ms: int = 0
    noise: NoiseSpec = NoiseSpec()
    networks: tuple[Network, ...]
    streams: tuple[Stream, ...]
    tenants: tuple[Tenant, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = {}
    cases: tuple[Case, ...] = (Case(name="all"),)
    policies: tuple[PolicySpec, ...] = (PolicySpec(name="stage-edf"),)
    directory: str = str(DIRECTORY)


def scenario_names() -> list[str]:
    """The committed ones."""
    return sorted(path.stem for path in DIRECTORY.glob("*.toml"))


def load_scenario(name: str) -> Scenario:
    """Read one by name, or a file by its path. What it does not say it takes from its `base`. Raises ScenarioError."""
    path = Path(name) if name.endswith(".toml") else DIRECTORY / f"{name}.toml"
    said, bases = _read(path, name), [path.stem]
    while (base := said.pop("base", None)) is not None:
        if base in bases:
            raise ScenarioError(f"{path}: its bases go round in a circle: {', '.join(bases)}, {base}")
        bases.append(base)
        said = {**_read(path.parent / f"{base}.toml", str(base)), **said}
    said.pop("directory", None)
    try:
        scenario = msgspec.convert(said, Scenario)
        _check(scenario)
    except (msgspec.ValidationError, ValueError) as error:
        raise ScenarioError(f"{path}: {error}") from None
    points = tuple(point for case in scenario.cases for point in _points(case))
    return msgspec.structs.replace(scenario, directory=str(path.parent), cases=points)


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        return parse_toml_text(path.read_bytes())
    except FileNotFoundError:
        raise ScenarioMissing(
            f"no scenario {name!r}; there are {', '.join(scenario_names())}, or give a file"
        ) from None
    except OSError as error:
        raise ScenarioMissing(f"cannot read {path}: {error.strerror}") from error
    except TomlFault as fault:
        raise ScenarioError(f"{path} is not TOML: {fault}") from fault


def prepare(
    scenario: Scenario, case: Case, policy: PolicySpec, seed: int, *, data: Path | None = None, check: bool = True
) -> Simulation:
    """One run, ready to go.

    Args:
        data: where trace files lie. check: test the core's invariants after every event.
    Raises:
        ScenarioError: a trace, profile or bundle that is not there or does not fit.
    """
    noise = scenario.noise if case.noise is None else case.noise
    hop_us = scenario.hop_us if case.hop_us is None else case.hop_us
    plan = Plan(policy.correction, scenario.guard_us, scenario.guard_share, scenario.hold_share, float(hop_us), noise)
    try:
        served, behaviours = networks_of(_networks(scenario, case), plan, Path(scenario.directory))
        chosen = make_policy(policy.name, policy.options)
    except (ValueError, PolicyError) as error:
        raise ScenarioError(f"{scenario.name}, {case.name}: {error}") from error
    fault = depth_fault(chosen, {network.name: network.costs.exit_count for network in served})
    if fault:
        raise ScenarioError(f"{scenario.name}, {case.name}: {fault}")
    simulation = Simulation(
        served,
        seed=seed,
        policy=chosen,
        limits=Limits(queued_max=scenario.queued_max, queued_bytes_max=2**40, sessions_max=1_000_000),
        noise=noise,
        behaviours=behaviours,
        hop_us=hop_us,
        ahead_us=scenario.ahead_us,
        tenants={tenant.name: tenant for tenant in scenario.tenants},
        check=check,
    )
    dwell_us = scenario.clock_dwell_ms * 1000
    simulation.server.view().clock = device_clock(served, scenario.clock_switch_us, dwell_us)
    for when_us, stream, bounds in requests(scenario, case, seed, data=data):
        simulation.ask(when_us, stream.tenant, bounds, stream.network)
    return simulation


def requests(
    scenario: Scenario, case: Case, seed: int, *, data: Path | None = None
) -> list[tuple[int, Stream, Bounds]]:
    """All requests of one run in the order they are sent: when, us; of which stream; with which bounds.

    Raises ScenarioError: a trace that is not there or too short, figures that make no arrivals, too many requests.
    """
    found: list[tuple[int, int, Bounds]] = []
    for position, stream in enumerate(scenario.streams):
        said = stream
        if case.arrivals is not None and (not case.tenants or stream.tenant in case.tenants):
            said = msgspec.structs.replace(stream, arrivals=case.arrivals)
        rate_hz = stream.rate * case.load * case.rates.get(stream.tenant, 1.0)
        rng = np.random.default_rng([seed, position])
        try:
            made = stream_requests(said, rate_hz, scenario.duration_s, rng, data)
        except (ValueError, OSError) as error:
            raise ScenarioError(f"{scenario.name}, {case.name}, tenant {stream.tenant}: {error}") from error
        found += [(when_us, position, bounds) for when_us, bounds in made]
        if len(found) > REQUESTS_MAX:
            raise ScenarioError(f"{scenario.name}, {case.name}: over {REQUESTS_MAX} requests; lower load or duration_s")
    found.sort(key=lambda request: request[:2])
    return [(when_us, scenario.streams[position], bounds) for when_us, position, bounds in found]


def needs_data(scenario: Scenario, case: Case) -> bool:
    """Whether it plays a trace, so that the directory of traces must be named."""
    others = [s for s in scenario.streams if case.arrivals is None or (case.tenants and s.tenant not in case.tenants)]
    kinds = {stream.arrivals.kind for stream in others} | ({case.arrivals.kind} if case.arrivals else set())
    return "trace" in kinds


def _networks(scenario: Scenario, case: Case) -> list[Network]:
    """The scenario's, with what the case changes."""
    known = [
        msgspec.convert({**msgspec.to_builtins(network), **case.networks.get(network.name, {})}, Network)
        for network in scenario.networks
    ]
    return [msgspec.structs.replace(network, slower=network.slower * case.slower) for network in known]


def _points(case: Case) -> list[Case]:
    """A case for each of its loads, or itself."""
    if not case.loads:
        return [case]
    return [
        msgspec.structs.replace(case, name=f"{case.name}={load:g}", curve=case.name, load=load, loads=())
        for load in case.loads
    ]


def _check(scenario: Scenario) -> None:
    """Raises ValueError: a figure out of its range, or a name nobody has; where, and what was expected."""
    expect_within(scenario, ("seeds", "queued_max"), 1)
    expect_within(scenario, ("hop_us", "ahead_us", "guard_us", "clock_switch_us", "clock_dwell_ms"), 0)
    expect("hold_share", scenario.hold_share, 0 <= scenario.hold_share <= 1, "0 to 1")
    expect("guard_share", scenario.guard_share, 0 <= scenario.guard_share < 1, "0 or more and below 1")
    expect("duration_s", scenario.duration_s, 0 < scenario.duration_s < math.inf, "a finite number above 0")
    within = 0 <= scenario.warmup_s < scenario.duration_s
    expect("warmup_s", scenario.warmup_s, within, "0 or more and less than duration_s")
    for key in ("streams", "cases", "policies"):
        expect(key, "empty", bool(getattr(scenario, key)), "at least one")
    for key in ("networks", "tenants", "cases"):
        _once(key, [each.name for each in getattr(scenario, key)])
    _once("policies", [spec.title for spec in scenario.policies])
    for stream in scenario.streams:
        if said := stream.fault(scenario.duration_s):
            raise ValueError(f"tenant {stream.tenant}: {said}")
    if said := _stranger(scenario):
        raise ValueError(said)
    for network in scenario.networks:
        check_network(network)
    for case in scenario.cases:
        try:
            _check_case(scenario, case)
        except ValueError as error:
            raise ValueError(f"case {case.name}: {error}") from None
    for spec in scenario.policies:
        make_policy(spec.name, spec.options)
        correction(spec.correction)


def _check_case(scenario: Scenario, case: Case) -> None:
    expect_within(case, ("load",), 0)
    expect("hop_us", case.hop_us, case.hop_us is None or case.hop_us >= 0, "0 or more")
    expect("loads", case.loads, all(0 <= load < math.inf for load in case.loads), "finite numbers, 0 or more")
    for tenant, rate in case.rates.items():
        expect(f"rates.{tenant}", rate, 0 <= rate < math.inf, "a finite number, 0 or more")
    said = case.arrivals.fault(scenario.duration_s) if case.arrivals else None
    if said:
        raise ValueError(said)
    try:
        changed = _networks(scenario, case)
    except msgspec.ValidationError as error:
        raise ValueError(f"networks: {error}") from None
    for network in changed:
        check_network(network)


def _stranger(scenario: Scenario) -> str | None:
    """Who is named but not there, in words; None when all are."""
    networks = {network.name for network in scenario.networks}
    for stream in scenario.streams:
        if stream.network not in networks:
            return f"tenant {stream.tenant} asks network {stream.network!r}; there are {', '.join(sorted(networks))}"
    tenants = {stream.tenant for stream in scenario.streams}
    for group, members in scenario.groups.items():
        if strangers := set(members) - tenants:
            return f"group {group} names tenant {strangers.pop()!r}; there are {', '.join(sorted(tenants))}"
    promised = {tenant.name: tenant for tenant in scenario.tenants}
    if said := terms_fault(promised):
        return said
    if promised and promised.keys() != tenants:
        return f"[[tenants]] are {', '.join(sorted(promised))}; streams are of {', '.join(sorted(tenants))}"
    for case in scenario.cases:
        if strangers := {*case.tenants, *case.rates} - tenants:
            return f"case {case.name} names tenant {strangers.pop()!r}; there are {', '.join(sorted(tenants))}"
        if unknown := set(case.networks) - networks:
            return f"case {case.name} changes network {unknown.pop()!r}; there are {', '.join(sorted(networks))}"
    return None


def _once(key: str, names: Sequence[str]) -> None:
    """Raises ValueError naming the first that is there twice."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{key}: {twice!r} is named twice")
