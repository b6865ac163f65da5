"""`delen bench`: what delen itself costs, each figure a ratio or beside a yardstick measured in the same run.

Does not: judge. Targets and past results are in profiles/LOG.md.
"""

from __future__ import annotations

from typing import Any

import click

from .tables import Column, json_option, print_json, print_table, progress

_MICROSECONDS = "{:,.0f}".format


@click.group("bench")
def bench_command() -> None:
    """Measure delen itself: round trips, decisions, footprint. Leave the machine alone meanwhile."""


@bench_command.command("rtt")
@click.option("--rounds", type=click.IntRange(min=2), default=40, show_default=True, help="Rounds of 50 round trips.")
@json_option
def rtt_command(rounds: int, as_json: bool) -> None:
    """Round trips through the daemon against a bare ZeroMQ echo, in turns."""
    from .rtt_bench import bench_rtt

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


@bench_command.command("decide")
@json_option
def decide_command(as_json: bool) -> None:
    """One scheduling decision and one admission, by how much is queued."""
    from ..daemon.decide_bench import bench_decisions
    from .rtt_bench import calibration_loop_us

    rows = bench_decisions()
    loop_us = calibration_loop_us()
    if as_json:
        print_json({"decisions": rows, "calibration_loop_us": loop_us})
        return
    columns = [
        Column("queued", "queued"),
        Column("choose_p50_us", "choose p50 us", _MICROSECONDS),
        Column("submit_p50_us", "submit p50 us", _MICROSECONDS),
    ]
    print_table([_row(row) for row in rows], columns, "The core, eight networks of four exits")
    _yardstick(loop_us)


@bench_command.command("footprint")
@json_option
def footprint_command(as_json: bool) -> None:
    """Memory of the daemon's front at rest, and what importing the SDK costs over bare Python."""
    from .footprint_bench import bench_footprint
    from .rtt_bench import calibration_loop_us

    report = bench_footprint()
    loop_us = calibration_loop_us()
    if as_json:
        print_json({**_row(report), "calibration_loop_us": loop_us})
        return
    columns = [
        Column("front_rss_mb", "front RSS MB", "{:.1f}".format),
        Column("import_ms", "import over bare Python ms", "{:.0f}".format),
        Column("parts_ms", "numpy, zmq, msgspec alone ms", "{:.0f}".format),
    ]
    print_table([_row(report)], columns, "Footprint")
    _yardstick(loop_us)


def _row(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _yardstick(loop_us: float) -> None:
    print_table([{"loop": loop_us}], [Column("loop", "fixed pure-Python loop, us", _MICROSECONDS)])
