"""`delen load`: offer a network load in one of MLPerf LoadGen's scenarios, and say what the bounds were worth.

Flow: inputs (shipped test images, a file, or noise) -> `load.py` asks -> `load_report.py` sums up -> tables. With
`--scenario server` requests come when they come, whatever the answers do; latency counts from when each was due.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from .exit_codes import CommandFailed, ExitCode
from .options import OVER_ZERO, InputPath, bound_options, bounds_given, connect, connection_options
from .tables import (
    Column,
    count,
    err,
    histogram,
    json_option,
    millijoules,
    milliseconds,
    percent,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from .arrivals import Phase
    from .client import Client
    from .info import NetworkInfo
    from .load import Outcome, Questions
    from .load_report import LoadReport, Scenario
    from .wire import Array

SCENARIOS: dict[str, Scenario] = {
    "server": "Server",
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
}
# Enough for a p99 with a few answers beyond it; LoadGen's own least counts take minutes.
COUNT = 1024
# Below a daemon's default queue (limits.queued_max, 1,024), so that offline load is not refused.
OUTSTANDING_MAX = 512
NOISE_COUNT = 64


class Burst(NamedTuple):
    """From `start_s` to `end_s` the load is `rate_hz` instead."""

    start_s: float
    end_s: float
    rate_hz: float


def _burst(ctx: click.Context, param: click.Parameter, value: str | None) -> Burst | None:
    if value is None:
        return None
    try:
        burst = Burst(*(float(part) for part in value.split(":")))
    except (ValueError, TypeError):
        raise click.BadParameter(f"{value!r}; expected START_S:END_S:RATE_HZ, e.g. 4:6:500", ctx, param) from None
    if not 0 <= burst.start_s < burst.end_s or not 0 < burst.rate_hz < float("inf"):
        raise click.BadParameter(f"{value!r}; expected 0 <= START_S < END_S and a rate above 0", ctx, param)
    return burst


@click.command("load")
@click.argument("network")
@click.option("--scenario", type=click.Choice(list(SCENARIOS)), default="server", show_default=True)
@click.option("--rate-hz", type=OVER_ZERO, default=100.0, show_default=True, help="Requests per second (server).")
@click.option("--duration-s", type=OVER_ZERO, default=10.0, show_default=True, help="For how long (server).")
@click.option("--burst", callback=_burst, metavar="START_S:END_S:RATE_HZ", help="Another rate for a while (server).")
@click.option(
    "--count", "queries", type=click.IntRange(min=1), default=COUNT, show_default=True, help="Queries (others)."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same arrival times.")
@click.option("--inputs", type=InputPath(), help="Picture or .npy to ask about, not the shipped images.")
@bound_options
@connection_options
@json_option
def load_command(network: str, scenario: str, as_json: bool, **options: Any) -> None:
    """Offer NETWORK load and measure latency, bounds met, exits taken, accuracy and energy.

    \b
    server         Poisson arrivals at --rate-hz, judged by p99
    single-stream  one request after the other, judged by p90
    multi-stream   queries of 8, one after the other, judged by p99 of queries
    offline        all at once, judged by throughput
    """
    from .load_report import report

    _check_burst(options["burst"], options["duration_s"], scenario)
    bounds = dict(bounds_given(options))
    with connect(options["tenant"], options["endpoint"], options["timeout_s"], options["wait_s"]) as client:
        questions = _questions(client, network, options["inputs"], bounds)
        summary = report(_offer(client, questions, scenario, options), SCENARIOS[scenario])
    if as_json:
        print_json({"network": network, "bounds": {**bounds, "conditions": "conditions" in bounds}, "report": summary})
    else:
        _show(network, summary)
    if not summary.answered:
        codes = ", ".join(f"{name} {number}" for name, number in summary.codes.items())
        raise CommandFailed(f"none of {summary.requests} requests was answered: {codes or 'there were none'}")


def _check_burst(burst: Burst | None, duration_s: float, scenario: str) -> None:
    if burst is not None and scenario != "server":
        raise click.UsageError(f"--burst goes with --scenario server, not {scenario}")
    if burst is not None and burst.end_s > duration_s:
        raise click.UsageError(f"the burst ends at {burst.end_s:g} s, the load at {duration_s:g} s; see --duration-s")


def _questions(client: Client, network: str, path: Path | None, bounds: dict[str, Any]) -> Questions:
    """What to ask: the file's inputs, else the shipped test images with their labels, else noise of the right shape."""
    from .load import Questions

    known = {info.name: info for info in client.networks()}
    if network not in known:
        raise CommandFailed(f"no network {network!r}; this tenant may use: {', '.join(known)}", ExitCode.REFUSED)
    info = known[network]
    if path is not None:
        from .pictures import read_inputs

        return Questions(network, read_inputs(path, info), arguments=bounds)
    return _shipped(info, bounds) or Questions(network, _noise(info), arguments=bounds)


