"""A real daemon's budgets: adaptations that tenants change as it runs, a battery, and what was measured."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from delen.clients.client import Client
from delen.clients.errors import BadRequest, Refused
from delen.tests.daemon_fixture import SETTINGS, WAIT_S_MAX, Images, delen, serving
from delen.tests.test_daemon_meters import metered, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where these daemons keep what they measured, once."""
    return tmp_path_factory.mktemp("energy")


def test_a_tenant_changes_how_its_requests_adapt_while_the_daemon_runs(kept: Path) -> None:
    with serving(kept, settings=SETTINGS) as daemon, Client(endpoint=daemon.endpoint("a")) as client:
        images = Images(client)
        deepest = client.infer("digits", images.inputs[0]).exit
        told = client.adapt("fixed", exit=0)
        assert (told.standing.policy, told.adaptation.exit) == ("fixed", 0)
        first = client.infer("digits", images.inputs[0])
        assert (first.exit, first.answer.stop) == (0, "objective")
        assert client.adapt("none").standing.policy == "none"
        assert client.infer("digits", images.inputs[0]).exit == deepest > 0
        shown = delen("adapt", "load", "--tenant", "a", "--json", environ={**daemon.environ})
        assert json.loads(shown.stdout)["adaptation"]["policy"] == "load"
        assert client.adapt().standing.policy == "load"
        with pytest.raises(Refused, match="told of no battery"):
            client.adapt("battery")
        with pytest.raises(Refused, match="counted from 0"):
            client.adapt("fixed", exit=9)
        with pytest.raises(BadRequest, match="energy_j is -1"):
            client.adapt("battery", energy_j=-1.0, for_s=1.0)


def test_energy_for_a_while_is_never_more_and_says_so(kept: Path) -> None:
    with serving(kept, settings=SETTINGS) as daemon, Client(endpoint=daemon.endpoint("a")) as client:
        [info] = [info for info in client.networks() if info.name == "digits"]
        least_mj = info.exits[0].energy_mj
        assert least_mj is not None
        client.adapt("battery", energy_j=8 * least_mj / 1000, for_s=3600.0)
        with pytest.raises(Refused) as refused:
            _ask_on(client)
        assert refused.value.code == "quota"
        standing = client.adapt().standing
        assert 0 < standing.drawn_j <= 8 * least_mj / 1000
        assert standing.left_s is not None
        assert standing.left_s > 3000


def _ask_on(client: Client) -> None:
    images = Images(client)
    for _ in range(100):
        client.infer("digits", images.inputs[0])


def test_a_battery_that_is_told_of_is_shown_and_a_bad_line_is_said(kept: Path, tmp_path: Path) -> None:
    battery = tmp_path / "battery.json"
    battery.write_text('{"energy_j": 500, "harvest": [[1800, 0.5], [3600, 0]]}\n')
    said = f'[battery]\nsource = "file: {battery}"\nreserve_j = 100\nfor_s = 3600\nevery_s = 0.2\n'
    with serving(kept, settings=SETTINGS + said) as daemon, Client(endpoint=daemon.endpoint("a")) as client:
        end_s = time.monotonic() + WAIT_S_MAX
        while (energy := client.stats().energy).battery_j is None:
            assert time.monotonic() < end_s
            time.sleep(0.05)
        assert energy.battery_j == pytest.approx(400)
        # 400 J and 900 to come, over an hour.
        assert energy.battery_w == pytest.approx(1300 / 3600, rel=0.02)
        assert client.adapt("battery").standing.device
        images = Images(client)
        assert client.infer("digits", images.inputs[0]).met


def test_what_was_charged_becomes_what_was_measured(kept: Path, tmp_path: Path) -> None:
    with metered(tmp_path, kept) as (_, _, client):
        until(client, lambda meter: meter.state == "reading")
        images = Images(client)
        end_s = time.monotonic() + WAIT_S_MAX
        while client.stats().energy.idle_mj is None:
            client.infer("digits", images.inputs[0])
            assert time.monotonic() < end_s
        first = client.stats().energy
        assert first.idle_mj is not None
        time.sleep(1.5)
        later = client.stats().energy
        # Its monitor draws 5 W whether anything runs or not, so all but little of it is idle.
        assert later.idle_mj is not None
        assert later.idle_mj - first.idle_mj == pytest.approx(5000 * 1.5, rel=0.9)
        assert later.idle_mw == pytest.approx(5000, rel=0.2)
