"""`delen adapt`: how a tenant's requests adapt beyond their bounds, changed or looked at while the daemon runs.

Does not: change the configuration, which says how they adapt after a restart.
"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .adaptation import adapts_names
from .options import OVER_ZERO, connect, connection_options
from .tables import joules, json_option, print_json, say

if TYPE_CHECKING:
    from .inputs import AdaptArguments
    from .wire import Adapted


def _until(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Seconds from now until a time of day or a date."""
    if value is None:
        return None
    try:
        until = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time; expected e.g. 2027-03-01T06:00") from None
    left_s = until.timestamp() - time.time()
    if left_s <= 0:
        raise click.BadParameter(f"{value} has passed; say a time that is to come")
    return left_s


def _conditions(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> dict[str, Any]:
    from .conditions import load_conditions

    found = {}
    for said in value:
        network, mark, path = said.partition("=")
        if not mark:
            raise click.BadParameter(f"{said!r}; expected NETWORK=FILE.json")
        found[network] = load_conditions(Path(path))
    return found


@click.command("adapt")
@click.argument("policy", required=False, type=click.Choice(adapts_names()))
@click.option("--exit", "exit", type=click.IntRange(min=0), help="For fixed: every request to this exit.")
@click.option(
    "--conditions", multiple=True, callback=_conditions, metavar="NETWORK=FILE", help="For conditions: Dělen's file."
)
@click.option("--joules", "energy_j", type=OVER_ZERO, help="So much energy is to last; never more is had.")
@click.option("--for-s", type=OVER_ZERO, help="For so many seconds from now.")
@click.option("--until", callback=_until, metavar="TIME", help="Or until then, e.g. 2027-03-01T06:00.")
@click.option("--watts", "power_w", type=OVER_ZERO, help="On average so much power.")
@connection_options
@json_option
def adapt_command(policy: str | None, as_json: bool, until: float | None, **options: Any) -> None:
    """Have all requests of this tenant adapt by POLICY from now on, or see how it stands.

    \b
    none        bounds alone decide
    fixed       to one exit
    conditions  stop by conditions in Dělen's form
    alert       the best exit by predicted time, accuracy and energy
    battery     as deep as energy allows that is to last: --joules, or the device's battery
    load        shallower as more is asked
    """
    if until is not None and options["for_s"] is not None:
        raise click.UsageError("give --for-s or --until, not both")
    lasting = until is not None or options["for_s"] is not None
    if options["energy_j"] is not None and not lasting:
        raise click.UsageError("--joules needs --for-s or --until beside it: so much energy for so long")
    if options["energy_j"] is None and lasting:
        raise click.UsageError("--for-s and --until need --joules beside them: so much energy for so long")
    if policy == "fixed" and options["exit"] is None:
        raise click.UsageError("fixed needs --exit NUMBER, from 0; `delen networks` shows the exits")
    said: AdaptArguments = {}
    given = {"for_s": until, **{name: options[name] for name in ("exit", "energy_j", "power_w")}}
    if options["for_s"] is not None:
        given["for_s"] = options["for_s"]
    said.update({name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]
    if options["conditions"]:
        said["conditions"] = options["conditions"]
    with connect(options["tenant"], options["endpoint"], options["timeout_s"], options["wait_s"]) as client:
        told = client.adapt(policy, **said)  # type: ignore[arg-type]
    if as_json:
        print_json({"adaptation": told.adaptation, "standing": told.standing})
    else:
        for line in _lines(told):
            say(line)


def _lines(told: Adapted) -> list[str]:
    standing = told.standing
    to = "" if told.adaptation.exit is None else f", exit {told.adaptation.exit}"
    networks = ", ".join(sorted(told.adaptation.conditions))
    lines = [f"adapts by: {standing.policy}{to}{f' for {networks}' if networks else ''}"]
    if standing.left_j is not None and standing.left_s is not None:
        whose = "the device's battery" if standing.device else "your energy"
        lines.append(f"{whose}: {joules(standing.left_j)} left, to last {standing.left_s:,.0f} s")
    if standing.allowed_w is not None:
        lines.append(f"may draw {standing.allowed_w:.3g} W; drew {joules(standing.drawn_j)} so far")
    if standing.exit is not None:
        lines.append(f"the last request was sent to exit {standing.exit}")
    return lines