def _shipped(info: NetworkInfo, bounds: dict[str, Any]) -> Questions | None:
    from ..exits.samples import SAMPLE_COUNTS, load_samples, prepare
    from .load import Questions

    if info.name not in SAMPLE_COUNTS:
        return None
    images, labels = load_samples(info.name)
    inputs = prepare(images, info.preprocessing)
    return Questions(info.name, list(inputs), [int(label) for label in labels], bounds)


def _noise(info: NetworkInfo) -> list[Array]:
    import numpy as np

    say(f"no test images ship with {info.name}: asking about noise, so there is no accuracy")
    values = np.random.default_rng(0).standard_normal((NOISE_COUNT, *info.shape)) * 64
    return list(values.astype(info.dtype))


def _offer(client: Client, questions: Questions, scenario: str, options: dict[str, Any]) -> list[Outcome]:
    from . import load

    # The protocol takes any keyword, the client only those of bounds, which is what `questions` holds.
    run = load.Run(cast("load.Asker", client), questions, on_second=_teller())
    if scenario == "server":
        import numpy as np

        from .arrivals import poisson_phases

        phases = _phases(options["rate_hz"], options["duration_s"], options["burst"])
        return load.server(run, poisson_phases(phases, np.random.default_rng(options["seed"])))
    if scenario == "offline":
        return load.offline(run, count=options["queries"], outstanding_max=OUTSTANDING_MAX)
    stream = load.single_stream if scenario == "single-stream" else load.multi_stream
    return stream(run, count=options["queries"])


def _phases(rate_hz: float, duration_s: float, burst: Burst | None) -> list[Phase]:
    from .arrivals import Phase

    if burst is None:
        return [Phase(0.0, duration_s, rate_hz)]
    start_s, end_s, burst_hz = burst
    phases = [Phase(0.0, start_s, rate_hz), Phase(start_s, end_s, burst_hz), Phase(end_s, duration_s, rate_hz)]
    return [phase for phase in phases if phase.start_s < phase.end_s]


def _teller() -> Callable[[int, list[Outcome]], None] | None:
    """A line a second for whoever watches; nothing in a pipe."""
    if not err().is_terminal:
        return None
    from .load_report import report

    def tell(second: int, outcomes: list[Outcome]) -> None:
        part = report(outcomes)
        met = "    -" if part.met is None else f"{part.met * 100:5.1f}"
        p99 = milliseconds(part.latency.p99_us) if part.answered else "-"
        say(f"{second + 1:4} s  {part.answered:6} answered  {part.refused:5} refused  met {met} %  p99 {p99:>6} ms")

    return tell


def _show(network: str, summary: LoadReport) -> None:
    name, unit = summary.score_name.rsplit("_", 1)
    score = f"{milliseconds(summary.score)} ms" if unit == "us" else f"{summary.score:.1f}/s"
    title = f"{network}, {summary.scenario}: {name} {score if summary.answered else '-'}"
    kinds = {
        "due to answer": summary.latency,
        "whole query": summary.query if summary.query != summary.latency else None,
        "send to answer": summary.from_send,
        "in the daemon": summary.daemon,
        "generator late by": summary.lag,
    }
    rows = [{"what": what, **_fields(times)} for what, times in kinds.items() if times is not None and times.n]
    print_table(rows, _LATENCY_COLUMNS, title)
    counts = [summary.exits.get(index, 0) for index in range(max(summary.exits, default=-1) + 1)]
    energy_mj = None if summary.energy_mj is None else summary.energy_mj / summary.answered
    print_table([{**_fields(summary), "exits": counts, "energy_each_mj": energy_mj}], _COUNT_COLUMNS)
    for code, number in summary.codes.items():
        say(f"{number} ended with {code}")


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


_LATENCY_COLUMNS = (
    Column("what", "", justify="left"),
    Column("n", "n", count),
    Column("p50_us", "p50 ms", milliseconds),
    Column("p90_us", "p90 ms", milliseconds),
    Column("p95_us", "p95 ms", milliseconds),
    Column("p99_us", "p99 ms", milliseconds),
    Column("max_us", "max ms", milliseconds),
)
_COUNT_COLUMNS = (
    Column("requests", "requests", count),
    Column("offered_hz", "offered/s", lambda value: f"{value:.1f}"),
    Column("answered_hz", "answered/s", lambda value: f"{value:.1f}"),
    Column("refused", "refused", count),
    Column("failed", "failed", count),
    Column("met", "bounds met", percent),
    Column("met_daemon", "by the daemon", percent),
    Column("accuracy", "accuracy", percent),
    Column("expected_accuracy", "expected", percent),
    Column("energy_each_mj", "mJ each", millijoules),
    Column("energy_source", "energy", justify="left"),
    Column("exits", "exits", histogram, justify="left"),
)
