"""The whole way from a recipe to a bundle, on a network that trains in seconds."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install 'delen[train]'")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs it: pip install 'delen[train]'")
pytest.importorskip("onnxruntime", reason="exports are checked with it: pip install 'delen[onnx]'")

from delen.exits.bundle import load_bundle  # noqa: E402  (after the skips above)
from delen.exits.datasets import load  # noqa: E402
from delen.exits.making import Order, load_weights, make_bundle, save_weights  # noqa: E402
from delen.exits.recipes import RECIPES, Recipe, normalise  # noqa: E402
from delen.exits.runner import EngineFault  # noqa: E402
from delen.exits.train import fit  # noqa: E402
from delen.exits.training import PlaceError, Progress  # noqa: E402
from delen.exits.weights_file import WeightsError  # noqa: E402


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    return dataclasses.replace(recipe, plan=dataclasses.replace(recipe.plan, epochs=epochs))


SHORT = shortened(RECIPES["digits"], 3)


@pytest.mark.slow
def test_an_order_becomes_a_bundle_and_its_weights_make_the_same_one_again(tmp_path: Path) -> None:
    seen: list[Progress] = []
    kept = tmp_path / "kept" / "digits.npz"
    report = make_bundle(Order(SHORT, tmp_path / "first", keep_weights=kept), seen.append)
    bundle = load_bundle(tmp_path / "first")
    assert report.digest == bundle.digest
    assert report.bytes == sum(path.stat().st_size for path in (tmp_path / "first").iterdir())
    assert [entry.temperature for entry in report.exits] == [entry.temperature for entry in bundle.manifest.exits]
    # Ten classes: an untrained network gets a tenth.
    assert report.exits[-1].test_accuracy > 0.3
    assert [step.stage for step in seen if step.done == step.total] == ["train", "calibrate", "export"]
    again = make_bundle(Order(SHORT, tmp_path / "second", weights=kept), seen.append)
    assert again.digest == report.digest


@pytest.mark.slow
def test_digits_train_the_same_on_any_number_of_threads_and_leave_it_as_it_was() -> None:
    data = load("digits")
    before = torch.get_num_threads()
    networks = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            network = SHORT.build()
            plan = dataclasses.replace(SHORT.plan, seed=None)
            for _ in fit(network, data, plan, prepare=partial(normalise, SHORT)):
                pass
            networks.append(network.state_dict())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    first, second = networks
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_a_failed_export_costs_no_second_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept.npz"

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the exporter broke")

    monkeypatch.setattr("delen.exits.making.export_network", fail)
    short = shortened(SHORT, 1)
    with pytest.raises(RuntimeError, match="the exporter broke"):
        make_bundle(Order(short, tmp_path / "out", keep_weights=kept), lambda _: None)
    assert not (tmp_path / "out").exists()
    assert load_weights(short, kept).training is False


def test_what_is_in_the_way_is_found_out_before_training(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with pytest.raises(FileExistsError):
        make_bundle(Order(SHORT, tmp_path), seen.append)
    assert seen == []


def test_weights_come_back_as_they_were_and_fit_no_other_network(tmp_path: Path) -> None:
    network = SHORT.build()
    save_weights(network, tmp_path / "weights.npz")
    back = load_weights(SHORT, tmp_path / "weights.npz").state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(WeightsError, match="does not hold weights of recipe fashion"):
        load_weights(RECIPES["fashion"], tmp_path / "weights.npz")


def test_weights_that_are_no_arrays_are_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_bytes(b"hello")
    np.savez(tmp_path / "objects.npz", thing=np.array([{}], dtype=object))
    for name in ("text.npz", "objects.npz", "missing.npz"):
        with pytest.raises(WeightsError, match="does not hold weights"):
            load_weights(SHORT, tmp_path / name)


def test_a_gpu_that_is_not_there_is_said_before_training(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineFault, match="sees 0 GPUs; use cpu"):
        make_bundle(Order(SHORT, tmp_path / "out", device="cuda"), lambda _: None)


@pytest.mark.parametrize("device", ["gpu9", "cuda:x", "cuda:-1", "mps", ""])
def test_a_device_that_means_nothing_is_said_before_training(device: str, tmp_path: Path) -> None:
    with pytest.raises(EngineFault, match="expected cpu, cuda, or"):
        make_bundle(Order(SHORT, tmp_path / "out", device=device), lambda _: None)


def test_a_place_where_nothing_can_be_written_is_found_out_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    wrong, right = tmp_path / "file" / "below" / "it", tmp_path / "out"
    seen: list[Progress] = []
    for order in (Order(SHORT, wrong), Order(SHORT, right, keep_weights=wrong)):
        with pytest.raises(PlaceError, match=r"nothing can be written in .*below: .*choose another place"):
            make_bundle(order, seen.append)
    assert seen == []
