"""`delen bench meters`: what sampling power costs, and that a meter, well or broken, does not slow requests down.

Does not: judge. Targets and past results are in profiles/LOG.md.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from .tables import Column, json_option, print_json, print_table, progress

_LATENCY = (
    Column("state", "meter", justify="left"),
    Column("n", "n", "{:,}".format),
    Column("p50_us", "p50 us", "{:,.0f}".format),
    Column("p99_us", "p99 us", "{:,.0f}".format),
    Column("without_p99_us", "without us", "{:,.0f}".format),
    Column("p99_ratio", "p99 / without", "{:.2f}".format),
    Column("low", "at least", "{:.2f}".format),
    Column("high", "at most", "{:.2f}".format),
)
_COST = (
    Column("meter", "sampling", justify="left"),
    Column("files", "files"),
    Column("rate_hz", "samples/s", "{:.0f}".format),
    Column("core_pct", "% of a core", "{:.2f}".format),
)


@click.command("meters")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=1, show_default=True, help="Of 400 times 25 requests per state."
)
@json_option
def meters_command(rounds: int, as_json: bool) -> None:
    """Round trips with a power meter in every state against none, and the sampler's CPU time. Takes some minutes."""
    from ..profiles.meter_bench import bench_sampling, plant_monitor
    from .meters_bench import bench_latency

    with progress() as bar, TemporaryDirectory(prefix="delen-") as scratch:
        task, root = bar.add_task("meters", total=None), Path(scratch)
        current = plant_monitor(root)
        rows = bench_latency(rounds, root, current, lambda done, total: bar.update(task, completed=done, total=total))
    costs = bench_sampling()
    if as_json:
        print_json({"latency": rows, "sampling": costs})
        return
    print_table([_fields(row) for row in rows], _LATENCY, "Round trips through the daemon, by how its meter stands")
    print_table([_fields(row) for row in costs], _COST, "The sampler's process")


def _fields(record: Any) -> dict[str, Any]:
    names: tuple[str, ...] = record.__struct_fields__
    return {name: getattr(record, name) for name in names}
