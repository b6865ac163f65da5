"""What certified accuracy costs on a real network, asked for one picture at a time through the daemon.

Role: `delen bench networks`. Flow: `bench_fashion` on the shipped bundle and pictures; `bench_splits` on a bundle whose
test pictures are divided again and again: calibrate on one half, keep that as the user's own calibration, serve, ask
for the other half. Three ways of asking take turns, so that the machine's moods fall on all alike: to the end, under
the certified accuracy bound, and at the cheapest fixed exit that can be certified.

Cost is the device time that answers say; the round trip by the client's clock stands beside it. Does not: train, judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np

from ..clients.wire import Array
from ..exits.bundle import Bundle, load_bundle, shipped_directory
from ..exits.bundle_logits import bundle_logits
from ..exits.calibrate import calibrate
from ..exits.calibrations import keep, overridden
from ..exits.data_files import open_data
from ..exits.datasets import Labelled, as_inputs, hold_out
from ..exits.runner import Logits
from ..exits.samples import load_samples
from ..policies.certificates import Certifier
from .engines import make_runner
from .hosting import costs_of
from .labelled import profile_of

CERTAINTY = 0.9
# So many pictures one way, then as many the next: short beside what a neighbour on the machine does.
TURN = 50
THREADS = 2
# Alone on its device and without bounds, a request runs to the last exit in one go, past all other heads.
TO_THE_END: Mapping[str, object] = {}
# Accuracy bounds lie so far below the last exit's.
FASHION_LOSS, RESNET20_LOSS = 0.01, 0.015


class Reply(NamedTuple):
    """One answer. `device_us`: its share of the device's time; `round_trip_us`: by the client's clock."""

    label: int
    exit: int
    device_us: int
    round_trip_us: int


# Inputs as the network takes them, and bounds as `Client.infer` takes them: one answer each, one after the other.
Ask: TypeAlias = Callable[[Array, Mapping[str, object]], Sequence[Reply]]
# A bundle's directory, a state directory, and the one exit to serve or None -> a daemon of its own, for as long as the
# block lasts. With an exit it is a plain server of that depth.
Serving: TypeAlias = Callable[[Path, Path, int | None], AbstractContextManager[Ask]]
Progress: TypeAlias = Callable[[int, int], None]


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way of asking: mean figures; `shares`: of the answers, by the exit that gave them."""

    accuracy: float
    device_us: float
    round_trip_us: float
    shares: tuple[float, ...]


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What a certificate cost on one division of the pictures.

    `asked`: the accuracy bound. `n`: samples behind the certificate; `count`: pictures asked for. `gates`, `fixed`:
    None where it could not be certified so; `fixed_exit`: the cheapest one that could. `of_full`, `of_fixed`: device
    time under gates over that of running to the end, and over the fixed exit's; likewise `round_trip_of_full`.
    """

    seed: int
    asked: float
    n: int
    count: int
    full: Way
    gates: Way | None
    fixed: Way | None
    fixed_exit: int | None
    of_full: float | None
    of_fixed: float | None
    round_trip_of_full: float | None


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One network. `accuracies`: of its exits, on all pictures it is reported on, by the engine alone.

    `right` of `count` pictures were right at the last exit through the daemon; `loss`: what bounds are below it.
    """

    network: str
    accuracies: tuple[float, ...]
    right: int
    count: int
    loss: float
    served: tuple[Served, ...]


def bench_fashion(serving: Serving, on_progress: Progress) -> Case:
    """The shipped network with the calibration that it ships, on the shipped pictures. About half a minute."""
    bundle = load_bundle(shipped_directory() / "fashion")
    part = load_samples("fashion")
    on_progress(0, 1)
    logits = bundle_logits(bundle, part.images, make_runner("onnx", "auto", THREADS))
    # As the bundle itself says: nothing is known of these pictures before they are asked for.
    asked = bundle.manifest.exits[-1].accuracy - FASHION_LOSS
    with TemporaryDirectory(prefix="delen-networks-") as state:
        served = bench_served(serving, bundle, Path(state), part, asked=asked)
    on_progress(1, 1)
    return Case(
        network="fashion",
        accuracies=_shares(logits, part.labels),
        right=round(served.full.accuracy * served.count),
        count=served.count,
        loss=FASHION_LOSS,
        served=(served,),
    )


