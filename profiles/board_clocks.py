"""A Jetson's power mode and GPU clock: read from the files that say so, and set where the operator allows it.

Role: with `board.py` the reader of nvpmodel and devfreq, and the only place that writes to them. `read_setting` is
cheap enough to be asked every second; `read_modes` may also ask `nvpmodel -q`. Flow: daemon -> `read_setting` -> what
has changed; policy `clock` -> `GpuClock.set`. Everything is probed; `root` stands for /, in tests a made-up tree.

devfreq: `min_freq` and `max_freq` are limits, `cur_freq` what it runs at; with both limits alike it stays there. The
kernel lowers `max_freq` where something is too hot, and says how far in a cooling device (docs.kernel.org,
driver-api/thermal/sysfs-api.html and devfreq's sysfs-class-devfreq). Does not: know boards by name.
"""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .board import ROOT, gpus, jetson_modes, number, text

NVPMODEL = "nvpmodel"
NVPMODEL_S_MAX = 5.0
# No GPU is that fast.
HERTZ_MAX = 10**11
Ask = Callable[[Sequence[str]], str]


class ClockError(RuntimeError):
    """The clock or mode cannot be set: what was refused, and what to do about it."""


class Modes(NamedTuple):
    """Power modes by number, and which is set; None where nothing says."""

    now: int | None
    names: Mapping[int, str]

    @property
    def name(self) -> str | None:
        """The mode that is set, by its name."""
        return None if self.now is None else self.names.get(self.now, f"nvpmodel {self.now}")


class Setting(NamedTuple):
    """What decides how fast the GPU is, as it stands; None where nothing says.

    `gpu_khz`: the clock it runs at under load: its upper limit, or less where it is held down by heat. `throttled`: the
    cooling devices that hold it down, by name.
    """

    mode: str | None
    gpu_khz: int | None
    throttled: tuple[str, ...] = ()


