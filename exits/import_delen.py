"""Dělen's released networks as bundles: `NAME_net00.onnx, NAME_net01.onnx, ...`, one graph per exit.

Each of them takes the image or the features of the one before, and gives `output` (the logits of its exit) and
`features` (what the next takes); the last may give `output` alone. Flow: files in order -> each cut in two, the segment
up to `features` and the head from there to `output` -> weights brought inside, batch opened -> bundle, compared at
several images at once with the graphs as they came, one image at a time.

Does not: read Dělen's profile (`profiles/imported.py` does; its figures come in as `ExitEntry`s), or measure.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from ..clients.info import Preprocessing
from ..clients.wire import Array
from .bundle import Bundle
from .bundle_writer import Description, Part, refuse_overwrite, write_bundle
from .data_files import check_split, open_data
from .export import ExportError
from .manifest import EXITS_MAX, ExitEntry, TensorShape
from .measured_bundle import Graphs, OnStep, Step, measured_bundle
from .onnx_parts import GraphError, piece, read_model
from .onnx_runner import LoadedOnnx, OnnxRunner
from .runner import EngineFault

FEATURES, LOGITS = "features", "output"
_FILE = re.compile(r"(?P<name>.*?)_?net(?P<index>\d{2})\.onnx")
# How many made-up images are compared, at batch 1 in the original and all at once in the bundle.
COMPARED = 3
DIFFERENCE_MAX = 1e-4
ONE_BY_ONE = "the graph is written for one image at a time: export it again with axis 0 left open"


class ImportOrder(NamedTuple):
    """What to import, and where to. `accuracies`, `gmac`: by exit, as the network's own profile says. `classes`: names;
    None numbers them. `data`: see `open_data`; None leaves the bundle without a calibration.
    """

    folder: Path
    out: Path
    accuracies: tuple[float, ...]
    gmac: tuple[float, ...]
    preprocessing: Preprocessing
    network: str | None = None
    classes: tuple[str, ...] | None = None
    licence: str = "unstated"
    data: str | None = None
    replace: bool = False


class DelenNetwork(NamedTuple):
    """What was found: parts as a bundle has them, the input's shape, the number of classes, the originals by exit."""

    name: str
    input: TensorShape
    classes: int
    segments: list[Part]
    heads: list[Part]
    originals: list[Any]


def import_delen(order: ImportOrder, on_step: OnStep = lambda step: None) -> Bundle:
    """Make one bundle.

    Raises:
        GraphError: which graph cannot be taken over, and why. FileNotFoundError: there are no such files.
        ExportError: the bundle does not give what the graphs as they came give.
        DataError, ValueError: the data does not fit. FileExistsError: something is in the way at `order.out`.
    """
    refuse_overwrite(order.out, replace=order.replace)
    network = read_delen(order.folder, order.network)
    classes = order.classes or tuple(map(str, range(network.classes)))
    if len(order.accuracies) != len(network.heads) or len(classes) != network.classes:
        raise GraphError(
            f"{network.name} has {len(network.heads)} exits and {network.classes} classes; its profile has "
            f"{len(order.accuracies)} exits, and {len(classes)} labels were given: take those of this network"
        )
    on_step(Step("graphs", 1, 1))
    description, segments, heads = _describe(order, network, classes), network.segments, network.heads

    def check(bundle: Bundle) -> None:
        check_against_original(bundle, network)

    if order.data is None:
        return write_bundle(order.out, description, segments=segments, heads=heads, replace=order.replace, check=check)
    data = open_data(order.data, shape=network.input.shape)
    check_split(data, classes, shape=network.input.shape)
    graphs = Graphs(description, segments, heads)
    return measured_bundle(order.out, graphs, data, replace=order.replace, check=check, on_step=on_step).bundle


def _describe(order: ImportOrder, network: DelenNetwork, classes: tuple[str, ...]) -> Description:
    figures = zip(order.accuracies, order.gmac, strict=True)
    return Description(
        name=order.network or network.name or order.out.name.removesuffix(".bundle"),
        version="1",
        licence=order.licence,
        classes=classes,
        input=network.input,
        preprocessing=order.preprocessing,
        exits=tuple(ExitEntry(accuracy=accuracy, temperature=1.0, gmac=gmac) for accuracy, gmac in figures),
        provenance={
            "source": f"Dělen's {network.name or 'network'}, {len(network.heads)} graphs",
            "accuracy": "as its profile says" if order.data is None else f"measured on {Path(order.data).name}",
        },
    )