def bench_resnet20(serving: Serving, directory: Path, data: str, splits: int, on_progress: Progress) -> Case:
    """ResNet-20 on CIFAR-10's test pictures: all of them at the last exit, then divided in halves again and again.

    Args:
        directory: of the bundle (`exits/resnet20.py`). data: see `open_data`. splits: how many divisions.
    """
    bundle = load_bundle(directory)
    part = open_data(data, shape=bundle.manifest.input.shape).test
    on_progress(0, 2 + splits)
    logits = bundle_logits(bundle, part.images, make_runner("onnx", "auto", THREADS))
    accuracies = _shares(logits, part.labels)
    asked = accuracies[-1] - RESNET20_LOSS
    all_served = []
    with TemporaryDirectory(prefix="delen-networks-") as folder:
        state = Path(folder)
        on_progress(1, 2 + splits)
        with serving(directory, state, None) as ask:
            inputs = as_inputs(part.images, bundle.manifest.preprocessing)
            labels = np.array([reply.label for reply in ask(inputs, TO_THE_END)])
        for seed in range(splits):
            on_progress(2 + seed, 2 + splits)
            known, fresh = halves(part.labels, seed)
            recalibrate(state, bundle, logits[:, known], part.labels[known])
            half = Labelled(part.images[fresh], part.labels[fresh])
            all_served.append(bench_served(serving, bundle, state, half, asked=asked, seed=seed))
    return Case(
        network=bundle.manifest.name,
        accuracies=accuracies,
        right=int((labels == part.labels).sum()),
        count=len(part.labels),
        loss=RESNET20_LOSS,
        served=tuple(all_served),
    )


def bench_served(
    serving: Serving, bundle: Bundle, state: Path, part: Labelled, *, asked: float, seed: int = 0
) -> Served:
    """Serve the bundle with the calibrations of `state`, and ask for every picture in all three ways.

    Args:
        part: raw pictures that no calibration has seen.
    """
    last = len(bundle.manifest.exits) - 1
    with ExitStack() as daemons:
        ask = daemons.enter_context(serving(bundle.directory, state, None))
        # Its start has left a profile, so this knows the same costs.
        certifier = _certifier(bundle, state)
        gates = certifier.plan(asked, CERTAINTY)
        fixed = certifier.plan(asked, CERTAINTY, gated=False)
        ways: dict[str, tuple[Ask, Mapping[str, object]]] = {"full": (ask, TO_THE_END)}
        if gates is not None:
            ways["gates"] = (ask, {"accuracy": asked, "certainty": CERTAINTY})
        if fixed is not None and fixed.last != last:
            # A server of its own, that does nothing else: no exit is looked at on the way.
            ways["fixed"] = (daemons.enter_context(serving(bundle.directory, state, fixed.last)), {})
        found = _in_turns(ways, as_inputs(part.images, bundle.manifest.preprocessing), part.labels, last + 1)
    full, gated = found["full"], found.get("gates")
    # Where only the last exit is certified, running to the end is the fixed exit's way.
    best_fixed = None if fixed is None else found.get("fixed", full)
    return Served(
        seed=seed,
        asked=asked,
        n=0 if gates is None else gates.n,
        count=len(part.labels),
        full=full,
        gates=gated,
        fixed=best_fixed,
        fixed_exit=None if fixed is None else fixed.last,
        of_full=_ratio(gated, full, "device_us"),
        of_fixed=_ratio(gated, best_fixed, "device_us"),
        round_trip_of_full=_ratio(gated, full, "round_trip_us"),
    )


def _in_turns(
    ways: Mapping[str, tuple[Ask, Mapping[str, object]]], inputs: Array, labels: Array, exits: int
) -> dict[str, Way]:
    replies: dict[str, list[Reply]] = {name: [] for name in ways}
    for start in range(0, len(inputs), TURN):
        for name, (ask, bounds) in ways.items():
            replies[name] += ask(inputs[start : start + TURN], bounds)
    return {name: _way(came, labels, exits) for name, came in replies.items()}


def recalibrate(state: Path, bundle: Bundle, logits: Logits, labels: Array) -> None:
    """Put a calibration on these samples in place of the bundle's own. `logits`: shape (exits, n, classes)."""
    keep(state, bundle, calibrate(logits, labels, own=True).file)


def halves(labels: Array, seed: int) -> tuple[Array, Array]:
    """Rows to calibrate on and rows to report on: all of them, half and half, drawn by the seed."""
    rows = Labelled(np.arange(len(labels)), labels)
    fresh, known = hold_out(rows, len(labels) // 2, seed)
    return known.images, fresh.images


def _shares(logits: Logits, labels: Array) -> tuple[float, ...]:
    """Share right per exit."""
    return tuple(np.mean(logits.argmax(2) == labels, axis=1).tolist())


def _certifier(bundle: Bundle, state: Path) -> Certifier:
    """What the daemon promises by: the calibration in force, costs as it measured them at its start."""
    known = overridden(bundle, state)
    profile = profile_of(make_runner("onnx", "auto", 1), known, state)
    calibration = known.calibration()
    if calibration is None:
        raise ValueError(f"{bundle.manifest.name} has no calibration, so nothing can be certified; calibrate it first")
    return Certifier.of(calibration, costs_of(known, profile, 1))


def _way(replies: Sequence[Reply], labels: Array, exits: int) -> Way:
    left = np.bincount([reply.exit for reply in replies], minlength=exits) / len(replies)
    return Way(
        accuracy=float(np.mean(np.array([reply.label for reply in replies]) == labels)),
        device_us=float(np.mean([reply.device_us for reply in replies])),
        round_trip_us=float(np.mean([reply.round_trip_us for reply in replies])),
        shares=tuple(left.tolist()),
    )


def _ratio(one: Way | None, other: Way | None, figure: str) -> float | None:
    return None if one is None or other is None else getattr(one, figure) / getattr(other, figure)
