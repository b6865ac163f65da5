"""Profiles that are measured once for all daemons of a run, since each would take seconds over its own.

Role: `measured(base)` has `digits` measured in `base/state`, unless it is there already, and gives the networks of
`shifting.py` profiles made from that. Flow: `serving(base, ...)` finds them; `Kept` is given them by `lend`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from delen.profiles.schema import Profile
from delen.tests.daemon_fixture import WAIT_S_MAX, serving
from delen.tests.faults.restarting import Kept
from delen.tests.faults.shifting import EXITS, profiled, shifting


def measured(base: Path, networks: Sequence[str] = ("net0",), versions: int = 2) -> None:
    """Have profiles of `digits`, and of so many versions of each of these networks, in `base/state`."""
    profiles = base / "state" / "profiles"
    if not list(profiles.glob("digits/*.json")):
        with serving(base):
            pass
    file = next(profiles.glob("digits/*.json"))
    like = msgspec.json.decode(file.read_bytes(), type=Profile)
    parts = {name: getattr(like, name)[:EXITS] for name in ("segments", "heads", "exits")}
    bundles = [shifting(base, name, version) for name in networks for version in range(versions)]
    profiled(base / "state", msgspec.structs.replace(like, **parts), bundles)


def lend(base: Path, kept: Kept) -> None:
    """Give this daemon the profiles of `base`."""
    shutil.copytree(base / "state" / "profiles", kept.state / "profiles")


def begun(kept: Kept) -> None:
    """Start it, and wait until it is ready, however busy the machine."""
    kept.start()
    assert kept.ready_within(5 * WAIT_S_MAX), kept.log.read_text()
