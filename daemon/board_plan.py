"""Which board, in which mode and at which clock, serves how many tenants with these bounds: `delen plan`.

Role: `plan_boards` asks the core the same question of every setting there are published figures of: which exit keeps
the bounds there, and how many tenants with so many requests a second each it can take before more than a share of them
is refused, late or cut short. Flow: figures -> `Served` -> the exit -> simulations of more and fewer tenants -> `Fit`.

Does not: know boards nobody published figures of, or the network you will train; energies of different boards are of
different rails, as each `Fit` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from ..clients.bounds import Bounds
from ..policies.clock import device_clock
from ..policies.correction_rivals import correction
from ..policies.exits import Misfit, asked, plan
from ..policies.policy import make_policy
from ..policies.view import Served
from ..profiles.boards import Spec, about, board_files, clocked
from ..profiles.clocked import gpu_khz
from ..profiles.costs import Costs
from ..profiles.schema import Profile, ProfileError
from . import hosting
from .config import Config
from .noise import NoiseSpec
from .outcomes import Measured, measured
from .simulate import Simulation

BATCH_MAX = 8
REQUESTS = 1_000
DURATION_S_MIN, DURATION_S_MAX = 2.0, 600.0
# Until predictions have settled; these are not counted.
REQUESTS_FIRST = 40
# Not even tried: so many times what the device has time for.
OVERLOAD = 2.0
# Beyond so many a setting is not asked any more.
TENANTS_MAX = 256


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What every tenant asks: bounds, None where there is none, and requests per second, which come at random.

    `tenants`: how many there will be.
    """

    network: str
    rate_hz: float
    tenants: int = 1
    latency_ms: float | None = None
    accuracy: float | None = None
    energy_mj: float | None = None
    missed_pct_max: float = 1.0

    def bounds(self) -> Bounds:
        """As a request of theirs has them; the shallowest exit will do."""
        return Bounds(
            latency_ms=UNSET if self.latency_ms is None else self.latency_ms,
            accuracy=UNSET if self.accuracy is None else self.accuracy,
            energy_mj=UNSET if self.energy_mj is None else self.energy_mj,
            objective="energy",
        )


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. `tenants`: how many it serves, 0 where not even one, for the reason in `why`.

    `exit`: which keeps the bounds, and its median time alone; None where none does. `energy_mj` of a request,
    `power_w`, `use_pct` of the device's time: for as many tenants as are wished for, or as it serves where those are
    fewer. Of the work alone: what a board draws without any is not published. `energy_of` says what draws it; None:
    nobody knows.
    """

    device: str
    board: str
    mode: str
    clock_mhz: float | None
    tenants: int
    why: str = ""
    exit: int | None = None
    accuracy: float | None = None
    latency_ms: float | None = None
    energy_mj: float | None = None
    power_w: float | None = None
    use_pct: float | None = None
    missed_pct: float | None = None
    energy_of: str = ""


class Setting(NamedTuple):
    """A board as it may be set. `profile`: there, or at its highest clock, with `choices` for the policy `clock`."""

    spec: Spec
    profile: Profile
    choices: tuple[Profile, ...] = ()

    @property
    def device(self) -> str:
        """As `delen simulate --device` takes it; without a clock the policy picks one for every run."""
        return f"{self.spec}, any clock" if self.choices else str(self.spec)


def settings(network: str, boards: Sequence[str] = ()) -> list[Setting]:
    """All settings with figures of this network, by board, mode and clock.

    Raises ProfileError: no board has any, or not one of those named.
    """
    known = {file.board for file in board_files() if file.network == network}
    if not known:
        has = sorted({file.network for file in board_files()})
        raise ProfileError(f"no figures of network {network!r} on any board; there are those of {', '.join(has)}")
    return [one for board in boards or sorted(known) for one in _settings(board, network)]


def _settings(board: str, network: str) -> Iterator[Setting]:
    found = clocked(board, network)
    for mode in found.modes:
        steps, profiles = found.steps(mode), found.measured(mode)
        for profile, khz in zip(profiles, steps or (None,), strict=True):
            yield Setting(Spec(board, khz, mode or None), profile)
        if len(steps) > 1:
            yield Setting(Spec(board, None, mode or None), profiles[-1], tuple(profiles))


def plan_boards(
    wish: Wish, boards: Sequence[str] = (), on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Fit]:
    """Every setting, first those that serve all tenants for least power. Raises ProfileError: nobody published any."""
    found = settings(wish.network, boards)
    fits = []
    for done, setting in enumerate(found, start=1):
        fits.append(_fit(wish, setting))
        on_progress(done, len(found))
    unknown_w = float("inf")
    return sorted(
        fits,
        key=lambda fit: (
            -min(fit.tenants, wish.tenants),
            unknown_w if fit.power_w is None else fit.power_w,
            -fit.tenants,
            fit.device,
        ),
    )


def _fit(wish: Wish, setting: Setting) -> Fit:
    spec, served = setting.spec, _served(setting)
    file = about(spec.board, wish.network)
    said = Fit(
        device=setting.device,
        board=spec.board,
        mode=spec.mode or "",
        clock_mhz=None if spec.clock_khz is None else spec.clock_khz / 1000,
        tenants=0,
        energy_of=file.energy if served.costs.segment_mj is not None else "",
    )
    if wish.accuracy is not None and file.accuracy is None:
        return msgspec.structs.replace(said, why=f"no accuracies of {wish.network} are published for it")
    chosen = plan(asked(wish.bounds()), served)
    if isinstance(chosen, Misfit):
        # As the policy `clock` does it: bounds are reckoned with the highest clock.
        by = "at the highest clock, by which requests are admitted: " if setting.choices else ""
        return msgspec.structs.replace(said, why=f"{by}{chosen.message}")
    said = msgspec.structs.replace(
        said,
        exit=chosen.mandatory,
        accuracy=None if file.accuracy is None else served.costs.accuracy[chosen.mandatory],
        latency_ms=served.costs.path_us(0, chosen.mandatory, 1) / 1000,
        energy_mj=served.costs.energy_mj(chosen.mandatory, 1),
    )
    tenants, run = _most(wish, setting, served.row_us(chosen.mandatory))
    if run is None:
        return msgspec.structs.replace(said, why=f"one tenant alone misses over {wish.missed_pct_max:g} %")
    rate_hz = min(tenants, wish.tenants) * wish.rate_hz
    return msgspec.structs.replace(
        said,
        tenants=tenants,
        energy_mj=run.energy_mj,
        power_w=None if run.energy_mj is None else run.energy_mj * rate_hz / 1000,
        use_pct=100 * rate_hz * served.row_us(chosen.mandatory) / 1e6,
        missed_pct=run.violations_pct,
    )


def _most(wish: Wish, setting: Setting, row_us: float) -> tuple[int, Measured | None]:
    """The most tenants that miss no more than they may, and what came of them; None where one is too many."""
    kept_part = max(0.01, 1 - wish.missed_pct_max / 100)
    if wish.rate_hz * row_us * kept_part > OVERLOAD * 1e6:
        # More than the device has time for, by its best batches: nothing to simulate, and too much to.
        return 0, None
    most = min(TENANTS_MAX, int(1e6 / (wish.rate_hz * row_us)) + 1)
    kept, best = 0, None
    while kept < most:
        tried = (kept + most + 1) // 2
        run = _tried(wish, setting, tried)
        if run.violations_pct <= wish.missed_pct_max:
            kept, best = tried, run
        else:
            most = tried - 1
    if kept > wish.tenants:
        best = _tried(wish, setting, wish.tenants)
    return kept, best


def _tried(wish: Wish, setting: Setting, tenants: int) -> Measured:
    served, noise, hop_us = _served(setting), NoiseSpec(sigma=0.02), int(hosting.HOP_US_FIRST)
    policy = make_policy("clock" if setting.choices else "stage-edf")
    simulation = Simulation([served], policy=policy, noise=noise, hop_us=hop_us, check=False)
    config = Config()
    simulation.server.view().clock = device_clock([served], config.clock_switch_us, config.clock_dwell_ms * 1000)
    rate_hz = tenants * wish.rate_hz
    duration_s = min(DURATION_S_MAX, max(DURATION_S_MIN, REQUESTS / rate_hz))
    bounds = wish.bounds()
    for tenant in range(tenants):
        simulation.poisson(f"t{tenant}", bounds, wish.rate_hz, 0, int(1e6 * duration_s), network=served.name)
    simulation.run()
    return measured(simulation, warmup_us=int(1e6 * REQUESTS_FIRST / rate_hz))


def _served(setting: Setting) -> Served:
    profile = setting.profile
    at_khz = {gpu_khz(each.device) or 0: Costs.of(each, BATCH_MAX) for each in setting.choices}
    costs = Costs.of(profile, BATCH_MAX)
    made = Served(profile.network, "1", costs, None, BATCH_MAX, hosting.HOP_US_FIRST, at_khz=at_khz)
    made.correction = correction("conformal", p95_over_p50=hosting.p95_over_p50(profile))
    return made