class GpuClock:
    """The GPU's devfreq directory. `steps_khz`: the clocks it can have, rising; empty where it does not say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        words = (text(path / "available_frequencies") or "").split()
        listed = [int(word) for word in words if word.isdecimal() and len(word) < 12 and int(word) >= 1000]
        self.steps_khz = tuple(sorted({hertz // 1000 for hertz in listed}))
        self._hertz = {hertz // 1000: hertz for hertz in listed}
        self._before: tuple[int, int] | None = None

    @property
    def now_khz(self) -> int | None:
        """What it runs at just now; without work often its lowest."""
        return _khz(number(self.path / "cur_freq"))

    @property
    def limits_khz(self) -> tuple[int | None, int | None]:
        """The lowest and the highest it may have."""
        return _khz(number(self.path / "min_freq")), _khz(number(self.path / "max_freq"))

    def fault(self) -> str | None:
        """Why the clock could not be set, in words; None when it could. Writes what is there already."""
        try:
            for name in ("min_freq", "max_freq"):
                hertz = number(self.path / name)
                if hertz is None:
                    return f"{self.path / name} does not say a clock, so it cannot be set"
                _write(self.path / name, hertz)
        except ClockError as error:
            return str(error)
        return None

    def set(self, khz: int, remember: Callable[[int, int], None] = lambda low_hz, high_hz: None) -> None:
        """Hold it at this clock. `remember`: told the limits as found, before anything is written.

        Raises:
            ClockError: no rights, or a clock it does not have. And whatever `remember` does; then nothing is written.
        """
        hertz = self._hertz.get(khz)
        if hertz is None:
            near = sorted(self.steps_khz, key=lambda step: abs(step - khz))[:3]
            said = ", ".join(f"{step / 1000:g}" for step in sorted(near)) or "none it names"
            raise ClockError(f"the GPU has no clock of {khz / 1000:g} MHz; the nearest it has are {said} MHz")
        low, high = number(self.path / "min_freq"), number(self.path / "max_freq")
        if low is None or high is None:
            raise ClockError(f"{self.path} does not say its limits, so its clock cannot be set")
        if self._before is None:
            remember(low, high)
            self._before = low, high
        try:
            self._hold(hertz, hertz, high)
        except ClockError:
            # Half set it would be between two clocks that nobody asked for.
            with suppress(ClockError):
                self._hold(low, high, number(self.path / "max_freq") or high)
            raise
        held = number(self.path / "max_freq")
        if held is not None and held < hertz:
            raise ClockError(
                f"the GPU's clock stays limited to {held / 1e6:g} MHz, though {hertz / 1e6:g} was asked for: its power "
                "mode or heat allows no more"
            )

    def restore(self) -> None:
        """Give it the limits back that it had before `set`, or that it was `found` with. Raises ClockError."""
        if self._before is not None:
            high = number(self.path / "max_freq")
            self._hold(*self._before, self._before[1] if high is None else high)
            self._before = None

    def found(self, low_hz: int, high_hz: int) -> None:
        """These are the limits it had before anybody held it, who is not there any more to give them back."""
        self._before = low_hz, high_hz

    def _hold(self, low: int, high: int, high_now: int) -> None:
        # A lower limit above the upper one is refused, so the one that makes room goes first.
        if high >= high_now:
            _write(self.path / "max_freq", high)
            _write(self.path / "min_freq", low)
        else:
            _write(self.path / "min_freq", low)
            _write(self.path / "max_freq", high)


def find_gpu(root: Path = ROOT) -> GpuClock | None:
    """The GPU whose clock devfreq keeps; None where there is none."""
    return next((GpuClock(path) for path in gpus(root)), None)


def read_setting(root: Path = ROOT) -> Setting:
    """How the board is set now. Never fails, and starts no process. Cost: under a millisecond, a dozen small files."""
    now, names = jetson_modes(root)
    gpu = find_gpu(root)
    if gpu is None:
        return Setting(Modes(now, names).name, None)
    limit_khz, throttled = gpu.limits_khz[1], _throttled(root)
    if throttled and limit_khz is not None and (now_khz := gpu.now_khz):
        # Held down by something else than its limits: what it runs at is the best guess, and not too good.
        limit_khz = min(limit_khz, now_khz)
    return Setting(Modes(now, names).name, limit_khz, throttled)


def read_modes(root: Path = ROOT, ask: Ask | None = None) -> Modes:
    """All power modes, and which is set; asks `nvpmodel -q` where no file says. Never fails."""
    now, names = jetson_modes(root)
    if now is None and (ask is not None or root == ROOT):
        try:
            said = (ask or _ask)([NVPMODEL, "-q"])
        except ClockError:
            return Modes(None, names)
        # "NV Power Mode: MAXN" and its number on a line of its own.
        mode = re.search(r"NV Power Mode:\s*(\S+)\s+(\d+)\s*$", said, re.MULTILINE)
        if mode:
            now, names = int(mode[2]), {**names, int(mode[2]): mode[1]}
    return Modes(now, names)


def set_mode(name: str, root: Path = ROOT, ask: Ask | None = None) -> None:
    """Change the power mode. Raises ClockError: no such mode, no rights, or it takes a reboot."""
    modes = read_modes(root, ask)
    number_of = {mode.lower(): at for at, mode in modes.names.items()}
    if name.lower() not in number_of:
        known = ", ".join(modes.names.values()) or "none that delen can see"
        raise ClockError(f"this board has no power mode {name!r}; it has {known}")
    command = [NVPMODEL, "-m", str(number_of[name.lower()])]
    if "reboot" in (ask or _ask)(command).lower():
        raise ClockError(f"power mode {name} takes a reboot: run `sudo {' '.join(command)}` and confirm")


def boot_id(root: Path = ROOT) -> str:
    """Of the system since it started: what was set before another start of it holds no more. Empty: unknown."""
    return text(root / "proc/sys/kernel/random/boot_id") or ""


def _throttled(root: Path) -> tuple[str, ...]:
    found = []
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = text(device / "type") or ""
        if re.search(r"gpu|gv11b|gp10b|ga10b|gm20b", kind, re.IGNORECASE) and (number(device / "cur_state") or 0) > 0:
            found.append(kind)
    return tuple(found)


def _write(path: Path, hertz: int) -> None:
    try:
        path.write_text(f"{hertz}\n", "ascii")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ClockError(f"the GPU refuses {hertz / 1e6:g} MHz in {path}: {error.strerror}") from error
        raise ClockError(
            f"no right to set the GPU's clock: {path} cannot be written here. `delen doctor --devices` gives the "
            f"service the right; else give it to delen's group at every boot, `chgrp delen {path.parent}/m??_freq && "
            f'chmod g+w {path.parent}/m??_freq`, or set clocks = "read" and leave the clock as it is'
        ) from error


def _ask(command: Sequence[str]) -> str:
    """What a program of the board says, or what it says is wrong."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=NVPMODEL_S_MAX, check=False
        )
    except FileNotFoundError as error:
        raise ClockError(f"there is no {command[0]} here: this is no Jetson, or JetPack's tools are missing") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClockError(f"{' '.join(command)} did not answer: {error}") from error
    if done.returncode and "reboot" not in (done.stdout + done.stderr).lower():
        said = [*(done.stderr or done.stdout).strip().splitlines(), f"exit status {done.returncode}"]
        raise ClockError(f"{' '.join(command)} failed, {said[0]}; setting a mode takes root")
    return done.stdout + done.stderr


def _khz(hertz: int | None) -> int | None:
    """A clock; what cannot be one is as if nothing were said."""
    return None if hertz is None or not 1000 <= hertz <= HERTZ_MAX else hertz // 1000
