"""Options that several commands share: which daemon, which bounds, and what is made of them.

Role: decorators for click, and the functions that turn what they collected into a `Client` and its arguments.
Does not: connect before a command asks for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from .exit_codes import CommandFailed, ExitCode

if TYPE_CHECKING:
    from .client import Client
    from .inputs import BoundArguments

Command = TypeVar("Command", bound=Callable[..., Any])
WAIT_STEP_S = 0.2
BOUND_NAMES = ("latency_ms", "accuracy", "energy_mj", "certainty", "certificate", "objective", "on_miss", "conditions")


class Finite(click.FloatRange):
    """A number above 0; unlike click's own range it takes neither NaN nor infinity."""

    def __init__(self, upper: float | None = None, *, below: bool = False) -> None:
        """`below`: `upper` itself is too much."""
        super().__init__(min=0, min_open=True, max=upper, max_open=below)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return float(number)


class InputPath(click.Path):
    """A file to read, or a folder of files. One that is not there or cannot be read is `NO_INPUT` in every command."""

    def __init__(self, *, folder: bool = False) -> None:
        super().__init__(exists=True, file_okay=not folder, dir_okay=folder, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            raise CommandFailed(f"{_said_as(param, ctx)}: {error.message}", ExitCode.NO_INPUT) from None


def _said_as(param: click.Parameter | None, ctx: click.Context | None) -> str:
    """The option, the argument or the variable of the shell that a value came by."""
    if param is None:
        return "input"
    from_shell = ctx is not None and ctx.get_parameter_source(param.name or "") is ParameterSource.ENVIRONMENT
    if from_shell and isinstance(param.envvar, str):
        return param.envvar
    return param.opts[0] if isinstance(param, click.Option) else param.human_readable_name


OVER_ZERO = Finite()
SHARE, BELOW_ONE = Finite(1), Finite(1, below=True)

_CONNECTION = (
    click.option("--tenant", metavar="NAME", help="Ask as this tenant.  [default: $DELEN_TENANT, else default]"),
    click.option("--endpoint", metavar="SOCKET", help="The socket to ask at, instead of looking for the tenant's."),
    click.option("--timeout-s", type=OVER_ZERO, default=5.0, show_default=True, help="How long to wait for an answer."),
    click.option("--wait-s", type=OVER_ZERO, help="If no daemon answers yet, wait this long for one to be ready."),
)
_BOUNDS = (
    click.option("--latency-ms", type=OVER_ZERO, help="Bound: an answer within this time."),
    click.option("--accuracy", type=SHARE, help="Bound: expected accuracy of at least this share, e.g. 0.9."),
    click.option("--energy-mj", type=OVER_ZERO, help="Bound: charged at most this much energy."),
    click.option("--certainty", type=BELOW_ONE, help="How sure the accuracy bound must be certified."),
    click.option(
        "--certificate",
        type=click.Choice(["marginal", "conditional"]),
        help="Of all answers, or also of those alone that left at any exit or before.",
    ),
    click.option(
        "--objective", type=click.Choice(["accuracy", "latency", "energy"]), help="Improve this in the slack."
    ),
    click.option("--on-miss", type=click.Choice(["answer", "drop"]), help="When a bound breaks: answer late, or drop."),
    click.option("--conditions", type=InputPath(), metavar="FILE", help="Stop rules per exit, as JSON."),
)


def connection_options(command: Command) -> Command:
    """`--tenant`, `--endpoint`, `--timeout-s`, `--wait-s`."""
    for option in reversed(_CONNECTION):
        command = option(command)
    return command


def bound_options(command: Command) -> Command:
    """One option per bound; arrive under the names of `BOUND_NAMES`, None where not given."""
    for option in reversed(_BOUNDS):
        command = option(command)
    return command


def connect(tenant: str | None, endpoint: str | None, timeout_s: float, wait_s: float | None = None) -> Client:
    """The client that a command talks through; tries until `wait_s` have passed. Raises Unreachable."""
    from .client import Client
    from .errors import Unreachable

    give_up_s = time.monotonic() + (wait_s or 0.0)
    while True:
        try:
            client = Client(tenant, endpoint=endpoint, timeout_s=timeout_s)
            if wait_s is not None:
                client.ping()
            return client
        except Unreachable:
            if time.monotonic() >= give_up_s:
                raise
            # A daemon that is not there yet has no socket to wait at.
            time.sleep(WAIT_STEP_S)


def bounds_given(options: dict[str, Any]) -> BoundArguments:
    """What was said of bounds, as keyword arguments of `Client.infer`; a conditions file is read."""
    given: dict[str, Any] = {name: options[name] for name in BOUND_NAMES if options.get(name) is not None}
    if "conditions" in given:
        from .conditions import load_conditions

        given["conditions"] = load_conditions(given["conditions"])
    return given  # type: ignore[return-value]  # the names are BoundArguments' own; the SDK checks the values
