"""Figures at clocks: those measured as they are, those between read off, those beyond refused."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from delen.profiles.boards import clocked
from delen.profiles.clocked import Clocked, at_clock, between, conservative, gpu_khz
from delen.profiles.schema import Profile, ProfileError, profile_fault
from delen.tests.sample_profile import sample_profile


def at(khz: int, **changes: object) -> Profile:
    profile = sample_profile()
    return replace(profile, device=at_clock(profile.device, khz), **changes)


def whole(profile: Profile) -> tuple[float, float]:
    """Time, us, and energy, mJ, of the deepest exit."""
    costs = [*(row[0] for row in profile.segments), profile.heads[-1][0]]
    return sum(cost.p50_us for cost in costs), sum(cost.energy_mj or 0.0 for cost in costs)


def test_a_clock_that_was_measured_is_given_as_measured() -> None:
    low, high = at(300_000), at(900_000)
    assert Clocked.of([high, low]).at(300_000, "15W") is low
    assert Clocked.of([high, low]).at(None, "15W") is high


def test_every_clock_of_the_tx2_left_out_is_read_off_its_neighbours_within_the_stated_error() -> None:
    for network in ("resnet18", "resnet50"):
        known = clocked("jetson-tx2", network)
        steps = known.steps()
        for below, left_out, above in zip(steps, steps[1:], steps[2:], strict=False):
            us, mj = whole(between(known.at(below), known.at(above), left_out))
            us_true, mj_true = whole(known.at(left_out))
            assert us == pytest.approx(us_true, rel=0.015)
            assert mj == pytest.approx(mj_true, rel=0.066)


def test_between_two_clocks_time_falls_and_what_is_read_is_a_profile() -> None:
    known = clocked("jetson-tx2", "resnet50")
    times = [whole(known.at(khz))[0] for khz in range(120_000, 1_300_000, 20_000)]
    assert times == sorted(times, reverse=True)
    assert profile_fault(known.at(900_000)) is None
    assert gpu_khz(known.at(900_000).device) == 900_000
    assert "between 854.25 MHz and 1032.75 MHz" in known.at(900_000).energy_model


@pytest.mark.parametrize("khz", [100_000, 1_400_000])
def test_beyond_the_measured_clocks_nothing_is_said(khz: int) -> None:
    with pytest.raises(ProfileError, match=r"measured from 114.75 MHz to 1300.5 MHz; .* outside"):
        clocked("jetson-tx2", "resnet50").at(khz)


def test_a_mode_nobody_measured_is_refused_with_those_there_are() -> None:
    with pytest.raises(ProfileError, match="no figures in power mode 'MAXN'; there are 15W"):
        Clocked.of([at(300_000)]).at(300_000, "MAXN")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "fashion"}, "network is 'digits' in one and 'fashion'"),
        ({"network_version": "2"}, "version of the network is '1' in one and '2'"),
        ({"bundle": "1" * 64}, "bundle is"),
    ],
)
def test_profiles_of_different_things_are_not_mixed(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        Clocked.of([at(300_000), at(900_000, **changes)])


def test_profiles_of_different_boards_are_not_mixed() -> None:
    other = at(900_000)
    other = replace(other, device=replace(other.device, board="another"))
    with pytest.raises(ProfileError, match="board is 'test board' in one and 'another'"):
        Clocked.of([at(300_000), other])


def test_energies_of_two_meters_are_not_read_off_one_line() -> None:
    with pytest.raises(ProfileError, match="measure both with the same meter"):
        Clocked.of([at(300_000), at(900_000, energy_model="another rail")]).at(600_000, "15W")


def test_a_scaled_profile_is_not_too_good_at_any_other_clock_of_the_tx2() -> None:
    known = clocked("jetson-tx2", "resnet50")
    for taken in known.measured():
        for there in known.measured():
            khz = gpu_khz(there.device)
            assert khz is not None
            us, mj = whole(conservative(taken, khz))
            us_true, mj_true = whole(there)
            assert us >= 0.999 * us_true
            assert mj >= 0.999 * mj_true
