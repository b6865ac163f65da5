"""Bring networks into the daemon: bundles checked, profiles found, and what policies and tenants are told of them.

Role: start-up only. `host` reads and checks every bundle named in the configuration before any process is started;
`served` and `info` make the core's and the tenants' view once costs are known.
Does not: load engines (the worker does).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from ..clients.info import Certifiable, NetworkInfo
from ..exits.bundle import Bundle, FileTooLarge, find_bundle, shipped_directory
from ..exits.calibrations import overridden
from ..exits.signatures import Trust
from ..exits.signing_keys import SigningKeyError
from ..policies import rates
from ..policies.certificates import Certifier
from ..policies.correction import Corrects
from ..policies.correction_rivals import correction
from ..policies.exits import CERTAINTY_DEFAULT
from ..policies.policy import depth_fault, make_policy
from ..policies.view import Served
from ..profiles.costs import Costs
from ..profiles.intervals import clopper_pearson
from ..profiles.schema import Device, ExitQuality, Profile, ProfileError, read_profile
from ..profiles.store import find_profile, misfits, write_profile
from .arena import Need
from .config import Config, ConfigError
from .journal_records import Samples
from .memory_budget import free_bytes, memory_fault
from .worker_process import Hosted

# The way to the worker and back, until it is measured: seen 90-460 us on two x86 cores, by how busy they were.
HOP_US_FIRST = 250.0


def host(config: Config, state: Path) -> dict[str, Hosted]:
    """Load and check every bundle the configuration names.

    Raises:
        BundleError: a bundle cannot be trusted or found. ConfigError: two have one name, one does not fit limits, a
        tenant may use only what is not among them, or the policy is to serve at an exit that none has.
    """
    result: dict[str, Hosted] = {}
    for said in config.networks:
        hosted = _loaded(config, state, said)
        name = hosted.bundle.manifest.name
        if name in result:
            raise ConfigError(f"two networks are called {name!r}; load one of them")
        result[name] = hosted
    exits = {name: hosted.need.exit_count for name, hosted in result.items()}
    fault = depth_fault(make_policy(config.policy, config.policy_options), exits)
    if fault:
        raise ConfigError(fault)
    for tenant in config.tenants:
        for name in tenant.networks or ():
            if name not in result:
                raise ConfigError(
                    f"tenant {tenant.name!r} may use {name!r}, which is not served; served: {', '.join(result)}"
                )
    for file in config.replay_profiles:
        profile = read_profile(Path(file))
        network = profile.network
        if network not in result:
            raise ConfigError(f"{file} is a profile of {network!r}, which is not among the networks")
        manifest = result[network].bundle.manifest
        if profile.network_version != manifest.version or len(profile.exits) != len(manifest.exits):
            raise ConfigError(
                f"{file} is a profile of {network} {profile.network_version} with {len(profile.exits)} exits; served "
                f"is {manifest.version} with {len(manifest.exits)}: replay a profile of that"
            )
        result[network].profile_file = file
    missing = [name for name, hosted in result.items() if config.engine == "replay" and not hosted.profile_file]
    if missing:
        raise ConfigError(f"the replay engine needs a profile to replay for {', '.join(missing)}; see replay_profiles")
    fault = memory_fault(config, [own for _, own in workers_of(config, result)], free_bytes(config))
    if fault:
        raise ConfigError(f"not loaded: {', '.join(result)} {fault}")
    return result


def workers_of(config: Config, hosted: Mapping[str, Hosted]) -> list[tuple[str | None, dict[str, Hosted]]]:
    """The engine processes there are to be: everybody's, and one for each tenant that has its own; what each loads."""
    workers: list[tuple[str | None, dict[str, Hosted]]] = [(None, dict(hosted))]
    for tenant in config.tenants:
        own = {name: each for name, each in hosted.items() if tenant.networks is None or name in tenant.networks}
        if tenant.isolation == "tenant" and own:
            workers.append((tenant.name, own))
    return workers


