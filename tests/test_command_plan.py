"""`delen plan`, `delen simulate --devices` and `--device` as somebody at a terminal uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from delen.clients import cli, tables
from delen.daemon import board_plan


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_plan, "REQUESTS", 100)


def delen(*words: str) -> Result:
    tables.out.cache_clear()
    tables.err.cache_clear()
    return CliRunner().invoke(cli.delen, list(words), prog_name="delen")


@pytest.mark.slow
def test_a_plan_as_a_table_and_as_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plan.png"
    found = delen("plan", "--board", "jetson-nano", "--latency-ms", "300", "--rate", "2", "--plot", str(plot))
    assert found.exit_code == 0, found.output
    assert "jetson-nano" in found.stdout
    assert "yes" in found.stdout
    assert plot.stat().st_size > 10_000


def test_a_plan_as_json_says_who_fits() -> None:
    found = delen(
        "plan", "--board", "jetson-nano", "--accuracy", "0.75", "--latency-ms", "300", "--tenants", "99", "--json"
    )
    document = json.loads(found.stdout)
    assert document["asked"]["accuracy"] == 0.75
    [setting] = document["settings"]
    assert setting["device"] == "jetson-nano"
    assert setting["fits"] is False
    assert 0 < setting["tenants"] < 99


def test_a_board_nobody_knows_is_a_wrong_use() -> None:
    found = delen("plan", "--board", "tx1")
    assert found.exit_code == 2
    assert "no figures of a board 'tx1'; there are jetson-agx-orin" in found.stderr


def test_the_list_of_devices_names_sources_and_assumptions() -> None:
    found = delen("simulate", "--devices")
    assert "jetson-tx2, resnet50: figures: github umassos/energy-time-fairness@a7d5fea" in found.stderr
    assert "114.75 to 1300.5 MHz, 9 measured" in found.stdout
    assert "jetson-nano, resnet50: assumed: times of exits 1 and 4" in found.stderr
    assert len(json.loads(delen("simulate", "--devices", "--json").stdout)["devices"]) == 6


def test_a_scenario_on_a_device() -> None:
    arguments = ("--seeds", "1", "--duration-s", "3", "--case", "load=4", "--policy", "exits alone", "--json")
    energies = {}
    for device in ("jetson-tx2@726MHz", "jetson-tx2@1300MHz"):
        found = delen("simulate", "--device", device, *arguments)
        assert found.exit_code == 0, found.output
        [result] = json.loads(found.stdout)["results"]
        energies[device] = result["energy_mj"]["mean"]
    low, high = energies.values()
    assert low / high == pytest.approx(0.62, abs=0.02)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("jetson-tx2@2GHz", "2000 MHz is outside, and nothing is read beyond what was measured"),
        ("jetson-tx9", "no figures of a board 'jetson-tx9'"),
        ("jetson-tx2@30W", "'30W' is not a clock"),
    ],
)
def test_a_device_or_setting_without_figures_is_a_wrong_use(device: str, said: str) -> None:
    found = delen("simulate", "--device", device)
    assert found.exit_code == 2
    assert said in found.stderr


def test_a_scenario_of_other_networks_is_refused_on_a_board() -> None:
    found = delen("simulate", "e4", "--device", "jetson-tx2")
    assert found.exit_code == 2
    assert "no figures of network 'fashion' on jetson-tx2; there are those of resnet18, resnet50" in found.stderr
