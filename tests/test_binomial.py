"""The exact test against sums written out, and the bounds against the definition they come from."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.policies.binomial import cdf, errors_max, rate_max, samples_needed


def exact(count: int, n: int, rate: float) -> float:
    share = Fraction(rate)
    return float(sum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(count + 1)))


@given(st.integers(1, 60), st.data(), st.floats(0.001, 0.999))
def test_probabilities_are_those_of_the_sum_written_out(n: int, data: st.DataObject, rate: float) -> None:
    count = data.draw(st.integers(0, n))
    assert cdf(count, n, rate) == pytest.approx(exact(count, n, rate), rel=1e-9, abs=1e-300)


def test_ends_and_large_numbers() -> None:
    assert (cdf(-1, 10, 0.5), cdf(10, 10, 0.5), cdf(3, 10, 0.0), cdf(3, 10, 1.0)) == (0, 1, 1, 0)
    # Half of a symmetric distribution, its middle term shared: n = 1,000,000.
    middle = math.exp(math.lgamma(1_000_001) - 2 * math.lgamma(500_001) - 1_000_000 * math.log(2))
    assert cdf(500_000, 1_000_000, 0.5) == pytest.approx(0.5 + middle / 2, rel=1e-7)


@given(st.integers(1, 3000), st.floats(0.01, 0.6), st.sampled_from([0.3, 0.1, 0.01, 1e-5]))
def test_one_error_more_than_the_most_would_not_pass(n: int, rate: float, doubt: float) -> None:
    most = errors_max(n, rate, doubt)
    assert most == -1 or cdf(most, n, rate) <= doubt
    assert cdf(most + 1, n, rate) > doubt


@given(st.integers(1, 5000), st.data(), st.sampled_from([0.5, 0.1, 0.01, 1e-6]))
def test_the_bound_of_a_rate_is_where_so_few_errors_become_this_unlikely(
    n: int, data: st.DataObject, doubt: float
) -> None:
    errors = data.draw(st.integers(0, n))
    bound = rate_max(errors, n, doubt)
    if errors == n:
        assert bound == 1
        return
    assert cdf(errors, n, bound) == pytest.approx(doubt, rel=1e-4)
    assert errors / n < bound <= 1


def test_bound_of_a_faultless_record_is_the_rule_of_three() -> None:
    assert rate_max(0, 1000, 0.05) == pytest.approx(1 - 0.05 ** (1 / 1000))


@pytest.mark.parametrize(("share", "needed"), [(0.0, 230), (0.005, 667), (0.0075, 2815)])
def test_samples_for_a_loss_of_one_percent(share: float, needed: int) -> None:
    assert samples_needed(share, 0.01, 0.1) == needed


@pytest.mark.parametrize("share", [0.02, 0.05, 0.08])
def test_from_that_many_samples_on_none_fails_and_before_it_one_does(share: float) -> None:
    needed = samples_needed(share, 0.1, 0.1)
    assert needed is not None

    def passes(n: int) -> bool:
        return cdf(math.floor(share * n + 1e-9), n, 0.1) <= 0.1

    assert not passes(needed - 1)
    assert all(passes(n) for n in range(needed, needed + 2000, 7))


def test_no_number_of_samples_certifies_what_is_not_so() -> None:
    assert samples_needed(0.1, 0.1, 0.1) is None
    assert samples_needed(0.1 - 1e-9, 0.1, 0.1) is None
