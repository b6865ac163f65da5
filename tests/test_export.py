"""Export gives what PyTorch gives, or nothing: no half bundle is ever left where a bundle belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'delen[train]'")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs it: pip install 'delen[train]'")
pytest.importorskip("onnxruntime", reason="exports are checked with it: pip install 'delen[onnx]'")

from delen.clients.info import Preprocessing  # noqa: E402  (after the skips above)
from delen.exits.bundle import BundleError, load_bundle, shipped_directory  # noqa: E402
from delen.exits.bundle_writer import Description  # noqa: E402
from delen.exits.export import (  # noqa: E402
    IDENTITY_SHAPES,
    ExportError,
    check_parity,
    export_identity,
    export_network,
    fold_norms,
)
from delen.exits.manifest import ExitEntry, TensorShape  # noqa: E402
from delen.exits.multi_exit import MultiExit  # noqa: E402
from delen.exits.recipes import RECIPES  # noqa: E402


def description() -> Description:
    return Description(
        name="small",
        version="1",
        licence='Apache-2.0 "ours" \\ \u00e9\U0001f600\x7f\n',
        classes=tuple("0123456789"),
        input=TensorShape(dtype="float32", shape=(1, 8, 8)),
        preprocessing=Preprocessing(colour="gray", scale=1e-05, mean=(0.5,), std=(0.25,)),
        exits=tuple(ExitEntry(accuracy=0.5, temperature=1.5) for _ in range(3)),
        provenance={"seed": "7", "a key": "with 'quotes'"},
    )


@pytest.fixture(scope="module")
def network() -> MultiExit:
    """The digits network with random weights, and norms that are not the identity."""
    torch.manual_seed(7)
    made = RECIPES["digits"].build()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.normal_(module.bias)
    return made.eval()


def examples() -> Any:
    return torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_an_exported_network_gives_what_pytorch_gives(network: MultiExit, tmp_path: Path) -> None:
    bundle = export_network(network, description(), examples(), tmp_path / "small")
    with torch.inference_mode():
        wanted = network(examples()).numpy()
    check_parity(bundle, examples().numpy(), wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert load_bundle(tmp_path / "small").manifest == bundle.manifest
    for file in bundle.manifest.hashes():
        model = onnx.load_model_from_string(bundle.read(file))
        assert model.ir_version == 8
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        assert str(Path(__file__).parent.parent).encode() not in bundle.read(file)


def test_every_text_and_number_of_a_manifest_reads_back(tmp_path: Path) -> None:
    bundle = export_identity("identity-3k", tmp_path / "first")
    assert bundle.manifest.preprocessing == Preprocessing()
    from delen.exits.bundle_writer import toml
    from delen.exits.manifest import read_manifest

    shipped = load_bundle(shipped_directory() / "digits").manifest
    odd = description()
    manifest = type(shipped)(
        **{
            **{name: getattr(shipped, name) for name in shipped.__struct_fields__},
            "licence": odd.licence,
            "preprocessing": odd.preprocessing,
            "provenance": dict(odd.provenance),
        }
    )
    assert read_manifest(toml(manifest).encode()) == manifest


def test_folding_norms_changes_no_answer(network: MultiExit) -> None:
    import copy

    folded = copy.deepcopy(network)
    fold_norms(folded)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        np.testing.assert_allclose(folded(examples()).numpy(), network(examples()).numpy(), atol=2e-4, rtol=1e-4)


def test_a_norm_before_a_linear_layer_is_folded_into_it() -> None:
    from torch import nn

    norms = [nn.BatchNorm1d(6), nn.BatchNorm1d(6, affine=False)]
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    nn.init.uniform_(norms[0].weight, 0.5, 2.0)
    nn.init.normal_(norms[0].bias)
    plain = nn.Sequential(norms[0], nn.Linear(6, 6, bias=False), norms[1], nn.Linear(6, 3)).eval()
    values = torch.randn(5, 6)
    with torch.inference_mode():
        wanted = plain(values)
    fold_norms(plain)
    assert [type(layer).__name__ for layer in plain] == ["Identity", "Linear", "Identity", "Linear"]
    with torch.inference_mode():
        torch.testing.assert_close(plain(values), wanted, rtol=1e-5, atol=1e-5)


def test_a_graph_that_differs_from_pytorch_is_said() -> None:
    bundle = load_bundle(shipped_directory() / "digits")
    wanted = np.zeros((3, 4, 10), np.float32)
    with pytest.raises(ExportError, match="exit 0 of digits differs from PyTorch by"):
        check_parity(bundle, np.ones((4, 1, 8, 8), np.float32), wanted)


@pytest.mark.parametrize("name", IDENTITY_SHAPES)
def test_identity_bundles_are_reproducible(name: str, tmp_path: Path) -> None:
    made = export_identity(name, tmp_path / name)
    shipped = load_bundle(shipped_directory() / name)
    assert made.manifest == shipped.manifest
    assert made.digest == shipped.digest


def test_nothing_is_overwritten_unless_asked_and_only_bundles_ever(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = export_identity("identity-3k", out)
    with pytest.raises(FileExistsError, match="say that it may be replaced"):
        export_identity("identity-600k", out)
    assert load_bundle(out).digest == first.digest
    second = export_identity("identity-600k", out, replace=True)
    assert load_bundle(out).digest == second.digest != first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds no network\.toml and will not be replaced"):
        export_identity("identity-3k", precious, replace=True)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_a_failed_export_leaves_the_old_bundle_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = export_identity("identity-3k", out)
    monkeypatch.setattr("delen.exits.export.IDENTITY_CLASSES", ("only one",))
    with pytest.raises(BundleError, match="1 classes"):
        export_identity("identity-600k", out, replace=True)
    assert load_bundle(out).digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_bundle_may_be_read_by_whoever_may_read_around_it(tmp_path: Path) -> None:
    export_identity("identity-3k", tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
