"""`delen simulate`: what a policy would be worth, on the daemon's own core and a virtual clock.

Flow: a scenario by name or file -> the cases, policies and seeds asked for -> runs over all cores (a bar shows how far)
-> a table, a plot on request. Does not: simulate by itself (`daemon/simulate.py`), or add anything up.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .exit_codes import CommandFailed, ExitCode
from .options import OVER_ZERO, InputPath
from .tables import Column, json_option, print_json, print_table, progress, say, warn

if TYPE_CHECKING:
    from ..daemon.scenario import Case, PolicySpec, Scenario
    from ..daemon.scenario_bench import Findings, Plan

ONE_SEED = "one seed, so how far chance moves these figures is not known (--seeds 5 shows it)"
_PARTS = re.compile(r"\d+|\D+").findall
_PLOT = click.Path(path_type=Path, dir_okay=False)


def _options(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs; values as JSON has them, else text."""
    found: dict[str, Any] = {}
    for said in values:
        key, equals, value = said.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{said!r} sets nothing; expected key=value, e.g. spare_share=0.8", ctx, param)
        try:
            found[key] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[key] = value
    return found


@click.command("simulate")
@click.argument("scenario", required=False)
@click.option("--journal", type=InputPath(), metavar="FILE", help="Play what a daemon wrote down, not a scenario.")
@click.option(
    "--profile", type=InputPath(), metavar="FILE", help="With --journal: what if the device had this profile."
)
@click.option(
    "--device", metavar="BOARD@CLOCK", help="On a board there are published figures of, e.g. jetson-tx2@726MHz."
)
@click.option("--devices", is_flag=True, help="List those boards, and where the figures are from.")
@click.option("--list", "list_them", is_flag=True, help="List the scenarios that come with delen.")
@click.option(
    "--policy", "policies", multiple=True, metavar="P", help="Only this one, by label or name; may be repeated."
)
@click.option(
    "--set", "settings", multiple=True, callback=_options, metavar="KEY=VALUE", help="Option of the policies."
)
@click.option("--case", "cases", multiple=True, metavar="C", help="Only this case or curve; may be repeated.")
@click.option("--load", "loads", type=OVER_ZERO, multiple=True, help="At this load instead; may be repeated.")
@click.option("--seeds", type=click.IntRange(min=1), help="How many.  [default: the scenario's]")
@click.option("--seed-first", type=click.IntRange(min=0), default=0, show_default=True, help="The first of them.")
@click.option("--duration-s", type=OVER_ZERO, help="Virtual seconds per run.  [default: the scenario's]")
@click.option("--data", type=InputPath(folder=True), metavar="DIR", help="Where recorded traces lie.")
@click.option(
    "--check", type=click.Choice(["on", "off"]), default="on", show_default=True, help="Test every invariant, always."
)
@click.option("--per-tenant", is_flag=True, help="Also what each tenant got.")
@click.option("--plot", type=_PLOT, metavar="FILE.png", help="Draw it, too.")
@click.option("--processes", type=click.IntRange(min=1), help="How many at once.  [default: one per core]")
@json_option
@click.pass_context
def simulate_command(
    ctx: click.Context, /, scenario: str | None, list_them: bool, plot: Path | None, as_json: bool, **options: Any
) -> None:
    """Run SCENARIO (a name, or a TOML file) on the daemon's own core and a virtual clock.

    The same seed gives every policy the same requests, and the same decisions every time.
    """
    if list_them:
        _list(as_json)
        return
    if options.pop("devices"):
        from .command_plan import list_devices

        list_devices(as_json=as_json)
        return
    if options["journal"] is not None:
        from .command_journal import replay_command

        replay_command(ctx, as_json=as_json, **options)
        return
    if scenario is None:
        if options["device"] is None:
            raise click.UsageError("name a scenario, or --list them, or name a --journal or a --device", ctx)
        scenario = "clocks"
    from ..daemon.scenario import load_scenario
    from ..daemon.scenario_plot import check_plot, draw_findings

    if plot is not None:
        check_plot(plot)
    plan = plan_of(load_scenario(scenario), **options)
    findings = run(plan, options["processes"])
    if plot is not None:
        draw_findings(plan.scenario, findings, plot)
    command = command_line(ctx)
    if as_json:
        from ..daemon.scenario_report import document

        print_json({**document(plan, findings, command), "plot": plot and str(plot)})
        return
    show(plan, findings)
    if plot is not None:
        say(f"drawn: {plot}")


