"""`delen bench`: what delen itself costs, each figure a ratio or beside a yardstick measured in the same run.

Does not: judge. Targets and past results are in profiles/LOG.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .command_bench_certificates import certificates_command
from .command_bench_clocks import clocks_command
from .command_bench_energy import attribution_command, battery_command
from .command_bench_meters import meters_command
from .command_bench_networks import networks_command
from .command_bench_policies import correction_command, oracle_command
from .command_scenarios import scenarios_command
from .options import InputPath
from .tables import Column, json_option, print_json, print_table, progress, say

_MEMORY = ("one_mib", "separate_mib", "one_run_mib", "separate_run_mib", "estimated_mib")
_MICROSECONDS, _HUNDREDTHS = "{:,.0f}".format, "{:.2f}".format


@click.group("bench")
def bench_command() -> None:
    """Measure delen itself: round trips, decisions, scenarios and more. Leave the machine alone meanwhile."""


for command in (
    *(scenarios_command, oracle_command, correction_command, certificates_command, networks_command),
    *(meters_command, clocks_command, attribution_command, battery_command),
):
    bench_command.add_command(command)


@bench_command.command("rtt")
@click.option("--rounds", type=click.IntRange(min=2), default=40, show_default=True, help="Rounds of 50 round trips.")
@click.option(
    "--against",
    type=InputPath(folder=True),
    metavar="DIR",
    help="Another checkout of delen, say of an older commit: what has changed since costs so much.",
)
@click.option(
    "--starts", type=click.IntRange(1, 500), help="With --against: how often both are started.  [default: 12]"
)
@json_option
def rtt_command(rounds: int, against: Path | None, starts: int | None, as_json: bool) -> None:
    """Round trips through the daemon against a bare ZeroMQ echo, or against another version's, in turns."""
    from .rtt_bench import bench_rtt

    if against is not None:
        _against(against, starts, rounds, as_json=as_json)
        return
    if starts is not None:
        raise click.UsageError("--starts is how often both versions are started; name the other with --against DIR")
    with progress() as bar:
        task = bar.add_task("round trips", total=2 * rounds)
        report = bench_rtt(rounds, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print_json(report)
        return
    columns = [
        Column("input_bytes", "input bytes", "{:,}".format),
        Column("echo_p50_us", "echo p50 us", _MICROSECONDS),
        Column("delen_p50_us", "delen p50 us", _MICROSECONDS),
        Column("delen_p99_us", "delen p99 us", _MICROSECONDS),
        Column("engine_p50_us", "engine p50 us", _MICROSECONDS),
        Column("overhead_ratio", "(delen - engine) / echo", "{:.2f}".format),
    ]
    print_table([_row(size) for size in report.sizes], columns, "Round trips, one after the other")
    _yardstick(report.calibration_loop_us)


def _against(other: Path, starts: int | None, rounds: int, *, as_json: bool) -> None:
    from .rtt_against import CERTAIN, STARTS, bench_against, is_checkout

    if not is_checkout(other):
        hint = "for one of an older commit: git worktree add ../before COMMIT"
        raise click.UsageError(f"{other} is no checkout of delen: it has no clients/private_daemon.py; {hint}")
    with progress() as bar:
        task = bar.add_task("round trips of both", total=None)
        report = bench_against(
            other, starts or STARTS, rounds, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if as_json:
        print_json(report)
        return
    columns = [
        Column("input_bytes", "input bytes", "{:,}".format),
        Column("other_p50_us", "other p50 us", _MICROSECONDS),
        Column("this_p50_us", "this p50 us", _MICROSECONDS),
        Column("other_engine_p50_us", "other engine us", _MICROSECONDS),
        Column("this_engine_p50_us", "this engine us", _MICROSECONDS),
        Column("ratio", "(delen - engine), this / other", "{:.3f}".format),
        Column("interval", "95 %" if report.starts >= CERTAIN else "least to greatest", justify="left"),
    ]
    rows = [{**_row(size), "interval": f"{size.ratio_low:.3f} to {size.ratio_high:.3f}"} for size in report.sizes]
    print_table(rows, columns, f"Round trips against {other}, medians of {report.starts} starts of both")
    _yardstick(report.calibration_loop_us)


@bench_command.command("decision")
@click.option("--policy", default="stage-edf", show_default=True, help="Whose decisions.")
@click.option("--queued", type=click.IntRange(1, 100_000), multiple=True, help="How many wait; several may be given.")
@json_option
def decision_command(policy: str, queued: tuple[int, ...], as_json: bool) -> None:
    """One scheduling decision and one admission, by how much is queued."""
    from ..daemon.decide_bench import QUEUED, bench_decisions
    from ..policies.policy import PolicyError

    lengths, rows = queued or QUEUED, []
    try:
        with progress() as bar:
            task = bar.add_task("decisions", total=len(lengths))
            for row in bench_decisions(lengths, policy):
                rows.append(row)
                bar.update(task, advance=1)
    except PolicyError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        print_json({"policy": policy, "decisions": rows})
        return
    names = ("choose_p50_us", "choose_p99_us", "next_p50_us", "next_p99_us", "submit_p50_us", "submit_p99_us")
    columns = [Column("queued", "queued", "{:,}".format)]
    columns += [Column(name, name.replace("_", " "), _MICROSECONDS) for name in (*names, "loop_us")]
    print_table([_row(row) for row in rows], columns, f"The core under {policy}, eight networks of four exits")


@bench_command.command("footprint")
@click.option(
    "--bundle", "bundles", multiple=True, type=InputPath(folder=True), metavar="DIR", help="Another to weigh."
)
@json_option
def footprint_command(bundles: tuple[Path, ...], as_json: bool) -> None:
    """Memory of the daemon's front and of networks, and what importing the SDK costs over bare Python.

    A network with several exits is weighed against as many separate networks, one for each exit.
    """
    from ..exits.bundle import shipped_directory
    from ..profiles.memory_bench import BATCH_MAX, bench_memory
    from .footprint_bench import bench_footprint
    from .rtt_bench import calibration_loop_us

    memory = bench_memory([shipped_directory() / "digits", shipped_directory() / "fashion", *bundles])
    report = bench_footprint()
    loop_us = calibration_loop_us()
    if as_json:
        print_json({**_row(report), "calibration_loop_us": loop_us, "networks": memory})
        return
    weighed = [
        Column("network", "network", justify="left"),
        Column("exits", "exits"),
        *(Column(name, name.replace("_mib", "").replace("_", " "), "{:.0f}".format) for name in _MEMORY),
        Column("saved", "saved", "{:.0%}".format),
    ]
    print_table(
        [_row(row) for row in memory], weighed, f"MiB beyond the engine's own; run: after a batch of {BATCH_MAX}"
    )
    columns = [
        Column("front_rss_mb", "front RSS MB", "{:.1f}".format),
        Column("import_ms", "import over bare Python ms", "{:.0f}".format),
        Column("parts_ms", "numpy, zmq, msgspec alone ms", "{:.0f}".format),
    ]
    print_table([_row(report)], columns, "Footprint")
    _yardstick(loop_us)


@bench_command.command("e4")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of every load.")
@json_option
def e4_command(runs: int, as_json: bool) -> None:
    """Scenario E4 on a real daemon here and in simulation, at its loads, side by side. Takes some minutes."""
    from ..daemon.e4_bench import bench_e4
    from .open_loop import playing

    with progress() as bar:
        task = bar.add_task("e4", total=None)
        report = bench_e4(
            playing,
            runs,
            lambda done, total, label: bar.update(task, completed=done, total=total, description=f"e4: {label}"),
        )
    if as_json:
        print_json(report)
        return
    columns = [
        Column("load", "requests/s", "{:g}".format),
        Column("real_violations", "violations real %", _HUNDREDTHS),
        Column("simulated_violations", "simulated %", _HUNDREDTHS),
        Column("real_exit", "mean exit real", _HUNDREDTHS),
        Column("simulated_exit", "simulated", _HUNDREDTHS),
        Column("agrees", "within 1 point and 0.2", justify="left"),
        Column("slower", "engine / profile, p50 and p99", justify="left"),
        Column("hop_us", "hop us", justify="left"),
    ]
    rows = [
        {
            "load": compared.load,
            "real_violations": compared.real.violations_pct,
            "simulated_violations": compared.simulated.violations_pct,
            "real_exit": compared.real.mean_exit,
            "simulated_exit": compared.simulated.mean_exit,
            "agrees": "yes" if compared.agrees else "no",
            "slower": " ".join(map(_HUNDREDTHS, compared.slower)),
            "hop_us": " ".join(map(_MICROSECONDS, compared.hop_us)),
        }
        for compared in report.loads
    ]
    print_table(rows, columns, f"E4, medians of {runs} runs")
    say(f"requests were sent within {report.late_p99_us} us of their time (p99)")


def _row(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _yardstick(loop_us: float) -> None:
    print_table([{"loop": loop_us}], [Column("loop", "fixed pure-Python loop, us", _MICROSECONDS)])
