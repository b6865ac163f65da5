"""`delen profile`: measure a network on this device, keep the profile where the daemon finds it, show it, plot it.

Flow: bundle -> engine -> `profiles.measure` (minutes; a bar shows how far) -> state directory -> table, and a plot on
request. Does not: measure by itself, or talk to a daemon; a running one takes the new profile at its next start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CommandFailed, ExitCode
from .options import OVER_ZERO
from .tables import (
    Column,
    count,
    json_option,
    millijoules,
    milliseconds,
    percent,
    print_json,
    print_table,
    progress,
    say,
    warn,
)

if TYPE_CHECKING:
    from ..exits.bundle import Bundle
    from ..exits.datasets import Labelled
    from ..profiles.schema import Profile


def _sizes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Comma-separated batch sizes; 1 is always among them, since every other figure builds on it."""
    try:
        sizes = {int(part) for part in value.split(",")}
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of batch sizes; expected e.g. 1,2,4,8", ctx, param) from None
    if min(sizes) < 1:
        raise click.BadParameter(f"{min(sizes)} is no batch size; expected at least 1", ctx, param)
    return tuple(sorted(sizes | {1}))


@click.command("profile")
@click.argument("network")
@click.option("--batches", callback=_sizes, default="1,2,4,8,16,32", show_default=True, help="Sizes to measure.")
@click.option("--quick", is_flag=True, help="At most 5 s, with wider margins.")
@click.option("--engine", type=click.Choice(["onnx", "torch", "tensorrt"]), default="onnx", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or cuda with torch and tensorrt.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads of the engine.")
@click.option("--meter", default="auto", show_default=True, help="As in the configuration; none: by the model.")
@click.option("--watts", type=OVER_ZERO, help="Power of one busy core, where no meter is found.")
@click.option("--clocks", metavar="MHZ,MHZ|all", help="At these GPU clocks, one after the other; takes rights to set.")
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="Where profiles are kept.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png", help="Draw it, too.")
@click.option("--all", "every_step", is_flag=True, help="Also print every segment, head and batch size as measured.")
@json_option
def profile_command(network: str, plot: Path | None, every_step: bool, as_json: bool, **options: Any) -> None:
    """Measure what every exit of NETWORK (a name, or a bundle's directory) costs and is worth on this device.

    Nothing else should run meanwhile. Without a power meter, energies are modelled and say so.
    """
    from ..exits.bundle import find_bundle, load_bundle, shipped_directory
    from ..profiles.store import Found, state_directory, write_profile
    from ..profiles.table import profile_summary

    if plot is not None:
        _check_plot(plot)
    state = state_directory(os.environ, os.getuid(), flag=options["state_dir"])
    bundle = load_bundle(find_bundle(network, [shipped_directory()]))
    if options["clocks"]:
        *_, profile = _at_clocks(bundle, options, lambda one: say(f"written to {write_profile(state, one)}"))
    else:
        profile = _measure(bundle, options)
    path = write_profile(state, profile)
    if plot is not None:
        from ..profiles.plot import draw_profile

        draw_profile(profile, plot)
    if as_json:
        print_json({**profile_summary(profile, Found(profile, path, "")), "plot": plot and str(plot)})
        return
    _show(profile, every_step=every_step)
    say(f"written to {path}" + (f", drawn in {plot}" if plot else ""))
    if profile.energy_source != "measured":
        warn(f"energy is {profile.energy_source}: {profile.energy_model}")


def _measure(bundle: Bundle, options: dict[str, Any]) -> Profile:
    from ..daemon.engines import make_runner
    from ..profiles.measure import FULL, QUICK, measure
    from ..profiles.meters import WATTS_PER_CORE, MeterError, best_meter

    def tell(said: str) -> None:
        bars.update(bar, description=said)

    runner = make_runner(options["engine"], options["device"], options["threads"], tell)
    watts = options["watts"] or WATTS_PER_CORE
    try:
        meter = best_meter(watts=watts, said=options["meter"], device=runner.device)
    except MeterError as error:
        raise click.BadParameter(str(error), param_hint="--meter") from error
    with progress() as bars:
        bar = bars.add_task(f"measuring {bundle.manifest.name}", total=100)

        def on_progress(done: int, total: int, label: str) -> None:
            bars.update(bar, completed=done, total=total, description=f"measuring {bundle.manifest.name}: {label}")

        return measure(
            runner,
            bundle,
            meter=meter,
            batches=options["batches"],
            samples=_samples(bundle.manifest.name),
            budget=QUICK if options["quick"] else FULL,
            on_progress=on_progress,
        )


