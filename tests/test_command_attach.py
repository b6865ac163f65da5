"""`delen attach` and `delen convert-weights` as a user meets them: tables, JSON, exit codes, and what to do next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")
pytest.importorskip("safetensors", reason="needs safetensors: pip install 'delen[train]'")

from delen.clients import cli, tables  # noqa: E402  (after the skips above)
from delen.clients.exit_codes import ExitCode  # noqa: E402
from delen.tests.plain_networks import ResNet, built  # noqa: E402

pytestmark = pytest.mark.slow

SOURCE = ("delen.tests.plain_networks:ResNet", "--input", "3x32x32")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    tables.out.cache_clear()
    tables.err.cache_clear()
    return CliRunner().invoke(cli.delen, list(arguments), prog_name="delen")


def document(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_model_gets_exits_and_a_workspace(tmp_path: Path) -> None:
    result = run("attach", *SOURCE, "--at", "layer1", "--at", "layer2", "--out", "my")
    assert result.exit_code == 0, result.output
    assert "layer2" in result.stdout
    assert "16x16x16" in result.stdout
    assert "delen train ./my --data DATA" in result.stderr
    assert {path.name for path in (tmp_path / "my").iterdir()} == {"attached.toml", "weights.safetensors"}
    again = run("attach", *SOURCE, "--at", "layer1", "--out", "my")
    assert again.exit_code == ExitCode.CANNOT_CREATE
    assert "--replace" in again.stderr


def test_the_shown_costs_are_those_of_the_exits(tmp_path: Path) -> None:
    said = document("attach", *SOURCE, "--exits", "3", "--dry-run")
    assert [one["path"] for one in said["exits"]] == ["layer1", "layer2", None]
    assert said["exits"][-1]["share"] == 1.0
    assert said["directory"] is None
    assert not list(tmp_path.iterdir())


def test_places_are_proposed_and_nothing_is_written(tmp_path: Path) -> None:
    said = document("attach", *SOURCE, "--propose", "3", "--by", "time")
    assert len(said["proposed"]) == 2
    assert {place["path"] for place in said["places"] if place["proposed"]} == set(said["proposed"])
    assert all(place["time_ms"] > 0 for place in said["places"])
    assert "--at layer1" in run("attach", *SOURCE, "--propose", "3").stderr
    assert not list(tmp_path.iterdir())


def test_names_of_classes_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("cat\ndog\n\nowl\n")
    said = document("attach", *SOURCE, "--at", "layer1", "--labels", "labels", "--out", "my")
    assert said["classes"] == 3
    assert '"cat", "dog", "owl"' in (tmp_path / "my" / "attached.toml").read_text()
    assert run("attach", *SOURCE, "--at", "layer1", "--labels", "labels", "--classes", "4").exit_code == ExitCode.USAGE


def test_pickled_weights_are_refused_until_they_are_converted(tmp_path: Path) -> None:
    model = built(ResNet)
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, "w.pth")
    attach = ("attach", *SOURCE, "--at", "layer1", "--out", "my", "--weights")
    refused = run(*attach, "w.pth")
    assert refused.exit_code == ExitCode.BAD_DATA
    assert "delen convert-weights w.pth w.safetensors" in refused.stderr
    assert not (tmp_path / "my").exists()
    converted = run("convert-weights", "w.pth", "w.safetensors")
    assert converted.exit_code == 0
    assert "took `module.` off every name" in converted.stderr
    assert run("convert-weights", "w.pth", "w.safetensors").exit_code == ExitCode.CANNOT_CREATE
    assert run("convert-weights", "w.pth", "w.bin").exit_code == ExitCode.USAGE
    assert run(*attach, "w.safetensors").exit_code == 0

    from delen.exits.workspace import load_workspace

    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_workspace(tmp_path / "my").network(images)[-1], model(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((*SOURCE, "--at", "layer1.0.conv1"), ExitCode.BAD_DATA, "cannot be cut after layer1.0.conv1"),
        (SOURCE, ExitCode.USAGE, "--at MODULE for each, or --exits N"),
        ((*SOURCE, "--at", "layer1", "--exits", "3"), ExitCode.USAGE, "give one of the two"),
        (("zoo:resnet9",), ExitCode.USAGE, "the zoo has zoo:resnet18"),
        (("gone:build", "--input", "4", "--at", "x"), ExitCode.BAD_DATA, "No module named 'gone'"),
        (("delen.tests.plain_networks:ResNet", "--at", "layer1"), ExitCode.USAGE, "--input 3x32x32"),
        ((SOURCE[0], "--input", "3xx", "--at", "layer1"), ExitCode.USAGE, "is no shape"),
        ((*SOURCE, "--at", "layer1", "--weights", "none.npz"), ExitCode.NO_INPUT, "none.npz is no file"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do(arguments: tuple[str, ...], code: ExitCode, words: str) -> None:
    result = run("attach", *arguments)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())


def test_the_room_offers_attach_without_importing_pytorch() -> None:
    code = "import sys, delen.exits; assert 'torch' not in sys.modules; from delen.exits import attach; attach.__name__"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
