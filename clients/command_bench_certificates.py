"""`delen bench certificates`: whether promised accuracy is delivered as often as promised, and what drift alarms see.

Does not: judge. Targets and past results are in profiles/LOG.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from .options import BELOW_ONE
from .tables import Column, json_option, percent, print_json, print_table, progress, say

if TYPE_CHECKING:
    from ..exits.calibration_file import Calibration
    from ..profiles.costs import Costs

RUNS = 400


@click.command("certificates")
@click.option("--network", default="fashion", show_default=True, help="A name, or a bundle's directory.")
@click.option("--accuracy", type=BELOW_ONE, help="To be certified.  [default: the last exit's less one point]")
@click.option("--certainty", type=BELOW_ONE, default=0.9, show_default=True)
@click.option("--sets", type=click.IntRange(min=10), default=1000, show_default=True, help="Calibration sets drawn.")
@click.option("--size", type=click.IntRange(min=100), default=5000, show_default=True, help="Samples in each.")
@click.option("--data", help="Folder or file, or `fashion`: its test part joins the bundle's own samples.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
def certificates_command(network: str, data: str | None, seed: int, as_json: bool, **options: Any) -> None:
    """Certify on many drawn calibration sets and judge each plan by the pool they were drawn from. About a minute."""
    import numpy as np

    from ..policies.certificate_bench import Task, bench_certificates, bench_drift
    from ..policies.certificates import Certifier

    pool, costs = _pool(network, data)
    last = float(pool.correct[:, costs.ladder[-1]].mean())
    accuracy = options["accuracy"] if options["accuracy"] is not None else last - 0.01
    task = Task(accuracy, options["certainty"], options["sets"], options["size"])
    random = np.random.default_rng(seed)
    with progress() as bars:
        bar = bars.add_task("calibration sets", total=task.sets)
        kept = bench_certificates(pool, costs, task, random, lambda done: bars.update(bar, completed=done))
        bars.add_task("drift", total=None)
        plan = Certifier.of(pool, costs).plan(accuracy, task.certainty)
        drift = bench_drift(pool, costs, plan, RUNS, random) if plan is not None and plan.gated else []
    if as_json:
        told = {"network": network, "pool": len(pool.correct), "seed": seed, **task._asdict()}
        print_json({**told, "certificates": kept, "drift": drift})
        return
    title = f"accuracy {accuracy:.4f} at certainty {task.certainty:g}; {task.sets} sets of {task.size:,} samples"
    print_table([asdict(one) for one in kept], _COLUMNS, f"{title} from {len(pool.correct):,}")
    if drift:
        print_table([asdict(one) for one in drift], _DRIFT_COLUMNS, f"Alarms in {RUNS} runs of {drift[0].audits:,}")
        among = f"of answers gates let go {drift[0].truth:.4f} are not the last exit's"
        say(f"{among}, certified below {drift[0].bound:.4f}; the shift: to 3 times that")
    say("broken: less accurate on the pool than certified; forced: as many stopped as it bears, at the worst exit")


def _pool(network: str, data: str | None) -> tuple[Calibration, Costs]:
    """Outcomes of all held-out samples, and the exits' costs here."""
    import numpy as np

    from ..daemon.engines import make_runner
    from ..daemon.hosting import costs_of
    from ..daemon.labelled import find_network, outcomes, profile_of, read_inputs, run_all
    from ..exits.calibration_file import Calibration
    from ..profiles.store import state_directory

    state = state_directory(os.environ, os.getuid())
    bundle = find_network(network, state)
    runner = make_runner("onnx", "auto", 1)
    costs = costs_of(bundle, profile_of(runner, bundle, state), 1)
    pools = [found for found in [bundle.calibration()] if found is not None]
    if data is not None:
        inputs = read_inputs(bundle, data, "test")
        with progress() as bars:
            bar = bars.add_task(f"running {data}", total=len(inputs.labels))
            logits = run_all(runner, bundle, inputs.values, lambda done: bars.update(bar, completed=done))
        pools.append(outcomes(bundle, logits, inputs.labels))
    if not pools:
        raise click.UsageError(f"{network} has no calibration; give labelled data with --data")
    return Calibration(*(np.concatenate(parts) for parts in zip(*pools, strict=True))), costs


_COLUMNS = (
    Column("kind", "certificate", justify="left"),
    Column("made", "made"),
    Column("broken_share", "broken", percent),
    Column("allowed", "allowed", percent),
    Column("accuracy", "accuracy", "{:.4f}".format),
    Column("cost", "time, of running to the end", percent),
    Column("of_fixed", "of the fixed exit", percent),
)
_DRIFT_COLUMNS = (
    Column("kind", "alarm", justify="left"),
    Column("false_at_truth", "without cause", percent),
    Column("false_at_bound", "at the bound itself", percent),
    Column("fresh", "shift found in 500", percent),
    Column("after_clean", "after clean ones", percent),
    Column("delay_p50", "audits it took", "{:.0f}".format),
)
