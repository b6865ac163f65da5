"""`delen certify`: which accuracy can be promised, by what, what it costs, and what else would take."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from .exit_codes import CommandFailed, ExitCode
from .options import BELOW_ONE
from .tables import Column, count, json_option, mark, milliseconds, percent, print_json, print_table, say

if TYPE_CHECKING:
    from ..exits.bundle import Bundle
    from ..policies.explained import Explained
    from ..policies.gates import CertifiedPlan
    from ..profiles.costs import Costs


@click.command("certify")
@click.argument("network")
@click.option("--accuracy", type=BELOW_ONE, required=True, help="Share of answers that must be right.")
@click.option("--certainty", type=BELOW_ONE, default=0.9, show_default=True, help="Of the certificate.")
@click.option("--conditional", is_flag=True, help="It must also hold among answers given at any exit or before.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png", help="Draw it, too.")
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="Where profiles are kept.")
@json_option
def certify_command(
    network: str, accuracy: float, certainty: float, plot: Path | None, as_json: bool, **options: Any
) -> None:
    """Explain how an accuracy would be kept by NETWORK (a name, or a bundle's directory). No daemon is needed.

    Ends with 3 if it cannot be certified, and says what can.
    """
    from ..policies.certificates import Certifier
    from ..policies.explained import explain
    from ..profiles.store import state_directory

    state = state_directory(os.environ, os.getuid(), flag=options["state_dir"])
    bundle, costs = _network(network, state)
    samples = bundle.calibration()
    if samples is None:
        hint = f"delen calibrate {network} --data FOLDER"
        raise CommandFailed(f"{network} has no calibration, so nothing is certified", ExitCode.BAD_DATA, hint)
    certifier = Certifier.of(samples, costs)
    told = explain(certifier, samples, costs, accuracy, certainty, conditional=options["conditional"])
    if plot is not None:
        from ..policies.certificate_plot import draw_certificates

        draw_certificates(bundle.manifest.name, told, plot)
    if as_json:
        print_json({"network": bundle.manifest.name, "bundle": bundle.digest, **asdict(told)})
    else:
        _show(bundle.manifest.name, told)
        if plot is not None:
            say(f"drawn in {plot}")
    click.get_current_context().exit(ExitCode.OK if told.plan is not None else ExitCode.REFUSED)


def _network(network: str, state: Path) -> tuple[Bundle, Costs]:
    """The bundle and what its exits cost here, from its stored profile or a quick one."""
    from ..daemon.engines import make_runner
    from ..daemon.hosting import costs_of
    from ..daemon.labelled import find_network, profile_of
    from ..exits.calibrations import overridden

    bundle = overridden(find_network(network, state), state)
    return bundle, costs_of(bundle, profile_of(make_runner("onnx", "auto", 1), bundle, state), 1)


def _show(network: str, told: Explained) -> None:
    title = f"{network}: fixed exits on {count(told.tested)} samples, at certainty {told.certainty:g}"
    print_table([asdict(entry) for entry in told.fixed], _COLUMNS, title)
    if told.plan is None:
        say(f"accuracy {told.accuracy:g} cannot be certified: best is {told.best:.4f}")
        if told.needed is None:
            say(_NEVER)
        elif told.needed > told.tested + told.searched:
            say(f"about {told.needed:,} labelled samples would, at the present rate of errors")
    else:
        _show_plan(told, told.plan)
    searched = f"gates were chosen on {count(told.searched)} other samples; thresholds and tests share none"
    say(f"{searched}. {told.assumption.capitalize()}.")


def _show_plan(told: Explained, plan: CertifiedPlan) -> None:
    rows = [
        {
            "exit": index,
            "rule": "everybody else" if index == plan.last else _rule(plan.thresholds[index]),
            "share": share,
        }
        for index, share in enumerate(plan.shares)
        if index <= plan.last
    ]
    print_table(rows, _PLAN_COLUMNS, f"The plan: {'gates' if plan.gated else f'exit {plan.last} for all'}")
    say(
        f"why: {plan.errors} of {count(plan.n)} wrong ({percent(plan.measured)} right); were it right less often than "
        f"{told.accuracy:g}, so few would be wrong in one of {1 / (1 - told.certainty):.0f} calibrations at most"
    )
    fixed = told.fixed_plan
    beside = f", {percent(plan.time_us / fixed.time_us)} of exit {fixed.last}, the best fixed one" if fixed else ""
    say(
        f"cost: {milliseconds(plan.time_us)} ms per request on average (certified below "
        f"{milliseconds(told.time_us_max or math.inf)}), {percent(plan.time_us / told.full_us)} of running to the end"
        f"{beside}"
    )
    if plan.gated:
        say(f"of answers gates let go, at most {percent(plan.disagreement)} are not the last exit's; audits watch that")
    say(f"highest accuracy that can be certified: {told.best:.4f}")


def _rule(threshold: float) -> str:
    return "no gate" if threshold == math.inf else f"confidence above {threshold:.4f}"


_NEVER = "no number of samples would: it is wrong more often than that; train it further, or ask for less"
_COLUMNS = (
    Column("exit", "exit"),
    Column("errors", "wrong", count),
    Column("n", "of", count),
    Column("measured", "right", percent),
    Column("certified", "certified alone", "{:.4f}".format),
    Column("time_us", "ms", milliseconds),
    Column("of_full", "of running to the end", percent),
    Column("holds", "keeps the bound", mark),
)
_PLAN_COLUMNS = (Column("exit", "exit"), Column("rule", "leaves here", justify="left"), Column("share", "of", percent))
