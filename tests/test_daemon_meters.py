"""A real daemon on a board's power monitors that vanish, freeze, lie or hang: requests are answered as ever.

The monitors are a made-up tree that a test's thread keeps moving; one that hangs is a named pipe in place of a file,
which holds whoever opens it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from delen.clients.client import Client
from delen.clients.errors import Refused
from delen.clients.info import MeterInfo
from delen.clients.private_daemon import PrivateDaemon
from delen.tests.board_trees import BOARDS, plant_board
from delen.tests.daemon_fixture import SETTINGS, WAIT_S_MAX, Images, delen, serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CURRENT = "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all these daemons keep what they measured, once."""
    return tmp_path_factory.mktemp("metered")


class Monitor:
    """An Orin Nano's monitors below `root`, moving by a step every few milliseconds while `alive`."""

    def __init__(self, root: Path) -> None:
        plant_board(root, BOARDS["orin-nano"])
        self.current = root / CURRENT
        self.alive = True
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._move, daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """This and nothing else from now on; all at once, as a driver does."""
        self.alive = False
        time.sleep(0.02)
        self._put(text)

    def hang(self) -> None:
        """Whoever reads waits."""
        self.alive = False
        time.sleep(0.02)
        pipe = self.current.with_name("pipe")
        os.mkfifo(pipe)
        pipe.replace(self.current)

    def vanish(self) -> None:
        self.alive = False
        time.sleep(0.02)
        self.current.unlink()

    def close(self) -> None:
        self._done.set()
        self._thread.join()

    def _move(self) -> None:
        for step in itertools.count():
            if self._done.wait(0.004):
                return
            if self.alive:
                self._put(f"{1000 + step % 2 * 8}\n")

    def _put(self, text: str) -> None:
        new = self.current.with_name("new")
        new.write_text(text)
        new.replace(self.current)


@contextlib.contextmanager
def metered(root: Path, folder: Path, settings: str = "") -> Iterator[tuple[PrivateDaemon, Monitor, Client]]:
    """A daemon on such a board at `root`, its monitors and a client; `folder` keeps its profile."""
    monitor = Monitor(root)
    try:
        with (
            serving(
                folder,
                settings=SETTINGS.replace('"none"', f'"ina3221:{root}"').replace("[limits]", f"{settings}[limits]"),
            ) as daemon,
            Client(endpoint=daemon.endpoint("a")) as client,
        ):
            yield daemon, monitor, client
    finally:
        monitor.close()


def until(client: Client, done: Callable[[MeterInfo], bool]) -> MeterInfo:
    """The meter once it stands so."""
    end_s = time.monotonic() + WAIT_S_MAX
    while not done(meter := client.stats().meter):
        assert time.monotonic() < end_s, meter
        time.sleep(0.05)
    return meter


def test_a_meter_that_reads_is_told_with_its_power(tmp_path: Path, kept: Path) -> None:
    with metered(tmp_path, kept) as (daemon, _, client):
        meter = until(client, lambda meter: meter.power_mw is not None)
        assert meter.state == "reading"
        assert meter.source == "measured"
        assert meter.model == "INA3221 VDD_IN: the module"
        assert meter.power_mw == pytest.approx(5000, rel=0.02)
        told = delen("ps", "--tenant", "a", environ={**daemon.environ})
        assert "drawing 5.0" in told.stdout or "drawing 4.9" in told.stdout
        # Of work that was weighed by this meter: with a monitor that draws the same whether it works or not, 0 mJ.
        assert {entry.energy_source for info in client.networks() for entry in info.exits} == {"measured"}


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (lambda monitor: monitor.vanish(), "missing"),
        (lambda monitor: monitor.say("garbage\n"), "missing"),
        (lambda monitor: monitor.say("99999999\n"), "absurd"),
        (lambda monitor: monitor.say("0\n"), "absurd"),
        (lambda monitor: monitor.hang(), "slow"),
    ],
    ids=["vanishes", "garbage", "absurd", "zero", "hangs"],
)
def test_a_meter_that_fails_is_told_and_requests_go_on(
    tmp_path: Path, kept: Path, fault: Callable[[Monitor], None], state: str
) -> None:
    with metered(tmp_path, kept) as (_, monitor, client):
        until(client, lambda meter: meter.state == "reading")
        images = Images(client)
        # What one request is charged nobody has measured, but what a network takes, and what a tenant has taken.
        assert client.infer("digits", images.inputs[0], timeout_s=WAIT_S_MAX).energy_source == "modelled"
        assert {entry.energy_source for info in client.networks() for entry in info.exits} == {"measured"}
        fault(monitor)
        meter = until(client, lambda meter: meter.state == state)
        assert (meter.source, meter.power_mw) == ("unknown", None)
        result = client.infer("digits", images.inputs[0], energy_mj=1e6, timeout_s=WAIT_S_MAX)
        assert result.energy_source == "modelled"
        assert {entry.energy_source for info in client.networks() for entry in info.exits} == {"modelled"}


def test_a_meter_that_comes_back_reads_again(tmp_path: Path, kept: Path) -> None:
    with metered(tmp_path, kept) as (_, monitor, client):
        until(client, lambda meter: meter.state == "reading")
        monitor.vanish()
        until(client, lambda meter: meter.state == "missing")
        monitor.alive = True
        until(client, lambda meter: meter.state == "reading" and meter.power_mw is not None)


def test_a_sampler_that_is_killed_is_started_again(tmp_path: Path, kept: Path) -> None:
    with metered(tmp_path, kept) as (daemon, _, client):
        until(client, lambda meter: meter.state == "reading")
        (sampler,) = [
            each for each in psutil.Process(daemon.pid).children() if "meter_process" in " ".join(each.cmdline())
        ]
        sampler.kill()
        until(client, lambda meter: meter.state == "missing")
        until(client, lambda meter: meter.state == "reading")


def test_energy_bounds_are_refused_where_the_operator_wants_them_measured(tmp_path: Path, kept: Path) -> None:
    with metered(tmp_path, kept, 'unmetered = "refuse"\n') as (_, monitor, client):
        until(client, lambda meter: meter.state == "reading")
        images = Images(client)
        client.infer("digits", images.inputs[0], energy_mj=1e6, timeout_s=WAIT_S_MAX)
        monitor.vanish()
        until(client, lambda meter: meter.state == "missing")
        with pytest.raises(Refused, match="power meter is missing") as refused:
            client.infer("digits", images.inputs[0], energy_mj=1e6, timeout_s=WAIT_S_MAX)
        assert refused.value.code == "energy_unknown"
        assert refused.value.hint
        client.infer("digits", images.inputs[0], latency_ms=1e4, timeout_s=WAIT_S_MAX)
        assert client.stats().tenants[0].refusals == {"energy_unknown": 1}


def test_without_a_meter_the_word_measured_never_appears(tmp_path: Path, kept: Path) -> None:
    # The profile kept there was measured on a board that had a meter; this daemon has none.
    with metered(tmp_path, kept):
        pass
    with serving(kept) as daemon, Client(endpoint=daemon.endpoint("a")) as client:
        images = Images(client)
        answer = client.infer("digits", images.inputs[0], timeout_s=WAIT_S_MAX)
        environ = {**daemon.environ}
        said = [
            repr(answer.answer),
            repr(client.stats()),
            repr(client.networks()),
            *(
                delen(*words, "--tenant", "a", environ=environ).stdout
                for words in (("ps",), ("ps", "--json"), ("networks",), ("networks", "--json"))
            ),
        ]
        assert all(said)
        assert answer.energy_source == "modelled"
        assert "no power meter" in said[3]
        for text in said:
            assert "measured" not in text
