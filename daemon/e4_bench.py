"""E4 on the real daemon against E4 in simulation: the same tenants, arrivals and bounds; do the same things come of it?

Role: `delen bench e4`. Flow: profile the network -> every load with every seed on a daemon of its own, counted by the
daemon's own clock -> off its journal, when requests were read and what runs took on the engine and beside it
(`weather.py`) -> the same load and seed in simulation, in that weather -> medians side by side. The weather is that of
each run, since neighbours on the machine come and go. It says nothing of what is compared: who waits for whom, who is
refused, and how deep each goes.

Does not: tune anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from ..clients.wire import VERSION, Answer, Failure, Frames, Infer, Refusal, TensorSpec, encode
from ..exits.bundle import load_bundle, shipped_directory
from ..exits.samples import load_samples, prepare
from ..profiles.measure import measure
from ..profiles.meters import best_meter
from ..profiles.store import write_profile
from .config import Config
from .engines import make_runner
from .journal import read_journal
from .noise import NoiseSpec
from .outcomes import measured
from .scenario import Case, PolicySpec, Scenario, Tenant, load_scenario, requests
from .scenario import prepare as simulated
from .weather import DeviceObserved, Weather, observe

NETWORK = "fashion"
RUNS = 5
VIOLATIONS_APART_MAX, EXIT_APART_MAX = 1.0, 0.2

Progress: TypeAlias = Callable[[int, int, str], None]
# What `clients/open_loop.py` does: messages (when us, tenant, frames) -> ends by (tenant, id), how late each was sent.
Ends: TypeAlias = Mapping[tuple[str, bytes], Answer | Refusal | Failure]
Play: TypeAlias = Callable[[Sequence[tuple[int, str, Frames]]], tuple[Ends, Sequence[int]]]
# Tenants, networks, state directory, journal -> a daemon of these, for as long as the block lasts.
Playing: TypeAlias = Callable[[Sequence[str], Sequence[str], Path, Path | None], AbstractContextManager[Play]]


class Figures(msgspec.Struct, frozen=True):
    """What came of one run: percentages of all requests after the warm-up; `mean_exit` of those answered."""

    violations_pct: float
    refused_pct: float
    mean_exit: float


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One load: medians over runs, and every run. `agrees`: violations within a point, mean exit within 0.2.

    Of the real runs, medians: `slower` and `hop_us`, engine time over the profile's and what a run took beside it, each
    median and p99; `busy`, the share of time in which the device had a run.
    """

    load: float
    busy: float
    slower: tuple[float, float]
    hop_us: tuple[float, float]
    real: Figures
    simulated: Figures
    agrees: bool
    real_runs: tuple[Figures, ...]
    simulated_runs: tuple[Figures, ...]


class E4Report(msgspec.Struct, frozen=True):
    """`delen bench e4`. `late_p99_us`: how late the load generator sent, over all runs."""

    late_p99_us: int
    loads: tuple[Compared, ...]


class Run(NamedTuple):
    """One load and seed, both ways, and the weather of both."""

    real: Figures
    simulated: Figures
    weather: DeviceObserved


class _Inputs(NamedTuple):
    spec: TensorSpec
    payloads: list[bytes]


def bench_e4(playing: Playing, runs: int = RUNS, on_progress: Progress = lambda done, total, label: None) -> E4Report:
    """Run it all; about five minutes. `on_progress`: steps done, in all, and the one that begins."""
    scenario = load_scenario("e4")
    total = 1 + 2 * runs * len(scenario.cases)
    steps = count()
    tenants = sorted({stream.tenant for stream in scenario.streams})
    found: dict[str, list[Run]] = {case.name: [] for case in scenario.cases}
    late_us: list[int] = []
    with TemporaryDirectory(prefix="delen-e4-") as scratch:
        state, journal = Path(scratch) / "state", Path(scratch) / "journal"
        on_progress(next(steps), total, "profile")
        profile = _profile(state)
        for seed, case in product(range(runs), scenario.cases):
            on_progress(next(steps), total, f"{case.name}, run {seed + 1}")
            with playing(tenants, [NETWORK], state, journal) as play:
                ends, late = play(_messages(scenario, case, seed))
            late_us += late
            real, weather = _figures(scenario, case, seed, ends), observe(read_journal(journal))
            on_progress(next(steps), total, f"{case.name}, simulation {seed + 1}")
            found[case.name].append(Run(real, _simulated(scenario, case, seed, profile, weather), weather))
    loads = tuple(compared(case.load, found[case.name]) for case in scenario.cases)
    return E4Report(sorted(late_us)[int(0.99 * len(late_us))], loads)


