"""The files that make delen a service of the machine or of one user, filled in from those in `daemon/units/`.

Role: which file goes where, with which paths, groups and devices in it; and whether one that is there is ours to
replace or remove: all of them begin with the same words. Flow: `Places` -> `system_files` | `user_files` ->
`command_install.py` writes or removes them.

Does not: write, or run systemd's tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .exit_codes import CommandFailed, ExitCode

TEMPLATES = Path(__file__).resolve().parent.parent / "daemon" / "units"
OURS = "# Installed by `delen install-service"
# What systemd hides from a service with ProtectHome=yes.
HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user")))
# And with PrivateTmp=yes.
PRIVATE = tuple(map(Path, ("/tmp", "/var/tmp")))
# Groups that GPU nodes belong to, on JetPack and on desktop Linux.
DEVICE_GROUPS = ("video", "render")


class ServiceFile(NamedTuple):
    """A file to be: where, and what is in it."""

    path: Path
    text: str

    def state(self) -> str:
        """`new`, `same`, `old` (ours, and different), or `strange`: somebody else's."""
        try:
            found = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "new"
        if found == self.text:
            return "same"
        return "old" if found.startswith(OURS) else "strange"


class Places(NamedTuple):
    """What of this installation the files name. `root`: put before every path that is written, not before those named.

    `groups`: of `DEVICE_GROUPS`, those that this machine has.
    """

    python: Path
    delen: Path
    root: Path = Path("/")
    groups: Sequence[str] = DEVICE_GROUPS

    @property
    def config(self) -> Path:
        return Path("/etc/delen/delen.toml")

    def fault(self) -> str | None:
        """Why a hardened service could not run this installation, in words; None when it could."""
        # A virtual environment may lie elsewhere, and its interpreter be a link into a home directory all the same.
        for path in (self.python, self.python.resolve(), self.delen, TEMPLATES):
            if any(path.is_relative_to(hidden) for hidden in HIDDEN):
                return f"{path} lies in a home directory, which the service cannot see (ProtectHome)"
        for path in (self.python, self.delen):
            if any(path.is_relative_to(private) for private in PRIVATE):
                return f"{path} lies in a temporary directory, of which the service has its own (PrivateTmp)"
        return None


def system_files(places: Places, allowed: Sequence[str] = ()) -> list[ServiceFile]:
    """Units, users and directories of a service of the machine. `allowed`: addresses that may come by TCP; none: no
    TCP. Front and engine are two units, since neither needs what the other may do.
    """
    units = places.root / "etc/systemd/system"
    files = [
        ServiceFile(units / "delen.service", filled("delen.service", places)),
        ServiceFile(units / "delen-engine@.service", filled("delen-engine@.service", places)),
        ServiceFile(places.root / "etc/sysusers.d/delen.conf", filled("delen.sysusers.conf", places)),
        ServiceFile(places.root / "etc/tmpfiles.d/delen.conf", filled("delen.tmpfiles.conf", places)),
    ]
    if allowed:
        text = filled("delen-tcp.conf", places).replace("@allow@", " ".join(allowed))
        files.append(ServiceFile(units / "delen.service.d/tcp.conf", text))
    return files


def drop_ins(places: Places) -> list[ServiceFile]:
    """Those that another command or option may have written, for removal."""
    units = places.root / "etc/systemd/system"
    written = (units / "delen.service.d/tcp.conf", device_file(places.root), board_file(places.root))
    return [ServiceFile(path, "") for path in written]


def device_file(root: Path) -> Path:
    """Where the engine's unit learns which nodes it may open."""
    return root / "etc/systemd/system/delen-engine@.service.d/devices.conf"


def board_file(root: Path) -> Path:
    """Where the front's unit learns what its meter and clock need."""
    return root / "etc/systemd/system/delen.service.d/board.conf"


def user_files(places: Places, config_home: Path) -> list[ServiceFile]:
    """The one unit of a service of one user."""
    return [ServiceFile(config_home / "systemd/user/delen.service", filled("delen-user.service", places))]


def first_config(places: Places) -> ServiceFile:
    """A configuration to begin with, written only where there is none."""
    return ServiceFile(places.root / places.config.relative_to("/"), filled("delen.toml", places))


def filled(name: str, places: Places) -> str:
    """A template with this installation's paths in it."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    if not places.groups:
        text = text.replace("SupplementaryGroups=@groups@\n", "")
    said = {
        "@delen@": _as_word(places.delen),
        "@python@": _as_word(places.python),
        "@config@": _as_word(places.config),
        "@groups@": " ".join(places.groups),
    }
    for mark, value in said.items():
        text = text.replace(mark, value)
    return text


def _as_word(path: Path) -> str:
    """A path as one word of a command in a unit. Raises CommandFailed if it cannot be."""
    text = str(path)
    if any(character in text for character in "\"'\\\n") or not text.isprintable():
        raise CommandFailed(f"{text!r} cannot stand in a unit file", ExitCode.BAD_CONFIG, "install delen elsewhere")
    text = text.replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if " " in text else text