def read_delen(folder: Path, name: str | None = None) -> DelenNetwork:
    """Read and cut the graphs of one network.

    Args:
        name: what its files begin with, where the folder holds several networks.
    Raises:
        GraphError: which graph cannot be taken over, and why. FileNotFoundError: there are no such files.
    """
    found, files = _files(folder, name)
    segments, heads, originals = [], [], []
    taken: tuple[int, ...] = ()
    for index, path in enumerate(files):
        model = read_model(path)
        entry = _entry(model, path)
        shape = _sides(entry, path)
        if index == 0:
            first = shape
        elif shape != taken:
            raise GraphError(f"{path.name} takes {list(shape)}, {files[index - 1].name} gives {list(taken)}")
        outputs = [port.name for port in model.graph.output]
        if LOGITS not in outputs or (FEATURES not in outputs and index < len(files) - 1):
            raise GraphError(f"{path.name} gives {', '.join(outputs)}; expected {LOGITS} and {FEATURES}")
        # Without features of its own the last exit is one piece, with a head that hands it on.
        features = FEATURES if FEATURES in outputs else LOGITS
        segments.append(piece(model, entry.name, features, shape, f"{path.name}, up to {features!r},"))
        taken = segments[-1].output.shape
        heads.append(piece(model, features, LOGITS, taken, f"{path.name}, {LOGITS!r} from {features!r},"))
        originals.append(model)
    widths = {head.output.shape for head in heads}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        raise GraphError(
            f"the exits of {found} give logits of shapes {sorted(widths)}; expected one row of classes each"
        )
    return DelenNetwork(found, TensorShape(dtype="float32", shape=first), widths.pop()[0], segments, heads, originals)


def check_against_original(bundle: Bundle, network: DelenNetwork) -> None:
    """Compare a bundle at batch 3 with the files it was made of at batch 1, on made-up images.

    Raises:
        ExportError: an exit gives something else: its graph was traced for one image, and does not work for several.
    """
    count = COMPARED * math.prod(network.input.shape)
    images = np.sin(np.arange(count, dtype=np.float32) * 0.7).reshape(COMPARED, *network.input.shape)
    wanted = [_originals(network, image[None]) for image in images]
    loaded = OnnxRunner().load(bundle, COMPARED)
    try:
        given = _run(loaded, images, len(network.segments))
    except EngineFault as error:
        raise ExportError(f"{error}; {ONE_BY_ONE}") from error
    for index, logits in enumerate(given):
        expected = np.concatenate([rows[index] for rows in wanted])
        difference = float(np.abs(logits - expected).max()) / max(1.0, float(np.abs(expected).max()))
        if not difference <= DIFFERENCE_MAX:
            raise ExportError(
                f"exit {index} differs by {difference:.2g} of its largest logit between batch 1 and batch {COMPARED}; "
                f"{ONE_BY_ONE}"
            )


def _run(loaded: LoadedOnnx, images: Array, count: int) -> list[Array]:
    features, given = loaded.place(images), []
    for index in range(count):
        features = loaded.segment(index, features)
        given.append(loaded.head(index, features))
    return given


def _originals(network: DelenNetwork, image: Array) -> list[Array]:
    """Logits of every exit for one image, by the graphs as they came."""
    given = []
    for model in network.originals:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [port.name for port in session.get_outputs()]
        values = dict(zip(names, session.run(names, {session.get_inputs()[0].name: image}), strict=True))
        given.append(values[LOGITS])
        image = values.get(FEATURES, image)
    return given


def _files(folder: Path, name: str | None) -> tuple[str, list[Path]]:
    """A network's name and its graphs in order."""
    sets: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.glob("*.onnx")):
        match = _FILE.fullmatch(path.name)
        if match is not None:
            sets.setdefault(match["name"], {})[int(match["index"])] = path
    if name is not None:
        sets = {key: value for key, value in sets.items() if key == name}
    if not sets:
        what = "*_net00.onnx" if name is None else f"{name}_net00.onnx"
        raise FileNotFoundError(f"{folder} has no {what}; expected the graphs of a network as Dělen released them")
    if len(sets) > 1:
        raise GraphError(f"{folder} holds {', '.join(sorted(sets))}; say which one with --network")
    found, files = next(iter(sets.items()))
    missing = next((index for index in range(len(files)) if index not in files), None)
    if missing is not None or len(files) > EXITS_MAX:
        what = f"net{missing:02} is missing" if missing is not None else f"{len(files)} graphs"
        raise GraphError(f"{folder}, network {found or '(unnamed)'}: {what}; expected net00, net01 and on, at most 32")
    return found, [files[index] for index in range(len(files))]


def _entry(model: Any, path: Path) -> Any:
    """The one input that is no weight."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [port for port in model.graph.input if port.name not in constants]
    if len(inputs) != 1:
        raise GraphError(
            f"{path.name} takes {', '.join(port.name for port in inputs) or 'nothing'}; expected one input"
        )
    return inputs[0]


def _sides(port: Any, path: Path) -> tuple[int, ...]:
    """Shape of an input without its batch."""
    kind = port.type.tensor_type
    sides = tuple(side.dim_value for side in kind.shape.dim)
    if kind.elem_type != 1 or len(sides) < 2 or min(sides[1:]) < 1 or sides[0] > 1:
        raise GraphError(
            f"{path.name}: input {port.name!r} is of type {kind.elem_type} and shape {list(sides)} (0: open); expected "
            "float32 (1) with a batch of 1 or an open one, and known other sides"
        )
    return sides[1:]
