"""A workspace is the same network when it is loaded again, and never half a one."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")
pytest.importorskip("safetensors", reason="needs safetensors: pip install 'delen[train]'")

from delen.clients.info import Preprocessing  # noqa: E402  (after the skips above)
from delen.exits.attaching import AttachError  # noqa: E402
from delen.exits.manifest import TensorShape  # noqa: E402
from delen.exits.weights_file import WeightsError, write_weights  # noqa: E402
from delen.exits.workspace import (  # noqa: E402
    ATTACHED,
    WEIGHTS,
    Workspace,
    WorkspaceError,
    build_source,
    is_workspace,
    load_workspace,
    make_workspace,
    save_trained,
    save_workspace,
)

pytestmark = pytest.mark.slow

SOURCE = "odd_model:build"
CODE = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

def wrong():
    return build
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """One that was never saved, made from a function in the working directory."""
    (tmp_path / "odd_model.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "odd_model", raising=False)
    return make_workspace(
        SOURCE,
        build_source(SOURCE, None),
        ("2",),
        head="mlp",
        classes=("sun", 'r"ain', "\x7f"),
        form=TensorShape(dtype="float32", shape=(4,)),
        preprocessing=Preprocessing(mean=(0.5,), std=(0.25,)),
        provenance={"who": "tests"},
    )


def test_a_workspace_comes_back_as_it_was(workspace: Workspace, tmp_path: Path) -> None:
    save_workspace(workspace, tmp_path / "my")
    assert is_workspace(tmp_path / "my")
    again = load_workspace(tmp_path / "my")
    inputs = torch.randn(5, 4)
    assert torch.equal(again.network(inputs), workspace.network(inputs))
    for name in ("source", "at", "head", "classes", "input", "preprocessing", "provenance", "exits", "new_last_head"):
        assert getattr(again, name) == getattr(workspace, name), name


def test_trained_weights_take_the_place_of_the_old_and_say_how_they_came_about(
    workspace: Workspace, tmp_path: Path
) -> None:
    save_workspace(workspace, tmp_path / "my")
    trained = load_workspace(tmp_path / "my").network
    with torch.no_grad():
        for parameter in trained.heads.parameters():
            parameter.add_(1)
    save_trained(tmp_path / "my", trained, {"epochs": "3"})
    again = load_workspace(tmp_path / "my")
    inputs = torch.randn(5, 4)
    assert torch.equal(again.network(inputs), trained.eval()(inputs))
    assert again.provenance == {"who": "tests", "epochs": "3"}


def test_nothing_is_overwritten_unasked(workspace: Workspace, tmp_path: Path) -> None:
    save_workspace(workspace, tmp_path / "my")
    with pytest.raises(FileExistsError):
        save_workspace(workspace, tmp_path / "my")
    save_workspace(workspace, tmp_path / "my", replace=True)
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileExistsError):
        save_workspace(workspace, tmp_path / "photos", replace=True)


def test_a_failed_save_leaves_nothing(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("delen.exits.workspace.write_weights", fail)
    with pytest.raises(OSError, match="no space"):
        save_workspace(workspace, tmp_path / "my")
    assert not [path for path in tmp_path.iterdir() if "my" in path.name]


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        ("format = 1", "format = 9", WorkspaceError, "format is 9; this delen reads 1"),
        ('source = "odd_model:build"', 'source = "odd_model:none"', WorkspaceError, "odd_model:none does not build"),
        ('source = "odd_model:build"', 'source = "odd_model:wrong"', WorkspaceError, "expected a torch.nn.Module"),
        ('source = "odd_model:build"', 'source = "rm -rf"', WorkspaceError, "is no source; expected zoo:NAME"),
        ('source = "odd_model:build"', 'source = "gone:build"', WorkspaceError, "No module named 'gone'"),
        ('at = ["2"]', 'at = ["9"]', AttachError, "there is no module '9'"),
        ('head = "mlp"', 'head = "pool"', WeightsError, "of another network: .*heads.0"),
        ('head = "mlp"', 'head = "huge"', WorkspaceError, "cannot be read: Invalid enum value 'huge'"),
        ('dtype = "float32"', 'dtype = "load"', WorkspaceError, "no input is 'load'"),
        ("[provenance]", "[extra]", WorkspaceError, "unknown field `extra`"),
    ],
)
def test_a_workspace_that_was_changed_is_refused_with_the_reason(
    workspace: Workspace, tmp_path: Path, old: str, new: str, kind: type[Exception], words: str
) -> None:
    save_workspace(workspace, tmp_path / "my")
    file = tmp_path / "my" / ATTACHED
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(kind, match=words):
        load_workspace(tmp_path / "my")


def test_weights_of_another_network_are_refused_by_name(workspace: Workspace, tmp_path: Path) -> None:
    save_workspace(workspace, tmp_path / "my")
    state = workspace.network.state_dict()
    state.pop(next(iter(state)))
    write_weights(tmp_path / "my" / WEIGHTS, state)
    with pytest.raises(WeightsError, match=r"of another network: segments.0.0.weight is missing"):
        load_workspace(tmp_path / "my")
    with pytest.raises(FileNotFoundError, match="no workspace; make one: delen attach"):
        load_workspace(tmp_path)
