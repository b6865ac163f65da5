"""`delen infer`: pictures, arrays or shipped samples in, labelled answers out, each with what it cost.

Flow: inputs are read and prepared as the network says -> all are sent, so that the daemon may batch them -> one row per
answer. Does not: decide anything; a refusal ends the command with its own exit code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .exit_codes import CommandFailed, ExitCode
from .options import InputPath, bound_options, bounds_given, connect, connection_options
from .tables import Column, json_option, mark, millijoules, milliseconds, percent, print_json, print_table

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .client import Client
    from .info import NetworkInfo
    from .inputs import BoundArguments
    from .results import Result
    from .wire import Array

# As many as this are under way at once; a daemon's default queue holds 1,024.
OUTSTANDING_MAX = 64


class Question(NamedTuple):
    """One input: what to call it, the array, and the true label where it is known."""

    name: str
    array: Array
    truth: int | None


@click.command("infer")
@click.argument("network")
@click.argument("inputs", nargs=-1, type=InputPath())
@click.option("--sample", "samples", multiple=True, type=click.IntRange(min=0), help="A shipped test image, by number.")
@bound_options
@connection_options
@json_option
def infer_command(
    network: str, inputs: tuple[Path, ...], samples: tuple[int, ...], as_json: bool, **options: Any
) -> None:
    """Ask NETWORK about INPUTS: pictures, or .npy arrays of one input or a stack of them.

    \b
    delen infer fashion shoe.png --latency-ms 20
    delen infer fashion --sample 0 --sample 1 --accuracy 0.9
    """
    if not inputs and not samples:
        raise click.UsageError("name at least one picture or .npy file, or --sample NUMBER")
    bounds = bounds_given(options)
    with connect(options["tenant"], options["endpoint"], options["timeout_s"], options["wait_s"]) as client:
        info = _find(client, network)
        questions = [*_from_files(inputs, info), *_from_samples(samples, info)]
        rows = [_row(question, result, info) for question, result in _ask(client, network, questions, bounds)]
    if as_json:
        print_json({"network": network, "answers": rows})
    else:
        print_table(rows, _COLUMNS)


def _find(client: Client, network: str) -> NetworkInfo:
    known = {info.name: info for info in client.networks()}
    if network in known:
        return known[network]
    names = ", ".join(sorted(known)) or "none"
    raise CommandFailed(f"no network {network!r} for this tenant; it may use: {names}", ExitCode.REFUSED)


def _from_files(paths: tuple[Path, ...], info: NetworkInfo) -> Iterator[Question]:
    from .pictures import read_inputs

    for path in paths:
        arrays = read_inputs(path, info)
        for index, array in enumerate(arrays):
            yield Question(f"{path.name}[{index}]" if len(arrays) > 1 else path.name, array, None)


def _from_samples(numbers: tuple[int, ...], info: NetworkInfo) -> Iterator[Question]:
    if not numbers:
        return
    from ..exits.samples import load_samples, prepare

    images, labels = load_samples(info.name)
    for number in numbers:
        if number >= len(labels):
            raise CommandFailed(f"no sample {number}: {info.name} ships {len(labels)}, from 0", ExitCode.NO_INPUT)
        array = prepare(images[number : number + 1], info.preprocessing)[0]
        yield Question(f"sample {number}", array, int(labels[number]))


def _ask(
    client: Client, network: str, questions: list[Question], bounds: BoundArguments
) -> Iterator[tuple[Question, Result]]:
    """Send all, a bounded number at a time, and hand back the answers in the order asked."""
    if len(questions) == 1:
        # Alone, the direct way is the fast one: no thread in between.
        yield questions[0], client.infer(network, questions[0].array, **bounds)
        return
    under_way: deque[tuple[Question, Future[Result]]] = deque()
    for question in questions:
        under_way.append((question, client.submit(network, question.array, **bounds)))
        if len(under_way) >= OUTSTANDING_MAX:
            asked, future = under_way.popleft()
            yield asked, future.result()
    for asked, future in under_way:
        yield asked, future.result()


def _row(question: Question, result: Result, info: NetworkInfo) -> dict[str, Any]:
    answer = result.answer
    return {
        "input": question.name,
        "label": answer.label,
        "label_name": result.label_name,
        "truth": None if question.truth is None else info.classes[question.truth],
        "exit": answer.exit,
        "exits": len(info.exits),
        "confidence": answer.confidence,
        "expected_accuracy": answer.expected_accuracy,
        "certificate": answer.certificate,
        "round_trip_us": result.latency_us,
        "total_us": answer.total_us,
        "queue_us": answer.queue_us,
        "compute_us": answer.compute_us,
        "batches": answer.batches,
        "energy_mj": None if answer.energy_source == "unknown" else answer.energy_mj,
        "energy_source": answer.energy_source,
        "met": result.met,
        "broken": answer.broken,
        "stop": answer.stop,
    }


_COLUMNS = (
    Column("input", "input", justify="left"),
    Column("label_name", "answer", justify="left"),
    Column("truth", "truth", justify="left"),
    Column("exit", "exit"),
    Column("confidence", "confidence", percent),
    Column("expected_accuracy", "expected", percent),
    Column("round_trip_us", "round trip ms", milliseconds),
    Column("queue_us", "queue ms", milliseconds),
    Column("compute_us", "compute ms", milliseconds),
    Column("energy_mj", "mJ", millijoules),
    Column("energy_source", "energy", justify="left"),
    Column("met", "bounds met", mark),
    Column("certificate", "accuracy is", justify="left"),
    Column("stop", "stopped by", justify="left"),
)
