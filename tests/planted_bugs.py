"""Bugs planted into the core on purpose, at least one per invariant: what the fault scripts must catch.

Role: each of `BUGS` breaks one thing of a `DeskSimulation` about to run and names the invariant that must say so, as
`daemon/invariants.py` numbers them; 0 for what the desk promises. Whatever is patched outside the simulation itself is
patched with pytest's `MonkeyPatch`, and taken back after the run.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from delen.clients.wire import Answer
from delen.daemon import endings, server
from delen.daemon.records import Effect, Ended, ExitDone, Forget, Request
from delen.policies.pools import View
from delen.policies.view import Choice
from delen.tests.desk_simulation import DeskSimulation

Patch = pytest.MonkeyPatch


class Bug(NamedTuple):
    """`invariant`: its number; `plant` breaks it."""

    name: str
    invariant: int
    plant: Callable[[DeskSimulation, Patch], None]


def _wrap(patch: Patch, where: object, name: str, around: Callable[..., Any]) -> None:
    """`around(original, *arguments)` in place of a method or function."""
    original = getattr(where, name)
    patch.setattr(where, name, lambda *args, **named: around(original, *args, **named))


def _ended_twice(simulation: DeskSimulation, patch: Patch) -> None:
    def end(original: Any, request: Request, ended: Ended, *, forget: bool) -> list[Effect]:
        return [ended, *original(request, ended, forget=forget)]

    _wrap(patch, simulation.server, "_end", end)


def _never_ended(simulation: DeskSimulation, patch: Patch) -> None:
    def end(original: Any, request: Request, ended: Ended, *, forget: bool) -> list[Effect]:
        effects: list[Effect] = original(request, ended, forget=forget)
        return [effect for effect in effects if not isinstance(effect, Ended)] if ended.tensor == b"" else effects

    _wrap(patch, simulation.server, "_end", end)


def _forgotten_in_the_queue(simulation: DeskSimulation, patch: Patch) -> None:
    def next_run(original: Any, now_us: int) -> Any:
        waiting = next((member for pool in simulation.server.view().pools() for member in pool.members), None)
        if waiting is not None and waiting.ticket % 7 == 3:
            simulation.server._backlog.remove(waiting)
        return original(now_us)

    _wrap(patch, simulation.server, "next", next_run)


def _lost_with_the_worker(simulation: DeskSimulation, patch: Patch) -> None:
    patch.setattr(simulation.server, "_put_back", lambda _request: None)


def _counted_twice(simulation: DeskSimulation, patch: Patch) -> None:
    def submit(original: Any, now_us: int, tenant: str, *rest: Any) -> Any:
        verdict = original(now_us, tenant, *rest)
        if simulation.server.ledger.account(tenant).accepted % 9 == 4:
            simulation.server.ledger.account(tenant).answered += 1
        return verdict

    _wrap(patch, simulation.server, "submit", submit)


def _in_two_runs(simulation: DeskSimulation, patch: Patch) -> None:
    _wrap(
        patch,
        simulation.server._backlog,
        "remove",
        lambda original, waiting: waiting.ticket % 3 == 0 or original(waiting),
    )


def _one_too_many(simulation: DeskSimulation, patch: Patch) -> None:
    limits = simulation.limits
    patch.setattr(simulation.server._intake, "_limits", structs.replace(limits, queued_max=limits.queued_max + 1))


def _a_few_bytes_too_many(simulation: DeskSimulation, patch: Patch) -> None:
    limits = simulation.limits
    more = structs.replace(limits, queued_bytes_max=limits.queued_bytes_max + 4)
    patch.setattr(simulation.server._intake, "_limits", more)


def _third_run(simulation: DeskSimulation, patch: Patch) -> None:
    device = simulation.server._device
    _wrap(patch, device, "start_us", lambda original, now_us: now_us if device.ready else original(now_us))


def _features_kept_for_ever(simulation: DeskSimulation, patch: Patch) -> None:
    _wrap(
        patch,
        simulation.server,
        "_end",
        lambda original, request, ended, *, forget: original(request, ended, forget=False),
    )


def _features_dropped_early(simulation: DeskSimulation, patch: Patch) -> None:
    def advance(original: Any, now_us: int, done: Any) -> list[Effect]:
        effects: list[Effect] = original(now_us, done)
        left = tuple(row.ticket for row in done.rows if row.left) if isinstance(done, ExitDone) else ()
        return [*effects, Forget(left)]

    _wrap(patch, simulation.server, "advance", advance)


def _late_and_said_to_be_met(simulation: DeskSimulation, patch: Patch) -> None:
    def broken(original: Any, *args: Any, **named: Any) -> tuple[str, ...]:
        return tuple(name for name in original(*args, **named) if name != "latency_ms")

    _wrap(patch, endings, "_broken", broken)


def _shallow_and_said_to_be_met(simulation: DeskSimulation, patch: Patch) -> None:
    def broken(original: Any, *args: Any, **named: Any) -> tuple[str, ...]:
        return tuple(name for name in original(*args, **named) if name != "accuracy")

    _wrap(patch, endings, "_broken", broken)


def _clock_of_its_own(simulation: DeskSimulation, patch: Patch) -> None:
    def answer(original: Any, request: Request, stop: Any, now_us: int, *, kept: bool) -> Ended:
        ended: Ended = original(request, stop, now_us - 50, kept=kept)
        return ended

    _wrap(patch, server, "answer", answer)


def _back_to_an_earlier_exit(simulation: DeskSimulation, patch: Patch) -> None:
    def answer(original: Any, request: Request, stop: Any, now_us: int, *, kept: bool) -> Ended:
        request.waiting.last_reached = min(request.waiting.last_reached, request.waiting.mandatory)
        ended: Ended = original(request, stop, now_us, kept=kept)
        return ended

    _wrap(patch, server, "answer", answer)


def _a_segment_twice(simulation: DeskSimulation, patch: Patch) -> None:
    def choose(original: Any, view: View, now_us: int, run_id: int) -> Choice | None:
        choice: Choice | None = original(view, now_us, run_id)
        if choice is None or choice.run is None or not choice.run.first:
            return choice
        return choice._replace(run=structs.replace(choice.run, first=choice.run.first - 1))

    _wrap(patch, simulation.server.policy, "choose", choose)


def _energy_refunded(simulation: DeskSimulation, patch: Patch) -> None:
    def end(original: Any, request: Request, ended: Ended, *, forget: bool) -> Any:
        if not isinstance(ended.reply, Answer):
            simulation.server.ledger.account(request.tenant).energy_mj -= request.energy_mj or 0.0
        return original(request, ended, forget=forget)

    _wrap(patch, simulation.server, "_end", end)


def _heads_for_free(simulation: DeskSimulation, patch: Patch) -> None:
    def book(original: Any, *args: Any, **named: Any) -> None:
        original(*[_without_heads(value) if isinstance(value, ExitDone) else value for value in args], **named)

    _wrap(patch, server, "book_steps", book)


def _without_heads(done: ExitDone) -> ExitDone:
    return structs.replace(done, steps=tuple(step for step in done.steps if not step.head))


def _batch_charged_to_each(simulation: DeskSimulation, patch: Patch) -> None:
    def answer(original: Any, request: Request, stop: Any, now_us: int, *, kept: bool) -> Ended:
        request.energy_mj = None if request.energy_mj is None else request.energy_mj * max(request.batches)
        ended: Ended = original(request, stop, now_us, kept=kept)
        return ended

    _wrap(patch, server, "answer", answer)


def _decides_by_a_counter(simulation: DeskSimulation, patch: Patch) -> None:
    calls = count()

    def choose(original: Any, view: View, now_us: int, run_id: int) -> Choice | None:
        choice: Choice | None = original(view, now_us, run_id)
        if choice is None or choice.run is None or next(calls) % 2 == 0:
            return choice
        return choice._replace(run=structs.replace(choice.run, predicted_us=choice.run.predicted_us + 1))

    _wrap(patch, simulation.server.policy, "choose", choose)


def _changes_the_queue(simulation: DeskSimulation, patch: Patch) -> None:
    def choose(original: Any, view: View, now_us: int, run_id: int) -> Choice | None:
        for pool in view.pools():
            pool.members[-1].due_us += 1
        choice: Choice | None = original(view, now_us, run_id)
        return choice

    _wrap(patch, simulation.server.policy, "choose", choose)


def _wakes_for_nothing(simulation: DeskSimulation, patch: Patch) -> None:
    _wrap(
        patch,
        simulation.server,
        "wake_at",
        lambda original: min(original(), simulation.now_us if simulation.server.pending_count else original()),
    )


def _stale_report_heard(simulation: DeskSimulation, patch: Patch) -> None:
    device = simulation.server._device
    _wrap(patch, device, "find", lambda original, run_id: original(run_id) or device.running)


def _retry_runs_again(simulation: DeskSimulation, patch: Patch) -> None:
    for known in simulation.desk._tenants.values():
        _wrap(
            patch,
            known.answers,
            "find",
            lambda original, request_id, now_us: _only_running(original(request_id, now_us)),
        )


def _only_running(kept: Any) -> Any:
    return kept if kept is None or kept.reply is None else None


def _only_the_first_is_told(simulation: DeskSimulation, patch: Patch) -> None:
    for known in simulation.desk._tenants.values():
        _wrap(patch, known.answers, "end", lambda original, *args: original(*args)[:1])


BUGS = (
    Bug("a request ends twice", 1, _ended_twice),
    Bug("a failed request is never told", 2, _never_ended),
    Bug("a request is forgotten in the queue", 2, _forgotten_in_the_queue),
    Bug("what ran is lost with the worker", 2, _lost_with_the_worker),
    Bug("an answer is counted twice", 2, _counted_twice),
    Bug("a request is in two runs", 2, _in_two_runs),
    Bug("the queue takes one too many", 3, _one_too_many),
    Bug("the queue takes a few bytes too many", 3, _a_few_bytes_too_many),
    Bug("the device gets a third run", 3, _third_run),
    Bug("features are kept for ever", 3, _features_kept_for_ever),
    Bug("features are dropped early", 5, _features_dropped_early),
    Bug("late, and said to be met", 4, _late_and_said_to_be_met),
    Bug("too shallow, and said to be met", 4, _shallow_and_said_to_be_met),
    Bug("times are by another clock", 4, _clock_of_its_own),
    Bug("an answer goes back to an earlier exit", 5, _back_to_an_earlier_exit),
    Bug("a segment runs twice", 5, _a_segment_twice),
    Bug("energy is refunded", 6, _energy_refunded),
    Bug("heads cost nothing", 6, _heads_for_free),
    Bug("each row is charged for its batch", 6, _batch_charged_to_each),
    Bug("a decision depends on how many there were", 7, _decides_by_a_counter),
    Bug("a decision changes the queue", 7, _changes_the_queue),
    Bug("the core wakes for nothing", 8, _wakes_for_nothing),
    Bug("a report of a lost run is heard", 0, _stale_report_heard),
    Bug("a retry runs again", 0, _retry_runs_again),
    Bug("only the first who waits is told", 0, _only_the_first_is_told),
)
