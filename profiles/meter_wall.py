"""A wall meter: a plug or a bench supply that says watts, through a command of the operator's or an MQTT topic.

Role: `command: ARGV` prints a number of watts, once (it is run again) or line by line for as long as it likes;
`mqtt://HOST[:PORT]/TOPIC` is the same with `mosquitto_sub` as the command. A line may be a JSON map: `?key=a.b` names
the number in it, and the end of a word `watt`, `power` or `apower` is found by itself.
It is all that the device draws at the socket, its power supply's loss included.

Does not: speak MQTT itself, or trust the command to end, to print numbers, or to go on printing.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .meter_lines import Lines
from .power_sensor import Reading

# Plugs say about once a second what they drew; a value older than this many of them is none.
SAMPLE_S = 1.0
SILENT_S = 5.0
KEYS = ("apower", "power", "watts", "watt", "w")
MQTT_PORT = 1883


class WallMeterError(ValueError):
    """The words that name a wall meter cannot be understood."""


class LineSensor:
    """A sensor that is the last line of a child process, by `number`: mW, or None where the line says nothing."""

    counts = False
    power_mw_max = 20_000_000.0

    def __init__(
        self, lines: Lines, number: Callable[[str], float | None], clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._lines = lines
        self._number = number
        self._clock_ns = clock_ns
        self._last_mw: float | None = None
        self._heard_ns = 0
        self._heard = 0
        self.silent_s = SILENT_S

    def read(self) -> Reading | None:
        for line in self._lines.take():
            self._last_mw, self._heard_ns = self._number(line), self._clock_ns()
            self._heard += 1
        if self._last_mw is None or self._clock_ns() - self._heard_ns > self.silent_s * 1e9:
            return None
        return Reading(self._last_mw, self.raw(self._last_mw))

    @property
    def why(self) -> str:
        """What is wrong with the command; empty while nothing is known to be."""
        return self._lines.said

    def raw(self, power_mw: float) -> tuple[float, ...]:
        """What must move for it to count as alive: a plug that says the same watts each second is."""
        return power_mw, float(self._heard)

    def close(self) -> None:
        self._lines.close()


class WallSensor(LineSensor):
    """The operator's own meter."""

    sample_s = SAMPLE_S
    window_s_min = 4 * SAMPLE_S
    frozen_s = 30.0
    covers = "the device at the socket, power supply included"

    def __init__(self, said: str, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """`said`: as in the module's text. Raises WallMeterError."""
        command, key = command_of(said)
        super().__init__(Lines(command, again_s=SAMPLE_S, clock_ns=clock_ns), lambda line: line_mw(line, key), clock_ns)
        self.name = f"wall meter ({said.partition('?')[0].partition('@')[2] or command[0]})"


def command_of(said: str) -> tuple[list[str], str]:
    """The command that prints watts, and the key of the number in what it prints. Raises WallMeterError."""
    if said.startswith("mqtt://"):
        return _subscription(said)
    text = said.removeprefix("command:")
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise WallMeterError(f"{said!r:.80}: {error}; quote it as a shell would") from error
    if not command or text == said:
        raise WallMeterError(f"{said!r:.80} names no meter; expected command: ARGV or mqtt://HOST[:PORT]/TOPIC")
    return command, ""


def _subscription(said: str) -> tuple[list[str], str]:
    try:
        parts = urlsplit(said)
        port = parts.port or MQTT_PORT
    except ValueError as error:
        raise WallMeterError(f"{said!r:.80}: {error}; expected mqtt://HOST[:PORT]/TOPIC") from error
    topic = unquote(parts.path.lstrip("/"))
    if not parts.hostname or not topic or parts.hostname.startswith("-"):
        raise WallMeterError(f"{said!r:.80}: expected mqtt://HOST[:PORT]/TOPIC")
    command = ["mosquitto_sub", "-h", parts.hostname, "-p", str(port), "-t", topic]
    if parts.username or parts.password:
        # A password among a process's arguments is everybody's to read.
        raise WallMeterError("no user or password in mqtt://; put them into mosquitto_sub's own configuration file")
    return command, parse_qs(parts.query).get("key", [""])[0]


def line_mw(line: str, key: str = "") -> float | None:
    """The milliwatts that a line of watts says; None where it says none."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = line.split()[0].rstrip("Ww") if line.split() else None
    watts = finite(_found(said, key))
    return None if watts is None else watts * 1000


def _found(said: Any, key: str) -> Any:
    for step in key.split(".") if key else ():
        said = said.get(step) if isinstance(said, dict) else None
    if isinstance(said, dict):
        said = next((said[name] for name in KEYS if name in said), None)
    return said


def finite(said: Any) -> float | None:
    """The number that something out of JSON is, or says; None where it is none, or none to reckon with."""
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        number = float(said)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
