"""The board's power mode and GPU clock while the daemon runs: looked at twice a second, and set where that is allowed.

Role: a profile holds for the mode and clock it was taken at. When either changes (nvpmodel, jetson_clocks, heat), what
networks cost is looked up again within two seconds: a profile taken there, else read between two clocks measured in
that mode, else the present one scaled so that it is not too good; the operator is told, and tenants see it with the
network's profile. Under the policy `clock`, with `clocks = "may-set"`, it also has the clock set that a run says.

Flow: threads of their own read and write the files (a driver may hang) -> `turn` compares -> `reclock.py` tells the
core.
Does not: change the power mode, or measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ..clients.info import NetworkInfo
from ..exits.bundle import Bundle
from ..policies.view import NEVER_US, Run
from ..profiles.board import ROOT
from ..profiles.board_clocks import Setting, read_setting
from ..profiles.clocked import Clocked, conservative, gpu_khz
from ..profiles.costs import Costs
from ..profiles.schema import ExitQuality, Profile, ProfileError
from ..profiles.store import profiles_of
from . import hosting
from .aside import Aside
from .clock_hold import ClockHold
from .config import Config
from .journal_records import ClockConfirmed, Reclocked
from .reclock import confirm, reclock
from .recorded import setup_of
from .server import Server

if TYPE_CHECKING:
    from .log_writer import Log

# The loop is woken for it, and again when it is read.
EVERY_US = 500_000
POLICY = "clock"
STALE = "; stale: "


class Known(NamedTuple):
    """A network as it was loaded."""

    bundle: Bundle
    profile: Profile


class Fitted(NamedTuple):
    """What a network costs at the present setting. `stale`: why these are not measured figures; empty if they are."""

    profile: Profile
    stale: str


class ClockWatch:
    """What the board is set to, and what follows from it for the networks that are served."""

    def __init__(
        self, config: Config, state: Path, note: Log, *, wake: Callable[[], None] = lambda: None, root: Path = ROOT
    ) -> None:
        """`wake`: called from another thread when `turn` has something to do. `root`: / or a made-up tree."""
        self._config, self._state, self._note, self._root = config, state, note, root
        self._setup = setup_of(config)
        self._aside = Aside("delen-clock", wake)
        self._reading: Future[Setting] | None = None
        self._due_us = 0
        self._setting: Setting | None = None
        # Keys whose costs have been looked up, with the digests of their bundles; and names of networks that have not
        # always cost what they were loaded with: a hot swap copies what the one before it costs.
        self._fitted: dict[str, str] = {}
        self._changed: set[str] = set()
        self._qualities: dict[str, tuple[ExitQuality, ...]] = {}
        may_set = config.policy == POLICY and config.clocks == "may-set"
        if config.policy == POLICY and not may_set:
            note('policy clock: clocks = "read", so the clock stays as it is; "may-set" would allow it')
        self._hold = ClockHold(root, state, may_set=may_set, wake=wake)
        self._say(self._hold.turn(0).notes)

    @property
    def setting(self) -> Setting | None:
        """As last read; None before the first time."""
        return self._setting

    def turn(self, now_us: int, server: Server, known: Callable[[str], Known], told: dict[str, NetworkInfo]) -> None:
        """Look, and tell the core what has changed. `known`: a network by its key; `told`: what tenants are told."""
        quiet = self._reading is None and not self._hold.busy
        if quiet and now_us < self._due_us and self._fitted.keys() == server.networks.keys():
            # As nearly always, and this is asked after every run.
            return
        held = self._hold.turn(now_us)
        self._say(held.notes)
        if held.changed and self._setting is not None:
            self._fit(now_us, server, known, told, [key for key in server.networks if key in self._fitted])
        if held.confirmed_khz:
            confirm(server, ClockConfirmed(now_us, held.confirmed_khz))
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            self._due_us = now_us + EVERY_US
            self._take(now_us, reading.result(), server, known, told)
        if self._setting is not None and self._fitted.keys() != server.networks.keys():
            self._forget(server)
            self._fit(now_us, server, known, told, [key for key in server.networks if key not in self._fitted])
        if self._reading is None and now_us >= self._due_us:
            self._hold.looking()
            self._reading = self._aside.submit(partial(read_setting, self._root))

    def wake_at(self) -> int:
        """When the next look is due; while the thread has one under way, which ends with `wake`, no look is."""
        return min(self._due_us if self._reading is None else NEVER_US, self._hold.wake_at())

    def hold(self, run: Run) -> None:
        """Have the GPU given the clock this run says, if any; waits for nothing."""
        if run.clock_khz:
            self._hold.wish(run.clock_khz)

    def close(self) -> None:
        """Give the GPU its limits back."""
        self._aside.close()
        said = self._hold.close()
        self._say([said] if said else [])

    # ---- what follows

    def _say(self, notes: Sequence[str]) -> None:
        for said in notes:
            self._note(said, level="warning")

    def _take(
        self,
        now_us: int,
        setting: Setting,
        server: Server,
        known: Callable[[str], Known],
        told: dict[str, NetworkInfo],
    ) -> None:
        before, self._setting = self._setting, setting
        if setting == Setting(None, None):
            # Nothing here says a mode or a GPU's clock, so nothing will.
            self._due_us = NEVER_US
        if before is None or before == setting:
            return
        own = self._hold.gpu is not None and setting.gpu_khz in self._hold.recent_khz
        if own and setting._replace(gpu_khz=None) == before._replace(gpu_khz=None):
            # It was this daemon that changed it.
            return
        self._hold.lost()
        self._note(f"the board's setting has changed: {_words(before)} before, {_words(setting)} now", level="warning")
        self._fit(now_us, server, known, told, list(server.networks))

    def _fit(
        self,
        now_us: int,
        server: Server,
        known: Callable[[str], Known],
        told: dict[str, NetworkInfo],
        keys: Sequence[str],
    ) -> None:
        assert self._setting is not None
        for key in keys:
            bundle, profile = known(key)
            self._fitted[key] = bundle.digest
            name = server.networks[key].name
            found = self._profiles(bundle, profile)
            fitted = fitted_to(self._setting, profile, found)
            at_khz = self._choices(bundle, found)
            as_loaded = not at_khz and fitted.profile is profile
            if as_loaded and name not in self._changed:
                continue
            self._changed.add(name)
            costs = self._costs(bundle, fitted.profile)
            record = Reclocked(
                now_us,
                key,
                (at_khz[max(at_khz)] if at_khz else costs).tables(),
                {khz: each.tables() for khz, each in at_khz.items()},
                hosting.p95_over_p50(fitted.profile),
                (self._setting.gpu_khz or 0) if at_khz else 0,
                self._config.clock_switch_us,
                self._config.clock_dwell_ms * 1000,
            )
            reclock(server, record, self._setup)
            # While two of one name serve, tenants are told of the one their next requests go to.
            if name in told and server.routes.shared(name) == key:
                said = told[name].profile.split(STALE)[0]
                told[name] = replace(told[name], profile=f"{said}{STALE}{fitted.stale}" if fitted.stale else said)
            if fitted.stale:
                self._note(f"{name}: {fitted.stale}; measure it there with `delen profile {name}`", level="warning")

    def _forget(self, server: Server) -> None:
        """Networks that are served no more."""
        self._fitted = {key: digest for key, digest in self._fitted.items() if key in server.networks}
        self._changed &= {served.name for served in server.networks.values()}
        kept = set(self._fitted.values())
        self._qualities = {digest: exits for digest, exits in self._qualities.items() if digest in kept}

    def _profiles(self, bundle: Bundle, profile: Profile) -> list[Profile]:
        try:
            return [profile, *profiles_of(self._state, bundle, profile.device)]
        except ProfileError as error:
            self._note(str(error), level="warning")
            return [profile]

    def _choices(self, bundle: Bundle, found: Sequence[Profile]) -> Mapping[int, Costs]:
        """Costs at every clock that may be set and is no higher than the board allows just now."""
        assert self._setting is not None
        gpu = self._hold.gpu
        if gpu is None:
            return {}
        limit_khz = self._setting.gpu_khz if self._setting.throttled else None
        mode = [profile for profile in found if _mode(profile) == (self._setting.mode or "")]
        clocked = Clocked.of([_in_mode(profile) for profile in mode]) if mode else None
        steps = () if clocked is None else clocked.steps(self._setting.mode or "")
        if clocked is None or len(steps) < 2:
            return {}
        usable = [khz for khz in gpu.steps_khz if steps[0] <= khz <= min(steps[-1], limit_khz or steps[-1])]
        return {khz: self._costs(bundle, clocked.at(khz, self._setting.mode or "")) for khz in usable}

    def _costs(self, bundle: Bundle, profile: Profile) -> Costs:
        # Read once: how good exits are does not change with the clock, and a change must not hold up the loop.
        if bundle.digest not in self._qualities:
            self._qualities[bundle.digest] = hosting.qualities(bundle) or profile.exits
        exits = self._qualities[bundle.digest]
        return Costs.of(replace(profile, exits=exits), self._config.limits.batch_max)


def fitted_to(setting: Setting, profile: Profile, found: Sequence[Profile]) -> Fitted:
    """What holds at this setting, of a network loaded with `profile`, whose profiles at all settings are `found`.

    A profile taken there; else figures between two clocks of that mode; else `profile` scaled, never too good.
    """
    mode, khz = setting.mode or "", setting.gpu_khz
    taken_khz = gpu_khz(profile.device)
    same = mode == _mode(profile) or not mode
    if same and (khz is None or taken_khz is None or khz == taken_khz):
        return Fitted(profile, "")
    here = [_in_mode(one) for one in found if _mode(one) == mode or not mode]
    changed = f"taken {_taken(profile)}, now {_words(setting)}"
    if khz is None or taken_khz is None:
        exact = [one for one in found if _mode(one) == mode]
        return Fitted(exact[-1], "") if exact else Fitted(profile, f"{changed}; used as it is, with wide margins")
    if here:
        try:
            there = Clocked.of(here)
            mode = mode if mode in there.modes else there.modes[0]
            fitted = there.at(khz, mode)
            exact_clock = khz in there.steps(mode)
            return Fitted(fitted, "" if exact_clock else f"{changed}; read between the clocks measured")
        except ProfileError:
            pass
    nearest = min(here or [profile], key=lambda one: abs((gpu_khz(one.device) or 0) - khz))
    if gpu_khz(nearest.device) == khz:
        # Another mode may have other clocks of memory and processor, of which profiles say nothing to scale by.
        return Fitted(nearest, f"{changed}; used as it is, with wide margins")
    return Fitted(conservative(nearest, khz), f"{changed}; scaled so that it is not too good")


def _mode(profile: Profile) -> str:
    """Its power mode; what boards say beside it, such as a governor, does not make it another."""
    return (profile.device.power_mode or "").split(", ")[0]


def _in_mode(profile: Profile) -> Profile:
    return replace(profile, device=replace(profile.device, power_mode=_mode(profile)))


def _taken(profile: Profile) -> str:
    khz = gpu_khz(profile.device)
    return _words(Setting(_mode(profile) or None, khz))


def _words(setting: Setting) -> str:
    said = [f"power mode {setting.mode}"] if setting.mode else []
    said += [f"GPU at {setting.gpu_khz / 1000:g} MHz"] if setting.gpu_khz else []
    said += [f"held down by {', '.join(setting.throttled)}"] if setting.throttled else []
    return ", ".join(said) or "nothing said"
