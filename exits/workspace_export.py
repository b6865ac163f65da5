"""A trained workspace and labelled data -> a bundle that can be served: what `delen export` does.

Flow: workspace -> ONNX graphs, the same to 1e-4 as PyTorch's on real inputs -> another precision where asked for ->
`measured_bundle.py`. Does not: train, or print.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from .bundle import Bundle
from .bundle_writer import Description, refuse_overwrite
from .data_files import check_split, open_data
from .datasets import CalibrateOn, Split, as_inputs
from .export import EXAMPLES_MAX, check_parity, counted, export_graphs
from .manifest import ExitEntry, Precision
from .measured_bundle import USUAL, Graphs, Measured, Measuring, OnStep, Step, measured_bundle
from .quantise import quantised
from .workspace import Workspace, load_workspace
from .workspace_training import refuse_other_split

BUNDLE_SUFFIX = ".bundle"


class ExportOrder(NamedTuple):
    """What to export, and where to. `data`: see `open_data`. `name`: None takes the directory's. `calibrate_on`: see
    `datasets.complete`; `seed` must be that of training, which held out the same samples. `symmetric`: see `quantised`.
    """

    workspace: Path
    data: str
    out: Path
    precision: Precision = "fp32"
    symmetric: bool = False
    name: str | None = None
    licence: str = "unstated"
    calibrate_on: CalibrateOn = "train"
    measuring: Measuring = USUAL
    replace: bool = False


def export_workspace(order: ExportOrder, on_step: OnStep = lambda step: None) -> Measured:
    """Make one bundle.

    Raises:
        FileExistsError: something is in the way at `order.out`; found out first.
        WorkspaceError, WeightsError, AttachError: see `load_workspace`. DataError: see `open_data`, `check_split`.
        ExportError: the graphs do not give what PyTorch gives, or cannot be written.
        EngineFault: ONNX Runtime cannot run this precision here.
    """
    refuse_overwrite(order.out, replace=order.replace)
    workspace = load_workspace(order.workspace)
    refuse_other_split(workspace.provenance, order.measuring.seed, order.calibrate_on)
    shape = workspace.input.shape
    data = open_data(order.data, order.measuring.seed, shape=shape, calibrate_on=order.calibrate_on)
    check_split(data, workspace.classes, shape=shape)
    return export_measured(workspace, data, order, on_step)


def export_measured(workspace: Workspace, data: Split, order: ExportOrder, on_step: OnStep) -> Measured:
    """`export_workspace` on what it has read."""
    on_step(Step("graphs", 0, 2))
    raw = data.calibration.images[:EXAMPLES_MAX]
    examples = torch.from_numpy(as_inputs(raw, workspace.preprocessing, workspace.input.dtype))
    exported = export_graphs(workspace.network, examples)
    on_step(Step("graphs", 1, 2))
    # Counted before quantising, which changes how the same products are computed and not how many there are.
    description = counted(_describe(order, workspace, data), exported.segments, exported.heads)
    raw = data.train.images[:EXAMPLES_MAX]
    ranges = as_inputs(raw, workspace.preprocessing, workspace.input.dtype)
    segments, heads = quantised(exported.segments, exported.heads, ranges, order.precision, symmetric=order.symmetric)
    on_step(Step("graphs", 2, 2))

    def check(bundle: Bundle) -> None:
        if order.precision == "fp32":
            check_parity(bundle, exported.examples, exported.wanted)

    return measured_bundle(
        order.out,
        Graphs(description, segments, heads),
        data,
        measuring=order.measuring,
        replace=order.replace,
        check=check,
        on_step=on_step,
    )


def _describe(order: ExportOrder, workspace: Workspace, data: Split) -> Description:
    return Description(
        name=order.name or order.out.name.removesuffix(BUNDLE_SUFFIX),
        version="1",
        licence=order.licence,
        classes=workspace.classes,
        input=workspace.input,
        preprocessing=workspace.preprocessing,
        exits=tuple(ExitEntry(accuracy=0.0, temperature=1.0) for _ in workspace.network.heads),
        provenance={
            **workspace.provenance,
            "source": workspace.source,
            "exits": ", ".join((*workspace.at, "the last")),
            "data": f"{Path(order.data).name}, {len(data.calibration.labels)} samples to calibrate on, from its "
            f"{'test' if order.calibrate_on == 'test' else 'training'} part",
            "seed": str(order.measuring.seed),
            "torch": torch.__version__,
        },
        precision=order.precision,
    )
