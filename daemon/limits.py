"""Every limit delend enforces, by the name it has in the configuration, and what it is by default.

Role: plain data, and `limits_fault`, what none of them may be. Each has one name, and whoever meets it is told that
name: the refusal that enforces one says it. Does not: enforce any.
"""

from __future__ import annotations

import math

import msgspec

# The largest of them: what the library's options, the kernel's and a few sockets for each tenant have room for.
TENANTS_MOST, COUNT_MOST, BYTES_MOST = 1_000, 10**9, 2**40
MAY_BE_ZERO = ("retries_max", "traces_max", "resident_bytes_max", "power_w_max")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every queue, message, batch, buffer, retry and wait has its bound here.

    Requests with bounds but no deadline are due after `patience_ms`. If none has its turn for as long again, newcomers
    with a deadline are let in only behind the next batch of them; behind all that are due for `wait_ms_max`.

    An endpoint with more than `connections_max` connections, or the fullest when there are `connections_total_max`, is
    closed for a while; all are while fewer than `descriptors_spare_min` open files are free (of a small LimitNOFILE, an
    eighth). So is one that takes in no whole message while memory grows by `memory_growth_bytes_max`. Who
    sends `malformed_max` malformed messages within `malformed_window_ms` is not read for `cool_ms`.

    For one end `waiting_routes_max` connections may wait, who has waited longest makes room; a session may have
    `session_routes_max` on average. A peer that has not finished its handshake by `handshake_ms_max` is gone. After
    `unwelcome_max` messages of users whose rights have ended, their endpoint is closed for a while.

    A worker has `start_ms_max` to get ready. One that is started again has `run_factor_max` times what the one before
    it took, and `restart_ms_min` at least; the next has twice that, as long as none has done anything.

    A daemon told to end finishes what it has accepted, for at most `drain_ms_max`. One that comes near
    `resident_bytes_max` of memory takes in nothing new until it has less; 0: near what its control group may have.

    `audit_share`: of the answers that gates let go, how many are run again to the last exit in idle time; `audits_max`:
    how many may wait for it with features on the device.

    `traces_max`: of each tenant's last requests, how many can be looked at in detail; 0: none. `log_lines_max`: in ten
    seconds; `log_queue_max`: lines that may wait for who reads them.

    An input that runs in `poison_deaths` deaths of a worker is refused for `poison_ms`, and so are all of a tenant to a
    network that `poison_inputs_max` of its inputs killed, or where workers died `suspect_deaths_max` times of nobody
    else's inputs, none of them answered since: many, for accidents look the same. `suspects_max` inputs are remembered
    for each. One that ran in a death is held back for `suspect_ms` at most, while others would suffer from a second:
    until a spare is loaded, or nobody else with a deadline waits.

    A network on which the engine fails `faults_max` times within `fault_window_ms` is refused until it answers its
    canary, which every network does once in `canary_ms` of idleness. A worker that outlives its kill by `abandon_ms` is
    waited for no more.

    A file of a bundle has at most `bundle_file_bytes_max`: the front has it in memory while it is checked, and must not
    be killed for that. Whoever needs more gives the front's unit more too (MemoryMax).

    `power_w_max`: what runs may draw beyond idle, in any second; 0: whatever they want. A segment that takes more runs
    alone in its second.
    """

    tenants_max: int = 64
    sessions_max: int = 256
    queued_max: int = 1024
    queued_bytes_max: int = 64 * 1024**2
    payload_bytes_max: int = 8 * 1024**2
    batch_max: int = 32
    receive_count_max: int = 16
    answers_kept_max: int = 1024
    answers_kept_bytes_max: int = 16 * 1024**2
    answer_window_ms: int = 60_000
    session_kept_ms: int = 60_000
    retries_max: int = 1
    patience_ms: int = 100
    wait_ms_max: int = 10_000
    hold_ms: int = 1000
    held_max: int = 1024
    start_ms_max: int = 60_000
    restart_ms_min: int = 5_000
    run_ms_min: int = 250
    run_factor_max: float = 10.0
    backoff_ms_min: int = 100
    backoff_ms_max: int = 30_000
    send_queue_max: int = 1024
    connections_backlog: int = 64
    connections_max: int = 256
    connections_total_max: int = 1024
    descriptors_spare_min: int = 512
    malformed_max: int = 100
    malformed_window_ms: int = 10_000
    cool_ms: int = 1000
    memory_growth_bytes_max: int = 32 * 1024**2
    journal_bytes_max: int = 256 * 1024**2
    drain_ms_max: int = 25_000
    audit_share: float = 0.05
    audits_max: int = 64
    traces_max: int = 256
    power_w_max: float = 0.0
    log_lines_max: int = 1000
    log_queue_max: int = 1024
    poison_deaths: int = 2
    poison_ms: int = 600_000
    poison_inputs_max: int = 8
    suspects_max: int = 256
    suspect_ms: int = 30_000
    suspect_deaths_max: int = 128
    faults_max: int = 3
    fault_window_ms: int = 60_000
    canary_ms: int = 5_000
    abandon_ms: int = 2_000
    resident_bytes_max: int = 0
    waiting_routes_max: int = 16
    session_routes_max: int = 4
    unwelcome_max: int = 16
    handshake_ms_max: int = 2_000
    bundle_file_bytes_max: int = 256 * 1024**2


def limits_fault(limits: Limits) -> str | None:
    """What cannot be right, in words; None when nothing is."""
    for field in Limits.__struct_fields__:
        value = getattr(limits, field)
        zero = field in MAY_BE_ZERO
        if zero and value == 0:
            continue
        if not (math.isfinite(value) and value > 0):
            return f"limits.{field} is {value}; expected a finite number above 0{', or 0' if zero else ''}"
        most = TENANTS_MOST if field == "tenants_max" else BYTES_MOST if "bytes" in field else COUNT_MOST
        if value > most:
            return f"limits.{field} is {value:.4g}; expected at most {most}"
    return None
