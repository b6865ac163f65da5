"""Pictures changed by chance while training: mirrored, shifted, and with one blank square.

All draws are from PyTorch's seeded global generator, always in the same order. Does not: change a picture's size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .fit_plan import Augmentation


def augment(choice: Augmentation, batch: Tensor) -> Tensor:
    """Change a batch; a new tensor of the same shape, (n, channels, height, width).

    What comes into view from outside, and the blank square, have the batch's lowest value: black, whatever the
    normalisation. Half of the pictures are mirrored, half get a square.
    """
    if choice.flip:
        mirrored = torch.rand(len(batch)) < 0.5
        batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
    background = float(batch.min())
    if choice.shift_px:
        batch = _shifted(batch, choice.shift_px, background)
    if choice.erase_px:
        batch = _erased(batch, choice.erase_px, background)
    return batch


def _shifted(batch: Tensor, reach: int, background: float) -> Tensor:
    count, channels, height, width = batch.shape
    padded = functional.pad(batch, (reach,) * 4, value=background)
    offsets = torch.randint(0, 2 * reach + 1, (count, 2))
    rows = (offsets[:, :1] + torch.arange(height))[:, None, :, None]
    columns = (offsets[:, 1:] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None], rows, columns]


def _erased(batch: Tensor, side: int, background: float) -> Tensor:
    count, _, height, width = batch.shape
    corner = torch.stack([torch.randint(0, size, (count,)) for size in (height, width)], dim=1) - side // 2
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    in_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + side)
    in_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + side)
    chosen = (torch.rand(count) < 0.5)[:, None, None, None]
    erased = (in_rows[:, :, None] & in_columns[:, None, :])[:, None] & chosen
    return torch.where(erased, torch.full_like(batch, background), batch)
