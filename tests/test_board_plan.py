"""Which board serves how many tenants: bounds are kept, more load means fewer tenants, and reasons are given."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from delen.daemon import board_plan
from delen.daemon.board_plan import Fit, Wish, plan_boards, settings
from delen.profiles.schema import ProfileError

WISH = Wish(network="resnet50", rate_hz=2.0, latency_ms=300.0, accuracy=0.75)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_plan, "TENANTS_MAX", 16)
    monkeypatch.setattr(board_plan, "REQUESTS", 150)


def only(fits: list[Fit], device: str) -> Fit:
    return next(fit for fit in fits if fit.device == device)


def test_every_setting_with_figures_is_asked() -> None:
    devices = [setting.device for setting in settings("resnet50")]
    assert len(devices) == len(set(devices)) == 9 + 1 + 1 + 1 + 2 + 2
    assert "jetson-tx2@726.75MHz" in devices
    assert "jetson-agx-orin@MaxQ" in devices


@pytest.mark.slow
def test_a_nano_serves_fewer_tenants_the_more_each_asks() -> None:
    few, many = (
        only(plan_boards(replace(WISH, rate_hz=rate_hz), ["jetson-nano"]), "jetson-nano") for rate_hz in (4.0, 1.0)
    )
    assert 0 < few.tenants < many.tenants
    for fit in (few, many):
        assert fit.missed_pct is not None
        assert fit.missed_pct <= 1.0
        assert fit.exit == 2
        assert fit.accuracy == 0.7675
        assert fit.latency_ms == pytest.approx(43.2)
        assert fit.use_pct is not None
        assert fit.use_pct <= 100


@pytest.mark.slow
def test_one_more_tenant_would_miss_too_often() -> None:
    # One more than found is where the search stopped; both ends are simulated by the same seed.
    fit = only(plan_boards(WISH, ["jetson-nano"]), "jetson-nano")
    [nano] = settings("resnet50", ["jetson-nano"])
    assert board_plan._tried(WISH, nano, fit.tenants).violations_pct <= 1.0
    assert board_plan._tried(WISH, nano, fit.tenants + 1).violations_pct > 1.0


@pytest.mark.slow
def test_any_clock_serves_about_as_many_as_the_highest_for_less() -> None:
    fits = plan_boards(replace(WISH, tenants=4), ["jetson-tx2"])
    free, top = only(fits, "jetson-tx2, any clock"), only(fits, "jetson-tx2@1300.5MHz")
    assert 4 <= free.tenants >= 0.7 * top.tenants
    assert free.energy_mj is not None
    assert top.energy_mj is not None
    assert free.energy_mj < 0.7 * top.energy_mj
    assert fits.index(free) < fits.index(top)


@pytest.mark.slow
def test_power_is_energy_times_rate_and_unknown_stays_unknown() -> None:
    nano = only(plan_boards(WISH, ["jetson-nano"]), "jetson-nano")
    assert nano.energy_mj is not None
    assert nano.tenants > 1
    assert nano.power_w == pytest.approx(nano.energy_mj * 2.0 / 1000)
    orin = only(plan_boards(replace(WISH, rate_hz=400.0), ["jetson-orin-nx"]), "jetson-orin-nx@MAXN")
    assert (orin.energy_mj, orin.power_w, orin.energy_of) == (None, None, "")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"latency_ms": 5.0}, "latency_ms 5: the shortest bound resnet50 can keep here is"),
        ({"accuracy": 0.9}, "accuracy 0.9: the best of resnet50 under the other bounds is 0.7675"),
        ({"energy_mj": 10.0}, "energy_mj 10: the cheapest exit of resnet50 takes"),
    ],
)
def test_a_board_that_cannot_says_which_bound_and_what_it_could(changes: dict[str, float], why: str) -> None:
    fit = only(plan_boards(replace(WISH, **changes), ["jetson-nano"]), "jetson-nano")
    assert fit.tenants == 0
    assert fit.why.startswith(why)


@pytest.mark.parametrize("missed_pct_max", [1.0, 100.0])
def test_far_more_than_a_board_can_is_not_even_tried(missed_pct_max: float) -> None:
    # Simulated, it would be a thousand million requests a second.
    wish = Wish(network="resnet50", rate_hz=1e9, missed_pct_max=missed_pct_max)
    fit = only(plan_boards(wish, ["jetson-nano"]), "jetson-nano")
    assert (fit.tenants, fit.exit) == (0, 0)
    assert "one tenant alone misses" in fit.why


def test_an_accuracy_nobody_published_is_not_promised() -> None:
    wish = replace(WISH, network="resnet18", latency_ms=None)
    assert {fit.why for fit in plan_boards(wish)} == {"no accuracies of resnet18 are published for it"}


def test_networks_and_boards_without_figures_are_refused() -> None:
    with pytest.raises(
        ProfileError, match="no figures of network 'yolo' on any board; there are those of resnet18, resnet50"
    ):
        plan_boards(replace(WISH, network="yolo"))
    with pytest.raises(ProfileError, match="no figures of a board 'tx1'"):
        plan_boards(WISH, ["tx1"])
