"""Train a multi-exit network: all of it, or its heads alone on a trunk that stays as it is.

Flow: `fit(network, data, plan)` yields an `Epoch` several times a pass (for a progress bar and a log) and returns the
network with averaged weights; calibration and export are others' work. With a `Checkpoint` it goes on where a killed
training was.

Reproducible: the same plan, seed, torch and kind of CPU (kernels differ by instruction set) give the same network bit
for bit on the same number of threads, which a plan may fix (that of `digits` does), interrupted or not. Elsewhere it is
another network of much the same accuracy. Does not: read data files, print, or choose anything by the accuracies that
it reports.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .checkpoint import Checkpoint, TrainingState
from .course import Course
from .datasets import Labelled, Split
from .fit_plan import FitPlan, PlanError
from .multi_exit import MultiExit
from .predict import Prepare, as_tensor


class TrainingError(RuntimeError):
    """Training came to nothing; the text says where and what to change."""


@dataclass(frozen=True)
class Epoch:
    """Where training is: `steps` of `steps_total` in pass `index` of `count`.

    `loss`: mean over these steps of what is minimised; `losses`: each trained exit's own cross entropy. `rate`: of
    learning, as it stands. `accuracies`: every exit's on up to 2,000 test samples, at the end of a pass only.
    """

    index: int
    count: int
    loss: float
    rate: float
    steps: int
    steps_total: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...] | None


def fit(
    network: MultiExit,
    data: Split,
    plan: FitPlan,
    *,
    prepare: Prepare | None = None,
    checkpoint: Checkpoint | None = None,
) -> Generator[Epoch, None, MultiExit]:
    """Train `network` itself on the training part; returns it on the CPU, in eval mode, with averaged weights.

    Args:
        prepare: from raw values to inputs; None: bytes become 0 to 1, everything else stays. See `predict.preparation`.
        checkpoint: where to save the state, and to go on from if it is there.
    Raises:
        PlanError: the plan does not suit the network, the data or the device.
        CheckpointError: the checkpoint is damaged or of another training.
        TrainingError: the loss is no number any more.
    """
    _check_plan(plan, network, data.train)
    with _threads(plan.threads):
        return (yield from _fit(Course(network, data, plan, prepare or as_tensor), checkpoint))


def _fit(course: Course, checkpoint: Checkpoint | None) -> Generator[Epoch, None, MultiExit]:
    plan, network = course.plan, course.network
    of = course.identity() if checkpoint is not None else {}
    if plan.seed is not None:
        torch.manual_seed(plan.seed)
    network.to(course.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = course.begin()
    if checkpoint is not None:
        checkpoint.restore(state, of)
    report_every = max(1, course.steps // 20)
    while state.epoch < plan.epochs:
        if state.step == 0:
            state.order = torch.randperm(len(course.labels))
            state.sums = [0.0] * (1 + len(course.heads))
            if state.epoch == 0:
                state.first_order = state.order
        course.set_modes(state)
        while state.step < course.steps:
            _take_step(course, state)
            if state.step % report_every == 0 and state.step < course.steps:
                yield _report(course, state, None)
            if checkpoint is not None and state.step < course.steps and checkpoint.is_due():
                checkpoint.save(state, of)
        yield _report(course, state, course.watch(state.averaged))
        state.epoch, state.step = state.epoch + 1, 0
        if checkpoint is not None:
            checkpoint.save(state, of)
    course.learner.load_state_dict(state.averaged.module.state_dict())
    return network.cpu().eval()


def _take_step(course: Course, state: TrainingState) -> None:
    start = state.step * course.plan.batch
    loss, entropies = course.losses(state.order[start : start + course.plan.batch])
    state.optimiser.zero_grad()
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    before = state.scaler.get_scale()
    state.scaler.step(state.optimiser)
    state.scaler.update()
    # A scale that fell says that this step's gradients overflowed and were not taken.
    if state.scaler.get_scale() >= before:
        state.schedule.step()
        state.averaged.update_parameters(course.learner)
    state.step += 1
    values = [float(loss.detach()), *torch.stack(entropies).detach().tolist()]
    if not math.isfinite(values[0]):
        raise TrainingError(
            f"the loss became {values[0]} in epoch {state.epoch + 1}, step {state.step}; a lower --rate may mend it, "
            "or the data holds values that are far too large"
        )
    state.sums = [total + value for total, value in zip(state.sums, values, strict=True)]


def _report(course: Course, state: TrainingState, accuracies: tuple[float, ...] | None) -> Epoch:
    loss, *losses = (total / state.step for total in state.sums)
    rate = float(state.schedule.get_last_lr()[0])
    return Epoch(state.epoch, course.plan.epochs, loss, rate, state.step, course.steps, tuple(losses), accuracies)


def _check_plan(plan: FitPlan, network: MultiExit, part: Labelled) -> None:
    exits = len(network.heads)
    if plan.exit_weights is not None and (len(plan.exit_weights) != exits or min(plan.exit_weights) <= 0):
        raise PlanError(f"{len(plan.exit_weights)} exit weights for {exits} exits; give one above 0 for each")
    if plan.trunk == "frozen" and plan.last_head == "kept" and exits == 1:
        raise PlanError("a frozen trunk and a single head that is kept leave nothing to train; attach more exits")
    if plan.precision == "fp16" and not plan.device.startswith("cuda"):
        raise PlanError("fp16 is for GPUs; take bf16 or fp32 on a CPU")
    if plan.augmentation and part.images.ndim != 4:
        raise PlanError(
            f"inputs of shape {part.images.shape[1:]} are no pictures; leave out --shift, --flip and --erase"
        )
    if len(part.labels) < plan.batch:
        raise PlanError(f"{len(part.labels)} training samples do not fill one batch of {plan.batch}; lower --batch")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """PyTorch on so many threads for as long as this lasts; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
