"""Counters survive the process with a second lost at most, audits are told once on disk, and no disk stops the loop."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from delen.clients.adaptation import Adaptation
from delen.daemon.audit_log import read_audit
from delen.daemon.counters import Counters
from delen.daemon.keeping import AUDIT, COUNTERS, EVERY_US, SLOT_BYTES, Keeping, StateBusy, StateError
from delen.daemon.ledger import Ledger
from delen.daemon.served_list import read_list
from delen.daemon.slot_file import peek
from delen.exits import state_files
from delen.exits.bundle import Bundle, load_bundle, shipped_directory
from delen.policies.rates import Terms

WAIT_S_MAX = 20


class Notes(list[str]):
    """Stands for the log."""

    def __call__(self, text: str, **_: Any) -> None:
        self.append(text)


class Kept:
    """A keeping, its ledger of one tenant with a daily cap, and its clock."""

    def __init__(self, state: Path, *, dev: bool = False, bundles: Sequence[Bundle] = ()) -> None:
        self.notes, self.state = Notes(), state
        self.woken = threading.Event()
        self.ledger = Ledger({"a": Terms(energy_j_day_max=1000.0)})
        self.ledger.account("a")
        self.now_us = 10**12
        self.keeping = Keeping(state, self.notes, dev=dev, wake=self.woken.set)  # type: ignore[arg-type]  # see Notes
        self.keeping.begin(self.now_us, self.ledger, bundles)
        self.settle()

    def spend(self, energy_mj: float) -> None:
        self.ledger.account("a").energy_mj += energy_mj
        promise = self.ledger.promises.of("a")
        assert promise is not None
        promise.energy.book(self.now_us, energy_mj)

    def turn(self) -> None:
        self.now_us += EVERY_US
        self.keeping.turn(self.now_us, self.ledger)

    def settle(self) -> None:
        """A turn that finds the disk idle, and leaves it so."""
        self._wait()
        self.turn()
        self._wait()

    def _wait(self) -> None:
        if self.keeping._pool is not None:
            self.keeping._pool.submit(int).result(WAIT_S_MAX)

    def spent_mj(self) -> float:
        promise = self.ledger.promises.of("a")
        assert promise is not None
        return promise.energy.day.total(self.now_us)

    def on_disk_mj(self) -> float:
        return Counters(peek(self.state / COUNTERS, slot_bytes=SLOT_BYTES)).of("a").energy_mj

    def close(self) -> None:
        self.keeping.close(self.now_us, self.ledger)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path / "state")
    yield made
    made.close()


def said(state: Path) -> list[str]:
    return [entry.what for entry in read_audit(state / AUDIT / "audit.jsonl").entries]


def test_counters_and_the_day_go_on_over_restarts(tmp_path: Path) -> None:
    for turn in range(3):
        kept = Kept(tmp_path / "state")
        assert kept.spent_mj() == 100.0 * turn
        assert kept.keeping.counters.of("a").energy_mj == 100.0 * turn
        kept.spend(100.0)
        kept.close()
        assert kept.on_disk_mj() == 100.0 * (turn + 1)
        assert kept.notes == []
    assert said(tmp_path / "state") == ["begin", "end"] * 3


def test_what_was_booked_is_on_the_disk_a_second_later(kept: Kept) -> None:
    kept.spend(5.0)
    kept.settle()
    assert kept.on_disk_mj() == 5.0
    before = (kept.state / COUNTERS).stat().st_mtime_ns
    kept.settle()
    assert (kept.state / COUNTERS).stat().st_mtime_ns == before, "an idle daemon writes nothing"


def test_what_was_had_of_energy_that_is_to_last_is_on_the_disk_too(kept: Kept) -> None:
    budgets = kept.ledger.budgets
    budgets.adapt(kept.now_us, "a", Adaptation("battery", energy_j=1.0, for_s=1e6))
    budgets.last("a", "1 J until then", 50.0)
    kept.spend(30.0)
    budgets.spend(kept.now_us, "a", 30.0)
    kept.settle()
    totals = Counters(peek(kept.state / COUNTERS, slot_bytes=SLOT_BYTES)).of("a")
    assert totals.budget == ("1 J until then", 80.0)
    kept.spend(1.0)
    kept.settle()
    assert kept.keeping.counters.of("a").budget == ("1 J until then", 80.0)


def test_a_tenant_taken_out_and_put_back_has_spent_it_all_the_same(kept: Kept) -> None:
    kept.spend(5.0)
    kept.settle()
    kept.ledger.change({})
    kept.settle()
    kept.ledger.change({"a": Terms(energy_j_day_max=1000.0)})
    kept.spend(1.0)
    kept.settle()
    assert kept.spent_mj() == 6.0


def test_an_audit_is_told_once_it_is_on_the_disk(kept: Kept) -> None:
    told: list[str] = []
    kept.keeping.record("uid 7", "network added", {"network": "x"}, told.append)
    assert told == []
    assert kept.woken.wait(WAIT_S_MAX)
    kept.settle()
    assert told == [""]
    assert said(kept.state)[-1] == "network added"


def test_a_disk_that_refuses_an_audit_is_told_to_who_asked(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    kept.keeping.record("uid 7", "network added", {}, told.append)
    kept.settle()
    assert told == ["No space left on device"]
    kept.spend(1.0)
    for _ in range(4):
        kept.settle()
    monkeypatch.undo()
    for _ in range(3):
        kept.settle()
    assert kept.on_disk_mj() == 1.0
    assert kept.notes == [
        "tenants' counters cannot be kept: No space left on device",
        "tenants' counters are kept again",
    ]


def test_a_disk_that_hangs_stops_neither_turn_nor_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, free, told = Kept(tmp_path / "state"), threading.Event(), list[str]()
    real = os.fdatasync

    def hangs(handle: int) -> None:
        free.wait(WAIT_S_MAX)
        real(handle)

    monkeypatch.setattr(os, "fdatasync", hangs)
    monkeypatch.setattr("delen.daemon.keeping.CLOSE_S_MAX", 0.01)
    for _ in range(100):
        kept.spend(1.0)
        kept.keeping.record("uid 7", "change", {}, told.append)
        kept.turn()
    assert told == ["64 changes wait for the disk already"] * 36
    kept.close()
    assert kept.notes == ["the disk does not answer; the last counters may be lost"]
    free.set()


def test_what_is_damaged_is_mended_and_said_also_in_development(tmp_path: Path) -> None:
    state_files.keep(tmp_path, tmp_path / "profiles" / "x.json", b"whole")
    (tmp_path / "profiles" / "x.json").write_bytes(b"half")
    kept = Kept(tmp_path, dev=True)
    assert len(kept.notes) == 1
    assert (tmp_path / "profiles" / "x.json").read_bytes() == b"whole"
    Kept(tmp_path, dev=True)
    kept.close()
    assert not (tmp_path / COUNTERS).exists()


def test_a_bundle_exchanged_under_its_version_is_told_once(tmp_path: Path) -> None:
    bundle = load_bundle(shipped_directory() / "digits")
    other = Bundle(bundle.directory, bundle.manifest, "f" * 64)
    notes = []
    for served in (bundle, bundle, other, other):
        kept = Kept(tmp_path / "state", bundles=[served])
        kept.close()
        notes.append(kept.notes)
        assert read_list(tmp_path / "state")[0]["digits"].digest == served.digest
    assert notes[:2] == [[], []]
    assert "digits is not the one that was served before" in notes[2][0]
    assert notes[3] == []
    assert said(tmp_path / "state").count("exchanged") == 1


def test_damaged_counters_begin_anew_and_say_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / COUNTERS).write_bytes(bytes(SLOT_BYTES))
    kept = Kept(tmp_path)
    kept.close()
    assert kept.notes == [f"{tmp_path / COUNTERS}: both of its records are damaged; it begins anew"]


def test_a_directory_that_cannot_be_trusted_or_used_is_refused_with_the_way_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StateError, match=r"anybody may write in the state directory .*: chmod o-w"):
        Kept(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / COUNTERS).symlink_to("elsewhere")
    with pytest.raises(StateError, match=r"symbolic links.*name another with state_dir"):
        Kept(tmp_path)
    (tmp_path / COUNTERS).unlink()
    kept = Kept(tmp_path)
    with pytest.raises(StateBusy, match="another delen daemon keeps its state in"):
        Kept(tmp_path)
    kept.close()
    Kept(tmp_path).close()