def _at_clocks(bundle: Bundle, options: dict[str, Any], keep: Callable[[Profile], None]) -> list[Profile]:
    """A profile at each of the clocks asked for, slowest first, kept at once; then the GPU has its own limits again."""
    from ..profiles.board_clocks import ClockError, find_gpu

    gpu = find_gpu()
    if gpu is None:
        raise click.UsageError("--clocks: this machine has no GPU whose clock can be set")
    found = []
    try:
        try:
            for khz in _steps(options["clocks"], gpu.steps_khz):
                gpu.set(khz)
                say(f"GPU at {khz / 1000:g} MHz")
                found.append(_measure(bundle, options))
                keep(found[-1])
        finally:
            gpu.restore()
    except ClockError as error:
        raise CommandFailed(f"--clocks: {error}", ExitCode.PERMISSION) from error
    return found


def _steps(said: str, known: Sequence[int]) -> list[int]:
    """The clocks meant, kHz; whole megahertz stand for the clock they begin."""
    if said == "all" and known:
        return list(known)
    found = []
    for word in said.split(","):
        khz = next((khz for khz in known if word in (f"{khz // 1000}", f"{khz / 1000:g}")), None)
        if khz is None:
            has = ", ".join(f"{each / 1000:g}" for each in known) or "none it names"
            raise click.UsageError(f"--clocks: the GPU has no clock of {word!r} MHz; it has {has}, or all")
        found.append(khz)
    return sorted(found)


def _samples(network: str) -> Labelled | None:
    """The shipped test images, where there are any for this network."""
    from ..exits.samples import SAMPLE_COUNTS, load_samples

    return load_samples(network) if network in SAMPLE_COUNTS else None


def _check_plot(plot: Path) -> None:
    """Better now than after minutes of measuring."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("plots need matplotlib", name="matplotlib")
    if not plot.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no directory {plot.absolute().parent}", param_hint="--plot")


def _show(profile: Profile, *, every_step: bool) -> None:
    from ..profiles.table import profile_rows, step_rows

    device = profile.device
    title = f"{profile.network} {profile.network_version} on {device.board}, {device.processor}: {device.engine}"
    rows = [{**row, "note": "dominated: never chosen" if row["dominated"] else ""} for row in profile_rows(profile)]
    print_table(rows, _columns(profile.batches[-1]), f"{title}, {device.threads} threads")
    if every_step:
        print_table(step_rows(profile), _STEP_COLUMNS)


def _columns(batch: int) -> tuple[Column, ...]:
    return (
        Column("exit", "exit"),
        Column("accuracy", "accuracy", percent),
        Column("low", "at least", percent),
        Column("high", "at most", percent),
        Column("p50_us", "p50 ms", milliseconds),
        Column("p99_us", "p99 ms", milliseconds),
        Column("energy_mj", "mJ", millijoules),
        Column("p50_us_each_at_largest", f"ms each of {batch}", milliseconds),
        Column("energy_mj_each_at_largest", "mJ each", millijoules),
        Column("energy_source", "energy", justify="left"),
        Column("note", "", justify="left"),
    )


_STEP_COLUMNS = (
    Column("step", "step", justify="left"),
    Column("batch", "batch"),
    Column("p50_us", "p50 ms", milliseconds),
    Column("p95_us", "p95 ms", milliseconds),
    Column("p99_us", "p99 ms", milliseconds),
    Column("n", "n", count),
    Column("energy_mj", "mJ", millijoules),
)
