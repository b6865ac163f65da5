"""The real case that delen is measured on: CIFAR ResNet-20 with published weights, and exits whose heads are made here.

Flow: `make_resnet20` -> published state dict, `zoo`, exits attached after two stages and within the third -> heads
trained alone on the frozen trunk -> bundle. The same steps as `delen attach`, `train` and `export`, and the same files.
The last exit is the published network.

Does not: download anything. The user has the weights (github.com/akamaster/pytorch_resnet_cifar10, BSD-2) and CIFAR-10.
"""

from __future__ import annotations

from pathlib import Path

from .bundle import Bundle, BundleError, load_bundle
from .data_cifar import CLASSES
from .fit_plan import Augmentation, FitPlan
from .manifest import TensorShape
from .measured_bundle import OnStep
from .training import OnProgress
from .weights_file import convert_pickle, read_weights
from .workspace import ZOO_PREFIX, is_workspace, load_workspace, make_workspace, save_workspace
from .workspace_export import ExportOrder, export_workspace
from .workspace_training import WorkspaceOrder, train_workspace
from .zoo import ZOO, build_zoo

NAME = "resnet20"
AT = ("layer1", "layer2", "layer3.0", "layer3.1")
# Augmented as the trunk was: what it makes of pictures that it knows by heart says little of others.
PLAN = FitPlan(
    epochs=8,
    batch=256,
    rate=0.1,
    weight_decay=5e-4,
    trunk="frozen",
    distill=1.0,
    augmentation=Augmentation(shift_px=4, flip=True),
    seed=0,
)


def make_resnet20(work: Path, weights: Path, data: str, on_train: OnProgress, on_step: OnStep) -> Bundle:
    """The bundle in `work`, made in the steps that are still to do: one that is there whole is taken as it is.

    The trunk has seen all training pictures, so half of the test pictures are for calibration.

    Args:
        work: directory of the workspace and the bundle.
        weights: as published, a pickle of which tensors alone are read; or converted to .safetensors.
        data: see `open_data`.
    Raises:
        WeightsError, ZooError: the weights cannot be read, or are another network's. DataError: CIFAR-10 is damaged.
        AttachError, TrainingError, ExportError, EngineFault: a step came to nothing.
    """
    bundle, workspace = work / f"{NAME}.bundle", work / NAME
    try:
        return load_bundle(bundle)
    except BundleError:
        pass
    if not is_workspace(workspace):
        _attach(workspace, weights)
    # Training leaves notes in the weights; without them it was not done, or not to the end.
    if "training" not in load_workspace(workspace).provenance:
        train_workspace(WorkspaceOrder(workspace, data, PLAN, calibrate_on="test"), on_train)
    order = ExportOrder(workspace, data, bundle, name=NAME, licence="BSD-2-Clause (trunk)", calibrate_on="test")
    return export_workspace(order, on_step).bundle


def _attach(workspace: Path, weights: Path) -> None:
    entry = ZOO[NAME]
    state = (read_weights if weights.suffix == ".safetensors" else convert_pickle)(weights).tensors
    made = make_workspace(
        ZOO_PREFIX + NAME,
        build_zoo(NAME, state=state).eval(),
        AT,
        head="mlp",
        classes=CLASSES,
        form=TensorShape(dtype=entry.dtype, shape=entry.shape),
        preprocessing=entry.preprocessing,
        provenance={"trunk": "github.com/akamaster/pytorch_resnet_cifar10"},
    )
    save_workspace(made, workspace)