def bring(config: Config, state: Path, said: str) -> Hosted:
    """Load and check one more bundle, for a daemon that serves already. Raises as `host`."""
    hosted = _loaded(config, state, said)
    name = hosted.bundle.manifest.name
    fault = depth_fault(make_policy(config.policy, config.policy_options), {name: hosted.need.exit_count})
    if fault:
        raise ConfigError(fault)
    files = [file for file in config.replay_profiles if read_profile(Path(file)).network == name]
    if config.engine == "replay" and not files:
        raise ConfigError(f"the replay engine has no profile to replay for {name}; see replay_profiles")
    hosted.profile_file = files[-1] if files else ""
    return hosted


def _loaded(config: Config, state: Path, said: str) -> Hosted:
    """The bundle of this name or path, checked, and what its runs need. Raises BundleError, ConfigError."""
    directory, most = find_bundle(said, [state / "bundles", shipped_directory()]), config.limits.bundle_file_bytes_max
    try:
        bundle = overridden(trust(config).load(directory, file_bytes_max=most), state)
    except FileTooLarge as error:
        raise ConfigError(f"{error}: limits.bundle_file_bytes_max") from error
    manifest = bundle.manifest
    input_bytes = int(np.prod(manifest.input.shape, dtype=np.int64)) * np.dtype(manifest.input.dtype).itemsize
    if input_bytes > config.limits.payload_bytes_max:
        raise ConfigError(
            f"one input of {manifest.name} has {input_bytes} bytes; "
            f"limits.payload_bytes_max is {config.limits.payload_bytes_max}"
        )
    need = Need(input_bytes, len(manifest.exits), len(manifest.classes), config.limits.batch_max)
    return Hosted(bundle, need)


def trust(config: Config) -> Trust:
    """Whose bundles may be served. Raises ConfigError where a trusted key cannot be used."""
    try:
        return Trust(config.trusted_keys, required=config.require_signature)
    except SigningKeyError as error:
        raise ConfigError(str(error)) from error


def find(hosted: Hosted, device: Device, state: Path, notes: list[str]) -> Profile | None:
    """The profile to plan with: the replayed one, or the stored one that fits this device. Raises ProfileError."""
    if hosted.profile_file:
        return read_profile(Path(hosted.profile_file))
    found = find_profile(state, hosted.bundle, device)
    if found is None:
        # The newest says enough: which of the others does not fit for which reason helps nobody.
        notes += misfits(state, hosted.bundle, device)[:1]
        return None
    if found.stale:
        notes.append(f"profile {found.path} may not hold: {found.stale}; measure again with `delen profile`")
    return found.profile


def keep(profile: Profile, state: Path) -> str | None:
    """Store a quick profile for the next start; a note where that is not possible (it is only a cache)."""
    try:
        write_profile(state, profile)
    except ProfileError as error:
        return f"the quick profile of {profile.network} is not kept, so the next start measures again: {error}"
    return None


def served(bundle: Bundle, profile: Profile, batch_max: int) -> Served:
    """What policies see: costs at every batch size, and certificates from the calibration file."""
    calibration, costs = bundle.calibration(), costs_of(bundle, profile, batch_max)
    # Without rows of its own the search would have to look at those of the tests.
    certifies = calibration is not None and bool(calibration.fit.any())
    gates = Certifier.of(calibration, costs) if calibration is not None and certifies else None
    gmac = tuple(entry.gmac for entry in bundle.manifest.exits if entry.gmac is not None)
    return Served(
        bundle.manifest.name,
        bundle.manifest.version,
        costs,
        gates,
        batch_max,
        HOP_US_FIRST,
        gmac=gmac if len(gmac) == len(bundle.manifest.exits) else None,
    )


