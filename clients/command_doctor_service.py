"""`delen doctor --devices`, the front's half: what its service must be let do for the meter and clock it is told of.

Role: the unit as shipped can read what everybody may; a group's socket, counters that are root's, a clock to be set and
a meter on the network are opened here, by path, where the configuration asks for them, in a drop-in that says why.
Flow: `<root>/etc/delen/delen.toml` -> `asked` -> `opened` -> `write_drop_in`. What is asked for no more is taken back.

Does not: change a file of the system: the drop-in has systemd do that, at every start, before the front has begun.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from .durable import write_whole
from .exit_codes import CommandFailed, ExitCode
from .service_files import OURS, Places, ServiceFile, board_file

ROOT = Path("/")
# Absolute, and there on every board: JetPack 4 has a systemd that looks for no program.
CHGRP, CHMOD = "/bin/chgrp", "/bin/chmod"
FRONT = "delen"


class Asked(msgspec.Struct, frozen=True):
    """The settings that matter here, as `daemon/config.py` has them."""

    meter: str = "auto"
    device: str = "auto"
    clocks: str = "read"
    policy: str = ""

    @property
    def sets_clock(self) -> bool:
        return (self.policy, self.clocks) == ("clock", "may-set")


class Opened(NamedTuple):
    """Lines of the drop-in, comments with them; and what cannot be opened from here, in words."""

    lines: list[str]
    faults: list[str]


def asked(root: Path = ROOT) -> Asked:
    """Of the service's configuration below `root`; what it would be without one. Raises CommandFailed."""
    from ..daemon.toml_file import ConfigError, ConfigMissing, read_toml

    path = root / Places(Path(), Path()).config.relative_to("/")
    try:
        return msgspec.convert(read_toml(path), Asked)
    except ConfigMissing:
        return Asked()
    except (ConfigError, msgspec.ValidationError) as error:
        hint = "delen serve --check --config says what is right"
        raise CommandFailed(f"{path}: {error}", ExitCode.BAD_CONFIG, hint) from error


def opened(wanted: Asked, system: Path = ROOT) -> Opened:
    """What this configuration needs beyond the unit, on the machine whose root is `system`."""
    found = Opened([], [])
    for part in (_meter(wanted, system), _clock(wanted, system)):
        found.lines.extend(part.lines)
        found.faults.extend(part.faults)
    return found


def write_drop_in(prefix: Path = ROOT, system: Path = ROOT) -> tuple[Path | None, list[str]]:
    """Write it below `prefix`; returns where, and what could not be opened. None: nothing need be, or is any more.

    Raises:
        CommandFailed: the configuration cannot be read, or there is a file of somebody else's. OSError.
    """
    found = opened(asked(prefix), system)
    head = f"{OURS}`, written by `delen doctor --devices` for what delen.toml asks for."
    file = ServiceFile(board_file(prefix), "\n".join([head, "", "[Service]", *found.lines, ""]))
    state = file.state()
    if state == "strange" and found.lines:
        said = f"{file.path} is there and was not written by delen"
        raise CommandFailed(said, ExitCode.CANNOT_CREATE, "move it away, or open there yourself what is needed")
    if found.lines:
        write_whole(file.path, file.text.encode(), mode=0o644)
        return file.path, found.faults
    if state in ("same", "old"):
        file.path.unlink()
    return None, found.faults


def _meter(wanted: Asked, system: Path) -> Opened:
    kind, _, rest = wanted.meter.partition(":")
    kind = _best(wanted, system) if kind == "auto" else kind
    if kind == "mqtt":
        return _network(wanted.meter)
    if kind == "command":
        said = f"meter: what `{rest.strip()}` needs beyond files that everybody may read, the unit must let it"
        return Opened([], [f"{said}: systemctl edit delen (no network and no devices as it stands)"])
    found: dict[str, list[str]] = {"jtop": _jtop(system), "rapl": _rapl(system), "nvml": _nvml(system)}
    lines = found.get(kind, [])
    if kind in found and not lines:
        return Opened([], [f"meter {kind}: there is none on this machine, so nothing is opened for it"])
    return Opened(lines, [])


def _best(wanted: Asked, system: Path) -> str:
    """What `auto` would take if it had every right; as `find_sensor` orders them."""
    from ..profiles.meter_ina3221 import find_rails

    if find_rails(system):
        return "ina3221"
    last = "nvml" if wanted.device.startswith("cuda") else "rapl"
    found = (("jtop", _jtop(system)), (last, _nvml(system) if last == "nvml" else _rapl(system)))
    return next((kind for kind, lines in found if lines), "none")


def _jtop(system: Path) -> list[str]:
    from .device_nodes import group_of

    socket = system / "run/jtop.sock"
    if not socket.exists():
        return []
    group = group_of(socket.stat().st_gid)
    return ["# meter jtop: its socket belongs to this group.", f"SupplementaryGroups={group}"]


def _rapl(system: Path) -> list[str]:
    from ..profiles.meter_rapl import find_zones

    files = [_real(zone.file, system) for zone in find_zones(system)]
    if not files:
        return []
    why = "# meter rapl: the counters are root's alone, since what a processor draws tells of what it computes."
    return [why, *_granted("r", files)]


def _nvml(system: Path) -> list[str]:
    nodes = sorted(path for path in (system / "dev").glob("nvidia*") if path.name[6:].isdigit())
    nodes += [system / "dev/nvidiactl"] if (system / "dev/nvidiactl").exists() else []
    if not nodes:
        return []
    lines = ["# meter nvml: the driver's nodes, and what it says of itself in /proc.", "PrivateDevices=no"]
    return [*lines, "ProcSubset=all", *(f"DeviceAllow=/{node.relative_to(system)} rw" for node in nodes)]


def _network(said: str) -> Opened:
    """A broker. Names would have to be looked up, anywhere: only addresses can be told to systemd."""
    host = urlsplit(said).hostname or ""
    try:
        address = host if host == "localhost" else str(ipaddress.ip_address(host))
    except ValueError:
        fault = f"meter {said}: the service reaches addresses alone, so say the broker's in place of {host!r}"
        return Opened([], [fault])
    return Opened(
        [
            "# meter mqtt: the broker, and nobody else.",
            "PrivateNetwork=no",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
            f"IPAddressAllow={address}",
        ],
        [],
    )


def _clock(wanted: Asked, system: Path) -> Opened:
    from ..profiles.board_clocks import find_gpu

    if not wanted.sets_clock:
        return Opened([], [])
    gpu = find_gpu(system)
    if gpu is None:
        return Opened([], ["policy clock: this machine has no GPU whose clock can be set"])
    files = [_real(gpu.path / name, system) for name in ("min_freq", "max_freq")]
    # A driver that is not there yet must not keep the front from starting.
    paths = " ".join(f"-{file}" for file in files)
    lines = ['# policy = "clock", clocks = "may-set": the limits of the GPU\'s clock.', *_granted("w", files)]
    return Opened([*lines, f"ReadWritePaths={paths}"], [])


def _granted(right: str, files: Sequence[str]) -> Iterator[str]:
    """Give the front's group this right. As root and outside the sandbox; a failure is the daemon's to tell."""
    paths = " ".join(files)
    yield f"ExecStartPre=+-{CHGRP} {FRONT} {paths}"
    yield f"ExecStartPre=+-{CHMOD} g+{right} {paths}"


def _real(path: Path, system: Path) -> str:
    """Where the links of /sys lead, as the machine itself names it."""
    return f"/{path.resolve().relative_to(system.resolve())}"
