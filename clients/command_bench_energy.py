"""`delen bench attribution` and `delen bench battery`: whose energy it was, and making it last.

Does not: judge. Targets and past results are in profiles/LOG.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import OVER_ZERO
from .tables import Column, json_option, print_json, print_table, progress, say

if TYPE_CHECKING:
    from ..daemon.battery_bench import Compared
    from ..daemon.outcomes import Interval


@click.command("attribution")
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--duration-s", type=OVER_ZERO, default=60.0, show_default=True, help="Virtual seconds per seed.")
@json_option
def attribution_command(seeds: int, duration_s: float, as_json: bool) -> None:
    """How well tenants are given their energy, by a synthetic meter whose truth is known. Takes a minute."""
    from ..daemon.attribution_bench import bench_attribution

    with progress() as bar:
        task = bar.add_task("attribution", total=None)
        splits = bench_attribution(
            seeds,
            duration_s=duration_s,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json({"splits": splits})
        return
    columns = [
        Column("rate_hz", "readings/s", "{:,}".format),
        Column("way", "way", justify="left"),
        Column("worst", "worst tenant off by %"),
        Column("most", "at most %", "{:.1f}".format),
    ]
    rows = [
        {"rate_hz": each.rate_hz, "way": each.way, "worst": _written(each.worst_pct), "most": each.worst_pct_max}
        for each in splits
    ]
    print_table(rows, columns, f"Energy given to the tenant that was served worst, over {duration_s:g} s")
    say(f"{seeds} seeds; ± half the 95 % interval; simulated")


@click.command("battery")
@click.option("--days", type=click.IntRange(min=1), default=50, show_default=True)
@json_option
def battery_command(days: int, as_json: bool) -> None:
    """A battery to last until midnight under clouds: paced, spent, and by a fixed exit. Takes some minutes."""
    from ..daemon.battery_bench import bench_battery

    with progress() as bar:
        task = bar.add_task("days", total=None)
        found = bench_battery(days, on_progress=lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print_json({"batteries": found})
        return
    columns = [
        Column("scarcity", "energy given / wanted", "{:.2f}".format),
        Column("greedy", "more than greedy %"),
        Column("fixed", "than the day's best fixed exit %"),
        Column("best", "of the most possible %"),
        Column("unused", "unused %"),
        Column("within", "days within 2 %"),
        Column("gap", "last answer before midnight, s", "{:.0f}".format),
        Column("answered", "answered %"),
        Column("greedy_answered", "by greedy %"),
    ]
    print_table([_row(each) for each in found], columns, "Answers weighted by accuracy, ResNet-50 on a Jetson Nano")
    say(f"{days} days; ± half the 95 % interval; by published figures, simulated")


def _row(compared: Compared) -> dict[str, Any]:
    return {
        "scarcity": compared.scarcity,
        "greedy": _written(compared.more_than_greedy_pct),
        "fixed": _written(compared.more_than_fixed_pct),
        "best": _written(compared.of_best_pct),
        "unused": f"{_written(compared.unused_pct)}, at most {compared.unused_pct_max:.1f}",
        "within": f"{compared.within_days} of {compared.days}",
        "gap": compared.last_gap_s_max,
        "answered": _written(compared.answered_pct),
        "greedy_answered": _written(compared.greedy_answered_pct),
    }


def _written(interval: Interval) -> str:
    return f"{interval.mean:.1f} ± {interval.half:.1f}"