def costs_of(bundle: Bundle, profile: Profile, batch_max: int) -> Costs:
    """What each exit costs, and is worth by the calibration file, at every batch size."""
    return Costs.of(replace(profile, exits=qualities(bundle) or profile.exits), batch_max)


def qualities(bundle: Bundle) -> tuple[ExitQuality, ...] | None:
    """What each exit is worth by the calibration file; None without one. Cost: it is read, some 50 ms.

    Exits are compared on the rows that temperatures were chosen on; certificates are judged on the others.
    """
    calibration = bundle.calibration()
    if calibration is None:
        return None
    fit = calibration.fit if calibration.fit.any() else ~calibration.fit
    return _held_out(calibration.correct[fit])


def follows(config: Config, profile: Profile) -> Corrects:
    """How the core follows this network's times, as configured; the profile says how far they spread at first."""
    return correction(config.correction, miss_target=config.miss_target, p95_over_p50=p95_over_p50(profile))


def p95_over_p50(profile: Profile) -> float:
    """How far its 95th percentiles lie above its medians, all steps at batch 1 together."""
    steps = [row[0] for row in (*profile.segments, *profile.heads)]
    return max(1.0, sum(step.p95_us for step in steps) / sum(step.p50_us for step in steps))


def samples(hosted: Mapping[str, Hosted], name: str) -> Samples | None:
    """What a network's calibration file holds, for a journal."""
    calibration = hosted[name].bundle.calibration()
    return None if calibration is None else Samples.of(calibration)


def overcommitted(config: Config, networks: Mapping[str, Served]) -> str | None:
    """A warning if what the configuration promises its tenants does not fit this device; None if it does."""
    costs_us = {
        tenant.name: max(
            (
                float(served.time_us(0, served.exit_last, 1))
                for served in networks.values()
                if tenant.networks is None or served.name in tenant.networks
            ),
            default=0.0,
        )
        for tenant in config.tenants
    }
    return rates.overcommitted({tenant.name: tenant for tenant in config.tenants}, costs_us)


def _held_out(correct: npt.NDArray[np.bool_]) -> tuple[ExitQuality, ...]:
    """Accuracy of each exit over the calibration samples, shape (n, exits).

    Plans are made from these even where a profile has figures of its own: a profile may have been taken on test images,
    and what is promised must not be chosen on what it is judged by.
    """
    count = len(correct)
    counts = [int(right) for right in correct.sum(axis=0)]
    return tuple(_quality(right, count) for right in counts)


def _quality(right: int, count: int) -> ExitQuality:
    low, high = clopper_pearson(right, count)
    return ExitQuality(accuracy=right / count, low=low, high=high, n=count)


def info(bundle: Bundle, profile: Profile, view: Served) -> NetworkInfo:
    """What tenants are told of a network."""
    manifest = bundle.manifest
    kind = "quick" if profile.quick else "full"
    return NetworkInfo(
        name=manifest.name,
        version=manifest.version,
        classes=manifest.classes,
        dtype=manifest.input.dtype,
        shape=manifest.input.shape,
        preprocessing=manifest.preprocessing,
        exits=tuple(
            msgspec.structs.replace(told, gmac=entry.gmac)
            for told, entry in zip(view.costs.exit_infos(), manifest.exits, strict=True)
        ),
        batch_max=view.batch_max,
        engine=profile.device.engine,
        profile=f"{kind}, {profile.taken_wall}",
        certifiable=_certifiable(view),
    )


def _certifiable(view: Served) -> Certifiable | None:
    """What may be promised of this network, at the certainty that bounds have unless they say otherwise."""
    if view.gates is None:
        return None
    exits = [0.0] * len(view.costs.accuracy)
    for exit_index in view.ladder:
        exits[exit_index] = view.gates.alone(exit_index, CERTAINTY_DEFAULT)
    best = view.gates.best(CERTAINTY_DEFAULT)
    return Certifiable(CERTAINTY_DEFAULT, view.gates.proofs.n, best, tuple(exits))
