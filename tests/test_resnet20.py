"""The case that delen is measured on: the published network stays as it is, and no step is done twice."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs it: pip install 'delen[train]'")

import torch

from delen.exits import resnet20
from delen.exits.bundle import shipped_directory
from delen.exits.resnet20 import make_resnet20
from delen.exits.weights_file import write_weights
from delen.exits.workspace import load_workspace, save_trained
from delen.exits.zoo import ZOO, build_zoo

WEIGHTS, DATA = os.environ.get("DELEN_RESNET20_WEIGHTS"), os.environ.get("DELEN_CIFAR10")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training and export are noted, and leave only what shows that they were there."""
    done: list[str] = []

    def train(order: Any, on_progress: Any) -> None:
        done.append("train")
        save_trained(order.workspace, load_workspace(order.workspace).network, {"training": "frozen trunk"})

    def export(order: Any, on_step: Any) -> Any:
        done.append("export")
        assert order.calibrate_on == "test"
        shutil.copytree(shipped_directory() / "digits", order.out)
        return dataclasses.make_dataclass("Made", ["bundle"])(order.out)

    monkeypatch.setattr(resnet20, "train_workspace", train)
    monkeypatch.setattr(resnet20, "export_workspace", export)
    return done


@pytest.mark.slow
def test_exits_are_attached_to_the_published_network_and_every_step_is_done_once(
    steps: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    plain = build_zoo("resnet20").eval()
    write_weights(tmp_path / "weights.safetensors", plain.state_dict())

    def make() -> object:
        return make_resnet20(tmp_path, tmp_path / "weights.safetensors", "data", print, print)

    make()
    assert steps == ["train", "export"]
    network = load_workspace(tmp_path / "resnet20").network
    assert len(network.heads) == 5
    example = ZOO["resnet20"].example(3)
    with torch.inference_mode():
        torch.testing.assert_close(network(example)[-1], plain(example), rtol=0, atol=1e-5)
    make()
    assert steps == ["train", "export"]
    shutil.rmtree(tmp_path / "resnet20.bundle")
    make()
    assert steps == ["train", "export", "export"]


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS or not DATA, reason="names no files in $DELEN_RESNET20_WEIGHTS and $DELEN_CIFAR10")
def test_the_published_accuracy_is_that_of_the_last_exit(steps: list[str], tmp_path: Path) -> None:
    """91.73 % (github.com/akamaster/pytorch_resnet_cifar10), to one picture."""
    from delen.exits.data_files import open_data
    from delen.exits.predict import predict, preparation

    make_resnet20(tmp_path, Path(str(WEIGHTS)), str(DATA), print, print)
    made = load_workspace(tmp_path / "resnet20")
    test = open_data(str(DATA)).test
    logits = predict(made.network, test.images, prepare=preparation(made.preprocessing))
    assert int((logits[-1].argmax(1).numpy() == test.labels).sum()) == 9173
