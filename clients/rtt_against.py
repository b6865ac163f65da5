"""What a change costs: round trips of this delen and of another checkout of it, in turns, in one run.

Role: `delen bench rtt --against DIR`. Both have a client and a daemon of their own version, on the same Python and
libraries, and take turns of 50 round trips, so that what else the machine does hits both. What holds for the life of a
process, such as where it comes to lie in memory, moves a ratio by more than changes do (profiles/LOG.md): so both are
started anew many times, and what is told is the median over starts of one ratio each, with its interval.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from .private_daemon import DaemonFailed
from .rtt_bench import NETWORKS, ROUND_SIZE, WARM_UP, calibration_loop_us

STARTS = 12
# Of fewer no interval of the median is certain to 95 %.
CERTAIN = 6
# Before each turn, since the other's leaves this one's processes asleep.
STIR = 10
# Of what a version says before it fails, so much is told: a traceback's end, or a daemon's reasons and hint.
SAID_LINES = 12
_OWN = Path(__file__).resolve().parents[1]
_RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


class Against(msgspec.Struct, frozen=True):
    """One input size. `ratio`: this version's `delen - engine` over the other's, the median over starts.

    `ratio_low`, `ratio_high`: its 95 % interval; of fewer than six starts, the least and the greatest.
    `*_p50_us`: medians over starts of each start's median. `n`: round trips of each version in all.
    """

    input_bytes: int
    n: int
    other_p50_us: float
    this_p50_us: float
    other_engine_p50_us: float
    this_engine_p50_us: float
    ratio: float
    ratio_low: float
    ratio_high: float


class AgainstReport(msgspec.Struct, frozen=True):
    """`delen bench rtt --against DIR`, a row of `sizes` for each input."""

    other: str
    starts: int
    calibration_loop_us: float
    sizes: tuple[Against, ...]


def bench_against(
    other: Path, starts: int, rounds: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> AgainstReport:
    """Start both `starts` times, and measure each time `rounds` turns of both with every input.

    Raises:
        DaemonFailed: one of them does not start, or not answer; what it said is in the message.
    """
    found: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in NETWORKS}
    for start in range(starts):
        with started(other, _OWN) as sides:
            for index, name in enumerate(NETWORKS):

                def report(done: int, before: int = (start * len(NETWORKS) + index) * rounds) -> None:
                    on_progress(before + done, starts * len(NETWORKS) * rounds)

                found[name].append(_in_turns(sides, name, rounds, report))
    n = starts * rounds * ROUND_SIZE
    sizes = tuple([_told(4 * math.prod(NETWORKS[name]), n, medians) for name, medians in found.items()])
    return AgainstReport(str(other), starts, calibration_loop_us(), sizes)


def is_checkout(folder: Path) -> bool:
    """Whether there is a delen that can be measured."""
    return all((folder / part).is_file() for part in ("__main__.py", "clients/client.py", "clients/private_daemon.py"))


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Between which of the values the median of their distribution lies, whatever that is: the sign test's interval.

    With fewer than `CERTAIN` values none is that certain, and it is from the least to the greatest.
    """
    ordered, count = sorted(values), len(values)
    outside, below = 0, 0
    while below < (count - 1) // 2 and 2 * (outside + math.comb(count, below)) <= (1 - level) * 2**count:
        outside += math.comb(count, below)
        below += 1
    skipped = max(0, below - 1)
    return ordered[skipped], ordered[count - 1 - skipped]


class Side:
    """One version: its client in a process of its own, with its daemon."""

    def __init__(self, root: Path, scratch: Path) -> None:
        """Start it. `scratch`: an empty directory that it may keep things in."""
        self._root, self._said = root, scratch / "said"
        # Both are found by the same way, wherever and under whatever name a checkout lies.
        (scratch / "delen").symlink_to(root, target_is_directory=True)
        asker, also = str(Path(__file__).with_name("rtt_asker.py")), os.environ.get("PYTHONPATH")
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _RUN, asker, json.dumps(NETWORKS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=scratch,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(scratch), also]))},
                text=True,
            )

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def ready(self) -> None:
        """Wait until its daemon serves. Raises DaemonFailed."""
        self._line()

    def round_trips(self, network: str, warm: int, count: int) -> tuple[list[float], list[float]]:
        """So many, one after the other: how long each took, and the engine in it, us. Raises DaemonFailed."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{network} {warm} {count}\n")
            self._process.stdin.flush()
        delen_us, engine_us = json.loads(self._line())
        return delen_us, engine_us

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._said.read_text(errors="replace").strip().splitlines()[-SAID_LINES:]
            raise DaemonFailed("\n".join([f"the delen in {self._root} failed; it said:", *(said or ["nothing"])]))
        return line


@contextlib.contextmanager
def started(*roots: Path) -> Iterator[list[Side]]:
    """A side for each of these checkouts, ready. Raises DaemonFailed."""
    with contextlib.ExitStack() as stack:
        sides = []
        for root in roots:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="delen-"))
            sides.append(stack.enter_context(Side(root.resolve(), Path(scratch))))
        for side in sides:
            side.ready()
        yield sides


def _in_turns(
    sides: Sequence[Side], network: str, rounds: int, on_round: Callable[[int], None]
) -> tuple[list[float], list[float]]:
    """Medians of one start: of round trips, and of the engine in them, for each side."""
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in sides]
    for side in sides:
        side.round_trips(network, WARM_UP, 0)
    for done in range(rounds):
        # Who is second finds the machine as the first left it.
        for index in range(len(sides)) if done % 2 else reversed(range(len(sides))):
            for kept, new in zip(times[index], sides[index].round_trips(network, STIR, ROUND_SIZE), strict=True):
                kept += new
        on_round(done + 1)
    return [statistics.median(delen_us) for delen_us, _ in times], [statistics.median(engine) for _, engine in times]


def _told(input_bytes: int, n: int, medians: Sequence[tuple[list[float], list[float]]]) -> Against:
    ratios = [
        (this_us - this_engine_us) / (other_us - other_engine_us)
        for (other_us, this_us), (other_engine_us, this_engine_us) in medians
    ]
    low, high = median_interval(ratios)
    return Against(
        input_bytes=input_bytes,
        n=n,
        other_p50_us=statistics.median(delen_us[0] for delen_us, _ in medians),
        this_p50_us=statistics.median(delen_us[1] for delen_us, _ in medians),
        other_engine_p50_us=statistics.median(engine_us[0] for _, engine_us in medians),
        this_engine_p50_us=statistics.median(engine_us[1] for _, engine_us in medians),
        ratio=statistics.median(ratios),
        ratio_low=low,
        ratio_high=high,
    )
