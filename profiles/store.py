"""Where profiles lie on disk: finding the one for a network on this device, and writing one so that a crash harms none.

Role: `<state>/profiles/<network>/<key>.json`, one file per bundle and device; what the state directory has overrides
what a bundle ships in its `profiles/`. Flow: `measure.py` -> `write_profile`; daemon start -> `find_profile`.

Does not: decide what to do without a profile (the daemon measures or refuses, as configured), or delete profiles.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..clients import durable
from ..exits import state_files
from ..exits.bundle import Bundle
from .clocked import gpu_khz
from .schema import Device, Profile, ProfileError, parse_profile, profile_fault

SYSTEM_STATE = Path("/var/lib/delen")
# 32 exits at 64 batch sizes are about 1 MB.
PROFILE_BYTES_MAX = 16 * 1024 * 1024
PROFILES_MAX = 1000


class Found(NamedTuple):
    """A profile and where it was. `stale`: why its figures may not hold now, in words; empty when nothing says so."""

    profile: Profile
    path: Path
    stale: str


def state_directory(
    environ: Mapping[str, str], uid: int, *, flag: Path | None = None, system: Path = SYSTEM_STATE
) -> Path:
    """Where delen keeps what it learns: flag, $DELEN_STATE_DIR, the system's for root, then XDG's for the user.

    systemd passes /var/lib/delen to units as $STATE_DIRECTORY; that is taken for the system's own.
    """
    if flag is not None:
        return flag
    for name in ("DELEN_STATE_DIR", "STATE_DIRECTORY"):
        if environ.get(name):
            return Path(environ[name].split(":")[0])
    if uid == 0 and system.is_dir() and os.access(system, os.W_OK):
        return system
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"]) / "delen"
    home = environ.get("HOME")
    return Path(home) / ".local/state/delen" if home else Path(f"/tmp/delen-state-{uid}")


def profile_path(state: Path, profile: Profile) -> Path:
    """The one file for this network, bundle, device, power mode and GPU clock: a newer one replaces the older."""
    device = profile.device
    setting = (profile.bundle, *_identity(device), device.power_mode or "", *_gpu_limit(device))
    key = hashlib.sha256("\0".join(map(str, setting)).encode()).hexdigest()[:12]
    words = f"{device.engine}-{device.device}-{device.precision}-t{device.threads}"
    return state / "profiles" / profile.network / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', words)[:80]}-{key}.json"


def write_profile(state: Path, profile: Profile) -> Path:
    """Write a profile: after a crash or a full disk there is the old file or the new one, never a part.

    Raises:
        ProfileError: the profile is not one that could be read again, or the disk refused; the old file still stands.
    """
    fault = profile_fault(profile)
    path = profile_path(state, profile)
    if fault:
        raise ProfileError(f"will not write {path}: {fault}")
    data = msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"
    try:
        state_files.keep(state, path, data)
    except OSError as error:
        raise ProfileError(
            f"cannot write profile {path}: {error.strerror}; make room, or name another place with $DELEN_STATE_DIR"
        ) from error
    return path


def find_profile(state: Path, bundle: Bundle, device: Device) -> Found | None:
    """The best profile of exactly this bundle on this device: still current, then measured in full, then newest.

    Looks in the state directory, and only where that has none, in the bundle. Board, processor, engine, device,
    precision and threads must be the same; another power mode, clock limit, core count or engine version is `stale`.

    Raises:
        ProfileError: a file there is corrupt and delen has no copy of it; it is named rather than passed over, since
            it may be the one meant.
    """
    own, shipped = state / "profiles" / bundle.manifest.name, bundle.directory / "profiles"
    for directory, root in ((own, state), (shipped, None)):
        found = [
            Found(profile, path, staleness(profile.device, device))
            for path, profile in _profiles(directory, root)
            if profile.bundle == bundle.digest and _identity(profile.device) == _identity(device)
        ]
        if found:
            return max(found, key=lambda one: (not one.stale, not one.profile.quick, one.profile.taken_wall))
    return None


def misfits(state: Path, bundle: Bundle, device: Device) -> list[str]:
    """Why profiles of a network of this name are not used here, in words, the newest first. Raises ProfileError."""
    name = bundle.manifest.name
    found = [one for one in _profiles(state / "profiles" / name, state) if _misfit(one[1], bundle, device)]
    found.sort(key=lambda one: one[1].taken_wall, reverse=True)
    return [f"profile {path} is not used: {_misfit(profile, bundle, device)}" for path, profile in found]


def _misfit(profile: Profile, bundle: Bundle, device: Device) -> str:
    """What it is of that this is not; empty where it fits."""
    manifest = bundle.manifest
    if profile.network != manifest.name:
        return f"it is of network {profile.network}, not of {manifest.name}"
    if profile.network_version != manifest.version:
        return f"it is of {manifest.name} {profile.network_version}, served is {manifest.version}; measure that"
    if profile.bundle != bundle.digest:
        return f"it is of another bundle of {manifest.name} {manifest.version}; measure this one with `delen profile`"
    taken = profile.device
    pairs = (
        ("board", taken.board, device.board),
        ("processor", taken.processor, device.processor),
        ("engine", taken.engine, device.engine),
        ("device", taken.device, device.device),
        ("precision", taken.precision, device.precision),
        ("number of threads", taken.threads, device.threads),
    )
    return "; ".join(f"its {what} is {theirs}, here it is {ours}" for what, theirs, ours in pairs if theirs != ours)


def profiles_of(state: Path, bundle: Bundle, device: Device) -> list[Profile]:
    """All profiles of exactly this bundle on this device, whatever its power mode and clocks. Raises ProfileError."""
    own, shipped = state / "profiles" / bundle.manifest.name, bundle.directory / "profiles"
    return [
        profile
        for directory, root in ((own, state), (shipped, None))
        for _, profile in _profiles(directory, root)
        if profile.bundle == bundle.digest and _identity(profile.device) == _identity(device)
    ]


def staleness(taken: Device, now: Device) -> str:
    """What has changed since a profile was taken that may move its figures; empty when nothing has."""
    changes = []
    if taken.power_mode != now.power_mode:
        changes.append(f"power mode was {taken.power_mode or 'unknown'}, is {now.power_mode or 'unknown'}")
    # Clocks of the moment move all the time; their limits are what a power mode or a user sets.
    for name in sorted(set(taken.clocks_khz) | set(now.clocks_khz)):
        before, after = taken.clocks_khz.get(name), now.clocks_khz.get(name)
        if name.endswith("_max") and before != after:
            changes.append(f"{name.removesuffix('_max')} was limited to {_khz(before)}, is to {_khz(after)}")
    if taken.cores != now.cores:
        changes.append(f"{taken.cores} cores then, {now.cores} now")
    changes += [
        f"{name} was {taken.versions.get(name, 'absent')}, is {now.versions.get(name, 'absent')}"
        for name in sorted(set(taken.versions) | set(now.versions))
        if taken.versions.get(name) != now.versions.get(name)
    ]
    return "; ".join(changes)


def _identity(device: Device) -> tuple[str, str, str, str, str, int]:
    return device.board, device.processor, device.engine, device.device, device.precision, device.threads


def _gpu_limit(device: Device) -> tuple[int, ...]:
    # Where there is none, as on servers, files keep the names they always had.
    khz = gpu_khz(device)
    return () if khz is None else (khz,)


def _khz(value: int | None) -> str:
    return "an unknown clock" if value is None else f"{value / 1000:g} MHz"


def _profiles(directory: Path, state: Path | None) -> list[tuple[Path, Profile]]:
    # Files that a crash left half-written start with a dot and are passed over.
    paths = sorted(path for path in directory.glob("*.json") if not path.name.startswith("."))
    if len(paths) > PROFILES_MAX:
        raise ProfileError(f"{directory} holds {len(paths)} profiles; at most {PROFILES_MAX} are read: delete old ones")
    return [(path, parse_profile(_read(path, state), path)) for path in paths]


def _read(path: Path, state: Path | None) -> bytes:
    """A profile as it was written, though its file be damaged; `state`: None for a bundle's own, which has no copy."""
    try:
        if state is None:
            return durable.read_bounded(path, PROFILE_BYTES_MAX)
        return state_files.read(state, path, PROFILE_BYTES_MAX).data
    except OSError as error:
        raise ProfileError(f"cannot read profile {path}: {error.strerror}; delete it, or measure again") from error
