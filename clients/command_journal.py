"""`delen simulate --journal FILE`: an incident of a daemon again, decision by decision, and what else could have been.

Role: what `command_simulate.py` calls when a journal is given. Plays it, says whether everything came out as recorded,
and what each tenant got; each `--policy` and the `--profile` is then simulated by itself, beside a simulation in which
nothing is changed: what that one differs by from the record, the others may too. Does not: simulate scenarios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .exit_codes import CommandFailed, ExitCode
from .tables import Column, print_json, print_table, say, warn

if TYPE_CHECKING:
    from ..daemon.outcomes import Measured
    from ..daemon.replay import Replayed
    from ..daemon.what_if import Change, Recording

FIGURES = {
    "requests": "requests",
    "violations_pct": "violations %",
    "refused_pct": "refused %",
    "effective_accuracy": "effective accuracy %",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "mean_exit": "mean exit",
    "energy_mj": "energy mJ",
}
RECORDED, SIMULATED = "recorded", "simulated"
# Options of `delen simulate` that mean something for a journal.
TAKEN = ("journal", "policies", "settings", "profile", "seed_first", "as_json")


def replay_command(ctx: click.Context, **options: Any) -> None:
    """Play a journal, say what came of it, and what would have with each of these changes by itself.

    Args:
        options: of `delen simulate`, by name; those in `TAKEN` count.
    Raises:
        OSError, JournalError, ProfileError: what cannot be read. CommandFailed: it did not come out as recorded.
    """
    strange = [
        param.opts[0]
        for param in ctx.command.params
        if param.name not in TAKEN and ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    ]
    if strange:
        raise click.UsageError(f"{', '.join(strange)}: for scenarios; a journal has its own requests and device", ctx)
    from ..daemon.what_if import record

    changes = _changes(ctx, options["policies"], options["settings"], options["profile"])
    file: Path = options["journal"]
    replayed, recording = record(file)
    shown = {RECORDED: _recorded(replayed)}
    for title, change in changes.items() if replayed.difference is None else ():
        shown[title] = _imagined(replayed, recording, change, options["seed_first"])
    tenants = {name: _recorded(replayed, name) for name in sorted({outcome.tenant for outcome in replayed.outcomes})}
    if options["as_json"]:
        print_json({**_said(file, replayed), "figures": shown, "tenants": tenants})
        ctx.exit(ExitCode.OK if replayed.difference is None else ExitCode.FAILED)
    _show(file, replayed, shown, tenants)
    if replayed.difference is not None:
        raise CommandFailed(
            f"{file} is not reproduced: {replayed.difference}",
            hint="play it with the delen that wrote it; if that is this one, it is a fault: please report it",
        )


def _changes(
    ctx: click.Context, policies: Sequence[str], settings: Mapping[str, Any], profile: Path | None
) -> dict[str, Change]:
    """What was asked for, each change by itself, and before them none."""
    from ..daemon.what_if import Change
    from ..policies.policy import PolicyError, make_policy
    from ..profiles.schema import read_profile

    words = ", ".join(f"{key}={value}" for key, value in settings.items())
    found = {SIMULATED: Change()} if policies or settings or profile else {}
    for policy in policies:
        try:
            make_policy(policy, settings)
        except PolicyError as error:
            raise click.UsageError(str(error), ctx) from error
        found[f"{policy}, {words}" if words else policy] = Change(policy=policy, options=settings)
    if settings and not policies:
        found[words] = Change(options=settings)
    if profile is not None:
        found[f"profile {profile.stem}"] = Change(profile=read_profile(profile))
    return found


def _recorded(replayed: Replayed, tenant: str | None = None) -> Measured:
    """What the record's requests got, all or one tenant's."""
    from ..daemon.outcomes import figures

    counted = [outcome for outcome in replayed.outcomes if tenant in (None, outcome.tenant)]
    since_us = min([outcome.sent_us for outcome in replayed.outcomes], default=0)
    return figures(counted, replayed.server.networks, since_us=since_us)


def _imagined(replayed: Replayed, recording: Recording, change: Change, seed: int) -> Measured:
    from ..daemon.outcomes import measured
    from ..daemon.what_if import imagine

    simulation = imagine(replayed, recording, change, seed=seed)
    simulation.run()
    return measured(simulation)


def _said(file: Path, replayed: Replayed) -> dict[str, Any]:
    """The journal itself."""
    setup = replayed.opened.setup
    return {
        "journal": str(file),
        "delen": replayed.opened.delen,
        "opened_wall": replayed.opened.wall,
        "policy": setup.policy,
        "policy_options": setup.options,
        "networks": list(replayed.networks),
        "span_s": replayed.span_us / 1e6,
        "events": replayed.events,
        "decisions": replayed.decisions,
        "ends": len(replayed.outcomes),
        "ended": replayed.ended,
        "reproduced": replayed.difference is None,
        "difference": None if replayed.difference is None else str(replayed.difference),
    }


def _show(file: Path, replayed: Replayed, shown: dict[str, Measured], tenants: dict[str, Measured]) -> None:
    opened = replayed.opened
    since = f", since {opened.wall}" if opened.wall else ""
    say(f"{file}: {replayed.span_us / 1e6:.1f} s under {opened.setup.policy}, delen {opened.delen}{since}")
    if replayed.ended.startswith("still being written"):
        warn(f"the journal is {replayed.ended}; what follows is not known")
    elif replayed.difference is None:
        say(f"it ends because {replayed.ended}")
    if replayed.difference is None:
        say(f"reproduced exactly: {replayed.decisions} decisions, {len(replayed.outcomes)} ends")
    print_table(_rows(tenants), _columns(tenants), "tenants, as recorded")
    if len(shown) > 1:
        print_table(_rows(shown), _columns(shown), "what if")
        say(f"{SIMULATED}: nothing changed; what it differs by from {RECORDED} is the simulation's own error")


def _rows(shown: dict[str, Measured]) -> list[dict[str, Any]]:
    return [
        {"figure": title, **{name: getattr(figures, key) for name, figures in shown.items()}}
        for key, title in FIGURES.items()
    ]


def _columns(shown: dict[str, Measured]) -> list[Column]:
    return [Column("figure", "", justify="left"), *(Column(name, name, _number) for name in shown)]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
