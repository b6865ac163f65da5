"""The zoo: published networks as plain PyTorch modules, each with the places where its exits belong.

Flow: `build_zoo(name)` -> plain network, from scratch or with a published state dict -> `attach(network,
at=ZOO[name].at, ...)` makes it multi-exit; the network's own classifier is the last exit.

The architectures are written out here, from their papers, because timm (the usual source, Apache-2.0) imports
torchvision, which has no build for many boards: timm 1.0.31 fails at `timm.layers.create_norm` without it. Keys are
those of the published weights; each file names whose.

Does not: download or read weights (`weights_file.py` reads files), or add exits (`attaching.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..clients.info import Preprocessing
from .zoo_audio import BASE, EDGE, Wav2Vec2
from .zoo_efficientnet import EfficientNet
from .zoo_resnet import Bottleneck, CifarResNet, Residual, ResNet
from .zoo_text import VOCABULARY, TextEncoder

PLAIN = Preprocessing()
IMAGENET = Preprocessing(colour="rgb", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class ZooError(ValueError):
    """A name or a state dict that the zoo cannot use; the text says what was expected and what to do."""


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """One network. `build(classes)` makes it, on the device that torch makes tensors on; `at`: default exits, as module
    paths, besides the last; `shape`: of one input, without the batch; `classifier`: prefix of the last layer's keys;
    `classes`: of the published weights; `source`: paper, and whose keys; `words`: ids end below it, for int64 input.
    """

    build: Callable[[int], nn.Module]
    at: tuple[str, ...]
    shape: tuple[int, ...]
    classes: int
    classifier: str
    source: str
    dtype: str = "float32"
    words: int = 0
    preprocessing: Preprocessing = PLAIN

    def example(self, batch: int, seed: int = 0) -> Tensor:
        """Made-up inputs of the right kind, shape (batch, *shape)."""
        generator = torch.Generator().manual_seed(seed)
        if self.dtype == "int64":
            return torch.randint(1, self.words, (batch, *self.shape), generator=generator)
        return torch.randn(batch, *self.shape, generator=generator)


_STAGES = ("layer1", "layer2", "layer3")
_RESNET = partial(
    ZooEntry, at=_STAGES, shape=(3, 224, 224), classes=1000, classifier="fc.", preprocessing=IMAGENET,
    source="He et al., CVPR'16; torchvision's keys",
)  # fmt: skip
# After the last groups at 56, 28 and 14 pixels (of 224): the network's stages.
_EFFICIENT = partial(
    ZooEntry, at=("features.2", "features.3", "features.5"), classes=1000, classifier="classifier.1.",
    preprocessing=IMAGENET, source="Tan, Le, ICML'19; torchvision's keys",
)  # fmt: skip
_CIFAR = partial(
    ZooEntry, at=("layer1", "layer2"), shape=(3, 32, 32), classes=10, classifier="linear.", preprocessing=IMAGENET,
    source="He et al., CVPR'16, section 4.2; Y. Idelbayev's keys",
)  # fmt: skip
_AUDIO = partial(
    ZooEntry, shape=(16000,), classes=12, classifier="classifier.",
    source="Baevski et al., NeurIPS'20; Hugging Face's keys are taken too",
)  # fmt: skip
_TEXT = partial(
    ZooEntry, shape=(128,), classes=2, classifier="classifier.", dtype="int64", words=VOCABULARY,
    source="Devlin et al., NAACL'19, sizes of Turc et al., 2019; Hugging Face's keys are taken too",
)  # fmt: skip

ZOO: Mapping[str, ZooEntry] = {
    "resnet18": _RESNET(build=partial(ResNet, Residual, (2, 2, 2, 2))),
    "resnet34": _RESNET(build=partial(ResNet, Residual, (3, 4, 6, 3))),
    "resnet50": _RESNET(build=partial(ResNet, Bottleneck, (3, 4, 6, 3))),
    "efficientnet-b0": _EFFICIENT(build=partial(EfficientNet, 1.0, 1.0, 0.2), shape=(3, 224, 224)),
    "efficientnet-b1": _EFFICIENT(build=partial(EfficientNet, 1.0, 1.1, 0.2), shape=(3, 240, 240)),
    "efficientnet-b2": _EFFICIENT(build=partial(EfficientNet, 1.1, 1.2, 0.3), shape=(3, 260, 260)),
    "resnet20": _CIFAR(build=partial(CifarResNet, 3)),
    "resnet56": _CIFAR(build=partial(CifarResNet, 9)),
    "wav2vec2-edge": _AUDIO(build=partial(Wav2Vec2, EDGE), at=("layers.1", "layers.3", "layers.5")),
    "wav2vec2-base": _AUDIO(build=partial(Wav2Vec2, BASE), at=("layers.2", "layers.5", "layers.8")),
    "bert-mini": _TEXT(build=partial(TextEncoder, 4, 256, 4), at=("layers.0", "layers.1", "layers.2")),
    "bert-small": _TEXT(build=partial(TextEncoder, 4, 512, 8), at=("layers.0", "layers.1", "layers.2")),
}


def build_zoo(name: str, *, classes: int | None = None, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A zoo network as a plain module, in training mode.

    Args:
        name: one of ZOO.
        classes: of your data; None takes those of the published weights.
        state: a published state dict, or one of this network. Its classifier is left out, and stays untrained, where it
            is for another number of classes; all else must be there and fit.
    Raises:
        ZooError: no such network, or a state dict of another one.
    """
    entry = ZOO.get(name)
    if entry is None:
        raise ZooError(f"no network {name!r:.40} in the zoo; expected one of {', '.join(ZOO)}")
    network = entry.build(entry.classes if classes is None else classes)
    if state is not None:
        _load(network, name, state)
    return network


def _load(network: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
    prefix = ZOO[name].classifier
    ours = network.state_dict()
    other_classes = {
        key for key, value in state.items() if key.startswith(prefix) and key in ours and value.shape != ours[key].shape
    }
    try:
        faults = network.load_state_dict(
            {key: value for key, value in state.items() if key not in other_classes}, strict=False
        )
    except RuntimeError as error:
        # PyTorch's own text has a line for every key.
        first, *more = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise ZooError(
            f"these weights are not for {name}: {first:.200} and {len(more)} more; load those of the same network"
        ) from error
    # Counters of training that checkpoints before PyTorch 0.4.1 lack, and a classifier for other classes.
    missing = [
        key for key in faults.missing_keys if not key.endswith("num_batches_tracked") and key not in other_classes
    ]
    if missing or faults.unexpected_keys:
        raise ZooError(
            f"these weights are not for {name}: {_some(missing)} missing, {_some(faults.unexpected_keys)} not known; "
            f"expected keys as of: {ZOO[name].source}"
        )


def _some(keys: list[str]) -> str:
    return f"{len(keys)} keys ({', '.join(keys[:3])}, ...)" if keys else "no key"
