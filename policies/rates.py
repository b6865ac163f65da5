"""What each tenant is promised, how much of it is used, and what of it the others must be left.

Role: per tenant a guarantee, as requests per second or as a share of the device; beyond it a request is `spare`: it
runs only in time that nobody within theirs needs. Also hard quotas, and (m, k)-firm histories: of any k requests
m should keep their bounds. Source: token buckets (RFC 2697's single rate); (m, k)-firm: Hamdaoui, Ramanathan (1995).

Flow: `Promise.within` at admission -> `accept` -> `book` as runs are booked -> `end`. Does not: read a clock, or
decide who comes in (`admission.py`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from .bucket import Bucket
from .energy_caps import EnergyCap
from .pools import Chunk
from .view import NEVER_US, Served, Waiting

# A share of the device holds over this window: what a tenant leaves unused is its own for so long.
WINDOW_US = 100_000
# How fast measured load fades; and for how long after its last request a tenant counts as there.
FADE_US = 500_000
PRESENT_US = 1_000_000
# Promises may take so much of the device together; the rest absorbs what no profile foresees.
PROMISED_MAX = 0.9
# Spare work is never planned with less of the device than this; and with so much to spare, since what others make of it
# comes in bursts. It is still overtaken at times: of a flood at 50 times its rate, 3 % of what was accepted ends late.
LEFT_MIN, SAFETY = 0.02, 1.25


# What a tenant may have of energy.
WINDOW_S_MAX = 10 * 366 * 86_400.0
ENERGY_TERMS = ("power_w_max", "energy_j_day_max", "energy_j_window_max", "energy_window_s")


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator promises a tenant.

    `weight`: its part of optional and best-effort time against other tenants. `rate_hz`: requests per second that are
    never refused for another's flood, after a pause `burst` of them at once. Without a rate, `device_share` of the
    device's time for mandatory work, by default its weight's part. Beyond either, requests run in time to spare.
    `device_share_max`: of all device time, never more. `firm` = [m, k]: of any k requests in a row within the promise,
    m keep their bounds wherever that can be had: at that limit the next one goes no deeper than it must, and comes in
    unless somebody would be late even on average.

    Caps, whoever else is there: `rate_hz_max` requests per second, after a pause `burst_max` at once; `queued_max`
    requests and `queued_bytes_max` of their inputs waiting, where that is less than the limits of the same name;
    `power_w_max` watts on average over a second, `energy_j_day_max` joules in any 24 hours, `energy_j_window_max` in
    any `energy_window_s` seconds, as far as the device's energies are known.
    """

    weight: float = 1.0
    rate_hz: float | None = None
    burst: int = 1
    device_share: float | None = None
    device_share_max: float | None = None
    firm: tuple[int, int] | None = None
    rate_hz_max: float | None = None
    burst_max: int = 1
    queued_max: int | None = None
    queued_bytes_max: int | None = None
    power_w_max: float | None = None
    energy_j_day_max: float | None = None
    energy_j_window_max: float | None = None
    energy_window_s: float = 3600.0

    def plain(self) -> Terms:
        """These alone, of whatever they are part."""
        return Terms(**{name: getattr(self, name) for name in Terms.__struct_fields__})

    def fault(self) -> str | None:
        """What cannot be right, in words; None when nothing is."""
        if not (math.isfinite(self.weight) and self.weight > 0):
            return f"weight is {self.weight}; expected a finite number above 0"
        for name in ("rate_hz", "rate_hz_max", *ENERGY_TERMS):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                return f"{name} is {value}; expected a finite number above 0"
        if self.energy_window_s > WINDOW_S_MAX:
            return f"energy_window_s is {self.energy_window_s:g}; expected at most {WINDOW_S_MAX:g}, ten years"
        for name in ("burst", "burst_max", "queued_max", "queued_bytes_max"):
            value = getattr(self, name)
            if value is not None and value < 1:
                return f"{name} is {value}; expected at least 1"
        if self.rate_hz is not None and self.rate_hz_max is not None and self.rate_hz > self.rate_hz_max:
            return f"rate_hz {self.rate_hz:g} promises more than rate_hz_max {self.rate_hz_max:g} allows"
        for name in ("device_share", "device_share_max"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                return f"{name} is {share}; expected more than 0 and at most 1"
        if self.rate_hz is not None and self.device_share is not None:
            return "rate_hz and device_share both promise mandatory work; give one of them"
        if self.firm is not None and not 1 <= self.firm[0] <= self.firm[1]:
            return f"firm is {list(self.firm)}; expected [m, k] with 1 <= m <= k"
        return None


def terms_fault(tenants: Mapping[str, Terms]) -> str | None:
    """What cannot be right in these promises, alone or together; None when nothing is."""
    for name, terms in tenants.items():
        fault = terms.fault()
        if fault:
            return f"tenant {name!r}: {fault}"
    shares = [terms.device_share for terms in tenants.values() if terms.device_share is not None]
    if math.fsum(shares) > 1:
        return f"device_share of {len(shares)} tenants adds up to {math.fsum(shares):.3g}; expected at most 1"
    return None


class Meter:
    """The part of the device that was used lately, with exponential fading."""

    __slots__ = ("_at_us", "_took_us")

    def __init__(self) -> None:
        self._took_us = 0.0
        self._at_us = 0

    def add(self, now_us: int, took_us: float) -> None:
        self._took_us = self.share(now_us) * FADE_US + took_us

    def share(self, now_us: int) -> float:
        if now_us > self._at_us:
            self._took_us *= math.exp((self._at_us - now_us) / FADE_US)
            self._at_us = now_us
        return self._took_us / FADE_US


class Firm:
    """(m, k): how the last requests ended, in the order they did."""

    __slots__ = ("_allowed", "_met")

    def __init__(self, kept: int, of: int) -> None:
        self._allowed = of - kept
        self._met: deque[bool] = deque(maxlen=max(1, of - 1))

    @property
    def at_limit(self) -> bool:
        """Whether the next one must keep its bounds."""
        return len(self._met) - sum(self._met) >= self._allowed

    def note(self, met: bool) -> None:
        self._met.append(met)


class Typical(NamedTuple):
    """A request such as this tenant sends, as far as others need to know."""

    served: Served
    depth: int
    usable_us: int

    def chunk(self, now_us: int | None) -> Chunk:
        """Its work if it came now; None: as work that goes first, whatever its deadline."""
        path_us = self.served.costs.path_us(0, self.depth, 1)
        if now_us is None:
            return Chunk(0, NEVER_US, path_us, self.served)
        return Chunk(now_us + self.usable_us, now_us + self.usable_us, path_us, self.served)


class Promise:
    """One tenant's terms, and how much of them is used just now."""

    def __init__(self, terms: Terms, device_share: float) -> None:
        """`device_share`: what it is promised if its terms name neither rate nor share."""
        self.terms = terms
        share = device_share if terms.device_share is None else terms.device_share
        rate_hz, quota = terms.rate_hz, terms.device_share_max
        self.share = share
        self.requests = None if rate_hz is None else Bucket(rate_hz / 1e6, terms.burst)
        self.device = Bucket(share, share * WINDOW_US)
        self.quota = None if quota is None else Bucket(quota, quota * WINDOW_US)
        self.firm = None if terms.firm is None else Firm(*terms.firm)
        ceiling_hz = terms.rate_hz_max
        self.ceiling = None if ceiling_hz is None else Bucket(ceiling_hz / 1e6, terms.burst_max)
        self.energy = EnergyCap(*[getattr(terms, name) for name in ENERGY_TERMS])
        self.used, self.owed = Meter(), Meter()
        self.typical: Typical | None = None
        self._pending = 0
        self._pending_us = self._promised_us = 0.0
        self._last_us = -PRESENT_US

    @property
    def code(self) -> str:
        """Of a refusal beyond it: a rate is asked again later, a share that is used up leaves bounds to be loosened."""
        return "infeasible" if self.requests is None else "rate"

    @property
    def said(self) -> str:
        """What is used up, in the words of the configuration."""
        if self.terms.rate_hz is not None:
            return f"rate_hz {self.terms.rate_hz:g} (burst {self.terms.burst}) is used up"
        return f"device_share {self.share:.3g} is used up"

    @property
    def protects(self) -> bool:
        """Whether its next request should not be the one that misses."""
        return self.firm is not None and self.firm.at_limit

    def within(self, now_us: int) -> bool:
        """Whether one more request is within what it is promised."""
        if self.requests is not None:
            return self.requests.level(now_us) >= 1
        return self.share >= 1 or self.device.level(now_us) >= self._promised_us

    def within_in_us(self, now_us: int) -> int:
        """How long until it may ask within its promise again."""
        if self.requests is not None:
            return self.requests.wait_us(now_us, 1)
        return self.device.wait_us(now_us, self._promised_us)

    def quota_in_us(self, now_us: int) -> int:
        """How long until its quota allows anything more; 0: now."""
        return 0 if self.quota is None else self.quota.wait_us(now_us, self._pending_us)

    def ceiling_in_us(self, now_us: int) -> int:
        """How long until its rate allows one more at all; 0: now."""
        return 0 if self.ceiling is None else self.ceiling.wait_us(now_us, 1)

    def follow(self, before: Promise) -> None:
        """Take the place of other terms of the same tenant: what waits and what was used stays."""
        self.used, self.owed, self.typical = before.used, before.owed, before.typical
        self.energy.follow(before.energy)
        self._pending, self._last_us = before._pending, before._last_us
        self._pending_us, self._promised_us = before._pending_us, before._promised_us
        if self.terms == before.terms:
            # What is used up is not given again by a reload.
            self.requests, self.quota, self.firm = before.requests, before.quota, before.firm
            self.ceiling = before.ceiling

    def present(self, now_us: int) -> bool:
        """Whether it has asked lately, or something of it waits."""
        return self._pending > 0 or now_us - self._last_us < PRESENT_US

    def accept(self, now_us: int, waiting: Waiting, *, promised: bool, typical: Typical | None) -> None:
        """A request came in, `promised` if within its terms; against a quota the most it may take is counted."""
        self._pending += 1
        self._pending_us += waiting.most_us
        self.energy.reserve(waiting.most_mj)
        if self.ceiling is not None:
            self.ceiling.take(now_us, 1)
        self._last_us = now_us
        if promised:
            self._promised_us += waiting.owed_us
            if self.requests is not None:
                self.requests.take(now_us, 1)
        if typical is not None:
            self.typical = typical

    def book(self, now_us: int, owed_us: float, free_us: float) -> None:
        """Device time it had: for work within its promise, and beyond."""
        self.used.add(now_us, owed_us + free_us)
        if owed_us:
            self.owed.add(now_us, owed_us)
            self.device.take(now_us, owed_us)
        if self.quota is not None:
            self.quota.take(now_us, owed_us + free_us)

    def end(self, waiting: Waiting, *, promised: bool) -> None:
        """A request has ended; what it really took was booked."""
        self._pending -= 1
        self._pending_us = max(0.0, self._pending_us - waiting.most_us)
        self.energy.release(waiting.most_mj)
        if promised:
            self._promised_us = max(0.0, self._promised_us - waiting.owed_us)


class Promises:
    """Every configured tenant's; tenants that nobody configured are promised nothing and held to nothing."""

    def __init__(self, tenants: Mapping[str, Terms]) -> None:
        self._by_tenant: dict[str, Promise] = {}
        self.change(tenants)

    def change(self, tenants: Mapping[str, Terms]) -> None:
        """Promise these from now on. Who is not among them any more is promised nothing, once its last has ended."""
        weights = math.fsum(terms.weight for terms in tenants.values())
        before = self._by_tenant
        self._by_tenant = {name: Promise(terms, terms.weight / weights) for name, terms in tenants.items()}
        for name, promise in self._by_tenant.items():
            if name in before:
                promise.follow(before[name])

    def of(self, tenant: str) -> Promise | None:
        return self._by_tenant.get(tenant)

    def contended(self, now_us: int, own: Promise) -> bool:
        """Whether any other tenant is there."""
        return any(other is not own and other.present(now_us) for other in self._by_tenant.values())

    def reserved(self, now_us: int, own: Promise, *, first: bool) -> list[Chunk]:
        """One request, such as they send, of each other tenant that has some of its promise left.

        `first`: as work that goes before anything else, of tenants that are there; else by deadline, of all.
        """
        return [
            other.typical.chunk(None if first else now_us)
            for other in self._by_tenant.values()
            if other is not own
            and other.typical is not None
            and (not first or other.present(now_us))
            and other.within(now_us)
        ]

    def stretch(self, now_us: int, own: Promise) -> float:
        """How many times as long spare work of this tenant takes, for what others make of the device.

        It gets what others leave, but at least its weight's part of what they are not owed.
        """
        used = owed = weights = 0.0
        for other in self._by_tenant.values():
            if other is not own and other.present(now_us):
                used += other.used.share(now_us)
                owed += other.owed.share(now_us)
                weights += other.terms.weight
        part = own.terms.weight / (own.terms.weight + weights)
        return SAFETY / max(LEFT_MIN, 1 - used, part * (1 - owed))


def overcommitted(tenants: Mapping[str, Terms], costs_us: Mapping[str, float]) -> str | None:
    """A warning if the promised rates do not fit the device, with the arithmetic; None if they do.

    Args:
        costs_us: per tenant the worst a request within its rate may take: its costliest network to the last exit.
    """
    parts = {
        name: terms.rate_hz * costs_us[name] / 1e6 if terms.rate_hz is not None else terms.device_share or 0.0
        for name, terms in tenants.items()
        if name in costs_us
    }
    total = math.fsum(parts.values())
    if total <= PROMISED_MAX:
        return None
    said = ", ".join(f"{name} {100 * part:.0f} %" for name, part in parts.items() if part)
    return (
        f"tenants are promised up to {100 * total:.0f} % of the device ({said}; a rate counts each request alone to "
        f"the last exit); above {100 * PROMISED_MAX:.0f} % a rate may not hold if all ask for the deepest at once: "
        "lower rate_hz or device_share"
    )
