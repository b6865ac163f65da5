"""How long a worker may take to start, the first time and again; with the supervisor of `test_supervisor.py`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from delen.daemon.pipe import Loaded, Measured, Up
from delen.tests.sample_profile import device, sample_profile
from delen.tests.test_supervisor import LIMITS, Stage


def test_one_that_hangs_when_it_starts_again_is_given_up_sooner_and_the_next_has_twice_the_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limits = msgspec.structs.replace(LIMITS, start_ms_max=60_000, restart_ms_min=1_000, run_factor_max=5.0)
    stage = Stage(monkeypatch, tmp_path, limits=limits)
    supervisor, now_us = stage.supervisor, 0
    supervisor.start(0)
    stage.arrange(Up(device()))
    assert supervisor.wake_at() == 60_000_000
    assert stage.arrange(Loaded("digits"), profile=sample_profile(), now_us=400_000)
    # It took 0.4 s, so five times that for the next, then twice that, up to what a first start may take.
    for allowed_us in (2_000_000, 4_000_000, 8_000_000, 16_000_000, 32_000_000, 60_000_000, 60_000_000):
        supervisor.lost(now_us)
        now_us = stage.gone(now_us)
        assert not supervisor.tick(now_us)
        assert supervisor.wake_at() == now_us + allowed_us
        now_us += allowed_us
        assert supervisor.tick(now_us)
    supervisor.stop()


def test_what_measuring_took_is_not_what_the_next_start_will_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = Stage(monkeypatch, tmp_path)
    stage.supervisor.start(0)
    stage.arrange(Up(device()))
    stage.arrange(Loaded("digits"))
    assert stage.arrange(Measured("digits", msgspec.json.encode(sample_profile())), now_us=4_900_000)
    assert stage.supervisor.lost(5_000_000) == 6_000_000
    stage.supervisor.stop()
