"""What is explained is what would be served, and a picture of it can be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.policies.certificate_plot import draw_certificates
from delen.policies.certificates import Certifier
from delen.policies.explained import explain
from delen.profiles.costs import Costs
from delen.profiles.plot import PlotError
from delen.tests.labelled_samples import ACCURACIES, outcomes
from delen.tests.sample_profile import sample_profile

COSTS = Costs.of(sample_profile(accuracies=ACCURACIES), 4)
SAMPLES = outcomes(4000)
CERTIFIER = Certifier.of(SAMPLES, COSTS)


def test_plans_are_the_certifiers_and_exits_are_listed_shallow_to_deep() -> None:
    told = explain(CERTIFIER, SAMPLES, COSTS, 0.86, 0.9, conditional=False)
    assert told.plan == CERTIFIER.plan(0.86, 0.9)
    assert told.fixed_plan == CERTIFIER.plan(0.86, 0.9, gated=False)
    assert [entry.exit for entry in told.fixed] == [0, 1, 2]
    assert [entry.holds for entry in told.fixed] == [False, True, True]
    assert [entry.certified for entry in told.fixed] == pytest.approx([CERTIFIER.alone(k, 0.9) for k in range(3)])
    assert told.full_us == COSTS.path_us(0, 2, 1)
    assert told.plan is not None
    assert told.time_us_max is not None
    assert told.plan.time_us < told.time_us_max < 1.2 * told.plan.time_us
    assert "exchangeable" in told.assumption


def test_what_cannot_be_certified_has_no_plan_and_says_what_would_help() -> None:
    told = explain(CERTIFIER, SAMPLES, COSTS, 0.915, 0.999, conditional=False)
    assert (told.plan, told.time_us_max) == (None, None)
    assert told.best < 0.915
    assert told.needed is not None
    assert told.needed > len(SAMPLES.fit)


def test_the_curve_rises_and_gates_are_never_dearer_than_fixed_exits() -> None:
    curve = explain(CERTIFIER, SAMPLES, COSTS, 0.86, 0.9, conditional=False).curve
    costs = [point.gates_us for point in curve if point.gates_us is not None]
    assert len(costs) == len(curve)
    assert costs == sorted(costs)
    both = [(p.gates_us, p.fixed_us) for p in curve if p.gates_us is not None and p.fixed_us is not None]
    assert both
    assert all(gates <= fixed for gates, fixed in both)


@pytest.mark.slow
def test_a_picture_is_drawn_in_the_format_of_its_ending(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'delen[report]'")
    told = explain(CERTIFIER, SAMPLES, COSTS, 0.86, 0.9, conditional=True)
    draw_certificates("net", told, tmp_path / "net.png")
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PlotError, match=r"\.png, \.svg or \.pdf"):
        draw_certificates("net", told, tmp_path / "net.what")