def plan_of(scenario: Scenario, **said: Any) -> Plan:
    """The part of a scenario that was asked for; `said`: the command's options by name, each may be left out."""
    from ..daemon.scenario_bench import Plan

    if said.get("device"):
        scenario = _on_device(scenario, said["device"])
    changed = msgspec.structs.replace(
        scenario,
        cases=tuple(_cases(scenario, said.get("cases") or (), said.get("loads") or ())),
        policies=tuple(_policies(scenario, said.get("policies") or (), said.get("settings") or {})),
        duration_s=said.get("duration_s") or scenario.duration_s,
    )
    if changed.warmup_s >= changed.duration_s:
        raise click.UsageError(f"the first {changed.warmup_s:g} s are not counted; run it longer")
    first, data = said.get("seed_first") or 0, said.get("data")
    return Plan(
        scenario=changed,
        seeds=tuple(range(first, first + (said.get("seeds") or scenario.seeds))),
        data=None if data is None else str(data),
        check=said.get("check") != "off",
        per_tenant=bool(said.get("per_tenant")),
    )


def _on_device(scenario: Scenario, device: str) -> Scenario:
    """All its networks as they are on a board there are figures of."""
    from ..profiles.boards import clocked, parse_spec
    from ..profiles.schema import ProfileError

    try:
        spec = parse_spec(device)
        for network in scenario.networks:
            known = clocked(spec.board, network.name)
            known.at(spec.clock_khz, known.modes[0] if spec.mode is None else spec.mode)
    except ProfileError as error:
        raise click.UsageError(f"{scenario.name} on {device}: {error}") from None
    networks = tuple(msgspec.structs.replace(network, device=device) for network in scenario.networks)
    return msgspec.structs.replace(scenario, networks=networks, title=f"{scenario.title}, on {device}")


def run(plan: Plan, processes: int | None) -> Findings:
    """Run it, with a bar on stderr, and say loudly what is left out."""
    from ..daemon.scenario_bench import run_all, runnable

    kept, skipped = runnable(plan)
    for case in skipped:
        warn(f"{plan.scenario.name}: {case.case} is not run: it {case.reason}")
    if not kept.scenario.cases:
        raise CommandFailed("every case asked for plays a recorded trace", ExitCode.NO_INPUT, "name --data DIR")
    with progress() as bar:
        task = bar.add_task(task_of(kept), total=None)
        found = run_all(kept, processes or cores(), lambda done, total: bar.update(task, completed=done, total=total))
    return msgspec.structs.replace(found, skipped=skipped)


def task_of(plan: Plan) -> str:
    """What is about to take its time, e.g. `e2: 120 runs of up to about 3,000,000 requests`."""
    scenario = plan.scenario
    rates_hz = [
        sum(stream.rate * case.load * case.rates.get(stream.tenant, 1.0) for stream in scenario.streams)
        for case in scenario.cases
    ]
    runs = len(scenario.cases) * len(scenario.policies) * len(plan.seeds)
    return f"{scenario.name}: {runs} runs of up to about {max(rates_hz) * scenario.duration_s:,.0f} requests"


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def _cases(scenario: Scenario, names: Sequence[str], loads: Sequence[float]) -> list[Case]:
    known = [case for case in scenario.cases if not names or case.name in names or (case.curve and case.curve in names)]
    strangers = [name for name in names if not any(name in (case.name, case.curve) for case in scenario.cases)]
    if strangers:
        has = ", ".join(dict.fromkeys(case.curve or case.name for case in scenario.cases))
        raise click.UsageError(f"{scenario.name} has no case {strangers[0]!r}; it has {has}")
    if not loads:
        return known
    # A curve is drawn through the loads asked for, once; a case that is a single point becomes one curve.
    ways = {case.curve or f"{case.name}, load": case for case in known}
    return [
        msgspec.structs.replace(case, name=f"{name}={load:g}", curve=name, load=load)
        for name, case in ways.items()
        for load in loads
    ]


