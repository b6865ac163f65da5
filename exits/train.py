"""Train a shipped recipe: joint loss over all exits, self-distillation from the last, an averaged copy of the weights.

Flow: `train(recipe, split)` yields one `Epoch` per pass (for a progress bar) and returns the averaged network; export
and calibration are `export.py` and `calibrate.py`.

Reproducible: the same recipe, seed, torch and kind of CPU (kernels differ by instruction set) give the same network bit
for bit on the same number of threads, which a recipe may fix (`digits` does). Elsewhere it is another network of much
the same accuracy. Does not: read files, print, or look at the test part.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .datasets import Labelled
from .recipes import MultiExit, Recipe

# The copy averages over the last twentieth of all steps: long enough to smooth, short enough to forget the high rates.
AVERAGED_SHARE = 0.05


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images: mean joint loss, and the learning rate it ended with."""

    index: int
    count: int
    loss: float
    rate: float
    steps: int
    steps_total: int


def train(recipe: Recipe, data: Labelled, *, seed: int = 0, device: str = "cpu") -> Generator[Epoch, None, MultiExit]:
    """Train on `data`; yields progress several times an epoch, returns the averaged network on the CPU, in eval mode.

    Source: joint loss of BranchyNet (ICPR'16), divergence from the last exit of Be Your Own Teacher (ICCV'19);
    differs: the teacher is detached, so that early exits never pull the last one down.
    """
    with _threads(recipe.threads):
        return (yield from _train(recipe, data, seed=seed, device=device))


def _train(recipe: Recipe, data: Labelled, *, seed: int, device: str) -> Generator[Epoch, None, MultiExit]:
    torch.manual_seed(seed)
    network = recipe.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = normalise(recipe, data.images)
    labels = torch.from_numpy(data.labels)
    steps_per_epoch = len(labels) // recipe.batch
    decay = 1 - 1 / max(1.0, AVERAGED_SHARE * recipe.epochs * steps_per_epoch)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    optimiser = torch.optim.SGD(
        network.parameters(), recipe.rate, momentum=0.9, weight_decay=recipe.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.rate, total_steps=recipe.epochs * steps_per_epoch, pct_start=0.2, final_div_factor=1e3
    )
    report_every = max(1, steps_per_epoch // 20)
    for index in range(recipe.epochs):
        network.train()
        loss_sum = 0.0
        for step, (batch, target) in enumerate(_batches(recipe, images, labels), start=1):
            with torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bf16"):
                logits = network(batch.to(device).contiguous(memory_format=torch.channels_last))
            loss = joint_loss(recipe, logits.float(), target.to(device))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            averaged.update_parameters(network)
            loss_sum += float(loss.detach())
            if step % report_every == 0 or step == steps_per_epoch:
                rate = float(schedule.get_last_lr()[0])
                yield Epoch(index, recipe.epochs, loss_sum / step, rate, step, steps_per_epoch)
    result = averaged.module
    assert isinstance(result, MultiExit)
    return result.cpu().eval()


def normalise(recipe: Recipe, images: object) -> Tensor:
    """Bytes to what the network eats: shape kept, float32, (value/255 - mean)/std."""
    return (torch.tensor(images).float() / 255 - recipe.mean) / recipe.std


def joint_loss(recipe: Recipe, logits: Tensor, target: Tensor) -> Tensor:
    """Weighted cross entropy of all exits, plus the earlier exits' divergence from the last one's distribution.

    Args:
        logits: shape (exits, batch, classes), float32.
        target: shape (batch,), int64.
    """
    total = logits.new_zeros(())
    teacher = functional.log_softmax(logits[-1].detach(), dim=-1)
    for weight, exit_logits in zip(recipe.exit_weights, logits, strict=True):
        total = total + weight * functional.cross_entropy(exit_logits, target)
    for weight, exit_logits in zip(recipe.exit_weights[:-1], logits[:-1], strict=True):
        student = functional.log_softmax(exit_logits, dim=-1)
        divergence = functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
        total = total + recipe.distill * weight * divergence
    return total / sum(recipe.exit_weights)


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """Logits of every exit for every image: shape (exits, n, classes), float32."""
    network.eval()
    return torch.cat([network(part) for part in torch.split(images, batch)], dim=1)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """PyTorch on so many threads for as long as this lasts; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(recipe: Recipe, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(labels))
    for start in range(0, len(labels) - recipe.batch + 1, recipe.batch):
        picked = order[start : start + recipe.batch]
        yield _augment(recipe, images[picked]), labels[picked]


def _augment(recipe: Recipe, batch: Tensor) -> Tensor:
    """Random mirror, shift and one blank square per image, all drawn from torch's seeded generator."""
    count, _, height, width = batch.shape
    if recipe.flip:
        mirrored = torch.rand(count) < 0.5
        batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
    background = float(batch.min())
    if recipe.shift_px:
        reach = recipe.shift_px
        padded = functional.pad(batch, (reach,) * 4, value=background)
        offsets = torch.randint(0, 2 * reach + 1, (count, 2))
        rows = (offsets[:, :1] + torch.arange(height))[:, None, :, None]
        columns = (offsets[:, 1:] + torch.arange(width))[:, None, None, :]
        batch = padded[
            torch.arange(count)[:, None, None, None], torch.arange(batch.shape[1])[None, :, None, None], rows, columns
        ]
    if recipe.erase_px:
        corner = (
            torch.stack([torch.randint(0, size, (count,)) for size in (height, width)], dim=1) - recipe.erase_px // 2
        )
        rows, columns = torch.arange(height)[None], torch.arange(width)[None]
        in_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + recipe.erase_px)
        in_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + recipe.erase_px)
        erased = (in_rows[:, :, None] & in_columns[:, None, :])[:, None] & (torch.rand(count) < 0.5)[
            :, None, None, None
        ]
        batch = torch.where(erased, torch.full_like(batch, background), batch)
    return batch
