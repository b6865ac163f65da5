"""Which networks are served, in which version and with which digest: a list that outlives the daemon.

Role: `<state>/networks.json`. At its start the daemon compares what it is about to serve with what it served last, so
that a bundle whose files were exchanged under the same version is told; a network that is loaded, exchanged or unloaded
while it runs is acknowledged once it is in the list. Does not: keep anything from being served; signatures do that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from ..exits import state_files
from ..exits.bundle import Bundle

BYTES_MAX = 1024 * 1024


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network. `digest`: of its bundle's manifest, and so of all its files."""

    name: str
    version: str
    digest: str


def listed(bundles: Iterable[Bundle]) -> dict[str, Listed]:
    """By name."""
    found = [Listed(bundle.manifest.name, bundle.manifest.version, bundle.digest) for bundle in bundles]
    return {one.name: one for one in found}


def read_list(state: Path) -> tuple[dict[str, Listed], str]:
    """What was served last, and what was wrong with the list, in words. Raises OSError: it cannot be read."""
    path = state / "networks.json"
    try:
        kept = state_files.read(state, path, BYTES_MAX)
        return {one.name: one for one in msgspec.json.decode(kept.data, type=tuple[Listed, ...])}, kept.fault
    except FileNotFoundError:
        return {}, ""
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return {}, f"{path} is no list of networks ({error}); it is written anew"


def write_list(state: Path, networks: Mapping[str, Listed]) -> None:
    """On the disk when this returns. Raises OSError."""
    data = msgspec.json.format(msgspec.json.encode(list(networks.values())), indent=1) + b"\n"
    state_files.keep(state, state / "networks.json", data)


def exchanged(before: Mapping[str, Listed], now: Mapping[str, Listed]) -> list[str]:
    """A sentence for each network whose files are others than last time while its version is the same."""
    return [
        f"network {name} is not the one that was served before: version {one.version} both, but its bundle had digest "
        f"{before[name].digest[:16]} and has {one.digest[:16]}"
        for name, one in now.items()
        if name in before and before[name].version == one.version and before[name].digest != one.digest
    ]
