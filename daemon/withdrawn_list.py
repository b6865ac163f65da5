"""Certificates that were withdrawn: a list that outlives the daemon, for a shift does not go away with a restart.

Role: `<state>/withdrawn.json`. A certificate stays withdrawn for its tenant as long as it would rest on the same
evidence: the bundle, and the user's own calibration of it. What rests on other samples has been tried by nobody yet.
Does not: judge certificates (`standing.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from ..exits import state_files
from ..exits.bundle import Bundle

BYTES_MAX = 4 * 1024 * 1024
# The oldest go: so many that nobody looked after.
WITHDRAWN_MAX = 4096


class Withdrawn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tenant's certificates for one network. `evidence`: as `Bundle.evidence`; `wall`: when, ISO 8601."""

    tenant: str
    network: str
    version: str
    evidence: str
    reason: str
    wall: str


def read_withdrawn(state: Path) -> tuple[list[Withdrawn], str]:
    """The list, and what was wrong with it, in words. Raises OSError: it cannot be read."""
    path = state / "withdrawn.json"
    try:
        kept = state_files.read(state, path, BYTES_MAX)
        return list(msgspec.json.decode(kept.data, type=tuple[Withdrawn, ...])), kept.fault
    except FileNotFoundError:
        return [], ""
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return [], f"{path} is no list of withdrawn certificates ({error}); it is written anew"


def write_withdrawn(state: Path, withdrawn: Sequence[Withdrawn]) -> None:
    """On the disk when this returns. Raises OSError."""
    data = msgspec.json.format(msgspec.json.encode(withdrawn), indent=1) + b"\n"
    state_files.keep(state, state / "withdrawn.json", data)


def still(withdrawn: Iterable[Withdrawn], bundles: Iterable[Bundle]) -> list[Withdrawn]:
    """Those that hold beside these bundles: of networks that rest on the same evidence, or are not served now."""
    served = {(bundle.manifest.name, bundle.manifest.version): bundle.evidence for bundle in bundles}
    return [one for one in withdrawn if served.get((one.network, one.version), one.evidence) == one.evidence]