def _policies(scenario: Scenario, names: Sequence[str], settings: dict[str, Any]) -> list[PolicySpec]:
    from ..daemon.scenario import PolicySpec
    from ..policies.policy import policy_names

    chosen: list[PolicySpec] = []
    for name in names or [spec.title for spec in scenario.policies]:
        found = [spec for spec in scenario.policies if spec.title == name]
        found = found or [spec for spec in scenario.policies if spec.name == name]
        if not found and name not in policy_names():
            has = ", ".join([spec.title for spec in scenario.policies])
            raise click.UsageError(
                f"no policy {name!r}; {scenario.name} has {has}; delen has {', '.join(policy_names())}"
            )
        chosen += [spec for spec in found or [PolicySpec(name=name)] if spec not in chosen]
    if not settings:
        return chosen
    words = ", ".join(f"{key}={value}" for key, value in settings.items())
    return [
        msgspec.structs.replace(spec, options={**spec.options, **settings}, label=f"{spec.title}, {words}")
        for spec in chosen
    ]


def command_line(ctx: click.Context) -> str:
    """The command with all that was given, so that whoever has the figures can make them again."""
    words = ["delen", *ctx.command_path.split()[1:]]
    for param in ctx.command.params:
        source = ctx.get_parameter_source(param.name or "")
        if source is not click.core.ParameterSource.COMMANDLINE or param.name in ("as_json", "plot"):
            continue
        value = ctx.params[param.name or ""]
        if isinstance(param, click.Argument):
            words.append(str(value))
        elif isinstance(value, dict):
            words += [word for key, one in value.items() for word in (param.opts[0], f"{key}={one}")]
        elif isinstance(value, tuple):
            words += [word for one in value for word in (param.opts[0], str(one))]
        else:
            words += [param.opts[0]] if value is True else [param.opts[0], str(value)]
    return shlex.join(words)


def show(plan: Plan, findings: Findings) -> None:
    """The table for people."""
    from ..daemon.scenario_report import COLUMNS, rows, shown

    columns = [Column("case", "case", justify="left"), Column("policy", "policy", justify="left")]
    columns += [Column(name, COLUMNS[name][0]) for name in shown(findings.results)]
    print_table(rows(findings.results), columns, f"{plan.scenario.name}: {plan.scenario.title}")
    rate = findings.requests / findings.run_s if findings.run_s else 0.0
    counted = f"{findings.requests:,} requests counted, {rate:,.0f} simulated per second and core"
    spread = f"{len(plan.seeds)} seeds; ± half the 95 % interval" if len(plan.seeds) > 1 else ONE_SEED
    say(f"{spread}; {counted}")


def in_order(names: Sequence[str]) -> list[str]:
    """As people count: e2 before e10."""
    return sorted(names, key=lambda name: [(int(part), "") if part.isdigit() else (-1, part) for part in _PARTS(name)])


def _list(as_json: bool) -> None:
    from ..daemon.scenario import load_scenario, scenario_names

    found = [load_scenario(name) for name in in_order(scenario_names())]
    listed = [
        {
            "name": scenario.name,
            "title": scenario.title,
            "reason": " ".join(scenario.reason.split()),
            "cases": [case.name for case in scenario.cases],
            "policies": [spec.title for spec in scenario.policies],
        }
        for scenario in found
    ]
    if as_json:
        print_json({"scenarios": listed})
        return
    columns = [
        Column("name", "scenario", justify="left"),
        Column("title", "what it is", justify="left"),
        Column("cases", "cases", lambda cases: str(len(cases))),
        Column("policies", "policies", lambda policies: str(len(policies))),
    ]
    print_table(listed, columns)
