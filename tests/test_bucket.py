"""A token bucket at rates that are hardly any: it waits long, and never fails to say how long."""

from __future__ import annotations

import pytest

from delen.policies.bucket import WAIT_US_MAX, Bucket, wait_us


def test_it_is_refilled_at_its_rate_up_to_its_depth() -> None:
    bucket = Bucket(0.5, 10.0)
    bucket.take(0, 10.0)
    assert bucket.wait_us(0, 3.0) == 6
    assert bucket.wait_us(6, 3.0) == 0
    assert bucket.level(1_000) == 10.0


@pytest.mark.parametrize("per_us", [5e-324, 1e-310, 1e-30, 0.0])
def test_a_rate_that_is_hardly_one_waits_ten_years_and_no_longer(per_us: float) -> None:
    bucket = Bucket(per_us, 0.0)
    bucket.take(0, 10.0)
    assert bucket.wait_us(0, 1.0) == WAIT_US_MAX
    assert wait_us(1e-300, per_us) <= WAIT_US_MAX
    assert wait_us(0.0, per_us) == 0