def compared(load: float, runs: Sequence[Run]) -> Compared:
    """Medians of both, and whether they agree."""
    real, virtual = _median([run.real for run in runs]), _median([run.simulated for run in runs])
    close = abs(real.violations_pct - virtual.violations_pct) <= VIOLATIONS_APART_MAX
    close = close and abs(real.mean_exit - virtual.mean_exit) <= EXIT_APART_MAX
    seen = [run.weather for run in runs]
    return Compared(
        load=load,
        busy=median(weather.busy for weather in seen),
        slower=(median(weather.slower for weather in seen), median(weather.slower_p99 for weather in seen)),
        hop_us=(median(weather.hop_us for weather in seen), median(weather.hop_p99_us for weather in seen)),
        real=real,
        simulated=virtual,
        agrees=close,
        real_runs=tuple(run.real for run in runs),
        simulated_runs=tuple(run.simulated for run in runs),
    )


def _median(runs: Sequence[Figures]) -> Figures:
    return Figures(*(median(getattr(run, name) for run in runs) for name in Figures.__struct_fields__))


def _profile(state: Path) -> Path:
    """Measure the network as the daemon would run it, and put it where the daemon finds it."""
    config = Config()
    runner = make_runner(config.engine, config.device, config.threads)
    bundle = load_bundle(shipped_directory() / NETWORK)
    return write_profile(state, measure(runner, bundle, meter=best_meter(), samples=load_samples(NETWORK)))


# ---- the real daemon


def _messages(scenario: Scenario, case: Case, seed: int) -> list[tuple[int, str, Frames]]:
    """Every request, ready to be sent."""
    inputs = _inputs()
    messages: list[tuple[int, str, Frames]] = []
    for index, (when_us, stream, bounds) in enumerate(requests(scenario, case, seed)):
        infer = Infer(VERSION, _request_id(seed, case, index), stream.network, (inputs.spec,), bounds)
        payload = inputs.payloads[index % len(inputs.payloads)]
        messages.append((when_us, stream.tenant, encode(infer, (payload,))))
    return messages


def _request_id(seed: int, case: Case, index: int) -> bytes:
    return f"{case.name}/{seed}/{index}".encode()


def _inputs() -> _Inputs:
    """The shipped test images, in an order that does not sort them by class."""
    manifest = load_bundle(shipped_directory() / NETWORK).manifest
    images = prepare(load_samples(NETWORK).images, manifest.preprocessing)
    return _Inputs(TensorSpec("float32", images.shape[1:]), [image.tobytes() for image in images])


def _figures(scenario: Scenario, case: Case, seed: int, ends: Ends) -> Figures:
    sent = [
        ends[stream.tenant, _request_id(seed, case, index)]
        for index, (when_us, stream, _) in enumerate(requests(scenario, case, seed))
        if when_us >= scenario.warmup_s * 1e6
    ]
    answers = [end for end in sent if isinstance(end, Answer)]
    met = sum(1 for answer in answers if not answer.broken)
    refused = sum(1 for end in sent if isinstance(end, Refusal))
    return Figures(
        violations_pct=100 * (len(sent) - met) / len(sent),
        refused_pct=100 * refused / len(sent),
        mean_exit=sum(answer.exit for answer in answers) / max(1, len(answers)),
    )


# ---- the same in simulation


def _simulated(scenario: Scenario, case: Case, seed: int, profile: Path, weather: DeviceObserved) -> Figures:
    """The scenario on a device like this one, its requests when they were read; the profile is for the core to correct.

    The daemon was told the tenants' names and nothing else, so each has its part of the device.
    """
    like = replace(
        scenario,
        networks=(replace(scenario.networks[0], profile=str(profile)),),
        streams=(),
        tenants=tuple(Tenant(name=name) for name in sorted({stream.tenant for stream in scenario.streams})),
        noise=NoiseSpec(),
        hop_us=weather.hop_us,
        ahead_us=Config().ahead_us,
    )
    simulation = simulated(like, case, PolicySpec(name=Config().policy), seed, check=False)
    for index, (_, stream, bounds) in enumerate(requests(scenario, case, seed)):
        read_us = weather.read_us[stream.tenant, _request_id(seed, case, index)]
        simulation.ask(read_us, stream.tenant, bounds, stream.network)
    simulation.stray(Weather(weather.steps), Weather([weather.hops]))
    simulation.run()
    found = measured(simulation, warmup_us=int(scenario.warmup_s * 1e6))
    return Figures(found.violations_pct, found.refused_pct, found.mean_exit)
