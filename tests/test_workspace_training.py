"""From a workspace and a data set to a trained workspace, through the command as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")
pytest.importorskip("safetensors", reason="workspaces keep weights in it: pip install 'delen[train]'")

from delen.clients import cli  # noqa: E402  (after the skips above)
from delen.clients.info import Preprocessing  # noqa: E402
from delen.exits.datasets import DataError  # noqa: E402
from delen.exits.fit_plan import FitPlan  # noqa: E402
from delen.exits.manifest import TensorShape  # noqa: E402
from delen.exits.training import Progress  # noqa: E402
from delen.exits.workspace import build_source, load_workspace, make_workspace, save_workspace  # noqa: E402
from delen.exits.workspace_training import (  # noqa: E402
    CHECKPOINT,
    LOG,
    WorkspaceOrder,
    refuse_other_split,
    train_workspace,
)

PLAN = FitPlan(epochs=2, batch=64, rate=0.01, weight_decay=0.0, optimiser="adamw", trunk="frozen", distill=0.5)
MODEL = """
from torch import nn

def build():
    layers = {"first": nn.Conv2d(1, 6, 3, padding=1), "norm": nn.BatchNorm2d(6), "relu": nn.ReLU()}
    layers |= {"second": nn.Conv2d(6, 6, 3, padding=1), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    model.add_module("last", nn.Linear(6, 3))
    return model
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of three classes with one exit in the middle, and `data.npz` beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small_model_here.py").write_text(MODEL)
    monkeypatch.delitem(sys.modules, "small_model_here", raising=False)
    torch.manual_seed(0)
    workspace = make_workspace(
        "small_model_here:build",
        build_source("small_model_here:build", None),
        ("relu",),
        head="pool",
        classes=None,
        form=TensorShape(dtype="float32", shape=(1, 6, 6)),
        preprocessing=Preprocessing(colour="gray", scale=1 / 255, mean=(0.4,), std=(0.3,)),
        provenance={"weights": "none"},
    )
    save_workspace(workspace, tmp_path / "my")
    generator = np.random.default_rng(0)
    labels = np.arange(2000) % 3
    images = generator.integers(0, 80, (2000, 6, 6), dtype=np.uint8)
    images[np.arange(2000), 2 * labels] += 120
    np.savez(tmp_path / "data.npz", x=images, y=labels)
    return tmp_path / "my"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.delen, ["train", *arguments], prog_name="delen")


@pytest.mark.slow
def test_the_command_trains_the_heads_and_keeps_the_trunk_and_its_answer(place: Path) -> None:
    before = load_workspace(place).network.state_dict()
    asked = ["my", "--data", "data.npz", "--seed", "3", "--epochs", "4"]
    done = run(*asked, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    trained = load_workspace(place)
    after = trained.network.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed
    assert all(name.startswith("heads.0") for name in changed)
    assert [report[f"{part}_count"] for part in ("train", "calibration", "test")] == [1280, 320, 400]
    first, last = report["exits"]
    assert first["accuracy"] > first["before"]
    assert last["accuracy"] == last["before"]
    assert report["trained_parameters"] < report["parameters"]
    assert trained.provenance["data_seed"] == "3"
    assert len((place / LOG).read_text().splitlines()) == 4
    assert not (place / CHECKPOINT).exists()
    shown = run(*asked)
    assert "next: delen export my --data data.npz --seed 3 --out my.bundle" in shown.stderr


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was_and_says_so(place: Path) -> None:
    order = WorkspaceOrder(place, "data.npz", PLAN)

    class KilledError(Exception):
        pass

    def killed(step: Progress) -> None:
        if step.done > step.total // 2:
            raise KilledError

    before = load_workspace(place).network.state_dict()
    with pytest.raises(KilledError):
        train_workspace(order, killed)
    still = load_workspace(place).network.state_dict()
    assert all(torch.equal(tensor, still[name]) for name, tensor in before.items())
    said: list[Progress] = []
    train_workspace(order, said.append)
    assert said[0].stage == "resume"
    resumed = load_workspace(place).network.state_dict()
    assert not torch.equal(before["heads.0.3.weight"], resumed["heads.0.3.weight"])


def test_data_that_does_not_fit_is_refused_before_training(place: Path) -> None:
    seen: list[Progress] = []
    with np.load("data.npz") as archive:
        x, y = archive["x"], archive["y"]
    for name, content, what in (
        ("labels", {"x": x, "y": y + 1}, "label 3 at row"),
        ("missing", {"x": x, "y": np.minimum(y, 1)}, r"no sample of 1 of 3 classes \(2\)"),
        ("shape", {"x": x[:, :5], "y": y}, r"shape \(5, 6\); the network takes \(1, 6, 6\)"),
        ("few", {"x": x[:900], "y": y[:900]}, "144 samples to calibrate on; at least 230 are needed"),
    ):
        np.savez(f"{name}.npz", **content)
        with pytest.raises(DataError, match=what):
            train_workspace(WorkspaceOrder(place, f"{name}.npz", PLAN), seen.append)
    assert seen == []


def test_options_of_the_other_kind_and_missing_ones_are_said(place: Path) -> None:
    for arguments, code, what in (
        (["my"], 2, "a workspace needs --data"),
        (["my", "--data", "data.npz", "--out", "x"], 2, "--out is for a recipe"),
        (["digits", "--trunk", "joint"], 2, "--trunk is for a workspace"),
        (["nothing", "--data", "data.npz"], 2, "nothing is no recipe (fashion, digits) and no workspace"),
        (["./nothing", "--data", "data.npz"], 66, "./nothing is no recipe (fashion, digits) and no workspace"),
        (["my", "--data", "gone.npz"], 66, "no data at gone.npz"),
        (["my", "--data", "data.npz", "--batch", "5000"], 2, "do not fill one batch of 5000; lower --batch"),
    ):
        done = run(*arguments)
        assert done.exit_code == code, done.output
        assert what in " ".join(done.stderr.split())


def test_calibrating_on_samples_trained_on_is_refused() -> None:
    notes = {"data_seed": "3", "calibrate_on": "train"}
    refuse_other_split(notes, 3, "train")
    refuse_other_split(notes, 5, "test")
    refuse_other_split({}, 5, "train")
    with pytest.raises(DataError, match="--seed 3 --calibrate-on train: give the same"):
        refuse_other_split(notes, 5, "train")
    with pytest.raises(DataError, match="--calibrate-on test"):
        refuse_other_split({"data_seed": "3", "calibrate_on": "test"}, 3, "train")
