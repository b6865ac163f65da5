"""`delen export` and `delen import`: what they hand on, and what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("onnxruntime", reason="graphs are run: pip install 'delen[onnx]'")
pytest.importorskip("torch", reason="export needs PyTorch: pip install 'delen[train]'")

from delen.clients import tables
from delen.clients.cli import delen
from delen.clients.exit_codes import ExitCode
from delen.exits import workspace_export
from delen.exits.bundle import load_bundle, shipped_directory
from delen.exits.calibrate import CalibrationResult
from delen.exits.measured_bundle import Measured, Step
from delen.exits.workspace_export import ExportOrder
from delen.tests.test_import_delen import released


@pytest.fixture(autouse=True)
def _fresh_consoles() -> None:
    """Every run prints to its own streams."""
    tables.out.cache_clear()
    tables.err.cache_clear()


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[ExportOrder]:
    """Orders given to export, which here makes nothing and shows the shipped digits."""
    given: list[ExportOrder] = []

    def export(order: ExportOrder, on_step: Any) -> Measured:
        given.append(order)
        if order.out.exists():
            raise FileExistsError(f"{order.out} exists")
        on_step(Step("graphs", 1, 1))
        columns = ((1.5, 1.0, 1.0), (0.9, 0.95, 0.98), (0.1, 0.1, 0.1), (0.0, 0.0, 0.0))
        result = CalibrationResult(*columns, b"")
        return Measured(load_bundle(shipped_directory() / "digits"), result, (0.9, 0.94, 0.97))

    monkeypatch.setattr(workspace_export, "export_workspace", export)
    return given


def test_export_hands_on_what_it_was_told_and_says_what_came_of_it(orders: list[ExportOrder], tmp_path: Path) -> None:
    told = ["export", str(tmp_path / "my"), "--data", "pictures", "--precision", "int8", "--seed", "7", "--json"]
    result = CliRunner().invoke(delen, [*told, "--calibrate-on", "test"])
    assert result.exit_code == 0, result.stderr
    (order,) = orders
    assert order.out == tmp_path / "my.bundle"
    assert (order.data, order.precision, order.calibrate_on, order.measuring.seed) == ("pictures", "int8", "test", 7)
    said = json.loads(result.stdout)
    assert [row["test_accuracy"] for row in said["exits"]] == [0.9, 0.94, 0.97]
    assert said["calibration_count"] == 360


def test_export_says_how_an_older_bundle_may_go(orders: list[ExportOrder], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    told = ["export", str(tmp_path / "my"), "--data", "pictures", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(delen, told)
    assert result.exit_code == ExitCode.CANNOT_CREATE
    assert "--replace" in result.stderr


def test_import_makes_a_bundle_of_graphs_and_their_profile(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rows = [{"accuracy": 0.4 + 0.1 * step, "flops": 0.8 + step, "energy": 46.0 + step} for step in range(3)]
    profile.write_text(json.dumps(rows))
    (tmp_path / "labels").write_text("a\nb\nc\nd\ne\n")
    told = ["import", str(released(tmp_path)), "--profile", str(profile), "--out", str(tmp_path / "out")]
    told += ["--labels", str(tmp_path / "labels"), *("--mean", "0.4", "--mean", "0.5", "--mean", "0.6")]
    result = CliRunner().invoke(delen, told)
    assert result.exit_code == ExitCode.USAGE
    assert "three times each" in result.stderr
    told += ["--std", "0.2", "--std", "0.2", "--std", "0.2", "--json"]
    result = CliRunner().invoke(delen, told)
    assert result.exit_code == 0, result.stderr
    manifest = load_bundle(tmp_path / "out").manifest
    assert manifest.classes == ("a", "b", "c", "d", "e")
    assert manifest.preprocessing.mean == (0.4, 0.5, 0.6)
    assert [row["gmac"] for row in json.loads(result.stdout)["exits"]] == [0.8, 1.8, 2.8]
